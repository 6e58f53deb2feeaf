"""Why a request or a WebSocket ended as it did: what an observer is told, for every cause there is."""

from __future__ import annotations

import queue
import re
import socket
import struct
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from greendaphne.config import Limits, Timeouts
from greendaphne.core import causes
from greendaphne.core.message import ClientDisconnected, HTTPError, ResponseError, Stream
from greendaphne.core.observer import Observer, combine
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.serving.failure_log import FailureLog
from tests.support.server import PATIENCE, Client, RunningServer, serve
from tests.support.websocket import frame

KEY = b64encode(b"0123456789abcdef")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\nUser-Agent: tester\r\n\r\n"
)


class Event(NamedTuple):
    what: str
    status: int
    cause: str
    code: int | None = None


class Recorder(Observer):
    """Keeps what it is told, for the test's thread."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.headers: list[list[tuple[bytes, bytes]]] = []

    def next(self) -> Event:
        return self.events.get(timeout=PATIENCE)

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        assert seconds >= 0
        self.events.put(Event("completed", stream.status, cause))

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        self.events.put(Event("refused", stream.status, cause))

    def websocket_connecting(self, stream: Stream) -> None:
        self.headers.append(stream.request.headers)
        self.events.put(Event("connecting", stream.status, ""))

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        self.headers.append(stream.request.headers)
        self.events.put(Event("connected", stream.status, ""))

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        self.events.put(Event("rejected", stream.status, cause))

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        self.events.put(Event("disconnected", stream.status, cause, code))


@contextmanager
def observed(layer: Any = None, *, recorder: Recorder | None = None, **options: Any) -> Iterator[tuple[RunningServer, Recorder]]:
    recorder = recorder or Recorder()
    with serve(layer, observers=[recorder], **options) as server:
        yield server, recorder


def reset(client: Client) -> None:
    """Leave without a word."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# ---- requests


def test_answer_of_the_application_has_no_cause() -> None:
    with observed() as (server, recorder), server.connect() as client:
        client.send(GET)
        server.app.answer(b"x", status=404)
        client.read_response()
        assert recorder.next() == ("completed", 404, causes.NONE, None)


def test_full_layer() -> None:
    with observed(MemoryChannelLayer(channel_capacity={"http.request": 0})) as (server, recorder), server.connect() as client:
        client.send(GET)
        assert client.read_response().status == 503
        assert recorder.next() == ("completed", 503, causes.LAYER_FULL, None)


class BrokenLayer(MemoryChannelLayer):
    """One that is out of reach for whoever sends."""

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        raise OSError("out of reach")

    send_owned = send


def test_layer_out_of_reach() -> None:
    with observed(BrokenLayer()) as (server, recorder):
        with server.connect() as client:
            client.send(GET)
            assert client.read_response().status == 503
            assert recorder.next() == ("completed", 503, causes.LAYER_DOWN, None)
        with server.connect() as client:
            client.send(HANDSHAKE)
            assert client.read_response().status == 503
            assert recorder.next() == ("refused", 503, causes.LAYER_DOWN, None)


def test_worker_that_says_nothing_or_no_more() -> None:
    with observed(http_timeout=0.05) as (server, recorder), server.connect() as client:
        client.send(GET)
        assert client.read_response().status == 503
        assert recorder.next() == ("completed", 503, causes.WORKER_TIMEOUT, None)
        server.app.request()
        client.send(GET)
        server.app.reply(server.app.request(), status=200, content=b"x", more_content=True)
        assert recorder.next() == ("completed", 200, causes.WORKER_TIMEOUT, None)


def test_no_room_for_a_body() -> None:
    with observed(limits=Limits(inline_body=10, body_chunk=10, spooled_bodies=10)) as (server, recorder), server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 100)
        assert client.read_response().status == 503
        assert recorder.next() == ("completed", 503, causes.NO_ROOM, None)


def test_limits() -> None:
    with observed(limits=Limits(request_body=10, request_line=100)) as (server, recorder):
        with server.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
            assert client.read_response().status == 413
            assert recorder.next() == ("completed", 413, causes.LIMIT, None)
        with server.connect() as client:
            client.send(b"GET /" + b"x" * 100 + b" HTTP/1.1\r\n")
            assert client.read_response().status == 414
            assert recorder.next() == ("refused", 414, causes.LIMIT, None)


