"""HTTP requests and the channel layer: replies of every kind, errors of the layer, disconnects, log lines."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import asgiref.inmemory
import pytest

from greendaphne.applications.channels.application import ChannelLayerApplication
from greendaphne.applications.channels.http import _PIECE
from greendaphne.applications.channels.names import ReplyChannels
from greendaphne.applications.channels.reply_queue import Overflow, ReplyQueue
from greendaphne.config import Channels, Limits, Timeouts
from greendaphne.core.accounts import Account, Allowance
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.wake import Wake
from greendaphne.serving.spool import Spool
from tests.support.server import RunningServer, serve
from tests.support.settling import settle_reply_queue

GET = b"GET /p%20q HTTP/1.1\r\nHost: a\r\n\r\n"


class FailingLayer(MemoryChannelLayer):
    """A layer that is out of reach while ``error`` is set."""

    error: Exception | None = None

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        if self.error is not None and not channel.startswith("daphne.response"):
            raise self.error
        super().send(channel, message)


# ---- disconnects


def test_one_disconnect_behind_every_delivered_request(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.http._LOOK", 0.1)
    with server.connect() as client:
        for _ in range(3):
            client.send(GET)
            request = server.app.answer(b"ok")
            client.read_response()
            assert server.app.receive("http.disconnect")[1] == {"reply_channel": request["reply_channel"], "path": "/p q"}
    client = server.connect()
    client.send(GET)
    request = server.app.request()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert server.app.receive("http.disconnect")[1]["reply_channel"] == request["reply_channel"]
    assert server.app.drain("http.disconnect") == []


def test_no_disconnect_for_what_was_not_delivered() -> None:
    with serve(MemoryChannelLayer(channel_capacity={"http.request": 0})) as server, server.connect() as client:
        client.send(GET)
        assert client.read_response().status == 503
        assert client.at_eof()
        client2 = server.connect()
        client2.send(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client2.read_response().status == 400
        client2.close()
        assert server.app.drain("http.disconnect") == []


def test_late_replies_are_dropped(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with server.connect() as client:
        client.send(GET)
        request = server.app.answer(b"ok")
        client.read_response()
        server.app.receive("http.disconnect")
        server.app.reply(request, content=b"late")
        client.send(GET)
        server.app.answer(b"next")
        assert client.read_response().body == b"next"
    assert f"Message on unknown channel {request['reply_channel']!r} - discarding" in [record.getMessage() for record in caplog.records]


# ---- the server's own answers


def test_page_is_daphnes() -> None:
    with serve(MemoryChannelLayer(channel_capacity={"http.request": 0})) as server, server.connect() as client:
        client.send(GET)
        response = client.read_response()
        assert (response.status, response.reason, response.header("Connection")) == (503, "Service Unavailable", "close")
        assert response.header("Content-Type") == "text/html; charset=utf-8"
        assert len(response.body) == 439
        assert b"<p>Request queue full.</p> <footer>Daphne</footer>" in response.body


@pytest.mark.parametrize(("server_name", "own", "other"), [(None, b"Daphne", b""), ("shop <1>", b"shop &lt;1&gt;", b"shop &lt;1&gt;")])
def test_pages_have_daphnes_name_only_where_daphne_has_the_page(server_name: str | None, own: bytes, other: bytes) -> None:
    layer = MemoryChannelLayer(channel_capacity={"http.request": 0})
    with serve(layer, server_name=server_name) as server:
        for request, name in ((GET, own), (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", own), (b"GET / HTTP/1.1\r\n\r\n", other)):
            with server.connect() as client:
                client.send(request)
                body = client.read_response().body
                assert body.endswith((b" <footer>%s</footer>" % name if name else b"</p>") + b" </body> </html> ")


def test_worker_timeout_is_answered_and_the_connection_goes_on() -> None:
    with serve(http_timeout=0.3) as server, server.connect() as client:
        client.send(GET)
        request = server.app.request()
        response = client.read_response()
        assert response.status == 503
        assert b"Worker server failed to respond within time limit." in response.body
        assert len(response.body) == 470
        assert server.app.receive("http.disconnect")[1]["reply_channel"] == request["reply_channel"]
        client.send(GET)
        server.app.answer(b"ok")
        assert client.read_response().body == b"ok"


def test_worker_that_stops_in_mid_response_breaks_the_connection() -> None:
    with serve(http_timeout=0.3) as server, server.connect() as client:
        client.send(GET)
        request = server.app.request()
        server.app.reply(request, status=200, content=b"begun", more_content=True)
        client.read_head()
        assert client.read_chunk() == b"begun"
        with pytest.raises(EOFError):
            client.read_chunk()
        server.app.receive("http.disconnect")


def test_message_too_large() -> None:
    with serve(MemoryChannelLayer(max_message_size=1000)) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000)
        assert client.read_response().status == 413
        assert client.at_eof()


@pytest.mark.parametrize("target", [b"/", b"/ws"])
def test_layer_out_of_reach(target: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """503 with a fixed text for clients, one line in the log when it begins and one when it ends."""
    layer = FailingLayer()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    request = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + (upgrade if target == b"/ws" else b"") + b"\r\n"
    with serve(layer) as server:
        layer.error = OSError("Error 111 connecting to 10.0.0.1:6379. Connection refused.")
        for _ in range(3):
            with server.connect() as client:
                client.send(request)
                response = client.read_response()
                assert (response.status, response.header("Retry-After")) == (503, "1")
                assert b"10.0.0.1" not in response.head + response.body
                assert b"The channel layer is out of reach." in response.body
        layer.error = None
        with server.connect() as client:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().status == 200
    lines = [record.getMessage() for record in caplog.records if "trying to send" in record.getMessage()]
    assert lines == ["Error trying to send messages: Error 111 connecting to 10.0.0.1:6379. Connection refused."]


def test_layer_that_cannot_be_received_from(caplog: pytest.LogCaptureFixture) -> None:
    """One line, attempts with pauses, and service again as soon as it works."""
    broken = threading.Event()
    failed = threading.Event()

    class Layer(MemoryChannelLayer):
        def receive_batch(
            self, channels: Iterable[str], limit: int, timeout: float | None = None, wake: Wake | None = None
        ) -> list[tuple[str, dict[str, Any]]]:
            channels = list(channels)
            if broken.is_set() and channels[0].startswith("daphne.response"):
                failed.set()
                raise OSError("gone")
            return super().receive_batch(channels, limit, timeout, wake)

    layer = Layer()
    with serve(layer) as server, server.connect() as client:
        broken.set()
        client.send(GET)
        server.app.answer(b"one")
        assert client.read_response().body == b"one"
        assert failed.wait(20)
        client.send(GET)
        server.app.answer(b"two")
        broken.clear()
        assert client.read_response().body == b"two"
    assert [record.getMessage() for record in caplog.records if "receive messages" in record.getMessage()] == [
        "Error trying to receive messages: gone"
    ]


# ---- replies


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ({"content": b"x"}, "HTTP/WS send decode error: Specifying a status code is required for a Response message."),
        ({}, "HTTP/WS send decode error: Specifying a status code is required for a Response message."),
    ],
)
def test_reply_without_status_is_dropped(server: RunningServer, caplog: pytest.LogCaptureFixture, reply: dict[str, Any], line: str) -> None:
    with server.connect() as client:
        client.send(GET)
        request = server.app.request()
        server.app.reply(request, **reply)
        server.app.reply(request, status=200, content=b"ok")
        assert client.read_response().body == b"ok"
    assert line in [record.getMessage() for record in caplog.records]


def test_second_status_is_dropped(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with server.connect() as client:
        client.send(GET)
        request = server.app.request()
        server.app.reply(request, status=200, content=b"one", more_content=True)
        server.app.reply(request, status=500, content=b"dropped")
        server.app.reply(request, content=b"two")
        assert client.read_response().body == b"onetwo"
    assert f"HTTP/WS send decode error: Got multiple Response messages for {request['reply_channel']}!" in [
        record.getMessage() for record in caplog.records
    ]


def test_server_push_is_dropped_silently(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with server.connect() as client:
        client.send(GET)
        request = server.app.request()
        server.app.reply(request, request={"path": "/style.css"})
        server.app.reply(request, status=200, content=b"o", more_content=True)
        server.app.reply(request, request={"path": "/script.js"})
        server.app.reply(request, content=b"k")
        assert client.read_response().body == b"ok"
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


def test_content_that_is_no_bytes(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(GET)
        server.app.reply(server.app.request(), status=200, content="text")
        assert client.read_response().status == 500
        client.send(GET)
        server.app.reply(server.app.request(), status=200, content=None)
        assert client.read_response().body == b""


def test_debug_lines(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with server.connect() as client:
        client.send(GET)
        request = server.app.request()
        server.app.reply(request, status=200, content=b"a", more_content=True)
        server.app.reply(request, content=b"b")
        client.read_response()
        server.app.receive("http.disconnect")
    name = request["reply_channel"]
    assert [record.getMessage() for record in caplog.records if record.name == "daphne.http_protocol"] == [
        f"HTTP b'GET' request for {name}",
        f"HTTP 200 response started for {name}",
        f"HTTP response chunk for {name}",
        f"HTTP response complete for {name}",
        f"HTTP close for {name}",
    ]


def test_no_traceback_for_a_peers_fault(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    for data in (b"\x16\x03\x01", b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"):
        with server.connect() as client:
            client.send(data)
            client.half_close()
            client.read_to_eof()
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING") or record.exc_info] == []


# ---- other layers


@pytest.mark.parametrize("force_sync", [False, True])
def test_layer_that_returns_at_once(force_sync: bool) -> None:
    """asgiref's own in-memory layer is polled."""
    layer = asgiref.inmemory.ChannelLayer()
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.001):
            _, message = layer.receive(["http.request"])
            if message is not None:
                layer.send(message["reply_channel"], {"status": 200, "content": message["path"].encode()})

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with serve(layer, force_sync=force_sync) as server, server.connect() as client:
            for _ in range(3):
                client.send(GET)
                assert client.read_response().body == b"/p q"
    finally:
        done.set()
        worker.join()


