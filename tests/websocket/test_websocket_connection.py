"""A WebSocket over a socket pair: closing, keepalive, timeouts, sending from several greenlets, and clients of other makes."""

from __future__ import annotations

import gc
import itertools
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
import websocket as websocket_client
from gevent.event import Event
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from greendaphne.config import MIB, Limits, Timeouts
from greendaphne.core import causes, turns
from greendaphne.core.message import HTTPError, ResponseError
from greendaphne.http1.connection import Http1Connection
from greendaphne.http1.stream import Http1Stream
from greendaphne.net.service import Service
from greendaphne.net.transport import Transport
from greendaphne.websocket import State, WebSocket, WebSocketClosed
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INFO,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Client,
    Frame,
    Server,
    close_payload,
    collect,
    echo,
    frame,
    hub,
    websocket,
)

#: Time limits that never strike in a test, but for those given.
CALM = {"ping_interval": 0.0}


#: More bytes than the kernel buffers for a client that does not read.
SWAMPING = 64 * MIB


def calm(**given: float) -> Timeouts:
    return Timeouts(**{**CALM, **given})


def send_on_and_on(end: WebSocket, message: str | bytes, pause: float = 0) -> None:
    """Send until it is over."""
    try:
        while True:
            end.send(message)
            gevent.sleep(pause)
    except WebSocketClosed:
        pass


# -- receiving


def test_empty_messages_are_messages() -> None:
    with websocket() as (client, server):
        client.send(frame(TEXT), frame(BINARY), frame(CLOSE))
        assert client.frames() == [Frame(TEXT), Frame(BINARY), Frame(CLOSE)]
        assert server.closed.code == 1005
        assert server.received == ["", b""]


def test_timeout_in_mid_frame_loses_nothing() -> None:
    whole = frame(TEXT, "Grüße".encode()) + frame(BINARY, b"x" * 70000) + frame(PING, b"p" * 100) + frame(TEXT, b"end")
    timed_out = threading.Semaphore(0)

    def impatient(server: Server) -> None:
        while True:
            try:
                server.received.append(server.websocket.receive(0.001))
            except TimeoutError:
                timed_out.release()

    with websocket(impatient, timeouts=calm()) as (client, server):
        cuts = [0, 1, 2, 4, 7, 15, 20, 40, 66000, len(whole) - 50, len(whole) - 10, len(whole)]
        for start, end in itertools.pairwise(cuts):
            client.send(whole[start:end])
            for _ in range(2):
                # The second of these began after the bytes were sent.
                assert timed_out.acquire(timeout=PATIENCE)
        client.send(frame(CLOSE))
        assert client.frames() == [Frame(PONG, b"p" * 100), Frame(CLOSE)]
        assert server.closed.code == 1005
        assert server.received == ["Grüße", b"x" * 70000, "end"]