@pytest.mark.parametrize("head", [b"GET  / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n"])
def test_bad_head(head: bytes) -> None:
    with observed() as (server, recorder), server.connect() as client:
        client.send(head)
        status = client.read_response().status
        assert recorder.next() == ("refused", status, causes.BAD_REQUEST, None)


def test_slow_and_gone_clients() -> None:
    with observed(timeouts=Timeouts(body=0.05, graceful=2)) as (server, recorder):
        with server.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx")
            assert client.read_response().status == 408
            assert recorder.next() == ("completed", 408, causes.CLIENT_SLOW, None)
        client = server.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx")
        client.close()
        assert recorder.next() == ("completed", 0, causes.CLIENT_GONE, None)
        client = server.connect()
        client.send(GET)
        message = server.app.request()
        server.app.reply(message, status=200, content=b"x", more_content=True)
        client.read_head()
        reset(client)
        # What is written first may still be taken by the kernel.
        for _ in range(3):
            server.app.reply(message, content=b"x", more_content=True)
        assert recorder.next() == ("completed", 200, causes.CLIENT_GONE, None)


def test_client_that_does_not_read() -> None:
    with observed(timeouts=Timeouts(send=0.1, graceful=2)) as (server, recorder), server.connect() as client:
        client.send(GET)
        server.app.answer(b"x" * 16_000_000)
        assert recorder.next() == ("completed", 200, causes.CLIENT_SLOW, None)


def test_bad_response() -> None:
    with observed() as (server, recorder), server.connect() as client:
        client.send(GET)
        server.app.answer(b"x", headers=[(b"a b", b"c")])
        assert client.read_response().status == 500
        assert recorder.next() == ("completed", 500, causes.BAD_RESPONSE, None)


def test_fault_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("greendaphne.applications.channels.requests.RequestMessages.http", fail)
    with observed() as (server, recorder), server.connect() as client:
        client.send(GET)
        assert client.read_response().status == 500
        assert recorder.next() == ("completed", 500, causes.ERROR, None)


def test_request_that_the_end_cuts_short() -> None:
    recorder = Recorder()
    with observed(recorder=recorder, timeouts=Timeouts(graceful=0.05)) as (server, _), server.connect() as client:
        client.send(GET)
        server.app.request()
        server.server.stop()
        assert recorder.next() == ("completed", 0, causes.DRAINING, None)


# ---- WebSockets


def open_websocket(server: RunningServer, client: Client, recorder: Recorder) -> dict[str, Any]:
    client.send(HANDSHAKE)
    _, message = server.app.receive("websocket.connect")
    assert recorder.next() == ("connecting", 0, "", None)
    server.app.reply(message, accept=True)
    assert client.read_head().status == 101
    assert recorder.next() == ("connected", 101, "", None)
    return message


def close_frame(code: int) -> bytes:
    return frame(8, struct.pack("!H", code))


def test_websocket_that_either_side_closes() -> None:
    with observed() as (server, recorder):
        with server.connect() as client:
            open_websocket(server, client, recorder)
            client.send(close_frame(3000))
            assert recorder.next() == ("disconnected", 101, causes.NONE, 3000)
        with server.connect() as client:
            message = open_websocket(server, client, recorder)
            server.app.reply(message, close=4000)
            client.read_exactly(4)
            client.send(close_frame(4000))
            assert recorder.next() == ("disconnected", 101, causes.NONE, 4000)


def test_bad_handshake() -> None:
    with observed() as (server, recorder), server.connect() as client:
        client.send(HANDSHAKE.replace(b"Version: 13", b"Version: 12"))
        assert client.read_response().status == 426
        assert recorder.next() == ("refused", 426, causes.BAD_REQUEST, None)


def test_full_layer_for_websockets() -> None:
    with observed(MemoryChannelLayer(channel_capacity={"websocket.connect": 0})) as (server, recorder), server.connect() as client:
        client.send(HANDSHAKE)
        assert client.read_response().status == 503
        assert recorder.next() == ("refused", 503, causes.LAYER_FULL, None)


