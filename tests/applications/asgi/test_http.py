"""Events of HTTP requests."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from greendaphne.config import AsgiOptions, Config, Limits, Timeouts
from greendaphne.http1.connection import Http1Connection
from tests.support.asgi import Recorder, answer, read_body, serve_asgi
from tests.support.http2 import GET, POST, Peer
from tests.support.monitoring import wait_until
from tests.support.server import PATIENCE

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


# ---- the request's body


def test_events_of_a_request_without_a_body(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(await receive())
        await answer(send, b"hello")
        seen(await receive())
        seen(await receive())

    with serve_asgi(application) as server:
        assert server.get().body == b"hello"
        assert seen.next() == {"type": "http.request", "body": b"", "more_body": False}
        assert seen.next() == seen.next() == {"type": "http.disconnect"}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await read_body(receive))


def test_body_by_length() -> None:
    body = bytes(range(256)) * 4096
    with serve_asgi(echo) as server, server.connect() as client:
        for data in (b"short", body, b""):
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            assert client.read_response().body == data


def test_body_in_chunks_that_come_late(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while True:
            event = await receive()
            seen(event)
            if not event["more_body"]:
                break
        await answer(send)

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one", b"two"):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert seen.next() == {"type": "http.request", "body": piece, "more_body": True}
        client.send(b"0\r\n\r\n")
        assert seen.next() == {"type": "http.request", "body": b"", "more_body": False}
        assert client.read_response().status == 200


def test_body_over_http2() -> None:
    body = bytes(range(256)) * 4096
    with serve_asgi(echo, http2_cleartext=True) as server, Peer(server) as peer:
        for data in (b"short", body, b""):
            assert peer.get([*POST, (b"content-length", b"%d" % len(data))], data)[2] == data


def test_application_begins_before_the_body(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen("called")
        await send(START)
        while True:
            event = await receive()
            await send({"type": "http.response.body", "body": event["body"].upper(), "more_body": event["more_body"]})
            if not event["more_body"]:
                return

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert seen.next() == "called"
        client.send(b"1\r\na\r\n")
        client.read_head()
        assert client.read_chunk() == b"A"
        client.send(b"1\r\nb\r\n0\r\n\r\n")
        assert client.read_chunk() == b"B"
        assert client.read_chunk() == b""


def test_continue_is_sent_when_the_body_is_asked_for() -> None:
    with serve_asgi(echo) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_head().status == 100
        client.send(b"ok")
        assert client.read_response().body == b"ok"


def test_upload_that_is_not_read_stays_with_the_client(seen: Recorder) -> None:
    go = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(await receive())
        await go.wait()
        await answer(send)

    with serve_asgi(application) as server, server.connect() as client:
        client.sock.setblocking(False)
        size = 64 * 1024 * 1024
        client.sock.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        idle = 0
        while idle < 20:
            try:
                sent += client.sock.send(bytes(65536))
                idle = 0
            except BlockingIOError:
                idle += 1
                time.sleep(0.02)
        # What the sockets hold, and one piece.
        assert sent < size // 2
        assert len(seen.next()["body"]) <= 65536


def test_cancelled_receive_loses_nothing(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            try:
                await asyncio.wait_for(receive(), 0.02)
            except (asyncio.TimeoutError, TimeoutError):
                pass
        seen("waiting")
        await answer(send, await read_body(receive))

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        assert seen.next() == "waiting"
        client.send(b"body")
        assert client.read_response().body == b"body"


def test_two_receives_at_once(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        events = await asyncio.gather(receive(), receive())
        seen(sorted(event["body"] for event in events))
        await answer(send)

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        client.send(b"1\r\nb\r\n0\r\n\r\n")
        assert client.read_response().status == 200
        assert b"".join(seen.next()) == b"ab"


def test_response_does_not_wait_for_a_body_that_a_task_waits_for() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(receive())
        await asyncio.sleep(0.02)
        await answer(send, b"early")
        task.cancel()

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        assert client.read_response().body == b"early"


def test_body_above_the_limit(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                seen("disconnect")
                return

    with serve_asgi(application, limits=Limits(request_body=1000)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n%b\r\n" % bytes(0x800))
        assert client.read_response().status == 413
        assert seen.next() == "disconnect"


def test_client_that_leaves_in_mid_body(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (event := await receive())["type"] == "http.request":
            pass
        seen(event)

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        client.close()
        assert seen.next() == {"type": "http.disconnect"}


# ---- the response


def test_head_leaves_with_the_first_body_event(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise ValueError("after the start")

    with serve_asgi(application) as server:
        assert server.get().status == 500


def test_stream() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for number in range(100):
            await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
            if number % 10 == 0:
                await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    whole = b"".join(b"%d," % number for number in range(100))
    with serve_asgi(application, http2_cleartext=True) as server:
        assert server.get().body == whole
        with Peer(server) as peer:
            assert peer.get()[2] == whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_kinds_of_bodies(kind: Any) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        buffer = bytearray(b"data")
        await send({"type": "http.response.body", "body": kind(buffer), "more_body": True})
        buffer[:] = b"XXXX"
        await send({"type": "http.response.body", "body": kind(b"more")})

    with serve_asgi(application) as server:
        assert server.get().body == b"datamore"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"type": "http.response.body", "body": b""}], RuntimeError),
        ([START, START], RuntimeError),
        ([{"type": "http.response.start", "status": "200"}], TypeError),
        ([{"type": "http.response.start", "status": True}], TypeError),
        ([{"type": "http.response.start", "status": 100}], Exception),
        ([{"type": "http.response.start", "status": 1000}], Exception),
        ([{"type": "http.response.start", "status": 200, "headers": [("a", "b")]}], TypeError),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b", b"c")]}], TypeError),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}], Exception),
        ([{"type": "http.response.start", "status": 200, "headers": [(b":a", b"b")]}], Exception),
        ([START, {"type": "http.response.body", "body": "text"}], TypeError),
        ([{"type": "websocket.accept"}], ValueError),
    ],
)
def test_wrong_messages_raise(seen: Recorder, messages: list[Any], error: type[Exception]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            for message in messages:
                await send(message)
        except Exception as raised:  # noqa: BLE001 - which one is the question
            seen(raised)
        else:
            seen(None)

    with serve_asgi(application) as server:
        assert server.get().status == 500
        assert isinstance(seen.next(), error)


def test_right_messages_of_unusual_kinds() -> None:
    from http import HTTPStatus

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = ([name, value] for name, value in ((b"X-Upper", b"1"), (b"Transfer-Encoding", b"gzip")))
        await send({"type": "http.response.start", "status": HTTPStatus.CREATED, "headers": headers, "future": 1})
        await send({"type": "http.response.body", "body": b"x", "future": 1})
        await send({"type": "http.response.body", "body": b"ignored"})
        await send(START)

    with serve_asgi(application) as server, server.connect() as client:
        for _ in range(2):
            client.send(REQUEST)
            response = client.read_response()
            assert (response.status, response.body, response.header("X-Upper")) == (201, b"x", "1")


def test_head_and_not_modified() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/304":
            await send({"type": "http.response.start", "status": 304})
            await send({"type": "http.response.body"})
        else:
            await answer(send, b"hello")

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response("HEAD").header("Content-Length") == "5"
        client.send(b"GET /304 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().status == 304
        client.send(REQUEST)
        assert client.read_response().body == b"hello"


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(("length", "body"), [(3, b"hello"), (9, b"hello")])
def test_wrong_content_length(length: int, body: bytes, http2: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % length)]})
        await send({"type": "http.response.body", "body": body})

    with serve_asgi(application, http2_cleartext=True) as server:
        if http2:
            with Peer(server) as peer:
                assert peer.get()[0] == 500
        else:
            with server.connect() as client:
                client.send(REQUEST)
                assert client.read_until(b"\r\n\r\n")
                assert client.read_exactly(min(length, len(body))) == body[:length]
                assert not client.at_eof() or length < len(body)
        wait_until(lambda: "than its Content-Length" in caplog.text)


def test_connection_close() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x", headers=[(b"connection", b"close")])

    with serve_asgi(application, http2_cleartext=True) as server, server.connect() as client:
        client.send(REQUEST)
        assert client.read_response().header("Connection") == "close"
        assert client.at_eof()
        with Peer(server) as peer:
            assert all(name != b"connection" for name, _ in peer.get()[1])


# ---- back-pressure


@pytest.mark.parametrize("http2", [False, True])
def test_endless_stream_waits_for_a_slow_reader(seen: Recorder, http2: bool) -> None:
    sent = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["path"] == "/other":
            await answer(send, b"other")
            return
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                sent += 65536
        except OSError as error:
            seen(error)
            raise

    with serve_asgi(application, http2_cleartext=True) as server:
        if http2:
            peer = Peer(server)
            peer.acknowledge = False
            peer.request()
            close = peer.sock.close
            peer.receive()
        else:
            client = server.connect()
            client.send(REQUEST)
            close = client.close
        last = -1
        while sent != last or not sent:
            last = sent
            assert server.get("/other").body == b"other"
            time.sleep(0.2)
        assert sent < 32 * 1024 * 1024
        close()
        assert "left" in str(seen.next())
        wait_until(lambda: server.tasks == 0)


@pytest.mark.parametrize("http2", [False, True])
def test_client_that_takes_nothing_is_given_up(seen: Recorder, http2: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except OSError:
            seen("gone")

    with serve_asgi(application, http2_cleartext=True, timeouts=Timeouts(graceful=2, send=0.3)) as server:
        if http2:
            peer = Peer(server)
            peer.acknowledge = False
            peer.request()
            peer.receive()
            assert seen.next() == "gone"
            peer.sock.close()
        else:
            with server.connect() as client:
                client.send(REQUEST)
                assert seen.next() == "gone"


@pytest.mark.parametrize("waits_for", ["nothing", "receive", "body"])
def test_a_response_that_does_not_begin_in_time_is_503(seen: Recorder, waits_for: str) -> None:
    """``--http-timeout`` where it is given, as with daphne 4."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            if waits_for == "receive":
                while (event := await receive())["type"] != "http.disconnect":
                    pass
                seen(event["type"])
                await send(START)
            elif waits_for == "body":
                seen((await receive())["type"])
            await asyncio.Event().wait()
        except OSError:
            seen("gone")
        except asyncio.CancelledError:
            seen("cancelled")
            raise

    options = AsgiOptions(lifespan="off", close_timeout=0.1, response_timeout=0.2)
    with serve_asgi(application, asgi=options) as server, server.connect() as client:
        client.send(REQUEST if waits_for != "body" else b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        response = client.read_response()
        assert response.status == 503
        assert b"Application failed to respond within time limit." in response.body
        if waits_for != "nothing":
            assert seen.next() == "http.disconnect"
        assert seen.next() == ("gone" if waits_for == "receive" else "cancelled")
        wait_until(lambda: server.tasks == 0)


def test_a_response_that_is_not_complete_in_time_is_cut(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (event := await receive())["type"] != "http.disconnect":
            pass
        seen(event["type"])

    options = AsgiOptions(lifespan="off", close_timeout=1, response_timeout=0.2)
    with serve_asgi(application, asgi=options) as server, server.connect() as client:
        client.send(REQUEST)
        data = b""
        with suppress(ConnectionResetError):
            while more := client.sock.recv(4096):
                data += more
        # The last chunk is missing, so the client knows that the response is cut.
        assert data.endswith(b"5\r\nfirst\r\n")
        assert seen.next() == "http.disconnect"
        wait_until(lambda: server.tasks == 0)


def test_a_response_in_time_is_not_touched() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await send(START)
        await send({"type": "http.response.body", "body": b"hello"})
        # Background work has no limit.
        await asyncio.sleep(0.3)
        done.set()

    done = threading.Event()
    options = AsgiOptions(lifespan="off", close_timeout=1, response_timeout=0.2)
    with serve_asgi(application, asgi=options) as server:
        assert server.get().body == b"hello"
        assert done.wait(PATIENCE)


def test_the_limit_is_that_of_channel_layers_where_it_is_given() -> None:
    assert Config().asgi.response_timeout is None
    assert Config().changed({"timeouts.http": 7}).asgi.response_timeout == 7
    assert Config().changed({"timeouts.http": 7, "asgi.response_timeout": 8}).asgi.response_timeout == 8


def test_pieces_of_several_tasks_stay_whole() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

        async def send_many(letter: bytes) -> None:
            for _ in range(40):
                await send({"type": "http.response.body", "body": letter * 100_000, "more_body": True})

        await asyncio.gather(send_many(b"a"), send_many(b"b"))
        await send({"type": "http.response.body"})

    with serve_asgi(application) as server, server.connect() as client:
        client.send(REQUEST)
        client.read_head()
        count = 0
        while chunk := client.read_chunk():
            assert len(chunk) == 100_000
            assert len(set(chunk)) == 1
            count += 1
        assert count == 80


# ---- clients that leave


@pytest.mark.parametrize("http2", [False, True])
def test_leaving_is_told_at_once(seen: Recorder, http2: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen("waiting")
        seen(await receive())
        try:
            await send(START)
        except OSError as error:
            seen(error)
            raise

    with serve_asgi(application, http2_cleartext=True) as server:
        if http2:
            with Peer(server) as peer:
                stream = peer.request()
                assert seen.next() == "waiting"
                peer.h2.reset_stream(stream)
                peer.flush()
                assert seen.next() == {"type": "http.disconnect"}
        else:
            with server.connect() as client:
                client.send(REQUEST)
                assert seen.next() == "waiting"
                client.close()
                assert seen.next() == {"type": "http.disconnect"}
        assert isinstance(seen.next(), OSError)


def test_leaving_is_told_over_tls(seen: Recorder, tmp_path: Any) -> None:
    import ssl

    from tests.support.certificates import Authority

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen("waiting")
        seen(await receive())

    certificate = Authority.make(tmp_path).server("localhost").write(tmp_path / "server.pem")
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    with serve_asgi(application, endpoints=[endpoint]) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(socket.create_connection(server.address))
        sock.sendall(REQUEST)
        assert seen.next() == "waiting"
        sock.close()
        assert seen.next() == {"type": "http.disconnect"}


def test_requests_sent_ahead_are_no_leaving(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/wait":
            seen("waiting")
            try:
                await asyncio.wait_for(receive(), 0.3)
            except (asyncio.TimeoutError, TimeoutError):
                seen("still there")
        await answer(send, scope["path"].encode())

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.next() == "waiting"
        client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert seen.next() == "still there"
        assert client.read_response().body == b"/wait"
        assert client.read_response().body == b"/next"


def test_bytes_sent_ahead_are_bounded(seen: Recorder) -> None:
    release = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen(receive)
        await receive()

    with serve_asgi(application) as server, server.connect() as client:
        client.send(REQUEST)
        seen.next()
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.sendall(bytes(64 * 1024 * 1024))
        assert not release.is_set()
        (connection,) = server.server._connections._open
        assert isinstance(connection, Http1Connection)
        assert connection.input.unused <= 2 * 65536


def test_client_that_closes_its_half_is_answered_where_nothing_asks() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, b"answer")

    with serve_asgi(application) as server, server.connect() as client:
        client.send(REQUEST)
        client.half_close()
        assert client.read_response().body == b"answer"


@pytest.mark.parametrize("wrapped", [False, True])
def test_leaving_is_not_logged(seen: Recorder, caplog: pytest.LogCaptureFixture, wrapped: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        except OSError as error:
            seen(error)
            if wrapped:
                raise ValueError("because of it") from error
            raise

    with serve_asgi(application) as server:
        with server.connect() as client:
            client.send(REQUEST)
            client.read_head()
        seen.next()
        wait_until(lambda: server.tasks == 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- the application's end


def test_exceptions_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await asyncio.sleep(0)
        if scope["path"] == "/part":
            await send(START)
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("broken here")

    with serve_asgi(application) as server:
        for path, _ in (("/", 1), ("/late", 1)):
            assert server.get(path).status == 500
            assert caplog.text.count("ValueError: broken here") == 1
            caplog.clear()
        with server.connect() as client:
            client.send(b"GET /part HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read_head()
            assert client.read_chunk() == b"part"
            with pytest.raises(EOFError):
                client.read_chunk()
    assert caplog.text.count("ValueError: broken here") == 1


@pytest.mark.parametrize("where", ["first step", "later step", "task"])
def test_system_exit_ends_its_request_only(seen: Recorder, caplog: pytest.LogCaptureFixture, where: str) -> None:
    async def ends() -> None:
        if where != "first step":
            await asyncio.sleep(0)
        sys.exit("in the application")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/other":
            await receive()
            seen("waits")
            seen(await receive())
        elif scope["path"] == "/ok":
            await answer(send, b"ok")
        elif where == "task":
            await asyncio.ensure_future(ends())
        else:
            await ends()

    with serve_asgi(application) as server:
        with server.connect() as other:
            other.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
            assert seen.next() == "waits"
            for _ in range(2):
                assert server.get().status == 500
            assert server.get("/ok").body == b"ok"
            assert seen.empty
        assert seen.next() == {"type": "http.disconnect"}
    # asyncio reports exceptions that nothing has retrieved when their tasks are collected.
    gc.collect()
    assert caplog.text.count("SystemExit: in the application") == 2


def test_system_exit_of_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        asyncio.get_running_loop().call_soon(sys.exit, "in a callback")
        await asyncio.sleep(0.01)
        await answer(send, b"ok")

    with serve_asgi(application) as server:
        for _ in range(2):
            assert server.get().body == b"ok"
    assert caplog.text.count("SystemExit: in a callback") == 2


def test_an_application_that_cancels_itself_is_in_error(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    with serve_asgi(application) as server:
        for path in ("/", "/late"):
            assert server.get(path).status == 500
    assert caplog.text.count("the application was cancelled before its response was complete") == 2


def test_return_without_a_response(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/part":
            await send(START)
            await send({"type": "http.response.body", "body": b"part", "more_body": True})

    with serve_asgi(application) as server:
        assert server.get().status == 500
        with server.connect() as client:
            client.send(b"GET /part HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read_head()
            assert client.read_chunk() == b"part"
            with pytest.raises(EOFError):
                client.read_chunk()
    assert caplog.text.count("the application returned before its response was complete") == 2


def test_task_goes_on_after_the_response(seen: Recorder) -> None:
    release: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/first":
            event = asyncio.Event()
            release.append((asyncio.get_running_loop(), event))
            await event.wait()
            seen("background")

    with serve_asgi(application) as server, server.connect() as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body == b"/first"
        client.send(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body == b"/second"
        assert server.tasks == 1
        assert seen.empty
        loop, event = release[0]
        loop.call_soon_threadsafe(event.set)
        assert seen.next() == "background"


def test_exception_after_the_response_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x")
        if scope["path"] == "/late":
            await asyncio.sleep(0.01)
        raise ValueError("too late")

    with serve_asgi(application) as server:
        for path in ("/", "/late"):
            assert server.get(path).body == b"x"
        wait_until(lambda: caplog.text.count("ValueError: too late") == 2)


def test_drain_waits_for_tasks_and_cancels_them_then(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        try:
            await asyncio.sleep(0.3 if scope["path"] == "/short" else 1000)
            seen("slept")
        except asyncio.CancelledError:
            seen("cancelled")
            raise

    with serve_asgi(application, asgi=AsgiOptions(lifespan="off", close_timeout=0.8), timeouts=Timeouts(graceful=5)) as server:
        server.get("/short")
        server.get("/long")
    assert [seen.next(), seen.next()] == ["slept", "cancelled"]


def test_contexts_are_apart(seen: Recorder) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(variable.get("unset"))
        variable.set("set")
        await answer(send)

    with serve_asgi(application) as server, server.connect() as client:
        for _ in range(3):
            client.send(REQUEST)
            client.read_response()
            assert seen.next() == "unset"


def test_requests_that_wait_do_not_hold_up_others() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, b"x")

    with serve_asgi(application, http2_cleartext=True) as server, Peer(server) as peer:
        streams = [peer.request(GET) for _ in range(50)]
        assert [peer.response(stream)[2] for stream in streams] == [b"x"] * 50


def test_a_body_that_comes_without_end_leaves_others_their_turn() -> None:
    """The client sends chunks of one byte faster than they are read, so that receive() always finds one."""
    begun = threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                begun.set()
        else:
            await answer(send, b"other")

    stop = threading.Event()

    def upload(sock: socket.socket) -> None:
        chunks = b"1\r\nx\r\n" * 20_000
        while not stop.is_set():
            try:
                sock.sendall(chunks)
            except OSError:
                return

    with serve_asgi(application) as server, server.connect() as busy:
        busy.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        thread = threading.Thread(target=upload, args=(busy.sock,))
        thread.start()
        try:
            assert begun.wait(PATIENCE)
            for _ in range(10):
                assert server.get().body == b"other"
        finally:
            stop.set()
            busy.sock.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
        assert not thread.is_alive()
