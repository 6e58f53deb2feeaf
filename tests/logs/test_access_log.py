"""The access log, byte for byte, and what must not get into it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.config import Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.logs.access import AccessLog, AccessLogGenerator, AccessRecords, FormatError, compile_format
from greendaphne.logs.access.entries import FIELDS, escaped
from greendaphne.logs.access.formats import quoted
from tests.support.server import PATIENCE, Client, RunningServer, serve

TIME = r"\[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2}\]"


class Log(io.StringIO):
    """Collects lines; whole ones only, as a file gets them."""

    def lines(self) -> list[str]:
        return self.getvalue().splitlines(keepends=True)


def test_lines() -> None:
    log = Log()
    with serve(action_logger=AccessLogGenerator(log)) as server, server.connect() as client:
        port = client.sock.getsockname()[1]
        client.send(b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n")
        server.app.answer(b"x" * 245)
        client.read_response()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.app.answer(b"dropped")
        client.read_response("HEAD")
        client.send(b'GET /"\\\xc3 HTTP/1.1\r\nHost: a\r\n\r\n')
        client.read_response()
        client.send(b'GET /"\\?\xc3\x9b HTTP/1.1\r\nHost: a\r\n\r\n')
        server.app.answer(b"", status=404)
        client.read_response()
        # The next request is read behind the line of the last.
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.app.request()
        first, second, third = log.lines()
    assert re.fullmatch(rf'127\.0\.0\.1:{port} - - {TIME} "GET /a\?b=c" 200 245\n', first)
    assert re.fullmatch(rf'127\.0\.0\.1:{port} - - {TIME} "HEAD /" 200 -\n', second)
    assert re.fullmatch(rf'127\.0\.0\.1:{port} - - {TIME} "GET /\\x22\\x5c\?\\xc3\\x9b" 404 -\n', third)


def test_own_answers_are_logged_and_bad_heads_are_not() -> None:
    log = Log()
    with serve(MemoryChannelLayer(channel_capacity={"http.request": 0}), action_logger=AccessLogGenerator(log)) as server:
        with server.connect() as client:
            client.send(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 400
        with server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 503
            assert client.at_eof()
        (line,) = log.lines()
    assert re.search(r'"GET /" 503 439\n$', line)


def test_forwarded_client() -> None:
    log = Log()
    with (
        serve(action_logger=AccessLogGenerator(log), proxy_forwarded_address_header="X-Forwarded-For") as server,
        server.connect() as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
        server.app.answer(b"x")
        client.read_response()
        client.half_close()
        assert client.at_eof()
    assert log.getvalue().startswith("1.2.3.4:0 - - [")


@pytest.mark.parametrize(
    ("details", "line"),
    [
        ({"client": None, "path": "/", "method": "GET", "status": 200, "size": 210, "time_taken": 0.1}, 'None - - [] "GET /" 200 210\n'),
        (
            {"client": "a:1", "path": "/\x1b[31m\r\n", "method": "GET", "status": 200, "size": 0},
            'a:1 - - [] "GET /\\x1b[31m\\x0d\\x0a" 200 -\n',
        ),
    ],
)
def test_format(details: dict[str, object], line: str) -> None:
    log = Log()
    AccessLogGenerator(log)("http", "complete", details)
    assert re.sub(TIME, "[]", log.getvalue()) == line


@pytest.mark.parametrize(
    ("action", "name"),
    [("connecting", "WSCONNECTING"), ("connected", "WSCONNECT"), ("rejected", "WSREJECT"), ("disconnected", "WSDISCONNECT")],
)
def test_websocket_format(action: str, name: str) -> None:
    log = Log()
    AccessLogGenerator(log)("websocket", action, {"path": "/ws", "client": "a:1"})
    assert re.sub(TIME, "[]", log.getvalue()) == f'a:1 - - [] "{name} /ws" - -\n'
    AccessLogGenerator(log)("websocket", "unknown", {"path": "/ws", "client": "a:1"})
    assert len(log.lines()) == 1


def test_log_that_cannot_be_written_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk costs the lines, not the service, and is reported once."""
    with open("/dev/full", "w", buffering=1) as full:
        try:
            with serve(action_logger=AccessLogGenerator(full)) as server, server.connect() as client:
                for _ in range(3):
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    server.app.answer(b"ok")
                    assert client.read_response().status == 200
        finally:
            try:
                full.close()
            except OSError:
                pass
    assert [record.getMessage() for record in caplog.records if "access log" in record.getMessage()] == [
        "Cannot write to the access log: [Errno 28] No space left on device"
    ]