def test_not_accepted() -> None:
    with observed(websocket_connect_timeout=0.05) as (server, recorder):
        with server.connect() as client:
            client.send(HANDSHAKE)
            assert client.read_response().status == 403
            assert recorder.next() == ("connecting", 0, "", None)
            assert recorder.next() == ("rejected", 403, causes.ACCEPT_TIMEOUT, None)
            assert recorder.next() == ("disconnected", 403, causes.ACCEPT_TIMEOUT, None)
        server.app.drain("websocket.connect")
    with observed() as (server, recorder):
        with server.connect() as client:
            client.send(HANDSHAKE)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=False)
            assert client.read_response().status == 403
            assert recorder.next() == ("connecting", 0, "", None)
            assert recorder.next() == ("rejected", 403, causes.REJECTED, None)
            assert recorder.next() == ("disconnected", 403, causes.REJECTED, None)
        with server.connect() as client:
            client.send(HANDSHAKE)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=True, subprotocol="unknown")
            assert client.read_response().status == 500
            assert recorder.next() == ("connecting", 0, "", None)
            assert recorder.next() == ("disconnected", 0, causes.BAD_RESPONSE, None)


def test_client_of_a_websocket_that_leaves() -> None:
    with observed() as (server, recorder):
        client = server.connect()
        client.send(HANDSHAKE)
        server.app.receive("websocket.connect")
        assert recorder.next() == ("connecting", 0, "", None)
        client.close()
        assert recorder.next() == ("disconnected", 0, causes.CLIENT_GONE, None)
        client = server.connect()
        open_websocket(server, client, recorder)
        reset(client)
        assert recorder.next() == ("disconnected", 101, causes.CLIENT_GONE, 1006)


def test_silent_websocket() -> None:
    with observed(ping_interval=0.05, ping_timeout=0.05) as (server, recorder), server.connect() as client:
        open_websocket(server, client, recorder)
        assert recorder.next() == ("disconnected", 101, causes.PING_TIMEOUT, 1006)


def test_longest_life() -> None:
    with observed(websocket_timeout=0.2) as (server, recorder), server.connect() as client:
        open_websocket(server, client, recorder)
        client.read_exactly(4)
        client.send(close_frame(1000))
        assert recorder.next() == ("disconnected", 101, causes.LIFETIME, 1000)


def test_violations() -> None:
    with observed(limits=Limits(websocket_message=100)) as (server, recorder):
        for bad, cause, code in ((b"\xff\xff", causes.PROTOCOL_ERROR, 1002), (frame(1, b"x" * 101), causes.LIMIT, 1009)):
            with server.connect() as client:
                open_websocket(server, client, recorder)
                client.send(bad)
                assert recorder.next() == ("disconnected", 101, cause, code)


