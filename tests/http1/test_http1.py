"""HTTP/1 on the wire: framing of responses, persistence, pipelining, expectations, time limits."""

from __future__ import annotations

import re
import socket
import struct
import time
from typing import Any

import pytest

from greendaphne.config import Limits, Timeouts
from tests.support.server import PATIENCE, Client, RunningServer, serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_response_bytes(client: Client, server: RunningServer) -> None:
    """Chunked first, names capitalised as daphne's library did, everything in one segment."""
    client.send(GET)
    headers = [
        (b"content-type", b"text/plain"),
        (b"ETAG", b"x"),
        (b"www-authenticate", b"y"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    server.app.answer(b"hello", headers=headers)
    data = client.sock.recv(65536)
    pattern = (
        rb"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\nETag: x\r\nWWW-Authenticate: y\r\n"
        rb"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n\r\n"
        rb"5\r\nhello\r\n0\r\n\r\n"
    )
    assert re.fullmatch(pattern, data), data


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"200 OK"),
        (299, b"299 Unknown Status"),
        (408, b"408 Request Time-out"),
        (413, b"413 Request Entity Too Large"),
        (418, b"418 I'm a teapot"),
        (429, b"429 Too Many Requests"),
        (504, b"504 Gateway Time-out"),
        (999, b"999 Unknown Status"),
    ],
)
def test_status_line(client: Client, server: RunningServer, status: int, line: bytes) -> None:
    client.send(GET)
    server.app.answer(status=status)
    assert client.read_response().head.startswith(b"HTTP/1.1 " + line + b"\r\n")


def test_content_length_is_kept(client: Client, server: RunningServer) -> None:
    client.send(GET)
    server.app.answer(b"hello", headers=[(b"Content-Length", b"5")])
    response = client.read_response()
    assert (response.header("Content-Length"), response.header("Transfer-Encoding"), response.body) == ("5", None, b"hello")


def test_http_1_0(server: RunningServer) -> None:
    """Delimited by the connection's end, without chunks; the status line says 1.0 as daphne's did."""
    with server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert server.app.answer(b"hello")["http_version"] == "1.0"
        response = client.read_response()
        assert response.version == "HTTP/1.0"
        assert response.header("Transfer-Encoding") is None
        assert response.body == b"hello"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 404)])
def test_no_body(client: Client, server: RunningServer, method: str, status: int) -> None:
    for _ in range(2):
        client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        server.app.answer(b"dropped", status=status)
        response = client.read_response(method)
        assert response.status == status
        assert response.header("Transfer-Encoding") is None
    assert client.buffer == b""


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"7")], [(b"content-length", b"0")]])
def test_205_has_no_content(client: Client, server: RunningServer, headers: Any) -> None:
    for _ in range(2):
        client.send(GET)
        server.app.answer(b"dropped", status=205, headers=headers)
        response = client.read_response()
        assert [value for name, value in response.headers if name in ("Content-Length", "Transfer-Encoding")] == ["0"]
    assert client.buffer == b""


def test_head_keeps_content_length_and_204_does_not(client: Client, server: RunningServer) -> None:
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    server.app.answer(b"", headers=[(b"content-length", b"123")])
    assert client.read_response("HEAD").header("Content-Length") == "123"
    client.send(GET)
    server.app.answer(b"", status=204, headers=[(b"content-length", b"0")])
    assert client.read_response().header("Content-Length") is None


def test_chunks_as_they_come(client: Client, server: RunningServer) -> None:
    client.send(GET)
    request = server.app.request()
    server.app.reply(request, status=200, headers=[], content=b"one", more_content=True)
    client.read_head()
    assert client.read_chunk() == b"one"
    server.app.reply(request, content=b"", more_content=True)
    server.app.reply(request, content=b"two", more_content=True)
    assert client.read_chunk() == b"two"
    server.app.reply(request, content=b"three")
    assert client.read_chunk() == b"three"
    assert client.read_chunk() == b""


def test_pipelined_responses_in_order(client: Client, server: RunningServer) -> None:
    """The second request is not even looked at before the first is answered."""
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    first = server.app.request()
    assert first["path"] == "/1"
    assert server.app.drain("http.request") == []
    server.app.reply(first, status=200, content=b"first")
    assert client.read_response().body == b"first"
    assert server.app.answer(b"second")["path"] == "/2"
    assert client.read_response().body == b"second"


