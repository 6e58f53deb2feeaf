"""The bytes of messages that wait in the memory layer, in the memory that a server has for its clients."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from gevent.hub import get_hub

from greendaphne.core.accounts import Account, Allowance
from greendaphne.layers.ledger import OVERHEAD, message_weight
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support.server import Client, serve

SIZE = 200_000
BODY = b"x" * SIZE


@pytest.fixture
def memory() -> Allowance:
    get_hub()
    return Allowance(10 * SIZE)


@pytest.fixture
def layer(memory: Allowance) -> MemoryChannelLayer:
    layer = MemoryChannelLayer(expiry=60)
    layer.count_in(memory)
    return layer


def test_what_waits_is_held_and_what_was_taken_is_not(layer: MemoryChannelLayer, memory: Allowance) -> None:
    layer.send("http.request", {"body": BODY})
    layer.send("websocket.receive", {"text": "y" * SIZE})
    layer.send("reply!a", {"content": BODY})
    layer.send("reply!b", {"bytes": BODY})
    assert memory.held == 4 * (SIZE + OVERHEAD)
    layer.receive(["http.request"])
    layer.receive_batch(["reply!", "websocket.receive"], 2)
    assert memory.held == SIZE + OVERHEAD
    layer.flush()
    assert memory.held == 0


@pytest.mark.parametrize("beside", [{}, {"body": b""}, {"content": "", "body": b""}], ids=["alone", "body", "both"])
def test_what_a_message_holds_counts_beside_empty_parts(beside: dict[str, object]) -> None:
    text = "x" * 100_000
    assert message_weight({**beside, "text": text}) >= message_weight({**beside}) + len(text)


def test_messages_that_expire_and_groups_count(layer: MemoryChannelLayer, memory: Allowance) -> None:
    for channel in ("reply!a", "reply!b"):
        layer.group_add("all", channel)
    layer.send_group("all", {"text": "y" * SIZE})
    # Members share the content.
    assert SIZE <= memory.held <= SIZE + 2 * OVERHEAD
    layer.expiry = -1
    assert layer.receive(["reply!"]) == (None, None)
    # It is not told of each small change.
    assert memory.held <= 2 * OVERHEAD


def test_a_server_that_begins_or_ends_to_count_takes_what_waits(memory: Allowance) -> None:
    layer = MemoryChannelLayer()
    layer.send("http.request", {"body": BODY})
    layer.count_in(memory)
    assert memory.held == SIZE + OVERHEAD
    layer.count_in(None)
    assert memory.held == 0
    layer.receive(["http.request"])
    assert memory.held == 0


def test_large_requests_are_refused_where_memory_is_short(layer: MemoryChannelLayer, memory: Allowance) -> None:
    asked: list[int] = []

    def refuse(account: Account | None, n: int) -> bool:
        asked.append(n)
        return False

    memory.on_short = refuse
    memory.note(10 * SIZE)
    with pytest.raises(layer.ChannelFull):
        layer.send("http.request", {"body": BODY})
    assert not layer.offer("http.request", {"body": BODY})
    assert asked == [SIZE + OVERHEAD] * 2
    # Ordinary ones are not.
    layer.send("http.request", {"body": b"x" * 1000})
    # A reply is, only as long as others wait before it.
    layer.send("reply!a", {"content": BODY})
    with pytest.raises(layer.ChannelFull):
        layer.send("reply!b", {"content": BODY})
    layer.receive(["reply!"])
    layer.send("reply!b", {"content": BODY})


def test_other_threads_add_what_the_hub_tells_of_later(layer: MemoryChannelLayer, memory: Allowance) -> None:
    thread = threading.Thread(target=layer.send, args=("reply!a", {"content": BODY}))
    thread.start()
    thread.join()
    assert memory.held == 0
    layer.send("reply!b", {"content": BODY})
    assert memory.held == 2 * (SIZE + OVERHEAD)


def test_a_server_counts_what_waits_in_its_layer() -> None:
    with serve() as server:
        memory = server.server._parts.overload.memory
        before = memory.held
        client: Client
        with server.connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY)
            while not server.layer._channels.get("http.request") or not server.layer._channels["http.request"].queue:
                threading.Event().wait(0.01)
            assert memory.held - before >= SIZE
            server.app.answer(b"ok")
            assert client.read_response().body == b"ok"
    assert memory.held == 0


class Wrapper:
    """Has of a layer what the specification names, and the layer itself as Channels' wrapper does."""

    def __init__(self, channel_layer: MemoryChannelLayer) -> None:
        self.channel_layer = channel_layer

    def __getattr__(self, name: str) -> Any:
        if name == "count_in":
            raise AttributeError(name)
        return getattr(self.channel_layer, name)


def test_a_server_counts_what_waits_in_a_layer_within_another() -> None:
    layer = MemoryChannelLayer()
    layer.send("http.request", {"body": BODY})
    with serve(Wrapper(layer)) as server:
        assert server.server._parts.overload.memory.held >= SIZE
    layer.flush()