def test_many_clients_at_once(server: RunningServer) -> None:
    """Each gets its own answer, though all replies come through one channel."""
    clients = [server.connect() for _ in range(90)]
    for n, client in enumerate(clients):
        client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
    requests = [server.app.request() for _ in clients]
    for request in reversed(requests):
        server.app.reply(request, status=200, content=request["path"].encode())
    for n, client in enumerate(clients):
        assert client.read_response().body == b"/%d" % n
        client.close()


# ---- parts


def test_names_are_uniform_letters() -> None:
    channels = ReplyChannels()
    names = [channels.new() for _ in range(3000)]
    assert len(set(names)) == 3000
    assert all(re.fullmatch(r"daphne\.response\.[A-Za-z]{10}![A-Za-z]{10}", name) and len(name) < 100 for name in names)
    counts: dict[str, int] = {}
    for name in names:
        for letter in name.partition("!")[2]:
            counts[letter] = counts.get(letter, 0) + 1
    # 30 000 letters over 52: 577 each, with a standard deviation of 24.
    assert len(counts) == 52
    assert all(400 < count < 760 for count in counts.values())


def test_reply_queue_spills_to_disk_and_gives_back() -> None:
    disk = Allowance(10_000)
    box = ReplyQueue(2_000, Spool(disk))
    for n in range(5):
        box.put({"content": bytes([n]) * 1_500, "n": n})
    settle_reply_queue(box)
    assert disk.left < disk.size
    assert [(box.get(0), n)[0]["content"] for n in range(5)] == [bytes([n]) * 1_500 for n in range(5)]
    assert disk.left == disk.size
    for _ in range(20):
        box.put({"content": b"x" * 1_500})
    settle_reply_queue(box)
    # What was there is still delivered; then the overflow is told.
    assert [len(box.get(0)["content"]) for _ in range(8)] == [1_500] * 8
    with pytest.raises(Overflow):
        box.get(0)
    box.close()
    assert disk.left == disk.size


