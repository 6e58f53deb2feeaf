"""What goes wrong around a server: applications that misuse it, layers that hand over nonsense, clients that leave at the worst moment."""

from __future__ import annotations

import gc
import logging
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from enum import Enum
from http import HTTPStatus
from typing import Any

import gevent
import pytest

from greendaphne.applications.channels import http
from greendaphne.applications.channels.bodies import Body
from greendaphne.applications.channels.layer_client import LayerClient
from greendaphne.applications.channels.notifier import Notifier
from greendaphne.applications.channels.reply_queue import ReplyQueue
from greendaphne.applications.channels.watch import LayerWatch
from greendaphne.applications.channels.websocket import Conversation
from greendaphne.config import Limits, Timeouts
from greendaphne.core.accounts import Allowance
from greendaphne.http1.connection import Http1Connection
from greendaphne.http1.stream import Http1Stream
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.transport import Transport
from greendaphne.server import Server
from greendaphne.serving import spool
from greendaphne.serving.spool import Spool
from greendaphne.websocket import WebSocket
from tests.support.server import PATIENCE, Application, Client, RunningServer, serve
from tests.support.settling import settle, settle_reply_queue

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def no_file(*args: object, **kwargs: object) -> Any:
    raise OSError(24, "Too many open files")


def insist(server: RunningServer, message: dict[str, Any], **content: Any) -> None:
    """Reply, and again while the reply channel is full."""
    while True:
        try:
            server.app.reply(message, **content)
            return
        except server.layer.ChannelFull:
            time.sleep(0.001)


# ---- replies


class HandsOverNonsense(MemoryChannelLayer):
    """Takes the wrapping off some messages, which leaves something that is no message."""

    def receive_batch(self, channels: list[str], limit: int, timeout: float | None) -> list[tuple[str, dict[str, Any]]]:  # type: ignore[override]
        return [(channel, message.get("unwrap", message)) for channel, message in super().receive_batch(channels, limit, timeout)]


@pytest.mark.parametrize("nonsense", [b"bytes", ["status"], 200])
def test_reply_that_is_no_message_disturbs_nobody(nonsense: object) -> None:
    with serve(HandsOverNonsense()) as server, server.connect() as client:
        client.send(GET)
        message = server.app.request()
        server.app.reply(message, unwrap=nonsense)
        server.app.reply(message, status=200, content=b"ok")
        assert client.read_response().body == b"ok"


def test_no_room_for_replies_on_disk_costs_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "TemporaryFile", no_file)
    with serve(limits=Limits(reply_queue=1000)) as server, server.connect() as slow, server.connect() as other:
        slow.send(GET)
        message = server.app.request()
        insist(server, message, status=200, more_content=True)
        for _ in range(50):
            insist(server, message, content=b"x" * 500_000, more_content=True)
        other.send(GET)
        server.app.answer(b"ok")
        assert other.read_response().body == b"ok"
        with pytest.raises(EOFError):
            slow.read_response()


def test_many_small_pieces_for_a_client_that_reads_slowly() -> None:
    """An export, line by line: what its client does not read yet waits on disk and not in memory."""
    lines = [b"line %06d of the export, to be read by somebody in no hurry, " % n + b"." * 240 + b"\n" for n in range(30_000)]
    with serve(limits=Limits(reply_queue=64 * 1024)) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(20)
            sock.connect(server.address)
            sock.sendall(GET)
            message = server.app.request()
            insist(server, message, status=200, headers=[(b"Content-Length", b"%d" % sum(map(len, lines)))], more_content=True)
            for line in lines:
                insist(server, message, content=line, more_content=True)
            insist(server, message, content=b"")
            received = bytearray()
            while data := sock.recv(65536):
                received += data
                if received.endswith(lines[-1]):
                    break
        assert bytes(received).partition(b"\r\n\r\n")[2] == b"".join(lines)


