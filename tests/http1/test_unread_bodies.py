"""Request bodies that the application does not read: short ones are skipped and the connection goes on, others end it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from greendaphne.applications.base import Application
from greendaphne.config import Config, Limits, Timeouts
from greendaphne.core.message import HTTPError, Request, Stream
from greendaphne.http1.response import build_head
from greendaphne.http1.stream import SKIPPED, Http1Stream
from tests.support.asgi import serve_asgi
from tests.support.server import Client
from tests.support.server import serve as serve_server
from tests.support.wsgi import serve_wsgi

GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class Deaf(Application):
    """Answers with the path, without a look at the body."""

    def http(self, request: Request, stream: Stream) -> None:
        stream.start(200, [(b"content-length", b"%d" % len(request.path))])
        stream.finish(request.path)


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The same for WSGI."""
    path = environ["PATH_INFO"].encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(path)))])
    return [path]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same for ASGI."""
    path = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(path))]})
    await send({"type": "http.response.body", "body": path})


@contextmanager
def on_stream(**keywords: Any) -> Iterator[Any]:
    with serve_server(None, application=Deaf(), **keywords) as server:
        yield server


KINDS: dict[str, Callable[..., Any]] = {
    "stream": on_stream,
    "wsgi": lambda **keywords: serve_wsgi(wsgi, validate=False, **keywords),
    "asgi": lambda **keywords: serve_asgi(asgi, **keywords),
}


@pytest.fixture(params=list(KINDS))
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A connection to a server with an application of each kind."""
    with KINDS[request.param]() as server, server.connect() as made:
        yield made


def post(path: bytes, body: bytes, *, fields: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)