def test_reply_queue_without_disk_overflows() -> None:
    box = ReplyQueue(1_000)
    box.put({"text": "x" * 5_000})
    box.put({"text": "y" * 5_000})
    assert box.poll() == {"text": "x" * 5_000}
    with pytest.raises(Overflow):
        box.poll()


def test_requests_that_end_together_have_a_disconnect_each(server: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(12)]
        for client in clients:
            client.send(GET)
        requests = [server.app.request() for _ in clients]
        for request in requests:
            server.app.reply(request, status=200, content=b"ok")
        for client in clients:
            assert client.read_response().body == b"ok"
        left = [server.app.receive("http.disconnect")[1] for _ in clients]
        assert sorted(map(str, left)) == sorted(str({"reply_channel": request["reply_channel"], "path": "/p q"}) for request in requests)
        assert server.app.drain("http.disconnect") == []


def test_disconnects_of_the_last_turn_are_sent_with_the_end() -> None:
    layer = MemoryChannelLayer()
    application = ChannelLayerApplication(layer, Limits(), Timeouts(), Channels())
    application.start()
    application._http._notify("http.disconnect", {"reply_channel": "a!b", "path": "/"})
    application._http._notify("http.disconnect", {"reply_channel": "a!c", "path": "/"})
    assert layer.receive(["http.disconnect"]) == (None, None)
    application.stop()
    taken = [layer.receive(["http.disconnect"])[1] for _ in range(3)]
    assert taken == [{"reply_channel": "a!b", "path": "/"}, {"reply_channel": "a!c", "path": "/"}, None]


def test_which_replies_wait_on_disk() -> None:
    with serve() as server:
        bridge = server.channels._http
        share = bridge._limits.reply_queue

        def on_disk(size: int, held: int, *, short: bool = False) -> bool:
            account = Account(Allowance(1 << 40, (1 << 40) + 1 if short else 0))
            account.take(held)
            stream: Any = SimpleNamespace(request=SimpleNamespace(connection=SimpleNamespace(account=account)))
            belongs: bool = bridge._belongs_on_disk(stream, size)
            return belongs

        # More than its client may hold waits there only where the client does not take what it has.
        assert not on_disk(share, 0)
        assert not on_disk(share + 1, 0)
        assert not on_disk(share, _PIECE - 1)
        assert not on_disk(share - _PIECE, _PIECE)
        assert on_disk(share - _PIECE + 1, _PIECE)
        # Or where memory is short.
        assert on_disk(1, 0, short=True)
