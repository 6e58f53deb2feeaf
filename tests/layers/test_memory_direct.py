"""Messages that the memory layer hands to a taker at once: order, others who receive, other hubs and threads; and lasting receivers."""

from __future__ import annotations

import threading
import time
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from greendaphne.applications.channels.reply_queue import ReplyQueue
from greendaphne.applications.channels.router import ReplyRouter
from greendaphne.applications.channels.watch import LayerWatch
from greendaphne.core.message import ClientDisconnected
from greendaphne.layers.channel_store import DirectClients
from greendaphne.layers.ledger import OVERHEAD
from greendaphne.layers.memory import KNOWN_NAMES, MemoryChannelLayer
from greendaphne.layers.wake import Wake

PATIENCE = 30.0


class Taker:
    """Takes what it is told to."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.willing = True

    def __call__(self, channel: str, message: dict[str, Any]) -> bool:
        if self.willing:
            self.taken.append((channel, message["n"]))
        return self.willing


@pytest.fixture
def layer() -> MemoryChannelLayer:
    # Receivers and takers belong to a hub.
    get_hub()
    return MemoryChannelLayer(capacity=5)


@pytest.fixture
def taker(layer: MemoryChannelLayer) -> Taker:
    taker = Taker()
    layer.attach("p!", taker)
    return taker


def numbers(batch: list[Any]) -> list[int]:
    return [message["n"] for _, message in batch]


def test_a_message_is_handed_over_and_counted(layer: MemoryChannelLayer, taker: Taker) -> None:
    for n in range(20):
        layer.send("p!a", {"n": n})
    assert taker.taken == [("p!a", n) for n in range(20)]
    assert layer.receive(["p!"]) == (None, None)
    assert layer.global_statistics()["messages_count"] == 20


class Client:
    """Accepts every message but one."""

    def __init__(self) -> None:
        self.accepted: list[Any] = []

    def accept(self, message: dict[str, Any]) -> bool:
        if message["n"] == 3:
            return False
        self.accepted.append(message)
        return True


@pytest.fixture
def client(layer: MemoryChannelLayer, taker: Taker) -> Client:
    client = Client()
    # Clients of other classes are never asked.
    clients = {"p!a": client, "p!b": object()}
    layer.attach("p!", taker, DirectClients(get_hub(), "p!", clients, frozenset((Client,))))
    return client


def test_a_client_is_asked_before_the_taker(layer: MemoryChannelLayer, taker: Taker, client: Client) -> None:
    messages = [{"n": n} for n in range(5)]
    for message in messages:
        layer.send("p!a", message)
    layer.send("p!b", {"n": 9})
    assert taker.taken == [("p!a", 3), ("p!b", 9)]
    assert [message["n"] for message in client.accepted] == [0, 1, 2, 4]
    # It is the sender's own.
    assert client.accepted[0] is messages[0]
    taker.willing = False
    layer.send("p!a", {"n": 3})
    # What comes after a message that waits has to wait.
    layer.send("p!a", {"n": 6})
    assert len(client.accepted) == 4
    assert numbers(layer.receive_batch(["p!"], 10)) == [3, 6]
    layer.send("p!a", {"n": 7})
    assert len(client.accepted) == 5
    layer.max_message_size = 100
    layer.send("p!a", {"n": 8})
    with pytest.raises(layer.MessageTooLarge):
        layer.send("p!a", {"n": "x" * 200})
    layer.max_message_size = None
    layer.detach("p!")
    layer.send("p!a", {"n": 9})
    assert len(client.accepted) == 5
    assert layer.global_statistics()["messages_count"] == 11


def test_messages_that_clients_accept_are_reported(layer: MemoryChannelLayer, taker: Taker) -> None:
    counts: list[int] = []
    client = Client()
    layer.attach("p!", taker, DirectClients(get_hub(), "p!", {"p!a": client}, frozenset((Client,)), counts.append))
    layer.send("p!a", {"n": 0})
    layer.send("p!a", {"n": 3})
    assert counts == [1]


def test_a_client_gets_nothing_while_its_reader_is_at_work(layer: MemoryChannelLayer, taker: Taker) -> None:
    client = Client()
    direct = DirectClients(get_hub(), "p!", {"p!a": client}, frozenset((Client,)))
    layer.attach("p!", taker, direct)
    direct.closed = True
    layer.send("p!a", {"n": 0})
    direct.closed = False
    layer.send("p!a", {"n": 1})
    assert taker.taken == [("p!a", 0)]
    assert client.accepted == [{"n": 1}]


def test_a_client_gets_nothing_of_another_thread(layer: MemoryChannelLayer, client: Client) -> None:
    gevent.get_hub().threadpool.apply(layer.send, ("p!a", {"n": 1}))
    assert numbers(layer.receive_batch(["p!"], 10)) == [1]
    assert not client.accepted


def test_names_that_are_remembered_are_bounded(layer: MemoryChannelLayer, taker: Taker) -> None:
    for n in range(KNOWN_NAMES + 10):
        layer.send(f"p!{n}", {"n": n})
    assert len(layer._known_names) <= KNOWN_NAMES
    assert len(taker.taken) == KNOWN_NAMES + 10


def test_the_taker_gets_its_own_copy(layer: MemoryChannelLayer) -> None:
    got: list[Any] = []

    def take(channel: str, message: dict[str, Any]) -> bool:
        got.append(message)
        return True

    layer.attach("p!", take)
    values = [1]
    layer.send("p!a", {"list": values})
    values.append(2)
    assert got == [{"list": [1]}]


def test_what_is_refused_is_queued_and_what_follows_waits_behind_it(layer: MemoryChannelLayer, taker: Taker) -> None:
    taker.willing = False
    layer.send("p!a", {"n": 0})
    taker.willing = True
    for n in range(1, 5):
        layer.send("p!a", {"n": n})
    assert not taker.taken
    with pytest.raises(layer.ChannelFull):
        layer.send("p!a", {"n": 5})
    assert numbers(layer.receive_batch(["p!"], 10)) == list(range(5))
    layer.send("p!a", {"n": 6})
    assert taker.taken == [("p!a", 6)]


def test_groups_are_handed_over(layer: MemoryChannelLayer, taker: Taker) -> None:
    for n in range(100):
        layer.group_add("all", f"p!{n}")
    layer.send_group("all", {"n": 1})
    assert len(taker.taken) == 100


def test_nothing_is_handed_over_while_another_reader_waits_too(layer: MemoryChannelLayer, taker: Taker) -> None:
    readers = [gevent.spawn(layer.receive_batch, ["p!"], 1, PATIENCE) for _ in range(2)]
    gevent.sleep(0)
    layer.send("p!a", {"n": 0})
    layer.send("p!a", {"n": 1})
    gevent.joinall(readers, timeout=PATIENCE, raise_error=True)
    assert sorted(numbers(readers[0].get() + readers[1].get()) + [n for _, n in taker.taken]) == [0, 1]


def test_other_threads_and_hubs_queue(layer: MemoryChannelLayer, taker: Taker) -> None:
    def send(n: int) -> None:
        layer.send("p!a", {"n": n})

    def send_in_a_hub() -> None:
        get_hub()
        send(1)
        get_hub().destroy(destroy_loop=True)

    for target in (lambda: send(0), send_in_a_hub):
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        thread.join(PATIENCE)
    send(2)
    assert not taker.taken
    assert numbers(layer.receive_batch(["p!"], 10)) == [0, 1, 2]


def test_detached(layer: MemoryChannelLayer, taker: Taker) -> None:
    layer.detach("p!")
    layer.send("p!a", {"n": 1})
    assert not taker.taken
    assert numbers(layer.receive_batch(["p!"], 10)) == [1]
    layer.detach("p!")


def test_a_channel_that_was_forgotten_has_its_taker_again(layer: MemoryChannelLayer, taker: Taker) -> None:
    layer._forget(layer._channels["p!"])
    layer.send("p!a", {"n": 1})
    assert taker.taken == [("p!a", 1)]


def test_an_offer_says_whether_there_was_room(layer: MemoryChannelLayer) -> None:
    assert [layer.offer("a", {"n": n}) for n in range(6)] == [True] * 5 + [False]
    assert layer.global_statistics()["channel_full_count"] == 1


# ---- the router


@pytest.fixture
def router(layer: MemoryChannelLayer) -> Any:
    router = ReplyRouter(layer, LayerWatch(layer, lambda: None))
    router.start()
    gevent.sleep(0)
    yield router
    router.stop()


def test_replies_reach_the_reply_queue_without_a_turn_of_the_hub(layer: MemoryChannelLayer, router: ReplyRouter) -> None:
    reply_queue = ReplyQueue(10_000)
    channel = router.register(reply_queue)
    counted: list[int] = []
    router.on_batch = counted.append
    for n in range(2):
        layer.send(channel, {"n": n})
    assert [reply_queue.poll(), reply_queue.poll(), reply_queue.poll()] == [{"n": 0}, {"n": 1}, None]
    assert counted == [1, 1]


def test_order_with_replies_of_another_thread(layer: MemoryChannelLayer, router: ReplyRouter) -> None:
    reply_queue = ReplyQueue(100_000)
    channel = router.register(reply_queue)
    expected = list(range(100))
    for n in range(0, 100, 2):
        thread = threading.Thread(target=layer.send, args=(channel, {"n": n}))
        thread.start()
        thread.join(PATIENCE)
        # It waits in the queue, since the router has had no turn.
        layer.send(channel, {"n": n + 1})
        gevent.sleep(0.001 * (n % 3))
        while layer._channels[router.channels.prefixes[0]].queue:
            gevent.sleep(0)
    got = [reply_queue.get(PATIENCE)["n"] for _ in expected]
    assert got == expected


def test_what_needs_the_disk_or_comes_too_late(layer: MemoryChannelLayer, router: ReplyRouter) -> None:
    reply_queue = ReplyQueue(2000)
    channel = router.register(reply_queue)
    for n in range(3):
        layer.send(channel, {"content": b"x" * 1000, "n": n})
    assert layer._channels[router.channels.prefixes[0]].queue
    reply_queue.abandon()
    layer.send(channel, {"n": 9})
    router.unregister(channel)
    layer.send(channel, {"n": 10})
    gevent.sleep(0.01)
    assert not layer._channels[router.channels.prefixes[0]].queue
    failed = ReplyQueue(2000)
    name = router.register(failed)
    failed.abandon()
    layer.send(name, {"n": 1})
    with pytest.raises(ClientDisconnected):
        failed.get(1)


def test_a_reply_queue_that_fails_is_not_the_senders_fault(layer: MemoryChannelLayer, router: ReplyRouter) -> None:
    class Failing:
        def notify(self) -> None:
            raise LookupError("notify")

        def write_now(self, message: object) -> bool:
            raise LookupError("write_now")

    reply_queue = ReplyQueue(1000)
    reply_queue.writer = Failing()
    layer.send(router.register(reply_queue), {"n": 1})
    assert reply_queue.poll() == {"n": 1}


# ---- offers together


def test_offers_together_enter_in_order_as_far_as_there_is_room(layer: MemoryChannelLayer) -> None:
    assert layer.offer_all("a", [{"n": 0}, {"n": 1}, {"n": 2}]) == 3
    assert layer.offer_all("a", [{"n": n} for n in range(3, 10)]) == 2
    assert layer.offer_all("a", [{"n": 10}]) == 0
    statistics = layer.channel_statistics("a")
    assert (statistics["messages_count"], statistics["channel_full_count"]) == (5, 6)
    assert layer._ledger.held == 5 * OVERHEAD
    assert numbers(layer.receive_batch(["a"], 10)) == list(range(5))
    assert layer._ledger.held == 0
    with pytest.raises(TypeError):
        layer.offer_all("no name", [{"n": 0}])


def test_offers_together_push_out_what_has_expired(layer: MemoryChannelLayer) -> None:
    layer.expiry = 0.01
    for n in range(5):
        layer.send("a", {"n": n})
    time.sleep(0.02)
    assert layer.offer_all("a", [{"n": n} for n in range(5, 11)]) == 5
    layer.expiry = 60
    assert numbers(layer.receive_batch(["a"], 10)) == list(range(5, 10))


def test_offers_together_go_to_all_who_wait(layer: MemoryChannelLayer) -> None:
    """One is told, and it tells the next."""
    receivers: list[Any] = [layer.receiver(["a"]) for _ in range(2)]
    waiting: list[Any] = [gevent.spawn(receiver.receive, 1, PATIENCE) for receiver in receivers]
    waiting.append(gevent.spawn(layer.receive_batch, ["a"], 1, PATIENCE))
    gevent.sleep(0)
    assert layer.offer_all("a", [{"n": n} for n in range(4)]) == 4
    gevent.joinall(waiting, timeout=PATIENCE, raise_error=True)
    assert sorted(numbers([batch for greenlet in waiting for batch in greenlet.get()])) == [0, 1, 2]
    assert numbers(layer.receive_batch(["a"], 10)) == [3]


def test_offers_together_outlive_a_receiver_that_is_killed(layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a"])
    assert receiver is not None
    killed = gevent.spawn(receiver.receive, 1, PATIENCE)
    gevent.sleep(0)
    waiting = gevent.spawn(layer.receive_batch, ["a"], 2, PATIENCE)
    gevent.sleep(0)
    killed.kill(block=False)
    layer.offer_all("a", [{"n": 0}, {"n": 1}])
    assert numbers(waiting.get(timeout=PATIENCE)) == [0, 1]


def test_a_taker_is_handed_them_one_by_one(layer: MemoryChannelLayer, taker: Taker) -> None:
    layer.attach("a", taker)
    assert layer.offer_all("a", [{"n": 0}, {"n": 1}]) == 2
    assert taker.taken == [("a", 0), ("a", 1)]


# ---- lasting receivers


def test_a_receiver_finds_a_channel_that_was_forgotten_meanwhile(layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a", "b"])
    assert receiver is not None
    for n in range(3):
        layer.send("b", {"n": n})
        assert numbers(receiver.receive(1, PATIENCE)) == [n]
        with layer._lock:
            layer._sweep(time.monotonic())
        assert "b" not in layer._channels


def test_a_receiver_stays_entered_and_leaves_when_closed(layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a", "b"])
    assert receiver is not None
    assert receiver.receive(1, 0.001) == []
    assert list(layer._channels["a"].waiters) == list(layer._channels["b"].waiters) == [receiver]
    gevent.spawn(layer.send, "a", {"n": 1})
    assert numbers(receiver.receive(1, PATIENCE)) == [1]
    receiver.close()
    assert not layer._channels["a"].waiters
    assert not layer._channels["b"].waiters


def test_no_receiver_for_a_channel_of_one_exchange_or_without_a_hub(layer: MemoryChannelLayer) -> None:
    assert layer.receiver(["a?b"]) is None
    assert layer.receiver([]) is None
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(layer.receiver(["a"])))
    thread.start()
    thread.join(PATIENCE)
    assert results == [None]


def test_another_greenlet_may_use_it_meanwhile(layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a"])
    assert receiver is not None
    greenlets = [gevent.spawn(receiver.receive, 1, PATIENCE) for _ in range(3)]
    gevent.sleep(0)
    for n in range(3):
        layer.send("a", {"n": n})
    gevent.joinall(greenlets, timeout=PATIENCE, raise_error=True)
    assert sorted(numbers([batch for greenlet in greenlets for batch in greenlet.get()])) == [0, 1, 2]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_wake_ends_the_wait(when: str, layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a"])
    assert receiver is not None
    for _ in range(2):
        wake = Wake()
        if when == "before":
            wake.set()
        else:
            gevent.spawn(wake.set)
        assert receiver.receive(1, PATIENCE, wake) == []
    layer.send("a", {"n": 1})
    assert numbers(receiver.receive(1, PATIENCE, Wake())) == [1]


def test_what_is_there_is_taken_without_a_wait(layer: MemoryChannelLayer) -> None:
    """The channels have their turns, nothing is attached to the wake, and once that is set nothing is taken."""
    receiver = layer.receiver(["a", "b"])
    assert receiver is not None
    wake = Wake()
    for n in range(3):
        layer.send("a", {"n": n})
        layer.send("b", {"n": n})
    taken = [receiver.receive(1, PATIENCE, wake)[0] for _ in range(4)]
    assert {channel for channel, _ in taken[:2]} == {channel for channel, _ in taken[2:]} == {"a", "b"}
    assert [message["n"] for channel, message in taken if channel == "a"] == [0, 1]
    assert not wake._enders
    wake.set()
    assert receiver.receive(1, PATIENCE, wake) == []
    assert sorted(layer.receive_batch(["a", "b"], 10, 0)) == [("a", {"n": 2}), ("b", {"n": 2})]
    receiver.close()


def test_a_busy_receiver_gets_no_word(layer: MemoryChannelLayer) -> None:
    busy, idle = layer.receiver(["a"]), layer.receiver(["a"])
    assert busy is not None
    assert idle is not None
    busy.receive(1, 0.001)
    waiting = gevent.spawn(idle.receive, 1, PATIENCE)
    gevent.sleep(0)
    layer.send("a", {"n": 1})
    assert numbers(waiting.get(timeout=PATIENCE)) == [1]
    waiting = gevent.spawn(busy.receive, 1, PATIENCE)
    gevent.sleep(0)
    layer.send("a", {"n": 2})
    assert numbers(waiting.get(timeout=PATIENCE)) == [2]


def test_each_wait_has_all_of_its_time(layer: MemoryChannelLayer) -> None:
    receiver = layer.receiver(["a"])
    assert receiver is not None
    for n in range(6):
        gevent.spawn_later(0.1, layer.send, "a", {"n": n})
        assert numbers(receiver.receive(1, 0.4)) == [n]
    started = time.monotonic()
    assert receiver.receive(1, 0.4) == []
    assert time.monotonic() - started > 0.3


@pytest.mark.parametrize("name", ["", "two words", "p!a!b", "ä"])
def test_names_of_receivers_and_takers_are_checked(layer: MemoryChannelLayer, name: str) -> None:
    with pytest.raises(TypeError, match="not a channel name"):
        layer.receiver(["a", name])
    with pytest.raises(TypeError, match="not a channel name"):
        layer.attach(name, Taker())


def test_a_receiver_reads_all_channels_of_a_process_or_none(layer: MemoryChannelLayer) -> None:
    assert layer.receiver(["p!"]) is not None
    with pytest.raises(TypeError, match="not a channel name to receive on"):
        layer.receiver(["p!here"])