def test_five_thousand_pipelined(client: Client, server: RunningServer) -> None:
    """More than a receive buffer of them, with bodies, in step to the end."""
    import threading

    count = 5000
    data = b"".join(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % n for n in range(count))
    paths: list[str] = []

    def work() -> None:
        for _ in range(count):
            request = server.app.answer(b"ok")
            assert request["body"] == b"abc"
            paths.append(request["path"])

    worker = threading.Thread(target=work)
    worker.start()
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    for _ in range(count):
        assert client.read_response().body == b"ok"
    sender.join()
    worker.join()
    assert paths == [f"/{n}" for n in range(count)]


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"]
)
def test_half_closed_client_is_answered(server: RunningServer, fields: bytes) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields)
        client.half_close()
        assert server.app.answer(b"there you are")["body"] == b"hello"
        assert client.read_response().body == b"there you are"
        assert client.at_eof()


# ---- 100-continue (RFC 9110 section 10.1.1)


def test_continue_is_sent_when_the_body_is_wanted(client: Client, server: RunningServer) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert client.read_head().status == 100
    client.send(b"hello")
    assert server.app.answer(b"ok")["body"] == b"hello"
    assert client.read_response().body == b"ok"
    client.send(GET)
    server.app.answer(b"again")
    assert client.read_response().body == b"again"


def test_no_continue_where_the_body_is_there(client: Client, server: RunningServer) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
    server.app.answer(b"ok")
    assert client.read_response().status == 200


def test_no_continue_for_a_refused_body() -> None:
    with serve(limits=Limits(request_body=10)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n" + GET)
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (413, "close")
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_http_1_0_expectation_is_ignored(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        client.send(b"hello")
        server.app.answer(b"ok")
        assert client.read_response().status == 200


# ---- responses that must not be sent


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [(b"x", b"a\r\nSet-Cookie: evil=1")]),
        (200, [(b"x", b"a\rb")]),
        (200, [(b"x", b"a\nb")]),
        (200, [(b"x", b"a\x00b")]),
        (200, [(b"x\r\ny", b"a")]),
        (200, [(b"x y", b"a")]),
        (200, [(b"x:", b"a")]),
        (200, [(b"", b"a")]),
        (200, [(b"content-length", b"1"), (b"content-length", b"2")]),
        (200, [(b"content-length", b"-1")]),
        (200, [(b"content-length", b"1, 1")]),
        (200, [(b"transfer-encoding", b"gzip")]),
        (200, [("x", 5)]),
        (200, 5),
        (101, []),
        (100, []),
        (0, []),
        (1000, []),
        ("200", []),
    ],
)
def test_bad_response_is_refused(
    client: Client, server: RunningServer, caplog: pytest.LogCaptureFixture, status: object, headers: object
) -> None:
    """The client learns nothing, the log says what is wrong, the connection goes on."""
    client.send(GET)
    server.app.reply(server.app.request(), status=status, headers=headers, content=b"x")
    response = client.read_response()
    assert response.status == 500
    assert b"HTTP processing error" in response.body
    assert b"evil" not in response.head + response.body
    assert [record.levelname for record in caplog.records if "Bad response" in record.message] == ["ERROR"]
    client.send(GET)
    server.app.answer(b"fine")
    assert client.read_response().body == b"fine"


def test_text_headers_are_tolerated(client: Client, server: RunningServer) -> None:
    client.send(GET)
    server.app.answer(b"", headers=[("x-name", "v\xe4lue")])
    assert client.read_response().header("X-Name") == "v\xe4lue"