def test_message_that_finds_no_room(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.websocket.RECEIVE_PATIENCE", 0.05)
    with observed(MemoryChannelLayer(channel_capacity={"websocket.receive": 0})) as (server, recorder):
        for _ in range(3):
            with server.connect() as client:
                open_websocket(server, client, recorder)
                client.send(frame(1, b"x"))
                client.read_exactly(4)
                client.send(close_frame(1013))
                assert recorder.next() == ("disconnected", 101, causes.LAYER_FULL, 1013)
    lines = [re.sub(r"for daphne\S+", "for …", record.getMessage()) for record in caplog.records if record.levelname == "WARNING"]
    assert lines == [
        f"WebSockets fail (layer-full): {causes.CAUSES['layer-full']}",
        "WebSocket force closed for … due to receive backpressure",
        "WebSockets fail (layer-full): 2 more until the end",
    ]


def test_shedding_and_draining() -> None:
    with observed() as (server, recorder):
        with server.connect() as client, server.connect() as waiting:
            open_websocket(server, client, recorder)
            waiting.send(HANDSHAKE)
            server.app.receive("websocket.connect")
            assert recorder.next().what == "connecting"
            hub = server.server._hub
            hub.loop.run_callback_threadsafe(server.channels._websocket.shed)
            client.read_exactly(4)
            client.send(close_frame(1012))
            assert waiting.read_response().status == 503
            assert sorted(recorder.next() for _ in range(3)) == [
                ("disconnected", 101, causes.SHED, 1012),
                ("disconnected", 503, causes.SHED, None),
                ("rejected", 503, causes.SHED, None),
            ]
        with server.connect() as client:
            open_websocket(server, client, recorder)
            server.server.stop()
            client.read_exactly(4)
            client.send(close_frame(1012))
            assert recorder.next() == ("disconnected", 101, causes.DRAINING, 1012)


def test_fields_that_an_observer_reads_are_kept() -> None:
    recorder = Recorder()
    recorder.websocket_fields = [b"user-agent"]
    with observed(recorder=recorder) as (server, _), server.connect() as client:
        open_websocket(server, client, recorder)
    whole, kept = recorder.headers
    assert (b"host", b"a") in whole
    assert kept == [(b"user-agent", b"tester")]


# ---- the vocabulary


def test_several_observers_are_told_the_same() -> None:
    first, second = Recorder(), Recorder()
    first.websocket_fields = [b"a"]
    second.websocket_fields = [b"b"]
    both = combine([first, second])
    assert both is not None
    assert set(both.websocket_fields) == {b"a", b"b"}
    assert combine([]) is None
    assert combine([first]) is first
    with serve(observers=[first, second]) as server:
        with server.connect() as client:
            client.send(b"\0")
            client.read_response()
            assert first.next() == second.next() == ("refused", 400, causes.BAD_REQUEST, None)
        with server.connect() as client:
            client.send(GET)
            server.app.answer(b"x")
            assert first.next() == second.next() == ("completed", 200, "", None)
        with server.connect() as client:
            client.send(HANDSHAKE)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=False)
            for what in "connecting", "rejected", "disconnected":
                assert first.next() == second.next()
                assert what
        with server.connect() as client:
            client.send(HANDSHAKE)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
            client.read_head()
            for what in "connecting", "connected":
                event = first.next()
                assert event.what == what
                assert second.next() == event


def test_causes_of_statuses_and_exceptions() -> None:
    for status, cause in ((400, "bad-request"), (408, "client-slow"), (413, "limit"), (431, "limit"), (500, "error"), (501, "bad-request")):
        assert HTTPError(status, "").cause == cause
    assert HTTPError(503, "", cause=causes.NO_ROOM).cause == "no-room"
    assert ResponseError("").cause == "bad-response"
    assert causes.of_exception(ClientDisconnected()) == "client-gone"
    assert causes.of_exception(ValueError()) == "error"
    assert causes.of_exception(KeyboardInterrupt()) == "draining"


def test_every_cause_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "logging.rst").read_text(encoding="utf-8")
    words = {value for name, value in vars(causes).items() if name.isupper() and isinstance(value, str)} - {""}
    assert words == set(causes.CAUSES)
    documented = re.findall(r"^``([a-z-]+)``  +\S", text, re.MULTILINE)
    assert set(documented) >= words


# ---- the server's own trouble


def test_trouble_is_told_when_it_begins_when_it_goes_on_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "daphne.server")
    layer = MemoryChannelLayer(channel_capacity={"http.request": 0})
    with serve(layer) as server, server.connect() as client:
        for _ in range(3):
            client.send(GET)
            assert client.read_response().status == 503
            client.close()
            client = server.connect()
        client.close()
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Requests")]
    assert lines == [
        f"Requests fail (layer-full): {causes.CAUSES['layer-full']}",
        "Requests fail (layer-full): 2 more until the end",
    ]
    caplog.clear()
    failure_log = FailureLog(interval=0.02)
    failure_log.count(causes.CLIENT_GONE)
    assert not caplog.records
    failure_log.count(causes.NO_ROOM)
    failure_log.count(causes.NO_ROOM)
    greenlet = failure_log._greenlet
    greenlet.join(PATIENCE)
    assert [record.getMessage() for record in caplog.records] == [
        f"Requests fail (no-room): {causes.CAUSES['no-room']}",
        "Requests fail (no-room): 1 more in the last 0.02 seconds",
        "Requests no longer fail (no-room)",
    ]
    failure_log.count(causes.NO_ROOM)
    assert len(caplog.records) == 4
    failure_log.close()
    assert len(caplog.records) == 4
