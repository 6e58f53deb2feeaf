"""``start_response``, ``write`` and the iterable that the application returns."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from greendaphne.applications.wsgi.response import Response
from greendaphne.config import Timeouts
from greendaphne.core.message import ResponseError
from tests.support.both_versions import VERSIONS, requester
from tests.support.http2 import Peer
from tests.support.server import PATIENCE
from tests.support.server import Response as Answer
from tests.support.wsgi import serve_wsgi

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
PLAIN = [("Content-Type", "text/plain")]
Environ = dict[str, Any]


def get(application: Callable[..., Any], request: bytes = GET, *, validate: bool = True, **keywords: Any) -> Answer:
    """The answer of ``application``."""
    with serve_wsgi(application, validate=validate, **keywords) as server, server.connect() as client:
        client.send(request)
        return client.read_response(request.split()[0].decode())


class Body:
    """An iterable that records what is done with it."""

    def __init__(self, *pieces: Any, close_error: Exception | None = None) -> None:
        self.pieces = pieces
        self.closed = 0
        self.close_error = close_error
        self.event = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1
        self.event.set()
        if self.close_error is not None:
            raise self.close_error


def returns(body: Any, status: str = "200 OK", headers: Any = PLAIN) -> Callable[..., Any]:
    """An application that returns ``body``."""

    def application(environ: Environ, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return application


# --- start_response ---


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        ("200 OK", 200, "OK"),
        ("404 Nothing here", 404, "Nothing here"),
        ("200 ", 200, "OK"),
        ("200", 200, "OK"),
        ("299 Caf\xe9", 299, "Caf\xe9"),
        ("599 x", 599, "x"),
    ],
)
def test_status(status: str, code: int, reason: str) -> None:
    answer = get(returns([b"x"], status), validate=False)
    assert (answer.status, answer.reason, answer.body) == (code, reason, b"x")


@pytest.mark.parametrize(
    "arguments",
    [
        ("200 OK\r\nX: y", []),
        ("200 O\0K", []),
        ("20", []),
        ("2000 OK", []),
        ("OK", []),
        ("100 Continue", []),
        ("101 Switching Protocols", []),
        (200, []),
        (b"200 OK", []),
        ("200 \u0100", []),
        ("200 OK", [("X", "a\r\nY: b")]),
        ("200 OK", [("X", "a\nb")]),
        ("200 OK", [("X\r\nY", "b")]),
        ("200 OK", [("X Y", "b")]),
        ("200 OK", [("", "b")]),
        ("200 OK", [("X", "\u0100")]),
        ("200 OK", [("X", b"bytes")]),
        ("200 OK", [("X", 1)]),
        ("200 OK", [("Content-Length", "1x")]),
        ("200 OK", [("Content-Length", "-1")]),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]),
        *(("200 OK", [(name, "x")]) for name in ("Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade")),
        ("200 OK", [("Transfer-Encoding", "chunked")]),
        ("200 OK", [("Proxy-Authenticate", "Basic")]),
    ],
)
def test_bad_heads_are_refused_at_once(arguments: tuple[Any, Any]) -> None:
    caught: list[BaseException] = []

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            start_response(*arguments)
        except ResponseError as error:
            caught.append(error)
            # A further call needs exc_info although this one has failed.
            with pytest.raises(AssertionError):
                start_response("200 OK", [])
            raise
        return [b"never"]

    answer = get(application, validate=False)
    assert answer.status == 500
    assert b"never" not in answer.body
    assert len(caught) == 1


def test_close_is_a_wish() -> None:
    answer = get(returns([b"x"], headers=[*PLAIN, ("Connection", "close")]), validate=False)
    assert answer.header("Connection") == "close"
    answer = get(returns([b"x"], headers=[*PLAIN, ("Connection", "keep-alive")]), validate=False)
    assert answer.header("Connection") is None


def test_fields_of_the_application_win() -> None:
    headers = [*PLAIN, ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "mine"), ("X-Twice", "a"), ("X-Twice", "b")]
    answer = get(returns([b"x"], headers=headers), server_name="ours")
    assert [value for name, value in answer.headers if name == "Date"] == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert [value for name, value in answer.headers if name == "Server"] == ["mine"]
    assert [value for name, value in answer.headers if name == "X-Twice"] == ["a", "b"]


def test_second_call() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        with pytest.raises(AssertionError):
            start_response("201 Created", [])
        return [b"x"]

    assert get(application, validate=False).status == 200


def test_exc_info_replaces_the_head() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*PLAIN, ("X-First", "1"), ("Content-Length", "5")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", PLAIN, sys.exc_info())
        return [b"sorry!"]

    answer = get(application)
    assert (answer.status, answer.header("X-First"), answer.body) == (503, None, b"sorry!")
    assert answer.header("Content-Length") != "5"


def test_exc_info_after_the_head_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"begin"
        try:
            raise LookupError("in the middle")
        except LookupError:
            start_response("500 Oops", list(PLAIN), sys.exc_info())
            yield b"never"

    with serve_wsgi(application) as server, server.connect() as client:
        client.send(GET)
        assert client.read_head().status == 200
        assert client.read_chunk() == b"begin"
        with pytest.raises(EOFError):
            client.read_chunk()
    assert "in the middle" in caplog.text


def test_no_reference_to_the_traceback_is_kept() -> None:
    references = []

    class Local:
        pass

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        def fail() -> None:
            local = Local()
            references.append(weakref.ref(local))
            raise ValueError

        start_response("200 OK", [])
        try:
            fail()
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        gc.disable()
        try:
            gone = references[0]() is None
        finally:
            gc.enable()
        return [b"gone" if gone else b"kept"]

    assert get(application, validate=False).body == b"gone"


# --- the iterable ---


def test_nothing_is_sent_before_there_is_something() -> None:
    def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b""
        raise ValueError("before the first piece")

    answer = get(application)
    assert answer.status == 500
    assert b"HTTP processing error" in answer.body


def test_pieces_leave_before_the_next_is_asked_for() -> None:
    asked = threading.Semaphore(0)

    def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
        for number in range(3):
            yield b"data: %d\n\n" % number
            while not asked.acquire(blocking=False):
                gevent.sleep(0.005)

    with serve_wsgi(application) as server, server.connect() as client:
        client.send(GET)
        assert client.read_head().status == 200
        for number in range(3):
            assert client.read_chunk() == b"data: %d\n\n" % number
            asked.release()
        assert client.read_chunk() == b""


def test_empty_pieces_do_not_end_the_body() -> None:
    body = Body(b"", b"a", b"", b"b", b"")
    answer = get(returns(body), validate=False)
    assert answer.body == b"ab"
    assert answer.header("Transfer-Encoding") == "chunked"
    assert body.closed == 1


@pytest.mark.parametrize(
    ("body", "length"), [([b"abc"], "3"), ((b"abc",), "3"), ([], "0"), ([b""], "0"), ([b"a", b"b"], None), (iter([b"abc"]), None)]
)
def test_length_of_one_piece(body: Any, length: str | None) -> None:
    assert get(returns(body), validate=False).header("Content-Length") == length


def test_an_empty_generator_has_length_0() -> None:
    assert get(returns(iter([])), validate=False).header("Content-Length") == "0"


def test_http_1_0_without_length() -> None:
    answer = get(returns(Body(b"a", b"b")), b"GET / HTTP/1.0\r\n\r\n", validate=False)
    assert answer.body == b"ab"
    assert answer.header("Transfer-Encoding") is None


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"ab", b"cdef"], [b"abcd", b"ef"]])
def test_too_long(pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    body = Body(*pieces)
    with serve_wsgi(returns(body, headers=[*PLAIN, ("Content-Length", "4")]), validate=False) as server, server.connect() as client:
        client.send(GET * 2)
        assert client.read_response().body == b"abcd"
        # What is over must not be taken for the next response.
        with pytest.raises(EOFError):
            client.read_head()
    assert "longer than its Content-Length" in caplog.text
    assert body.closed == 1


def test_too_short(caplog: pytest.LogCaptureFixture) -> None:
    body = Body(b"ab")
    with serve_wsgi(returns(body, headers=[*PLAIN, ("Content-Length", "4")]), validate=False) as server, server.connect() as client:
        client.send(GET)
        assert client.read_head().status == 200
        with pytest.raises(EOFError):
            client.read_exactly(4)
    assert "shorter than its Content-Length" in caplog.text
    assert body.closed == 1


@pytest.mark.parametrize(("request_", "status"), [(HEAD, "200 OK"), (GET, "204 No Content"), (GET, "304 Not Modified")])
def test_no_body(request_: bytes, status: str) -> None:
    body = Body(b"a", b"b")
    with serve_wsgi(returns(body, status, [("Content-Length", "2")]), validate=False) as server, server.connect() as client:
        for _ in range(2):
            client.send(request_)
            answer = client.read_response(request_.split()[0].decode())
            assert answer.status == int(status[:3])
            assert answer.header("Content-Length") == (None if status.startswith("204") else "2")
    assert body.closed == 2


def test_head_of_one_piece() -> None:
    answer = get(returns([b"abc"]), HEAD, validate=False)
    assert answer.header("Content-Length") == "3"
    assert get(returns([]), HEAD).header("Content-Length") is None


@pytest.mark.parametrize("close_error", [None, ValueError("in close")])
def test_close_is_called_once(close_error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    body = Body(b"a", LookupError("in the iterable"), close_error=close_error)
    with serve_wsgi(returns(body), validate=False) as server, server.connect() as client:
        client.send(GET)
        assert client.read_head().status == 200
        with pytest.raises(EOFError):
            client.read_until(b"0\r\n\r\n")
    assert body.closed == 1
    assert "in the iterable" in caplog.text
    assert ("in close" in caplog.text) is (close_error is not None)


def test_close_when_start_response_was_not_called(caplog: pytest.LogCaptureFixture) -> None:
    body = Body(b"a")
    answer = get(lambda environ, start_response: body, validate=False)
    assert answer.status == 500
    assert body.closed == 1
    assert "did not call start_response()" in caplog.text


def test_close_when_iter_raises() -> None:
    class Broken(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise RuntimeError("iter")

    body = Broken()
    assert get(returns(body), validate=False).status == 500
    assert body.closed == 1


def test_close_when_the_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    closed_in = []

    class Endless(Body):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 65536
                gevent.sleep(0)

        def close(self) -> None:
            closed_in.append(gevent.getcurrent())
            super().close()

    body = Endless()
    started_in = []

    def application(environ: Environ, start_response: Any) -> Any:
        started_in.append(gevent.getcurrent())
        start_response("200 OK", list(PLAIN))
        return body

    with serve_wsgi(application, validate=False) as server:
        with server.connect() as client:
            client.send(GET)
            client.read_head()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert body.event.wait(PATIENCE)
    assert body.closed == 1
    assert closed_in == started_in
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_client_leaves_and_the_application_catches_everything(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(PLAIN))
        for _ in range(1000):
            try:
                write(b"x" * 65536)
                gevent.sleep(0)
            except:  # noqa: E722 - it is what is tested
                break
        ended.set()
        raise RuntimeError("because of the client")

    with serve_wsgi(application, validate=False) as server:
        with server.connect() as client:
            client.send(GET)
            client.read_head()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ended.wait(PATIENCE)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_head_of_an_endless_body_ends_with_its_client() -> None:
    class Endless(Body):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b"x"
                gevent.sleep(0.005)

    body = Endless()
    with serve_wsgi(returns(body), validate=False) as server:
        with server.connect() as client:
            client.send(HEAD)
            assert client.read_head().status == 200
        assert body.event.wait(PATIENCE)


def test_a_drain_closes_the_iterable() -> None:
    body = Body()
    ended = threading.Event()

    def application(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))

        def pieces() -> Iterator[bytes]:
            try:
                yield b"x"
                gevent.sleep(100)
            finally:
                gevent.sleep(0)  # clean-up may wait
                ended.set()

        return pieces()

    with serve_wsgi(application, validate=False, timeouts=Timeouts(graceful=0.2)) as server, server.connect() as client:
        client.send(GET)
        client.read_head()
        server.server.stop()
        assert ended.wait(PATIENCE)
        assert body.closed == 0


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "returned NoneType"),
        ("text", "returned str"),
        (b"bytes", "returned bytes"),
        (5, "returned int"),
        (["text"], "iterable of str"),
        (iter([1]), "iterable of int"),
    ],
)
def test_common_mistakes(result: Any, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert get(returns(result), validate=False).status == 500
    lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert text in lines[0].getMessage()
    assert lines[0].exc_info is None


def test_an_exception_gives_a_page(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Any) -> Any:
        raise ZeroDivisionError("secret")

    answer = get(application)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), gevent.Timeout(3), asyncio.CancelledError("why")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("late", [False, True])
def test_exceptions_that_are_none_of_exception_end_their_request_only(
    error: BaseException, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/ok":
            start_response("200 OK", PLAIN)
            return [b"ok"]
        if not late:
            raise error
        start_response("200 OK", PLAIN)
        return Body(b"part", error)

    with serve_wsgi(application, validate=False, http2_cleartext=True) as server:
        for version in VERSIONS:
            with requester(server, version) as client:
                answer = client.ask()
                assert (answer.status, answer.complete) == ((200, False) if late else (500, True))
            with requester(server, version) as client:
                assert client.ask(b"/ok").body == b"ok"
    assert caplog.text.count("Error processing GET /") == len(VERSIONS)


# --- write ---


def test_write() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(PLAIN))
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c"]

    answer = get(application)
    assert answer.body == b"abc"
    assert answer.header("Transfer-Encoding") == "chunked"


def test_write_takes_bytes_only() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", list(PLAIN))
        with pytest.raises(TypeError):
            write("text")
        return [b"x"]

    assert get(application, validate=False).body == b"x"


# --- files ---


def file_application(path: Path, *, position: int = 0, length: int | None = None, wrap: bool = False) -> Callable[..., Any]:
    def application(environ: Environ, start_response: Any) -> Any:
        file = path.open("rb")
        file.seek(position)
        start_response("200 OK", [*PLAIN, *([("Content-Length", str(length))] if length is not None else [])])
        wrapper = environ["wsgi.file_wrapper"](file, 1000)
        opened.append(file)
        return iter(wrapper) if wrap else wrapper

    return application


opened: list[Any] = []


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("position", "length"), [(0, None), (1000, None), (7, 100), (0, 2_097_152)])
def test_file(big: Path, tls: bool, position: int, length: int | None) -> None:
    expected = big.read_bytes()[position:][:length]
    with serve_wsgi(file_application(big, position=position, length=length), validate=False, tls_dev=tls) as server:  # noqa: SIM117 - two lines are easier to read
        with server.connect() as client:
            if tls:
                import ssl

                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                client.sock = context.wrap_socket(client.sock)
            for _ in range(2):
                client.send(GET)
                answer = client.read_response()
                assert answer.body == expected
                assert answer.header("Content-Length") == str(len(expected))
    assert opened.pop().closed
    assert opened.pop().closed


def test_file_over_http2(big: Path) -> None:
    with serve_wsgi(file_application(big), validate=False, http2_cleartext=True) as server, Peer(server) as peer:
        status, _, body = peer.get()
    assert status == 200
    assert body == big.read_bytes()
    assert opened.pop().closed


def test_file_in_middleware_and_in_chunks(big: Path) -> None:
    answer = get(file_application(big, wrap=True), validate=False)
    assert answer.body == big.read_bytes()
    opened.pop().close()  # middleware of this kind has to do it

    def written_before(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", list(PLAIN))(b"before")
        return environ["wsgi.file_wrapper"](big.open("rb"))

    answer = get(written_before, validate=False)
    assert answer.body == b"before" + big.read_bytes()
    assert answer.header("Transfer-Encoding") == "chunked"


def test_file_that_is_none_on_disk() -> None:
    answer = get(lambda environ, start: start("200 OK", list(PLAIN)) and environ["wsgi.file_wrapper"](io.BytesIO(b"abc")), validate=False)
    assert answer.body == b"abc"


def test_head_of_a_file(big: Path) -> None:
    answer = get(file_application(big), HEAD, validate=False)
    assert answer.header("Content-Length") == str(big.stat().st_size)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert get(file_application(path), validate=False).body == b""


def test_a_file_that_shrinks(big: Path, caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Any) -> Any:
        file = big.open("rb")
        start_response("200 OK", list(PLAIN))
        wrapper = environ["wsgi.file_wrapper"](file)
        # Between the look at its size and the end of sending: the client does not read yet.
        gevent.spawn_later(0.05, os.truncate, big, 100)
        return wrapper

    big.write_bytes(b"x" * 30_000_000)
    with serve_wsgi(application, validate=False) as server, server.connect() as client:
        client.send(GET)
        client.read_head()
        time.sleep(0.3)
        with pytest.raises(EOFError):
            client.read_exactly(30_000_000)


def test_other_requests_go_on_while_a_file_is_sent(big: Path) -> None:
    send_file = file_application(big)

    def application(environ: Environ, start_response: Any) -> Any:
        return send_file(environ, start_response) if environ["PATH_INFO"] == "/file" else returns([b"x"])(environ, start_response)

    big.write_bytes(b"x" * 30_000_000)
    with serve_wsgi(application, validate=False) as server, server.connect() as slow, server.connect() as client:
        slow.send(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.read_head()
        client.send(GET)
        assert client.read_response().body == b"x"


# --- early hints ---


def hinting(environ: Environ, start_response: Any) -> list[bytes]:
    hint = environ.get("wsgi.early_hints")
    if hint is not None:
        hint([("Link", "</style.css>; rel=preload"), ("Link", "</a.js>; rel=preload")])
    write = start_response("200 OK", list(PLAIN))
    write(b"a")
    if hint is not None:
        hint([("Link", "</late>")])
    return [b"b"]


def test_early_hints() -> None:
    with serve_wsgi(hinting) as server, server.connect() as client:
        client.send(GET)
        hints = client.read_head()
        assert (hints.status, hints.reason) == (103, "Early Hints")
        assert hints.headers == [("Link", "</style.css>; rel=preload"), ("Link", "</a.js>; rel=preload")]
        assert client.read_response().body == b"ab"
    assert get(hinting, b"GET / HTTP/1.0\r\n\r\n").body == b"ab"


def test_early_hints_over_http2() -> None:
    import h2.events

    with serve_wsgi(hinting, http2_cleartext=True) as server, Peer(server) as peer:
        stream = peer.request()
        hints = peer.wait(h2.events.InformationalResponseReceived, stream)
        assert (b":status", b"103") in [(bytes(name), bytes(value)) for name, value in hints.headers or ()]
        status, _, body = peer.response(stream)
    assert (status, body) == (200, b"ab")


def test_early_hints_are_checked() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        with pytest.raises(ResponseError):
            environ["wsgi.early_hints"]([("Link", "a\r\nb")])
        start_response("200 OK", [])
        return [b"x"]

    assert get(application, validate=False).body == b"x"


# --- HTTP/2 ---


def test_http2() -> None:
    body = Body(b"a", b"b")
    with serve_wsgi(returns(body, "200 Fine"), validate=False, http2_cleartext=True) as server, Peer(server) as peer:
        status, fields, data = peer.get()
        assert (status, data) == (200, b"ab")
        assert (b"content-type", b"text/plain") in fields
    assert body.closed == 1


def test_remembered_fields_and_statuses_are_bounded() -> None:
    from greendaphne.applications.wsgi import response

    for number in range(3000):
        response.parse_field("X", str(number))
        response.parse_status(f"200 {number}")
    assert len(response._fields) <= 2048
    assert len(response._statuses) <= 256
    assert Response.__slots__
