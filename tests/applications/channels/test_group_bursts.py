"""Messages to groups in bursts, over real WebSockets: what arrives, what is dropped, and that neither is silent."""

from __future__ import annotations

import logging
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from greendaphne.config import Timeouts
from greendaphne.layers import tally as module
from greendaphne.layers.groups import GROUP_HEADROOM
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.tally import Tally, kind_of, tally_of
from greendaphne.worker import Message
from tests.support.monitoring import scrape
from tests.support.redis_server import RedisServer, in_hub, redis_server
from tests.support.server import PATIENCE, RunningServer, serve

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BURST = 20


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis", "redis-encrypted"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A layer's kind and its arguments."""
    if request.param == "memory":
        return {}
    redis = request.getfixturevalue("redis")
    redis.client.flushall()
    options: dict[str, Any] = {"hosts": [redis.url]}
    if request.param == "redis-encrypted":
        options["symmetric_encryption_keys"] = ["secret"]
    return options


def make(options: dict[str, Any], **further: Any) -> Any:
    return (RedisChannelLayer if options else MemoryChannelLayer)(**options, **further)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Both ends of all connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Members:
    """WebSockets that joined the group ``all``."""

    def __init__(self, server: RunningServer, number: int) -> None:
        self.sockets = [socket.create_connection(server.address, timeout=PATIENCE) for _ in range(number)]
        for sock in self.sockets:
            sock.sendall(HANDSHAKE)
        self.left = [self._opened(sock) for sock in self.sockets]

    @staticmethod
    def _opened(sock: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = sock.recv(4096)
            assert part, data
            data += part
        assert data.startswith(b"HTTP/1.1 101 "), data
        return data.partition(b"\r\n\r\n")[2]

    def read(self, number: int) -> Iterator[list[bytes]]:
        """The next ``number`` messages of each."""
        for index, sock in enumerate(self.sockets):
            data = self.left[index]
            messages: list[bytes] = []
            while len(messages) < number:
                if len(data) >= 2 and len(data) >= 2 + data[1]:
                    assert data[0] == 0x81, data
                    messages.append(data[2 : 2 + data[1]])
                    data = data[2 + data[1] :]
                    continue
                part = sock.recv(65536)
                assert part, (index, messages)
                data += part
            self.left[index] = data
            yield messages

    def close(self) -> None:
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def join(message: Message) -> None:
    message.layer.group_add("all", message.content["reply_channel"])
    message.reply({"accept": True})


@contextmanager
def members(layer: Any, number: int, **options: Any) -> Iterator[tuple[RunningServer, Members]]:
    # Those that connect must not be refused for want of room.
    layer.capacity = 2000
    layer.routes = {"websocket.connect": join, "websocket.disconnect": lambda message: None}
    # A busy machine may take longer than the default for 800 handshakes at once.
    with serve(layer, inline_workers=2, timeouts=Timeouts(graceful=2, websocket_connect=PATIENCE), **options) as server:
        clients = Members(server, number)
        layer.capacity = 100
        try:
            yield server, clients
        finally:
            clients.close()


@pytest.mark.usefixtures("descriptors")
def test_a_burst_to_many_arrives_whole(options: dict[str, Any]) -> None:
    layer = make(options)
    number = 200 if "symmetric_encryption_keys" in options else 800
    expected = [b"%d" % n for n in range(BURST)]
    with members(layer, number) as (_, clients):

        def burst() -> None:
            for n in range(BURST):
                layer.send_group("all", {"text": str(n)})
            if options:
                layer.close()

        in_hub(burst)
        for messages in clients.read(BURST):
            assert messages == expected
    assert layer.tally.dropped == layer.tally.bad == {}


def test_what_is_beyond_the_headroom_is_counted_and_told(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    layer = make(options, group_headroom=1, capacity=5)
    with serve(layer, metrics="tcp:0:interface=127.0.0.1") as server:

        def overfill() -> None:
            # No reader: the list of a server that does not run.
            for n in range(10):
                layer.group_add("all", f"daphne.response.stopped!{n}")
            layer.group_add("all", "normal")
            for _ in range(3):
                layer.send_group("all", {"text": "x"})
            if options:
                layer.close()

        in_hub(overfill)
        # A member's place, 5 + 10 or, in memory, where a group's size is what counts, 11, and 5 in the ordinary channel.
        room = 5 + 10 if options else 5 + 11
        assert layer.tally.dropped == {"reply": 30 - room}
        assert scrape(server)("layer_dropped_total", channel="reply") == 30 - room
    lines = [record for record in caplog.records if record.name == "greendaphne.layers"]
    assert len(lines) == 1
    assert lines[0].levelno == logging.WARNING
    assert "the last on daphne.response.stopped!: the channel holds its capacity and group_headroom" in lines[0].getMessage()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10", None])
def test_a_headroom_that_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="group_headroom must be a number of messages"):
        MemoryChannelLayer(group_headroom=value)
    with pytest.raises(ValueError, match="group_headroom must be a number of messages"):
        RedisChannelLayer(group_headroom=value)


def test_the_default_is_what_the_documentation_promises() -> None:
    assert MemoryChannelLayer().group_headroom == RedisChannelLayer().group_headroom == GROUP_HEADROOM >= BURST


# ---- the tally


def test_kinds() -> None:
    assert kind_of("daphne.response.abc!def") == kind_of("http.response!x") == "reply"
    assert kind_of("http.request.body?abc") == "http.request.body"
    assert kind_of("http.request") == "http.request"
    for name in (None, 1, b"x", "", "a b", "a\n", "é!x", "x" * 200):
        assert kind_of(name) == "other"


def test_one_line_at_once_and_one_for_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(interval=0.05)

    def count() -> None:
        for _ in range(5):
            tally.dropped_message("a!", "why", 2)
        tally.bad_message("b\nforged line", "why not")
        with gevent.Timeout(PATIENCE):
            while len(caplog.records) < 3:
                gevent.sleep(0.01)

    in_hub(count)
    assert tally.dropped == {"reply": 10}
    assert tally.bad == {"other": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "Dropped 2 messages for want of room, the last on a!: why",
        "Dropped 1 message that cannot be used, the last on a channel without a valid name: why not",
        "Dropped 8 messages for want of room, the last on a!: why",
    ]


def test_a_thread_without_a_hub_tells_the_rest_with_its_next(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(interval=0)

    def count() -> None:
        tally._interval = 60
        for _ in range(3):
            tally.bad_message("a", "why")
        tally._interval = 0
        tally.bad_message("a", "why")

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    assert [record.getMessage().partition(" that")[0] for record in caplog.records] == ["Dropped 1 message", "Dropped 3 messages"]


def test_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    for number in range(1000):
        tally.bad_message(f"c{number}", "why")
    assert len(tally.bad) <= module.KINDS + 1
    assert sum(tally.bad.values()) == 1000
    assert len(caplog.records) <= module.KINDS + 1


def test_layers_of_others_have_a_tally_too() -> None:
    class Layer:
        pass

    class Wrapper:
        def __init__(self, layer: Any) -> None:
            self.channel_layer = layer

    layer = Layer()
    assert tally_of(layer) is tally_of(layer) is tally_of(Wrapper(layer))
    memory = MemoryChannelLayer()
    assert tally_of(Wrapper(memory)) is memory.tally