def test_an_exception_in_a_wait_for_the_next_turn_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of ``gevent.Timeout`` around ``receive()``."""
    interrupted: list[int] = []

    class Interrupted(BaseException):
        pass

    def wait(queue: object) -> None:
        raise Interrupted

    def impatient(server: Server) -> None:
        while True:
            try:
                server.received.append(server.websocket.receive())
            except Interrupted:
                interrupted.append(len(server.received))

    monkeypatch.setattr(turns._Queue, "wait", wait)
    content = bytes(range(256)) * 4096
    with websocket(impatient, timeouts=calm()) as (client, server):
        client.send(frame(BINARY, content), frame(TEXT, b"end"), frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.closed.code == 1005
    assert server.received == [content, "end"]
    assert interrupted[:2] == [0, 0]


def test_timeout_holds_while_control_frames_come_in() -> None:
    expired = threading.Event()

    def impatient(server: Server) -> None:
        with pytest.raises(TimeoutError):
            server.websocket.receive(0.05)
        expired.set()
        collect(server)

    with websocket(impatient, timeouts=calm()) as (client, server):
        while not expired.is_set():
            client.send(frame(PONG, b"x"))
        client.send(frame(TEXT, b"still"), frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.closed.code == 1005
        assert server.received == ["still"]


def test_a_timeout_of_zero_takes_what_is_there() -> None:
    ready = threading.Event()

    def poll(server: Server) -> None:
        while not ready.is_set():
            gevent.sleep(0.001)
        server.received.append(server.websocket.receive(0))
        with pytest.raises(TimeoutError):
            server.websocket.receive(0)
        collect(server)

    with websocket(poll, timeouts=calm()) as (client, server):
        client.send(frame(TEXT, b"there"))
        ready.set()
        client.send(frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.closed.code == 1005
        assert server.received == ["there"]


# -- closing


def test_closed_stays_closed() -> None:
    def after(server: Server) -> None:
        end = server.websocket
        for call in (end.receive, end.receive, end.read_message, lambda: end.send("x"), lambda: end.send_frame("x", TEXT)):
            with pytest.raises(WebSocketClosed) as caught:
                call()
            assert caught.value.code == 4321
        end.close()
        end.receive()

    with websocket(after) as (client, server):
        client.send(frame(CLOSE, close_payload(4321, b"why")))
        assert client.frames() == [Frame(CLOSE, close_payload(4321))]
        assert server.closed.code == 4321


def test_client_s_code_and_reason() -> None:
    with websocket() as (client, server):
        client.send(frame(CLOSE, close_payload(3000, "tschüß".encode())))
        assert client.frames() == [Frame(CLOSE, close_payload(3000))]
        assert (server.closed.code, server.closed.reason) == (3000, "tschüß")


def test_server_closes() -> None:
    def close(server: Server) -> None:
        server.websocket.send("last")
        server.websocket.close(4000, "bye")
        server.websocket.close(1000)
        assert server.websocket.state is State.CLOSING
        with pytest.raises(WebSocketClosed):
            server.websocket.send("too late")
        # What the client had sent before it knew is not delivered any more.
        server.received.append(server.websocket.receive())

    with websocket(close) as (client, server):
        client.send(frame(TEXT, b"in flight"), frame(PING, b"in flight"))
        assert client.receive() == Frame(TEXT, b"last")
        assert client.receive() == Frame(CLOSE, close_payload(4000, b"bye"))
        client.send(frame(BINARY, bytes(100000)), frame(CLOSE, close_payload(4000)))
        assert client.frames() == []
        assert server.closed.code == 4000
        assert server.received == []


def test_a_violation_in_answer_to_a_close() -> None:
    def close(server: Server) -> None:
        server.websocket.close(4000)
        collect(server)

    with websocket(close) as (client, server):
        assert client.receive() == Frame(CLOSE, close_payload(4000))
        client.send(frame(TEXT, b"\xff"))
        assert client.frames() == []
        assert server.closed.code == 1006


@pytest.mark.parametrize(("last", "code"), [(frame(CLOSE, close_payload(4000)), 4000), (frame(TEXT, b"\xff"), 1006)])
def test_a_client_that_says_its_last_word_and_takes_nothing(last: bytes, code: int) -> None:
    """What it said stands, though it cannot be answered; what it did wrong cannot be told."""

    def send(server: Server) -> None:
        gevent.spawn(send_on_and_on, server.websocket, bytes(SWAMPING))
        gevent.sleep(0)
        collect(server)

    with websocket(send, timeouts=calm(websocket_close=0.05), pair=tcp_pair()) as (client, server):
        client.send(last)
        assert server.closed.code == code
        assert server.stream.was_reset


def test_the_transport_is_gone_when_it_is_over() -> None:
    def close(server: Server) -> None:
        server.stream.transport.close()
        collect(server)

    with websocket(close) as (_, server):
        assert server.closed.code == 1006


#: Messages, and whether they are compressed: many of no bytes, and a few, in one read, that inflate to a mebibyte each.
BURSTS = {"many": (b"", 50_000, False), "large": (b"x" * MIB, 200, True)}


@pytest.mark.parametrize("burst", BURSTS)
def test_a_burst_of_messages_leaves_others_their_turn(burst: str) -> None:
    content, number, compressed = BURSTS[burst]

    def receive(server: Server) -> None:
        turns: list[int] = []

        def other() -> None:
            while not server.websocket.closed:
                turns.append(len(server.received))
                gevent.sleep(0)

        task = gevent.spawn(other)
        try:
            collect(server)
        finally:
            task.get()
            # Turns are a matter of time, of milliseconds.
            assert len(set(turns)) > (number // 10 if compressed else 5)

    deflate = zlib.compressobj(wbits=-15)
    payload = (deflate.compress(content) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4] if compressed else content
    offer = [(b"sec-websocket-extensions", b"permessage-deflate")] if compressed else []
    with websocket(receive, headers=offer, compression=compressed) as (client, server):
        client.send(frame(TEXT, payload, rsv=4 if compressed else 0) * number, frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.closed.code == 1005
        assert len(server.received) == number


def test_both_close_at_once() -> None:
    def close(server: Server) -> None:
        server.websocket.close(4000)
        collect(server)

    with websocket(close) as (client, server):
        client.send(frame(CLOSE, close_payload(4001)))
        assert client.frames() == [Frame(CLOSE, close_payload(4000))]
        assert server.closed.code == 4001


def test_closing_handshake_is_bounded() -> None:
    def close(server: Server) -> None:
        server.websocket.close(4000)
        collect(server)

    with websocket(close, timeouts=calm(websocket_close=0.05)) as (client, server):
        assert client.frames() == [Frame(CLOSE, close_payload(4000))]
        assert server.closed.code == 1006
        assert not server.stream.was_reset


def test_closing_handshake_is_bounded_for_a_client_that_talks_on() -> None:
    def close(server: Server) -> None:
        server.websocket.close(4000)
        collect(server)

    with websocket(close, timeouts=calm(websocket_close=0.05)) as (client, server):
        while not server.finished.done():
            client.send(frame(TEXT, b"x" * 1000))
        assert server.closed.code == 1006


def test_another_greenlet_closes_while_the_owner_waits() -> None:
    """The owner, in the middle of a wait without end, learns of the close and of its time limit."""

    def receive(server: Server) -> None:
        gevent.spawn(server.websocket.close, 4000)
        collect(server)

    with websocket(receive, timeouts=calm()) as (client, server):
        assert client.receive() == Frame(CLOSE, close_payload(4000))
        client.send(frame(CLOSE, close_payload(4000)))
        assert server.closed.code == 4000
    with websocket(receive, timeouts=calm(websocket_close=0.05)) as (client, server):
        assert server.closed.code == 1006


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_codes_that_must_not_be_sent(code: int) -> None:
    def close(server: Server) -> None:
        with pytest.raises(ValueError, match="must not be sent"):
            server.websocket.close(code)
        with pytest.raises(ValueError, match="longer than 123 bytes"):
            server.websocket.close(1000, "ä" * 62)
        server.websocket.close(1000, "ä" * 61)
        collect(server)

    with websocket(close) as (client, server):
        assert client.receive() == Frame(CLOSE, close_payload(1000, "ä".encode() * 61))
        client.send(frame(CLOSE))
        assert server.closed.code == 1005


def test_lost_without_a_close_frame() -> None:
    with websocket() as (client, server):
        client.send(frame(TEXT, b"half")[:5])
        client.end()
        assert client.frames() == []
        assert server.closed.code == 1006
        assert not server.stream.was_reset


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def test_lost_by_a_reset() -> None:
    with websocket(pair=tcp_pair()) as (client, server):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert server.closed.code == 1006


def test_closing_what_is_lost() -> None:
    def close(server: Server) -> None:
        server.stream.transport.wait_readable(None)
        server.websocket.close()
        server.websocket.close()
        server.websocket.receive()

    with websocket(close, pair=tcp_pair()) as (client, server):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert server.closed.code == 1006


def test_lost_while_sending_is_seen_by_the_owner() -> None:
    def send(server: Server) -> None:
        gevent.spawn(send_on_and_on, server.websocket, bytes(MIB))
        collect(server)

    near, far = tcp_pair()
    # Only the sending side notices: the client reads nothing, so that its end never comes.
    with websocket(send, timeouts=calm(send=0.1), pair=(near, far)) as (_, server):
        assert server.closed.code == 1006


def test_a_client_that_takes_nothing_cannot_hold_up_closing() -> None:
    def stuck(server: Server) -> None:
        writer = gevent.spawn(lambda: server.websocket.send(bytes(SWAMPING)))
        gevent.sleep(0)
        gevent.spawn(server.websocket.close, 1013)
        try:
            collect(server)
        finally:
            with pytest.raises(WebSocketClosed):
                writer.get(timeout=PATIENCE)

    with websocket(stuck, timeouts=calm(websocket_close=0.05), pair=tcp_pair()) as (_, server):
        assert server.closed.code == 1006
        assert server.stream.was_reset


def test_a_sender_that_is_killed_in_mid_frame_ends_the_connection() -> None:
    def killed(server: Server) -> None:
        with gevent.Timeout(0.05, False):  # type: ignore[arg-type]
            server.websocket.send(bytes(SWAMPING))
        collect(server)

    with websocket(killed, timeouts=calm(), pair=tcp_pair()) as (_, server):
        assert server.closed.code == 1006
        assert server.stream.was_reset


@contextmanager
def http_server(handler: Any, limits: Limits | None = None, **options: Any) -> Iterator[tuple[int, list[Future[int]]]]:
    """A server on a loopback port: HTTP/1.1 handshake, transport and lingering close are the real ones."""
    limits = limits or Limits()
    codes: list[Future[int]] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(stream: Http1Stream) -> None:
        end = WebSocket(stream, limits, calm(), **options)
        end.check()
        end.accept()
        code: Future[int] = Future()
        codes.append(code)
        try:
            handler(Server(end, stream))  # type: ignore[arg-type]
        except WebSocketClosed as closed:
            code.set_result(closed.code)

    def refuse(stream: Http1Stream, error: HTTPError) -> None:
        raise error

    def connection() -> None:
        sock, _ = listener.accept()
        gevent.spawn(Http1Connection(Transport(sock, 30), INFO, Service(limits, Timeouts(linger=10), handle, refuse)).run)

    def watch() -> Any:
        watcher = gevent.get_hub().loop.io(listener.fileno(), 1)
        watcher.start(connection)
        return watcher

    watcher = hub().call(watch)
    try:
        yield listener.getsockname()[1], codes
    finally:
        hub().call(watcher.stop)
        listener.close()


def handshaken(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return sock


@pytest.mark.parametrize("size", [2 * MIB, 16 * MIB])
def test_a_refused_message_does_not_end_in_a_reset(size: int) -> None:
    """The client is in the midst of sending when it is told; it can send everything, and then reads why."""
    with http_server(echo) as (port, codes), handshaken(port) as sock:
        sock.sendall(frame(BINARY, bytes(size)))
        assert Client(sock).frames() == [Frame(CLOSE, close_payload(1009, b"frame too big"))]
        assert codes[0].result(PATIENCE) == 1009


# -- the time for a message

DRIPS = {
    "a frame": frame(BINARY, bytes(1000)),
    "a frame's header": frame(BINARY, bytes(1000))[:5],
    "fragments": frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 100,
    "fragments with pings between": frame(BINARY, b"a", fin=False) + (frame(PING) + frame(CONTINUATION, b"b", fin=False)) * 100,
    "a control frame": frame(PING, bytes(100)),
}


@pytest.mark.parametrize("case", DRIPS)
def test_a_message_that_drips_is_ended(case: str) -> None:
    """Neither bytes nor pings extend the time."""
    with websocket(collect, timeouts=calm(websocket_message=0.2)) as (client, server):
        try:
            for octet in DRIPS[case]:
                client.send(bytes((octet,)))
                time.sleep(0.01)
        except OSError:
            pass
        assert [one for one in client.frames() if one.opcode != PONG] == [Frame(CLOSE, close_payload(1008, b"message took too long"))]
        assert server.closed.code == 1008
        assert server.websocket.cause == causes.CLIENT_SLOW


def test_the_time_is_that_of_one_message() -> None:
    """A client that always has half a message on its way is in order."""
    with websocket(collect, timeouts=calm(websocket_message=0.3)) as (client, server):
        half = frame(TEXT, b"hello")
        client.send(half[:4])
        for _ in range(10):
            time.sleep(0.05)
            client.send(half[4:] + half[:4])
        client.send(half[4:] + frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.received == ["hello"] * 11


def test_a_message_may_have_no_time_limit() -> None:
    with websocket(collect, timeouts=calm(websocket_message=0)) as (client, server):
        for octet in frame(TEXT, b"hello"):
            client.send(bytes((octet,)))
            time.sleep(0.02)
        client.send(frame(CLOSE))
        assert client.frames() == [Frame(CLOSE)]
        assert server.received == ["hello"]


# -- keepalive


def test_silence_is_pinged_and_the_answer_counts() -> None:
    with websocket(timeouts=Timeouts(ping_interval=0.05, ping_timeout=60)) as (client, server):
        payloads = set()
        for _ in range(5):
            ping = client.receive()
            assert ping is not None
            assert ping.opcode == PING
            assert len(ping.payload) == 4
            payloads.add(ping.payload)
            client.send(frame(PONG, ping.payload))
        assert len(payloads) > 1
        client.send(frame(CLOSE))
        assert server.closed.code == 1005


@pytest.mark.parametrize("answer", [frame(PONG), frame(TEXT, b"x"), frame(PING), frame(TEXT, b"half")[:3]])
def test_any_byte_counts_as_an_answer(answer: bytes) -> None:
    with websocket(collect, timeouts=Timeouts(ping_interval=0.05, ping_timeout=60)) as (client, _):
        ping = client.receive()
        assert ping is not None
        assert ping.opcode == PING
        client.send(answer)
        again = client.receive()
        if again is not None and again.opcode == PONG:
            again = client.receive()
        assert again is not None
        assert again.opcode == PING


def test_no_answer_ends_it() -> None:
    with websocket(timeouts=Timeouts(ping_interval=0.05, ping_timeout=0.05)) as (client, server):
        ping, close = client.frames()
        assert ping.opcode == PING
        assert close == Frame(CLOSE, close_payload(1011, b"ping timeout"))
        assert (server.closed.code, server.closed.reason) == (1006, "ping timeout")


def test_what_the_server_sends_does_not_keep_a_client_alive() -> None:
    def talk(server: Server) -> None:
        gevent.spawn(send_on_and_on, server.websocket, "x", 0.005)
        collect(server)

    with websocket(talk, timeouts=Timeouts(ping_interval=0.05, ping_timeout=0.05)) as (client, server):
        frames = client.frames()
        assert frames[-1] == Frame(CLOSE, close_payload(1011, b"ping timeout"))
        assert any(one.opcode == PING for one in frames)
        assert server.closed.code == 1006


def test_no_limit_for_the_answer() -> None:
    with websocket(timeouts=Timeouts(ping_interval=0.03, ping_timeout=0)) as (client, server):
        for _ in range(4):
            ping = client.receive()
            assert ping is not None
            assert ping.opcode == PING
        client.send(frame(CLOSE))
        assert server.closed.code == 1005


def test_no_pings() -> None:
    def wait(server: Server) -> None:
        with pytest.raises(TimeoutError):
            server.websocket.receive(0.2)
        server.websocket.close()
        collect(server)

    with websocket(wait, timeouts=Timeouts(ping_interval=0, ping_timeout=0.01, websocket_close=0.05)) as (client, _):
        assert client.frames() == [Frame(CLOSE, close_payload(1000))]


def test_time_in_which_nobody_reads_is_no_silence() -> None:
    """What came in meanwhile is looked at before the client is taken for dead."""

    def busy(server: Server) -> None:
        server.received.append(server.websocket.receive())
        gevent.sleep(0.3)
        collect(server)

    with websocket(busy, timeouts=Timeouts(ping_interval=0.1, ping_timeout=0.1)) as (client, server):
        client.send(frame(TEXT, b"1"), frame(TEXT, b"2"))
        client.send(frame(TEXT, b"3"), frame(CLOSE, close_payload(1000)))
        assert client.frames() == [Frame(CLOSE, close_payload(1000))]
        assert server.closed.code == 1000
        assert server.received == ["1", "2", "3"]


# -- pings from the client


def test_ping_flood_is_answered_to_the_latest() -> None:
    with websocket(collect, timeouts=calm()) as (client, server):
        flood = b"".join(frame(PING, b"%d" % number) for number in range(20000))
        sender = threading.Thread(target=client.send, args=(flood, frame(CLOSE)))
        sender.start()
        *pongs, close = client.frames()
        sender.join()
        assert close == Frame(CLOSE)
        numbers = [int(pong.payload) for pong in pongs]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 19999
        assert len(numbers) < 20000
        assert server.closed.code == 1005


def test_pings_are_answered_while_a_large_message_is_being_sent() -> None:
    """The reader goes on, and the pong follows the frame that is under way."""
    sending = threading.Event()

    def send(server: Server) -> None:
        gevent.spawn(server.websocket.send, bytes(8 * MIB))
        gevent.sleep(0)
        sending.set()
        collect(server)

    with websocket(send, timeouts=calm(), pair=tcp_pair()) as (client, server):
        assert sending.wait(PATIENCE)
        for number in range(100):
            client.send(frame(PING, b"%d" % number), frame(TEXT, b"goes on"))
        message = client.receive()
        assert message == Frame(BINARY, bytes(8 * MIB))
        client.send(frame(CLOSE))
        *pongs, close = client.frames()
        assert close == Frame(CLOSE)
        assert pongs[-1] == Frame(PONG, b"99")
        assert server.closed.code == 1005
        assert server.received == ["goes on"] * 100


# -- sending


@pytest.mark.parametrize("compression", [False, True])
def test_frames_of_several_senders_do_not_mix(compression: bool) -> None:
    def senders(server: Server) -> None:
        def send(octet: bytes) -> None:
            for size in (1, 1000, 70000, 300000):
                server.websocket.send(octet * size)

        tasks = [gevent.spawn(send, bytes((number,))) for number in range(8)]

        def close() -> None:
            gevent.joinall(tasks, raise_error=True)
            server.websocket.close()

        gevent.spawn(close)
        collect(server)

    with websocket(senders, timeouts=calm(), pair=tcp_pair(), compression=compression) as (client, server):
        client.send(*(frame(PING, b"%d" % number) for number in range(10)))
        sizes: dict[int, list[int]] = {}
        frames = iter(client.receive, None)
        for one in frames:
            if one.opcode == CLOSE:
                break
            if one.opcode == BINARY:
                assert len(set(one.payload)) == 1
                sizes.setdefault(one.payload[0], []).append(len(one.payload))
        client.send(frame(CLOSE))
        assert sizes == {number: [1, 1000, 70000, 300000] for number in range(8)}
        assert server.closed.code == 1005


def test_a_sender_that_waited_for_its_turn_sends_nothing_behind_a_close() -> None:
    arranged = threading.Event()

    def close_first(server: Server) -> None:
        started = Event()

        def large() -> None:
            started.set()
            server.websocket.send(bytes(SWAMPING))

        def late() -> None:
            with pytest.raises(WebSocketClosed):
                server.websocket.send("late")

        gevent.spawn(large)
        started.wait()
        waiting = gevent.spawn(late)
        gevent.sleep(0)
        closing = gevent.spawn(server.websocket.close, 1001)
        gevent.sleep(0)
        arranged.set()
        try:
            collect(server)
        finally:
            closing.get()
            waiting.get()

    with websocket(close_first, timeouts=calm(), pair=tcp_pair()) as (client, server):
        assert arranged.wait(PATIENCE)
        assert client.receive() == Frame(BINARY, bytes(SWAMPING))
        assert client.receive() == Frame(CLOSE, close_payload(1001))
        client.send(frame(CLOSE))
        assert client.frames() == []
        assert server.closed.code == 1005


def test_kinds_of_messages() -> None:
    def send(server: Server) -> None:
        end = server.websocket
        end.send("text")
        end.send(b"bytes")
        end.send("binary", binary=True)
        end.send(b"text", binary=False)
        end.send(bytearray(b"array"))  # type: ignore[arg-type]
        end.send_frame("text", TEXT)
        end.send_frame(b"ping", PING)
        with pytest.raises(ResponseError):
            end.send("\ud800")
        end.close()
        collect(server)

    with websocket(send) as (client, _):
        client.send(frame(CLOSE))
        assert client.frames() == [
            Frame(TEXT, b"text"),
            Frame(BINARY, b"bytes"),
            Frame(BINARY, b"binary"),
            Frame(TEXT, b"text"),
            Frame(BINARY, b"array"),
            Frame(TEXT, b"text"),
            Frame(PING, b"ping"),
            Frame(CLOSE, close_payload(1000)),
        ]


def test_compressed_only_where_it_helps() -> None:
    def send(server: Server) -> None:
        server.websocket.send("short")
        server.websocket.send("long " * 1000)
        server.websocket.send(bytes(range(256)))
        server.websocket.close()
        collect(server)

    with websocket(send, compression=True, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]) as (client, _):
        client.send(frame(CLOSE))
        short, long, noise, _ = client.frames()
        assert short == Frame(TEXT, b"short")
        assert long.rsv == 4
        assert len(long.payload) < 100
        assert noise == Frame(BINARY, bytes(range(256)))


# -- memory


def test_nothing_is_left_to_the_garbage_collector() -> None:
    """A WebSocket that is over is freed at once, with all that hangs on it."""

    def count() -> int:
        return sum(isinstance(one, WebSocket) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        for _ in range(3):
            with websocket(timeouts=Timeouts(ping_interval=0.01)) as (client, server):
                client.send(frame(TEXT, b"a", fin=False), frame(PING), frame(CONTINUATION, b"b"))
                client.send(frame(CLOSE))
                client.frames()
                assert server.closed.code == 1005
            del client, server
        assert count() == before
    finally:
        gc.enable()


# -- other clients


SIZES = [16, 1000, 70000, MIB, 16 * MIB]
LARGE = Limits(websocket_message=16 * MIB, websocket_frame=32 * MIB)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_websockets_library(compression: str | None) -> None:
    with http_server(echo, LARGE, compression=True, protocols=["chat"]) as (port, codes):
        with connect(
            f"ws://127.0.0.1:{port}/",
            compression=compression,
            subprotocols=["x", "chat"],  # type: ignore[list-item]
            max_size=None,
        ) as client:
            assert client.subprotocol == "chat"
            assert client.response is not None
            assert ("Sec-WebSocket-Extensions" in client.response.headers) == (compression is not None)
            for size in SIZES:
                text = "Grüße " * (size // 8)
                client.send(text)
                assert client.recv() == text
                data = bytes(range(256)) * (size // 256)
                client.send(data)
                assert client.recv() == data
            client.send(["frag", "ment", "ed"])
            assert client.recv() == "fragmented"
            assert client.ping().wait(PATIENCE)
            client.close(4000, "bye")
            assert client.close_code == 4000
        assert codes[0].result(PATIENCE) == 4000


def test_websockets_library_is_told_about_a_message_too_big() -> None:
    with http_server(echo) as (port, codes), connect(f"ws://127.0.0.1:{port}/", compression=None) as client:
        client.send(bytes(MIB + 1))
        with pytest.raises(ConnectionClosed) as caught:
            client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        assert codes[0].result(PATIENCE) == 1009


def test_websocket_client_library() -> None:
    with http_server(echo, LARGE) as (port, codes):
        client = websocket_client.create_connection(f"ws://127.0.0.1:{port}/", timeout=PATIENCE)
        for size in SIZES:
            # It masks in Python, so the largest is sent once.
            if size <= MIB:
                client.send("ä" * (size // 2))
                assert client.recv() == "ä" * (size // 2)
            client.send_binary(bytes(size))
            assert client.recv() == bytes(size)
        client.close(4001)
        assert codes[0].result(PATIENCE) == 4001


def test_writers_take_turns_and_one_that_waits_may_be_killed() -> None:
    def write(server: Server) -> None:
        send = server.websocket.send
        writers = [gevent.spawn(send, message) for message in (bytes(SWAMPING), b"second", b"third", b"fourth")]
        gevent.sleep(0)
        writers[1].kill()
        collect(server)
        gevent.joinall(writers, raise_error=True)

    with websocket(write, timeouts=calm()) as (client, server):
        messages = [client.receive(), client.receive(), client.receive()]
        assert [frame.payload for frame in messages if frame is not None] == [bytes(SWAMPING), b"third", b"fourth"]
        client.send(frame(CLOSE, close_payload(1000)))
        assert client.receive() == Frame(CLOSE, close_payload(1000))
        assert server.closed.code == 1000
