"""Events of WebSockets."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from greendaphne.config import Timeouts
from greendaphne.core.message import ResponseError
from tests.support.asgi import HANDSHAKE, Recorder, serve_asgi
from tests.support.both_versions import VERSIONS, Talk
from tests.support.http2 import Peer
from tests.support.monitoring import wait_until
from tests.support.websocket import BINARY, CLOSE, PING, PONG, TEXT, close_payload, frame

ACCEPT = {"type": "websocket.accept"}


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


def test_echo() -> None:
    with serve_asgi(echo) as server, server.websocket() as client:
        for opcode, payload in ((TEXT, "täxt".encode()), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, bytes(300_000))):
            client.send(frame(opcode, payload))
            answer = client.receive()
            assert answer is not None
            assert (answer.opcode, answer.payload) == (opcode, payload)
        client.send(frame(PING, b"p"))
        answer = client.receive()
        assert answer is not None
        assert (answer.opcode, answer.payload) == (PONG, b"p")


def test_compressed() -> None:
    header = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    with serve_asgi(echo, websocket_compression=True) as server, server.websocket(headers=header) as client:
        client.send(frame(TEXT, b"a" * 1000))
        answer = client.receive()
        assert answer is not None
        assert answer.rsv == 4
        assert len(answer.payload) < 100


def test_events(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(await receive())
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-mine", b"1")]})
        for _ in range(4):
            seen(await receive())

    with serve_asgi(application) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/", b"Sec-WebSocket-Protocol: a, b\r\n"))
        response = client.read_head()
        assert (response.header("Sec-WebSocket-Protocol"), response.header("X-Mine")) == ("b", "1")
        client.send(frame(TEXT, b"text") + frame(BINARY, b"bytes") + frame(CLOSE, close_payload(4000, b"why")))
        assert [seen.next() for _ in range(4)] == [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "text"},
            {"type": "websocket.receive", "bytes": b"bytes"},
            {"type": "websocket.disconnect", "code": 4000, "reason": "why"},
        ]
        assert seen.next() == {"type": "websocket.disconnect", "code": 4000, "reason": "why"}


@pytest.mark.parametrize(("leave", "code"), [("close", 1005), ("vanish", 1006)])
def test_codes_of_disconnects(seen: Recorder, leave: str, code: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        seen(await receive())

    with serve_asgi(application) as server, server.websocket() as client:
        if leave == "close":
            client.send(frame(CLOSE))
        else:
            client.sock.close()
            client._input.close()
        assert seen.next()["code"] == code


def test_nothing_is_read_before_the_answer(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await asyncio.wait_for(receive(), 0.1)
        except (asyncio.TimeoutError, TimeoutError):
            seen("nothing")
        await send(ACCEPT)
        seen(await receive())

    with serve_asgi(application) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/", b"") + frame(TEXT, b"early"))
        assert seen.next() == "nothing"
        assert seen.next()["text"] == "early"


def rejected(messages: list[Any]) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            if isinstance(message, Exception):
                raise message
            await send(message)

    return application


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.close", "code": 4001, "reason": "no"}], 403),
        ([], 403),
        ([ValueError("broken")], 500),
        ([{"type": "websocket.send", "text": "early"}], 500),
        ([{"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"a")]}], 500),
        ([{"type": "websocket.accept", "subprotocol": "not offered"}], 500),
        ([{"type": "http.response.start", "status": 200}], 500),
    ],
)
def test_rejections(messages: list[Any], status: int) -> None:
    with serve_asgi(rejected(messages), http2_cleartext=True) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/", b""))
        assert client.read_response().status == status


@pytest.mark.parametrize("http2", [False, True])
def test_denial(seen: Recorder, http2: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"log ", "more_body": True})
        await asyncio.sleep(0.01)
        await send({"type": "websocket.http.response.body", "body": b"in"})
        try:
            await send(ACCEPT)
        except OSError as error:
            seen(error)
        seen(await receive())

    with serve_asgi(application, http2_cleartext=True) as server:
        if http2:
            with Peer(server) as peer:
                fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/")]
                status, headers, body = peer.response(
                    peer.request([*fields, (b":authority", b"a"), (b"sec-websocket-version", b"13")], end=False)
                )
                assert (status, body) == (401, b"log in")
                assert (b"x-why", b"because") in headers
        else:
            with server.connect() as client:
                client.send(HANDSHAKE % (b"/", b""))
                response = client.read_response()
                assert (response.status, response.body, response.header("X-Why")) == (401, b"log in", "because")
                assert client.at_eof()
        assert isinstance(seen.next(), OSError)
        assert seen.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wrong", [{"status": 101}, {"status": 401, "headers": [(b"x", b"a\r\nb: c")]}])
@pytest.mark.parametrize("then", ["start", "accept", "return"])
def test_a_wrong_denial_is_an_error_of_its_start(version: str, wrong: dict[str, Any], then: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(ResponseError):
            await send({"type": "websocket.http.response.start", "headers": [], **wrong})
        if then == "start":
            await send({"type": "websocket.http.response.start", "status": 402, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
            assert (await receive())["code"] == 1006
        elif then == "accept":
            await send(ACCEPT)

    with serve_asgi(application, http2_cleartext=True) as server, Talk(server, version) as talk:
        assert talk.status == {"start": 402, "accept": 101 if version == "1.1" else 200, "return": 403}[then]


def test_client_that_leaves_before_the_answer(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(await receive())
        seen(await receive())

    with serve_asgi(application) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/", b""))
        seen.next()
        client.close()
        assert seen.next() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def test_application_that_never_answers(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen(await receive())

    with serve_asgi(application, timeouts=Timeouts(graceful=2, websocket_connect=0.2)) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/", b""))
        assert client.read_response().status == 403
        assert seen.next()["type"] == "websocket.disconnect"


def test_application_closes(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "last"})
        await send({"type": "websocket.close", "code": 4002, "reason": "ä" * 100})
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError:
            seen("late")

    with serve_asgi(application) as server, server.websocket() as client:
        message, close = client.receive(), client.receive()
        assert message is not None
        assert close is not None
        assert message.payload == b"last"
        # At most 123 bytes, whole characters.
        assert close.payload == close_payload(4002, ("ä" * 61).encode())
        client.send(frame(CLOSE, close.payload))
        assert seen.next() == "late"
        assert client.receive() is None


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (ValueError("broken"), 1011), (SystemExit(), 1011), (asyncio.CancelledError(), 1011)]
)
def test_application_returns_or_raises(error: BaseException | None, code: int, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await asyncio.sleep(0.01)
        if error is not None:
            raise error

    with serve_asgi(application) as server, server.websocket() as client:
        close = client.receive()
        assert close is not None
        assert close.payload[:2] == close_payload(code)
        client.send(frame(CLOSE, close.payload))
        assert client.receive() is None
    assert caplog.text.count("ValueError: broken") == isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "websocket.send"}, ValueError),
        ({"type": "websocket.send", "text": None, "bytes": None}, ValueError),
        ({"type": "websocket.send", "text": "a", "bytes": b"a"}, ValueError),
        ({"type": "websocket.send", "text": b"a"}, TypeError),
        ({"type": "websocket.send", "bytes": "a"}, TypeError),
        ({"type": "websocket.close", "code": 1005}, ValueError),
        ({"type": "websocket.accept"}, RuntimeError),
        ({"type": "http.response.start"}, RuntimeError),
    ],
)
def test_wrong_messages_raise(seen: Recorder, message: Any, error: type[Exception]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            await send(message)
        except Exception as raised:  # noqa: BLE001 - which one is the question
            seen(raised)

    with serve_asgi(application) as server, server.websocket():
        assert isinstance(seen.next(), error)


def test_slow_client_holds_up_nothing_else(seen: Recorder) -> None:
    sent = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(ACCEPT)
        if scope["path"] == "/echo":
            await receive()
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
            return
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})
                sent += 100_000
        except OSError:
            seen("gone")
            raise

    with serve_asgi(application) as server, server.websocket("/endless"), server.websocket("/echo") as other:
        last = -1
        while sent != last or not sent:
            last = sent
            other.send(frame(TEXT, b"there?"))
            answer = other.receive()
            assert answer is not None
            assert answer.payload == b"there?"
            time.sleep(0.1)
        assert sent < 32 * 1024 * 1024
    assert seen.next() == "gone"


def test_inbox_is_bounded(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        seen("open")
        await asyncio.sleep(0.5)
        count = 0
        while (event := await receive())["type"] == "websocket.receive":
            count += len(event["bytes"])
        seen(count)

    with serve_asgi(application) as server, server.websocket() as client:
        seen.next()
        message = frame(BINARY, bytes(100_000))
        client.sock.settimeout(0.2)
        whole = 0
        try:
            while whole < 999:
                client.sock.sendall(message)
                whole += 1
        except TimeoutError:
            pass
        assert whole < 999
        client.sock.settimeout(20)
        client.sock.close()
        client._input.close()
        assert seen.next() >= (whole - 1) * 100_000 - 32 * 1024 * 1024


def test_messages_of_several_tasks_stay_whole() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)

        async def send_many(letter: bytes) -> None:
            for number in range(50):
                await send({"type": "websocket.send", "bytes": letter * 50_000 + b"%d" % number})

        await asyncio.gather(send_many(b"a"), send_many(b"b"))

    with serve_asgi(application) as server, server.websocket() as client:
        numbers: dict[bytes, list[int]] = {b"a": [], b"b": []}
        for _ in range(100):
            message = client.receive()
            assert message is not None
            letter = message.payload[:1]
            assert message.payload.startswith(letter * 50_000)
            numbers[letter].append(int(message.payload[50_000:]))
        assert numbers == {b"a": list(range(50)), b"b": list(range(50))}


def test_drain(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        seen("open")
        seen(await receive())

    with serve_asgi(application) as server, server.websocket() as client:
        seen.next()
        server.server.stop()
        close = client.receive()
        assert close is not None
        assert close.payload[:2] == close_payload(1012)
        client.send(frame(CLOSE, close.payload))
        assert seen.next()["code"] == 1012


def test_leaving_is_not_logged(seen: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        seen("over")
        await send({"type": "websocket.send", "text": "too late"})

    with serve_asgi(application) as server:
        with server.websocket():
            pass
        seen.next()
        wait_until(lambda: server.tasks == 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_task_goes_on_after_the_end(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        await asyncio.sleep(0.05)
        seen("cleaned up")

    with serve_asgi(application) as server, server.websocket() as client:
        client.send(frame(CLOSE))
        assert seen.next() == "cleaned up"


INVALID = frame(TEXT, b"x", rsv=2)


@pytest.mark.parametrize(("end", "code"), [(frame(CLOSE, close_payload(4000)), 4000), (INVALID, 1002)], ids=["close", "invalid"])
def test_messages_before_the_end_are_answered(seen: Recorder, end: bytes, code: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            # The answer takes several rounds of the event loop.
            await asyncio.sleep(0.01)
            await send({"type": "websocket.send", "text": event["text"]})
        seen(event)

    with serve_asgi(application) as server, server.websocket() as client:
        client.send(frame(TEXT, b"1"), frame(TEXT, b"2"), frame(PING, b"p"), frame(TEXT, b"3"), end)
        frames = client.frames()
        assert [each.payload for each in frames if each.opcode == TEXT] == [b"1", b"2", b"3"]
        assert [each.opcode for each in frames].count(PONG) == 1
        assert (frames[-1].opcode, frames[-1].payload[:2]) == (CLOSE, close_payload(code))
        assert seen.next()["code"] == code


def test_an_application_that_takes_no_messages_does_not_keep_the_end(seen: Recorder) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        seen("accepted")
        await asyncio.Event().wait()

    with serve_asgi(application) as server, server.websocket() as client:
        assert seen.next() == "accepted"
        client.send(frame(TEXT, b"1"), frame(CLOSE, close_payload(1000)))
        assert [each.opcode for each in client.frames()] == [CLOSE]


@pytest.mark.parametrize("closes", [True, False])
def test_an_application_that_ends_does_not_wait_for_messages(closes: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.send", "text": "last"})
        if closes:
            await send({"type": "websocket.close", "code": 4001})

    with serve_asgi(application) as server, server.websocket() as client:
        client.send(frame(TEXT, b"1"), frame(TEXT, b"2"), frame(CLOSE, close_payload(4000)))
        message, end = client.frames()
        assert message.payload == b"last"
        # Either side may be the first.
        assert end.opcode == CLOSE
        assert end.payload[:2] in (close_payload(4001 if closes else 1000), close_payload(4000))