def test_pieces_are_joined_on_disk_only_where_nothing_is_lost() -> None:
    disk = Allowance(10_000_000)
    box = ReplyQueue(1_500, Spool(disk))
    box.put({"status": 200, "content": b"a" * 1_000, "more_content": True})
    pieces: list[dict[str, Any]] = [{"content": b"%d," % n * 100, "more_content": True} for n in range(2_000)]
    for piece in pieces:
        box.put(piece)
    box.put({"content": b"end"})
    settle_reply_queue(box)
    received: list[dict[str, Any]] = []
    while not received or received[-1].get("more_content"):
        received.append(box.get(0))
    assert received[0] == {"status": 200, "content": b"a" * 1_000, "more_content": True}
    assert b"".join(message["content"] for message in received[1:]) == b"".join(piece["content"] for piece in pieces) + b"end"
    assert len(received) < 30
    assert disk.left == disk.size


def test_reply_queue_gives_back_what_it_could_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "TemporaryFile", no_file)
    disk = Allowance(10_000)
    box = ReplyQueue(1_000, Spool(disk))
    for _ in range(3):
        box.put({"content": b"x" * 900})
    settle_reply_queue(box)
    box.close()
    assert disk.left == disk.size


# ---- bodies


def test_no_file_for_a_body(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(spool, "TemporaryFile", no_file)
    with serve(limits=Limits(inline_body=10, body_chunk=4)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
        assert client.read_response().status == 503
    assert "Traceback" not in caplog.text


# ---- WebSockets


WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("reply", [{"text": "hi", "close": 9}, {"accept": True, "text": "hi", "close": "soon"}])
def test_first_reply_with_a_bad_close_code_leaves_it_open(server: RunningServer, client: Client, reply: dict[str, Any]) -> None:
    client.send(WEBSOCKET)
    message = server.app.receive("websocket.connect")[1]
    server.app.reply(message, **reply)
    assert client.read_head().status == 101
    assert client.read_exactly(4) == b"\x81\x02hi"
    server.app.reply(message, text="more")
    assert client.read_exactly(6) == b"\x81\x04more"


def test_client_that_leaves_while_it_is_accepted_is_no_error(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        with server.connect() as client:
            client.send(WEBSOCKET)
            message = server.app.receive("websocket.connect")[1]
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.app.reply(message, text="x" * 100_000)
        assert server.app.receive("websocket.disconnect")[1]["code"] == 1006
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("reset", [False, True])
def test_client_that_sends_frames_and_leaves_before_it_is_accepted(reset: bool) -> None:
    with serve(websocket_connect_timeout=-1) as server:
        with server.connect() as client:
            client.send(WEBSOCKET + b"\x81\x80\0\0\0\0")
            server.app.receive("websocket.connect")
            if reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.app.receive("websocket.disconnect")[1]["code"] == 1006


def test_pipelined_request_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """But it is answered where its sender is there."""
    monkeypatch.setattr(http, "_LOOK", 0.01)
    with serve() as server:
        with server.connect() as client:
            client.send(GET + GET)
            message = server.app.request()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.app.receive("http.disconnect")[1]["reply_channel"] == message["reply_channel"]
        with server.connect() as client:
            client.send(GET + GET)
            message = server.app.request()
            client.send(GET * 2)
            late_is_read(server)
            server.app.reply(message, status=200)
            assert client.read_response().status == 200
            for content in (b"b", b"c", b"d"):
                server.app.answer(content)
                assert client.read_response().body == content


def test_websocket_that_comes_during_the_drain_is_told_to_come_back() -> None:
    """503 would say that there is none; 1012 says where to go on (RFC 6455 section 7.4, IANA's registry)."""
    # A busy machine takes its time after the idle connection has ended.
    timeouts = Timeouts(graceful=30)
    with serve(timeouts=timeouts) as server, server.connect() as late, server.connect() as waiting, server.connect() as idle:
        idle.send(GET)
        server.app.answer()
        idle.read_response()
        waiting.send(WEBSOCKET)
        _, first = server.app.receive("websocket.connect")
        late.send(WEBSOCKET[:20])
        late_is_read(server)
        server.server.stop()
        # The idle connection ends with the beginning of the drain.
        assert idle.at_eof()
        late.send(WEBSOCKET[20:])
        _, second = server.app.receive("websocket.connect")
        for client, message in ((waiting, first), (late, second)):
            server.app.reply(message, accept=True, text="welcome")
            assert client.read_head().status == 101
            assert client.read_exactly(9) == b"\x81\x07welcome"
            assert client.read_exactly(4)[2:] == struct.pack("!H", 1012)


def late_is_read(server: RunningServer) -> None:
    """Wait until every connection has read what it was sent."""
    with server.connect() as client:
        client.send(GET)
        server.app.answer()
        client.read_response()


# ---- action loggers


def test_action_logger_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def action_logger(protocol: str, action: str, details: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    with serve(action_logger=action_logger) as server:
        with server.connect() as client:
            for _ in range(2):
                client.send(GET)
                server.app.answer(b"ok")
                assert client.read_response().body == b"ok"
        with server.connect() as client:
            client.send(WEBSOCKET)
            server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
            assert client.read_head().status == 101
        server.app.receive("websocket.disconnect")
    assert "Error in the action logger" in caplog.text
    assert "Error in a connection" not in caplog.text


# ---- statuses


class Status(int, Enum):
    """An enumeration that writes its members by name."""

    FINE = 200


@pytest.mark.parametrize("status", [Status.FINE, HTTPStatus.OK])
def test_status_of_an_enumeration(server: RunningServer, client: Client, status: int) -> None:
    for number in (status, 200):
        client.send(GET)
        server.app.answer(status=number)
        assert client.read_head().head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.read_chunk() == b""


@pytest.mark.parametrize("status", [True, 200.0, "200", 99, 1000])
def test_status_that_is_none(server: RunningServer, client: Client, status: Any) -> None:
    client.send(GET)
    server.app.answer(status=status)
    assert client.read_response().status == 500


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, 7, [("a",)], [("a", 1)], [(None, b"b")], ["ab"], [{"a": 1, "b": 2}]])
def test_headers_that_are_none(server: RunningServer, client: Client, headers: Any) -> None:
    client.send(GET)
    server.app.reply(server.app.request(), status=200, headers=headers)
    assert client.read_response().status == 500


def test_no_headers_at_all(server: RunningServer, client: Client) -> None:
    client.send(GET)
    server.app.reply(server.app.request(), status=200, headers=None, content=None)
    assert client.read_response().status == 200


# ---- requests that are refused while the connection goes on


def test_refusal_of_a_path_ends_what_cannot_go_on(server: RunningServer) -> None:
    for request in (
        b"HEAD /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ):
        with server.connect() as client:
            client.send(request)
            response = client.read_response()
            assert (response.status, response.header("Connection")) == (400, "close")
            assert client.at_eof()


# ---- the end


def test_connections_at_their_limit_when_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """Room that becomes free during the drain makes nothing accept on a closed socket."""
    with serve(limits=Limits(connections=1)) as server, server.connect() as client, server.connect() as waiting:
        client.send(GET)
        server.app.answer(b"ok")
        client.read_response()
        server.server.stop()
        assert client.at_eof()
        waiting.close()
    assert "Traceback" not in capfd.readouterr().err


def test_connection_that_said_nothing_does_not_delay_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with serve(http2_cleartext=True) as server, server.connect() as silent:
        late_is_read(server)
        server.server.stop()
        assert silent.at_eof()
    assert "cut short" not in caplog.text


def test_connection_between_two_requests_does_not_delay_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with serve(timeouts=Timeouts(graceful=5)) as server, server.connect() as client:
        client.send(GET)
        server.app.answer(b"ok")
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"ok", None)
        server.server.stop()
        assert client.at_eof()
    assert "cut short" not in caplog.text


def test_request_that_arrives_with_the_drain_is_answered() -> None:
    """What was received before the connection was closed is not thrown away."""
    with serve() as server, server.connect() as client:
        late_is_read(server)
        inside: Any = server.server
        busy, sent = threading.Event(), threading.Event()

        def stop_when_sent() -> None:
            # In the hub, which does nothing else meanwhile.
            busy.set()
            sent.wait(PATIENCE)
            inside._stop.set()

        inside._hub.loop.run_callback_threadsafe(stop_when_sent)
        assert busy.wait(PATIENCE)
        client.send(GET)
        sent.set()
        server.app.answer(b"ok")
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"ok", "close")
        assert client.at_eof()


def test_server_starts_again() -> None:
    server = Server(MemoryChannelLayer(), endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False, timeouts=Timeouts(graceful=2))
    for _ in range(3):
        started = threading.Event()
        thread = threading.Thread(target=run_once, args=(server, started))
        thread.start()
        assert started.wait(PATIENCE)
        running = RunningServer(server, server.channel_layer)
        with running.connect() as client:
            for _ in range(2):
                client.send(GET)
                running.app.answer(b"ok")
                assert client.read_response().body == b"ok"
        server.stop()
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    server.stop()


def run_once(server: Server, started: threading.Event) -> None:
    server.start()
    try:
        with pytest.raises(RuntimeError):
            server.start()
    finally:
        started.set()
    server.serve_forever()


@pytest.mark.parametrize("name", ["two\r\nlines", "null\0"])
def test_server_name_that_no_field_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="server_name must be printable"):
        Server(MemoryChannelLayer(), endpoints=["tcp:0:interface=127.0.0.1"], server_name=name)


