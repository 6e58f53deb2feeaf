"""The access log, byte for byte, and what must not get into it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from greendaphne.access import AccessLogGenerator
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support import serve

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