def test_too_short_a_body_breaks_the_connection(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(GET + GET)
        server.app.answer(b"hell", headers=[(b"content-length", b"5")])
        client.read_head()
        with pytest.raises(EOFError):
            client.read_to_eof()
        assert server.app.drain("http.request") == []


def test_too_long_a_body_is_cut_and_the_connection_closed(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(GET + GET)
        server.app.answer(b"hello HTTP/1.1 200 OK", headers=[(b"content-length", b"5")])
        assert client.read_response().body == b"hello"
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_application_closes_the_connection(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(GET)
        server.app.answer(b"bye", headers=[(b"connection", b"close"), (b"keep-alive", b"timeout=5")])
        response = client.read_response()
        assert response.header("Connection") == "close"
        assert response.header("Keep-Alive") is None
        assert client.at_eof()


def test_date_of_the_application_is_kept(client: Client, server: RunningServer) -> None:
    client.send(GET)
    server.app.answer(b"", headers=[(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")])
    assert [value for name, value in client.read_response().headers if name == "Date"] == ["Thu, 01 Jan 1970 00:00:00 GMT"]


def test_server_name() -> None:
    with serve(server_name="example/1") as server, server.connect() as client:
        client.send(GET)
        server.app.answer(b"")
        assert client.read_response().header("Server") == "example/1"
        client.send(GET)
        server.app.answer(b"", headers=[(b"server", b"mine")])
        assert [value for name, value in client.read_response().headers if name == "Server"] == ["mine"]
        client.send(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().header("Server") == "example/1"


# ---- time limits


def test_idle_connection_is_closed() -> None:
    with serve(timeouts=Timeouts(keep_alive=0.2)) as server, server.connect() as client:
        client.send(GET)
        server.app.answer(b"")
        client.read_response()
        assert client.at_eof()


def test_silent_connection_is_closed() -> None:
    with serve(timeouts=Timeouts(keep_alive=0.1, header=0.2)) as server, server.connect() as client:
        assert client.at_eof()


def test_new_connection_is_not_idle() -> None:
    """Without keep-alive there is still time for the first request."""
    with serve(timeouts=Timeouts(keep_alive=0)) as server, server.connect() as client:
        time.sleep(0.1)  # longer than the keep-alive time that must not count yet
        client.send(GET)
        server.app.answer(b"ok")
        assert client.read_response().body == b"ok"
        assert client.at_eof()


def drip(client: Client, data: bytes, pause: float) -> None:
    """Send byte by byte until the server has had enough."""
    for n in range(len(data)):
        try:
            client.send(data[n : n + 1])
        except OSError:
            return
        time.sleep(pause)


def test_dripping_head_is_given_up() -> None:
    """The limit is absolute: a byte now and then does not extend it."""
    with serve(timeouts=Timeouts(header=0.3)) as server, server.connect() as client:
        drip(client, b"GET / HTTP/1.1\r\nX: " + b"a" * 40, 0.02)
        assert client.read_response().status == 408
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_silent_body_is_given_up() -> None:
    with serve(timeouts=Timeouts(body=0.3)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        assert client.read_response().status == 408
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_dripping_body_is_given_up() -> None:
    with serve(timeouts=Timeouts(body=0.3, body_rate=1000)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        drip(client, b"a" * 60, 0.02)
        assert client.read_response().status == 408


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_what_came_fast_buys_no_time_for_a_drip(framing: bytes) -> None:
    """The rate holds over a sliding window: a quarter of a megabyte at once is not credit for minutes."""
    with serve(timeouts=Timeouts(body=0.3, body_rate=1000)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        client.send((b"3d090\r\n" if b"chunked" in framing else b"") + b"a" * 250_000)
        if b"chunked" in framing:
            client.send(b"\r\n64\r\n")
        drip(client, b"a" * 60, 0.02)
        assert client.read_response().status == 408
        assert server.app.drain("http.request") == []


def test_client_that_does_not_read_is_dropped() -> None:
    with serve(timeouts=Timeouts(send=0.3)) as server, server.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(GET)
        request = server.app.request()
        for _ in range(64):
            server.app.reply(request, **({"status": 200} if not _ else {}), content=b"x" * 2**18, more_content=True)
        assert server.app.receive("http.disconnect")[1]["reply_channel"] == request["reply_channel"]
        with pytest.raises(EOFError):
            client.read_to_eof()


def test_slow_reader_gets_everything() -> None:
    """What comes faster than the client reads waits on disk beyond the memory it may have."""
    with serve(limits=Limits(reply_queue=100_000)) as server, server.connect() as client:
        client.send(GET)
        request = server.app.request()
        pieces = [bytes([n % 256]) * 2**18 for n in range(80)]
        server.app.reply(request, status=200, content=b"", more_content=True)
        for piece in pieces:
            server.app.reply(request, content=piece, more_content=True)
        server.app.reply(request, content=b"end")
        body = client.read_response().body
        assert body == b"".join(pieces) + b"end"
        server.app.receive("http.disconnect")


def test_reset_while_waiting_is_noticed(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.http._LOOK", 0.1)
    client = server.connect()
    client.send(GET)
    request = server.app.request()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert server.app.receive("http.disconnect", timeout=PATIENCE)[1]["reply_channel"] == request["reply_channel"]


def test_default_socket_timeout_does_not_leak(server: RunningServer) -> None:
    socket.setdefaulttimeout(0.05)
    try:
        with server.connect() as client:
            client.sock.settimeout(PATIENCE)
            client.send(GET)
            request = server.app.request()
            time.sleep(0.15)  # longer than the default time-out that must have no effect
            server.app.reply(request, status=200, content=b"ok")
            assert client.read_response().body == b"ok"
    finally:
        socket.setdefaulttimeout(None)