def test_stop_before_start_is_not_lost() -> None:
    server = Server(MemoryChannelLayer(), endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False)
    server.stop()
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# ---- what stays


def test_streamed_body_and_the_look_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the client is still there is looked at while another greenlet waits for the body; nothing of it gets lost."""
    monkeypatch.setattr(http, "_LOOK", 0.0005)
    with serve(stream_request_body=True, timeouts=Timeouts(body=3)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        message = server.app.request()
        for _ in range(500):
            client.send(b"1\r\ny\r\n")
            assert server.app.receive(message["body_channel"])[1] == {"content": b"y", "more_content": True}
        client.send(b"0\r\n\r\n")
        assert server.app.receive(message["body_channel"])[1] == {"content": b"", "more_content": False}
        server.app.reply(message, status=200)
        assert client.read_response().status == 200


@pytest.mark.parametrize("streaming", [False, True])
def test_worker_is_told_that_the_rest_of_a_body_will_not_come(streaming: bool) -> None:
    """Whatever ended the request: here it took too long, and the channel was full all the while."""
    layer = MemoryChannelLayer(channel_capacity={"http.request.body*": 2})
    with serve(layer, stream_request_body=streaming, http_timeout=0.3, limits=Limits(inline_body=4, body_chunk=4)) as server:
        with server.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n" + b"x" * 40)
            message = server.app.request()
            assert client.read_response().status == 503
            pieces = [server.app.receive(message["body_channel"])[1] for _ in range(3)]
        assert [piece.get("closed", False) for piece in pieces] == [False, False, True]


def test_budgets_are_given_back_on_every_way_out() -> None:
    limits = Limits(
        inline_body=1000, body_chunk=500, buffered_bodies=100_000, spooled_bodies=200_000, request_body=50_000, reply_queue=1000
    )
    with serve(limits=limits, http_timeout=0.2, timeouts=Timeouts(graceful=2, body=0.2)) as server:
        application: Any = server.channels
        budgets = [application.bodies.memory, application.bodies.spool.allowance]
        for number in range(60):
            with server.connect() as client:
                # Some send everything, some stop in the middle, some break the rules.
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                client.send(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
                client.send((b"0\r\n\r\n", b"7d0\r\n" + b"x" * 1000, b"nonsense\r\n", b"fffff\r\n" + b"x" * 60_000)[number % 4])
                if number % 4 == 0:
                    message = server.app.request()
                    if number % 8:
                        server.app.reply(message, status=200, content=b"x" * 900, more_content=True)
                        for _ in range(20):
                            server.app.reply(message, content=b"x" * 900, more_content=True)
                        server.app.reply(message, content=b"")
                    elif number % 16:
                        client.read_response()  # nobody answers in time
        settle(server.server)
        assert [budget.left for budget in budgets] == [budget.size for budget in budgets]
        assert not server.server.factory.reply_protocols


def test_nothing_waits_for_the_garbage_collector(caplog: pytest.LogCaptureFixture) -> None:
    """Reference counting frees all there is of a connection, whatever its end."""
    # A record that is kept keeps the error that it tells of, and all that was going on then.
    caplog.set_level(logging.CRITICAL, "daphne")
    kinds = (Http1Connection, Http1Stream, Transport, ReplyQueue, WebSocket, Body, Conversation)

    def count() -> dict[str, int]:
        found = dict.fromkeys((kind.__name__ for kind in kinds), 0)
        for item in gc.get_objects():
            if type(item) in kinds:
                found[type(item).__name__] += 1
        return found

    gc.collect()
    gc.disable()
    try:
        with serve(limits=Limits(inline_body=100, body_chunk=50), stream_request_body=True, http_timeout=0.5) as server:
            before = count()
            for number in range(20):
                for data in (
                    b"",
                    b"GET / HT",
                    b"nonsense\r\n\r\n",
                    GET,
                    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n" + b"x" * 150,
                    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n",
                    WEBSOCKET,
                    WEBSOCKET + b"\x81\x80\0\0\0\0\x88\x80\0\0\0\0",
                    WEBSOCKET + b"\xff\xff\xff",
                ):
                    with server.connect() as client:
                        client.send(data)
                        if data.startswith((GET, b"POST")):
                            message = server.app.request()
                            if number % 2:
                                server.app.reply(message, status=200, content=b"x" * 10, more_content=bool(number % 3))
                        elif data.startswith(WEBSOCKET):
                            message = server.app.receive("websocket.connect")[1]
                            if number % 4:
                                server.app.reply(message, accept=True, text="hello")
                                client.read_head()
                        if number % 5 == 0:
                            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                for channel in ("websocket.receive", "websocket.disconnect", "http.disconnect"):
                    server.app.drain(channel)
            settle(server.server)
            assert count() == before
    finally:
        gc.enable()


# ---- notices


class SlowLayer(MemoryChannelLayer):
    """A layer whose every send waits, as one in another process does."""

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        gevent.sleep(0.01)
        super().send(channel, message)


def test_notices_in_the_middle_of_being_sent_are_not_lost_at_the_end() -> None:
    layer = SlowLayer()
    notifier = Notifier(LayerClient(layer, LayerWatch(layer, lambda: None)))
    notifier.start()
    for n in range(10):
        notifier.add("http.disconnect", {"n": n})
    gevent.sleep(0.02)
    notifier.stop(timeout=PATIENCE)
    assert [message["n"] for message in Application(layer).drain("http.disconnect")] == list(range(10))


def test_pipelined_requests_are_refused_in_a_drain() -> None:
    """The answer in flight says that it is the last one; what was sent behind it reaches no worker, and nothing is reset."""
    with serve() as server, server.connect() as idle, server.connect() as client:
        idle.send(GET)
        server.app.answer()
        idle.read_response()
        client.send(GET * 3)
        message = server.app.request()
        server.server.stop()
        assert idle.at_eof()
        server.app.reply(message, status=200, content=b"last")
        response = client.read_response()
        assert (response.body, response.header("Connection")) == (b"last", "close")
        assert client.at_eof()
        assert server.app.drain("http.request") == []


def test_connections_that_wait_to_be_accepted_are_served_in_a_drain() -> None:
    """What stands in the backlog has been told by the kernel that it is connected."""
    with serve() as server, ExitStack() as clients:
        inside: Any = server.server
        busy, connected = threading.Event(), threading.Event()

        def stop_when_connected() -> None:
            # In the hub, which accepts nothing meanwhile.
            busy.set()
            connected.wait(PATIENCE)
            inside._stop.set()

        inside._hub.loop.run_callback_threadsafe(stop_when_connected)
        assert busy.wait(PATIENCE)
        waiting = [clients.enter_context(server.connect()) for _ in range(20)]
        for client in waiting:
            client.send(GET)
        connected.set()
        for _ in waiting:
            server.app.answer(b"ok")
        for client in waiting:
            response = client.read_response()
            assert (response.status, response.body, response.header("Connection")) == (200, b"ok", "close")