# ---- formats


class Lines:
    """Accesses as a server's observer, for the test's thread."""

    def __init__(self, access_format: str) -> None:
        self.queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.log = AccessLog(compile_format(access_format), self.queue.put)

    def next(self) -> str:
        line = self.queue.get(timeout=PATIENCE)
        assert line.endswith("\n")
        assert line.isascii()
        assert line[:-1].isprintable()
        return line[:-1]

    def object(self) -> dict[str, Any]:
        value = json.loads(self.next())
        assert list(value) == list(FIELDS)
        return dict(value)


@contextmanager
def logged(access_format: str, layer: Any = None, **options: Any) -> Iterator[tuple[RunningServer, Client, Lines]]:
    lines = Lines(access_format)
    with serve(layer, observers=[lines.log], **options) as server, server.connect() as client:
        yield server, client, lines


def exchange(server: RunningServer, client: Client, *fields: bytes, target: bytes = b"/", headers: Any = (), status: int = 200) -> None:
    client.send(b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n")
    server.app.answer(b"12345", headers=headers, status=status)
    client.read_response()


def port_of(client: Client) -> int:
    return int(client.sock.getsockname()[1])


def test_daphne_format_through_the_observer() -> None:
    """The same bytes as from the class, and nothing for what daphne does not log."""
    with logged("daphne", timeouts=Timeouts(graceful=0.1)) as (server, client, lines):
        exchange(server, client, target=b'/"\\?\xc3\x9b', status=404)
        assert re.fullmatch(rf'127\.0\.0\.1:{port_of(client)} - - {TIME} "GET /\\x22\\x5c\?\\xc3\\x9b" 404 5', lines.next())
        with server.connect() as other:
            other.send(b"GET  / HTTP/1.1\r\n\r\n")
            other.read_response()
        with server.connect() as other:
            other.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            server.app.request()
        client.send(HANDSHAKE)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        client.read_head()
        for word in "WSCONNECTING", "WSCONNECT":
            assert re.fullmatch(rf'127\.0\.0\.1:{port_of(client)} - - {TIME} "{word} /ws" - -', lines.next())
        client.close()
        assert '"WSDISCONNECT /ws" - -' in lines.next()
        assert lines.queue.empty()


HANDSHAKE = (
    b"GET /ws?x=y HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUser-Agent: tester\r\nCookie: secret\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_gunicorns_atoms() -> None:
    atoms = ["h", "l", "u", "r", "m", "U", "q", "H", "s", "B", "b", "f", "a", "p", "{Cookie}i", "{X-Thing}o", "{none}i", "{none}o"]
    atoms += ["{REMOTE_ADDR}e", "{HTTP_COOKIE}e", "{wsgi.url_scheme}e", "{SERVER_PORT}e", "{none}e", "{CONTENT_TYPE}e", "{SSL_PROTOCOL}e"]
    with logged("|".join(f"%({atom})s" for atom in atoms) + "%%") as (server, client, lines):
        credentials = base64.b64encode(b'us"er:secret')
        fields = [
            b"Authorization: Basic " + credentials,
            b"Referer: http://b/",
            b"User-Agent: test/1",
            b"Cookie: c=d",
            b"Content-Type: x/y",
        ]
        exchange(server, client, *fields, target=b"/a%20b?c=d", headers=[(b"x-thing", b"thing"), (b"X-Other", b"")])
        assert lines.next().split("|") == [
            *("127.0.0.1", "-", r"us\x22er", "GET /a%20b?c=d HTTP/1.1", "GET", "/a%20b", "c=d", "HTTP/1.1", "200", "5", "5"),
            *("http://b/", "test/1", f"<{os.getpid()}>", "c=d", "thing", "-", "-"),
            *("127.0.0.1", "c=d", "http", str(server.port), "-", "x/y", "-%"),
        ]
        exchange(server, client, b"Authorization: Basic !")
        assert lines.next().split("|")[2:8] == ["-", "GET / HTTP/1.1", "GET", "/", "", "HTTP/1.1"]


def test_times_and_sizes() -> None:
    with logged("%(t)s %(T)s %(M)s %(D)s %(L)s %(duration)s %(time)s %(b)s") as (server, client, lines):
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        server.app.answer(b"x")
        client.read_response("HEAD")
        number = r"[0-9]+"
        pattern = (
            rf"\[{number}/[A-Z][a-z][a-z]/{number}:[0-9:]{{8}} [+-][0-9]{{4}}\] {number} {number} {number} {number}\.[0-9]{{6}} "
            rf"{number}\.[0-9]{{6}} {number}-{number}-{number}T[0-9:]{{8}}\.[0-9]{{3}}Z -"
        )
        assert re.fullmatch(pattern, lines.next())


def test_combined_and_common() -> None:
    with logged("combined") as (server, client, lines):
        exchange(server, client, b"Referer: http://b/", b"User-Agent: test/1")
        assert re.fullmatch(r'127\.0\.0\.1 - - \[[^]]+\] "GET / HTTP/1\.1" 200 5 "http://b/" "test/1"', lines.next())
    with logged("common") as (server, client, lines):
        exchange(server, client)
        assert re.fullmatch(r'127\.0\.0\.1 - - \[[^]]+\] "GET / HTTP/1\.1" 200 5', lines.next())


def test_json() -> None:
    with logged("json") as (server, client, lines):
        fields = [b"User-Agent: \xc3\xa9\xff\x22", b"X-Request-ID: 17", b"Referer: http://b/"]
        exchange(server, client, *fields, target=b"/%C3%A9?a=\xc3\x9b")
        value = lines.object()
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z", value.pop("time"))
        assert 0 < value.pop("duration") < PATIENCE
        assert value == {
            "event": "request",
            "client": "127.0.0.1",
            "client_port": port_of(client),
            "peer": "127.0.0.1",
            "method": "GET",
            "path": "/%C3%A9",
            "query": "a=Û",
            "protocol": "HTTP/1.1",
            "scheme": "http",
            "host": "a",
            "status": 200,
            "size": 5,
            "cause": None,
            "close_code": None,
            "referer": "http://b/",
            "user_agent": 'é\\xff"',
            "request_id": "17",
            "tls_version": None,
            "tls_cipher": None,
            "pid": os.getpid(),
        }


def test_what_the_server_answered_itself() -> None:
    """Refused heads have a line, and every such line a cause."""
    with logged("json", MemoryChannelLayer(channel_capacity={"http.request": 0})) as (server, client, lines):
        with server.connect() as other:
            other.send(b"GET  / HTTP/1.1\r\n\r\n")
            other.read_response()
            value = lines.object()
            assert [value[key] for key in ("event", "method", "path", "status", "cause")] == ["refused", None, None, 400, "bad-request"]
        client.send(b"GET /full HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().status == 503
        value = lines.object()
        assert [value[key] for key in ("event", "path", "status", "cause")] == ["request", "/full", 503, "layer-full"]


def test_client_that_left_before_the_answer() -> None:
    with logged("%(r)s %(s)s %(cause)s") as (server, client, lines):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n1")
        client.close()
        assert lines.next() == "POST / HTTP/1.1 499 client-gone"
        with server.connect() as other:
            other.send(b"\0")
            other.read_response()
            assert lines.next() == "- 400 bad-request"


def test_websockets() -> None:
    with logged("%(r)s %(m)s %(s)s %(b)s %(B)s %(q)s %(a)s %({cookie}i)s %(cause)s %(close_code)s") as (server, client, lines):
        client.send(HANDSHAKE)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        client.read_head()
        rest = "x=y tester secret"
        assert lines.next() == f"WSCONNECTING /ws?x=y HTTP/1.1 WSCONNECTING - - 0 {rest} - -"
        assert lines.next() == f"WSCONNECT /ws?x=y HTTP/1.1 WSCONNECT 101 - 0 {rest} - -"
        client.close()
        assert lines.next() == f"WSDISCONNECT /ws?x=y HTTP/1.1 WSDISCONNECT - - 0 {rest} client-gone 1006"
        with server.connect() as other:
            other.send(HANDSHAKE)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=False)
            other.read_response()
            assert lines.next().startswith("WSCONNECTING")
            assert lines.next() == f"WSREJECT /ws?x=y HTTP/1.1 WSREJECT 403 - 0 {rest} rejected -"
            assert lines.next() == f"WSDISCONNECT /ws?x=y HTTP/1.1 WSDISCONNECT - - 0 {rest} rejected -"
    with logged("json") as (server, client, lines):
        client.send(HANDSHAKE)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        client.read_head()
        for event, status in ("websocket-connecting", None), ("websocket-connected", 101):
            value = lines.object()
            assert [value[key] for key in ("event", "method", "status", "size")] == [event, "GET", status, None]
        client.close()
        value = lines.object()
        assert [value[key] for key in ("event", "user_agent", "cause", "close_code")] == [
            "websocket-disconnected",
            "tester",
            "client-gone",
            1006,
        ]


def test_unix_sockets_have_no_addresses(tmp_path: Path) -> None:
    import socket

    for access_format, expected in (
        ("daphne", r'None - - \[[^]]+\] "GET /" 200 5\n'),
        ("%(h)s %(client_port)s %(peer)s %({SERVER_NAME}e)s", r"- - - -\n"),
    ):
        lines = Lines(access_format)
        path = tmp_path / "s"
        with serve(endpoints=[f"unix:{path}"], observers=[lines.log]) as server, socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            exchange(server, Client(sock))
            assert re.fullmatch(expected, lines.next() + "\n")


@pytest.mark.parametrize(
    ("access_format", "message"),
    [
        ("%(x)s", "unknown atom %(x)s; known are h l u t r s m U q H b B f a T D M L p time event "),
        ("%(x", "a percent sign is written %% and an atom %(NAME)s, not '%(x'"),
        ("%(h)d", "a percent sign is written %% and an atom %(NAME)s, not '%(h)d'"),
        ("100% %(h)s", "a percent sign is written %% and an atom %(NAME)s, not '% %(h)s'"),
        ("%({}i)s", "unknown atom %({}i)s"),
        ("%({a}x)s", "unknown atom %({a}x)s"),
        ("%()s", "unknown atom %()s"),
        ("", "must be daphne, json, common, combined or text with atoms such as %(h)s, not ''"),
        ("jason", "must be daphne, json, common, combined or text with atoms such as %(h)s, not 'jason'"),
        ("%(h)s\n%(u)s", "must be one line"),
    ],
)
def test_format_that_cannot_be_used(access_format: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        compile_format(access_format)
    assert str(caught.value).startswith(message)


@given(st.text())
def test_nothing_gets_out_of_its_field(text: str) -> None:
    result = escaped(text)
    assert result.isascii()
    assert result.isprintable() or not result
    assert '"' not in result
    assert all(part[:1] in "xu" for part in result.split("\\")[1:])
    quotation = quoted(text)
    assert quotation.isascii()
    assert quotation.isprintable()
    assert json.loads(quotation) == text


@given(st.lists(st.binary(max_size=20), max_size=4), st.sampled_from(["json", "combined", "%(u)s %({x}i)s", "daphne"]))
def test_lines_are_one_printable_line_whatever_headers_say(values: list[bytes], access_format: str) -> None:
    from greendaphne.core.message import ConnectionInfo, Request
    from tests.support.websocket import SocketStream

    names = [b"user-agent", b"referer", b"authorization", b"x"]
    target = b"/" + b"".join(values)
    connection = ConnectionInfo("http", ['fe80::1%\x1b"', 1], ["::1", 80])
    request = Request("GET", target, target, b"", "1.1", list(zip(names, values, strict=False)), 0, b"", connection)
    lines = Lines(access_format)
    stream = SocketStream(None, request)  # type: ignore[arg-type]
    stream.complete = True
    lines.log.completed(stream, 0.0, "")
    line = lines.next()
    assert line.count('"') == {"json": line.count('"'), "combined": 6, "daphne": 2}.get(access_format, 0)


# ---- logging


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put(record)


def test_records_have_fields() -> None:
    handler = Records()
    access_logger = logging.getLogger("daphne.access")
    access_logger.addHandler(handler)
    access_logger.propagate = False
    try:
        with serve(observers=[AccessRecords(compile_format("daphne"))]) as server, server.connect() as client:
            exchange(server, client)
            client.send(b"GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: test/1\r\n\r\n")
            # The next request is read behind the record of the last.
            message = server.app.request()
            access_logger.setLevel("INFO")
            server.app.reply(message, status=200, content=b"12345")
            record = handler.queue.get(timeout=PATIENCE)
    finally:
        access_logger.removeHandler(handler)
        access_logger.propagate = True
        access_logger.setLevel("NOTSET")
    assert record.levelname == "INFO"
    assert re.fullmatch(rf'127\.0\.0\.1:{port_of_record(record)} - - {TIME} "GET /x" 200 5', record.getMessage())
    values = vars(record)
    assert [values[name] for name in ("event", "path", "status", "user_agent", "cause")] == ["request", "/x", 200, "test/1", None]
    assert handler.queue.empty()


def port_of_record(record: logging.LogRecord) -> int:
    return int(vars(record)["client_port"])


def test_record_handler_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ZeroDivisionError

    broken_logger = logging.getLogger("tests.broken")
    broken_logger.setLevel("INFO")
    broken_logger.addHandler(Broken())
    with serve(observers=[AccessRecords(compile_format("json"), broken_logger)]) as server, server.connect() as client:
        exchange(server, client)
        exchange(server, client)
    assert "Error in a handler of the logger tests.broken" in caplog.text


# ---- the command


def test_file_and_verbosity(tmp_path: Path) -> None:
    """An explicit file is written even with -v 0, where nothing goes to stdout."""
    (tmp_path / "app.py").write_text(
        "from greendaphne.layers.memory import MemoryChannelLayer\n"
        "channel_layer = MemoryChannelLayer()\n"
        "channel_layer.routes = {'http.request': lambda message: message.reply({'status': 200, 'content': b'x'})}\n"
    )
    log = tmp_path / "access.log"
    log.write_text("before\n")
    command = [sys.executable, "-m", "greendaphne", "-u", "s", "--access-log", "access.log", "--inline-workers", "1", "app:channel_layer"]
    for options, noisy in (["-v", "0"], False), ([], True):
        with subprocess.Popen([*command, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                subprocess.run(
                    [
                        "curl",
                        "--silent",
                        "--show-error",
                        "--retry",
                        "50",
                        "--retry-delay",
                        "0",
                        "--retry-all-errors",
                        "--unix-socket",
                        "s",
                        "http://a/",
                    ],
                    cwd=tmp_path,
                    check=True,
                    capture_output=True,
                    timeout=60,
                )
            finally:
                process.terminate()
            out, err = process.communicate(timeout=30)
        assert out == ""
        assert ("Listening on endpoint unix:s" in err) is noisy, err
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert [re.sub(TIME, "[]", line) for line in lines[1:]] == ['None - - [] "GET /" 200 1'] * 2