def chunked(path: bytes, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b%b" % (path, body, end)


def expect(client: Client, body: bytes, connection: str | None = None) -> None:
    response = client.read_response()
    assert (response.status, response.body, response.header("Connection")) == (200, body, connection)


#: Bodies that look like requests, like the end of chunks, or like both.
BODIES = [b"x", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"y" * SKIPPED]


@pytest.mark.parametrize("body", BODIES, ids=["short", "request", "chunks", "limit"])
def test_the_connection_goes_on_after_a_short_body(client: Client, body: bytes) -> None:
    client.send(post(b"/first", body))
    expect(client, b"/first")
    client.send(GET)
    expect(client, b"/next")


@pytest.mark.parametrize("body", BODIES, ids=["short", "request", "chunks", "limit"])
def test_pipelined_requests_behind_the_body(client: Client, body: bytes) -> None:
    client.send(post(b"/1", body) + post(b"/2", body[:10]) + GET)
    expect(client, b"/1")
    expect(client, b"/2")
    expect(client, b"/next")


def test_a_body_that_comes_after_its_response(client: Client) -> None:
    client.send(post(b"/1", b"x" * 100)[:-60])
    expect(client, b"/1")
    client.send(b"x" * 30)
    client.send(b"x" * 30 + GET)
    expect(client, b"/next")


def test_a_long_body_ends_the_connection(client: Client) -> None:
    client.send(post(b"/1", b"x" * (SKIPPED + 1)) + GET)
    expect(client, b"/1", "close")
    assert client.at_eof()


@pytest.mark.parametrize("body", BODIES[:3], ids=["short", "request", "chunks"])
def test_chunks_that_have_come_are_skipped(client: Client, body: bytes) -> None:
    client.send(chunked(b"/1", body, b"more") + chunked(b"/2") + GET)
    expect(client, b"/1")
    expect(client, b"/2")
    expect(client, b"/next")


def test_chunks_that_have_not_come_end_the_connection(client: Client) -> None:
    client.send(chunked(b"/1", b"some", end=b""))
    expect(client, b"/1", "close")
    with contextlib.suppress(OSError):
        client.send(b"0\r\n\r\n" + GET)
    assert client.at_eof()


@pytest.mark.parametrize(
    "bad",
    [
        b"4\r\nsome\r\nx\r\n\r\n0\r\n\r\n",  # no size
        b"4\r\nsomemore\r\n0\r\n\r\n",  # longer than its size
        b"ffff\r\n\r\n0\r\n\r\n",  # what looks like the end is data, and more is missing
        b"4\nsome\r\n0\r\n\r\n",  # LF alone
    ],
)
def test_bad_chunks_are_no_way_to_a_second_request(client: Client, bad: bytes) -> None:
    """The response may have said that the connection goes on; it ends all the same, and nothing of the rest is a request."""
    client.send(b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + bad + GET)
    client.half_close()
    response = client.read_response()
    assert response.body == b"/1"
    assert client.at_eof()


def test_an_expectation_that_was_not_answered_ends_the_connection(client: Client) -> None:
    client.send(post(b"/1", b"hello", fields=b"Expect: 100-continue\r\n") + GET)
    expect(client, b"/1", "close")
    assert client.at_eof()


def test_a_client_that_asks_for_the_end_gets_it(client: Client) -> None:
    client.send(post(b"/1", b"hello", fields=b"Connection: close\r\n") + GET)
    expect(client, b"/1", "close")
    assert client.at_eof()


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_body_that_never_comes_does_not_hold_the_connection(kind: str) -> None:
    with KINDS[kind](timeouts=Timeouts(graceful=2, linger=0.05)) as server, server.connect() as client:
        client.send(post(b"/1", b"hello")[:-1])
        expect(client, b"/1")
        assert client.at_eof()


def test_error_pages_leave_the_connection_open() -> None:
    class Missing(Application):
        def http(self, request: Request, stream: Stream) -> None:
            raise HTTPError(404, "There is nothing.")

    with serve_server(None, application=Missing()) as server, server.connect() as client:
        client.send(post(b"/1", b"hello") + GET)
        assert [client.read_response().status for _ in range(2)] == [404, 404]


def test_a_body_above_the_limit_ends_the_connection() -> None:
    config = Config(limits=Limits(request_body=4))
    with serve_server(None, application=Deaf(), config=config) as server, server.connect() as client:
        client.send(post(b"/1", b"hello") + GET)
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (413, "close")
        assert client.at_eof()


def test_a_part_may_be_read_after_the_begin_of_the_response() -> None:
    """The expectation that the body is short uses nothing of it."""

    class Late(Application):
        def http(self, request: Request, stream: Stream) -> None:
            first = stream.read(3)
            stream.start(200, [])
            stream.write(first)
            stream.finish(stream.read(2))

    with serve_server(None, application=Late()) as server, server.connect() as client:
        client.send(post(b"/1", b"hello world") + chunked(b"/2", b"hello world") + GET)
        bodies = [client.read_response().body for _ in range(3)]
        assert bodies == [b"hello", b"hello", b""]


def test_a_response_at_once_is_for_requests_whose_body_was_read() -> None:
    """``respond`` writes no head that says that the connection ends behind a body that is not read."""
    fields = [(b"content-length", b"5")]
    done = []

    class Prompt(Application):
        def http(self, request: Request, stream: Stream) -> None:
            assert isinstance(stream, Http1Stream)
            if request.path == b"/read":
                while stream.read(100):
                    pass
            # Heads are known for the rest of a second.
            build_head(request.method, request.http_version, 200, fields, False, None)
            at_once = stream.respond(200, fields, b"hello")
            done.append((request.path, at_once))
            if not at_once:
                stream.start(200, fields)
                stream.finish(b"hello")

    with serve_server(None, application=Prompt()) as server, server.connect() as client:
        for path in (b"/read", b"/left") * 3:
            client.send(post(path, b"x" * 100))
            expect(client, b"hello")
        client.send(post(b"/left", b"x" * (SKIPPED + 1)))
        expect(client, b"hello", "close")
        assert client.at_eof()
    assert (b"/read", True) in done
    assert (b"/left", True) not in done
