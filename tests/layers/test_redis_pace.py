"""Where many clients are served, what a server sends and what it waits for share round trips; nothing is lost by that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from greendaphne.layers.redis import RedisChannelLayer, pace
from greendaphne.layers.redis.hub_lane import GATHER_CALLERS, HubLane
from greendaphne.layers.redis.pace import LIMIT, LONG_LIMIT, MANY_REPLIES, MULTIPLE, PROBES, Pace
from tests.support.redis_server import PATIENCE, RedisServer, in_hub, redis_server

CLIENTS = 30
ROUNDS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.client.flushall()
    server.client.config_resetstat()


class Clients:
    """Clients of one server process: each sends a request and waits for its reply, again and again.  A worker's thread answers."""

    def __init__(self, server: RedisServer) -> None:
        self.layer = RedisChannelLayer(hosts=[server.url], capacity=1000)
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._work, args=(RedisChannelLayer(hosts=[server.url], capacity=1000),))
        self._waiting: dict[str, AsyncResult[Any]] = {}
        self.received = 0

    def _work(self, layer: RedisChannelLayer) -> None:
        while not self._stop.is_set():
            for _, message in layer.receive_batch(["http.request"], 100, 0.05):
                layer.send(message["reply_channel"], {"n": message["n"]})
        layer.close()

    def route(self) -> None:
        """What the router of replies does."""
        while True:
            for channel, message in self.layer.receive_batch(["reply!"], 100, 5):
                self.received += 1
                self._waiting.pop(channel).set(message["n"])

    def ask(self, number: int, rounds: int) -> None:
        for n in range(rounds):
            channel = f"reply!client{number}.{n}"
            result: AsyncResult[Any] = AsyncResult()
            self._waiting[channel] = result
            self.layer.send("http.request", {"n": n, "reply_channel": channel})
            assert result.get(timeout=PATIENCE) == n

    def run(self, clients: int, rounds: int) -> None:
        """Have all clients answered."""
        self._worker.start()
        router = gevent.spawn(self.route)
        try:
            asking = [gevent.spawn(self.ask, number, rounds) for number in range(clients)]
            self.meanwhile(asking)
            gevent.joinall(asking, raise_error=True)
        finally:
            router.kill()
            self._stop.set()
            self._worker.join(PATIENCE)
            self.layer.close()

    def meanwhile(self, asking: list[Any]) -> None:
        """Do something while the clients ask."""


def calls(server: RedisServer, command: str) -> int:
    count: int = server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return count


def test_replies_are_taken_along_with_what_is_sent(server: RedisServer) -> None:
    clients = Clients(server)
    in_hub(lambda: clients.run(CLIENTS, ROUNDS))
    assert clients.received == CLIENTS * ROUNDS
    # Each wait of its own is one of these; a reply at a time would take one for each.
    assert calls(server, "blmove") < clients.received / 3
    # It has measured how long clients wait.
    assert 0 < clients.layer._state.pace.patience <= LONG_LIMIT


def test_a_lone_client_waits_for_nothing_but_its_reply(server: RedisServer) -> None:
    clients = Clients(server)
    in_hub(lambda: clients.run(1, ROUNDS))
    # Each reply ends one wait; the last one is of the end.
    assert calls(server, "blmove") >= ROUNDS


def test_a_flush_is_noticed_while_replies_are_taken_along(server: RedisServer) -> None:
    class Flushed(Clients):
        def meanwhile(self, asking: list[Any]) -> None:
            noticed = Event()

            def listen(event: str, data_lost: bool) -> None:
                if data_lost:
                    noticed.set()

            self.layer.add_listener(listen)
            with gevent.Timeout(PATIENCE):
                while not self.layer._lanes()[0].gathers:  # type: ignore[attr-defined]
                    gevent.sleep(0.001)
                while self.received < CLIENTS:
                    gevent.sleep(0.001)
                server.client.flushall()
                noticed.wait()
            # What was flushed is not answered.
            gevent.killall(asking)

    clients = Flushed(server)
    in_hub(lambda: clients.run(CLIENTS, 1000))
    assert clients.layer.epoch() == 1


def test_readers_that_are_killed_among_senders_lose_nothing(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=100_000)
    total = 3000
    seen: list[int] = []

    def run() -> None:
        sent = iter(range(total))

        def send() -> None:
            for n in sent:
                layer.send("reply!x", {"n": n})

        def read() -> None:
            while True:
                batch = layer.receive_batch(["reply!"], 20, 5)
                seen.extend(message["n"] for _, message in batch)
                gevent.sleep(0)

        senders = [gevent.spawn(send) for _ in range(3 * GATHER_CALLERS)]
        reader = gevent.spawn(read)
        number = 0
        with gevent.Timeout(PATIENCE):
            while not all(sender.ready() for sender in senders) or len(seen) < total:
                number += 1
                gevent.sleep(0.0005 * (number % 7))
                if number % 3 == 0:
                    reader.kill()
                    reader = gevent.spawn(read)
        reader.kill()
        layer.close()

    in_hub(run)
    assert sorted(seen) == list(range(total))


def multiple(layer: RedisChannelLayer) -> float:
    return layer._state.pace._multiple


def gathers(layer: RedisChannelLayer) -> bool:
    [lane] = layer._lanes()
    assert isinstance(lane, HubLane)
    return lane.gathers


def send_together(layer: RedisChannelLayer, channel: str, rounds: int) -> None:
    """Have many greenlets send to ``channel``, and wait for all of them."""

    def send(number: int) -> None:
        for n in range(rounds):
            layer.send(channel, {"reply_channel": f"reply!client{number}.{n}"})

    gevent.joinall([gevent.spawn(send, number) for number in range(2 * GATHER_CALLERS)], raise_error=True, timeout=PATIENCE)


def test_messages_that_find_others_waiting_for_workers_may_wait_longer(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=1000)

    def run() -> None:
        # No worker takes any of these.
        send_together(layer, "http.request", 50)
        assert multiple(layer) == MULTIPLE
        server.client.flushall()

    in_hub(run)


def test_messages_wait_for_others_while_workers_are_saturated(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=1000)

    def run() -> None:
        for number in range(100):
            # One at a time, so none is with another.
            layer.send("http.request", {"reply_channel": f"reply!{number}"})
        assert gathers(layer)
        # The workers catch up, and wait for messages again.
        for number in range(5):
            server.client.delete("asgi:http.request")
            layer.send("http.request", {"reply_channel": f"reply!{number}"})
        assert not gathers(layer)
        server.client.flushall()

    in_hub(run)


def test_a_reader_waits_in_redis_again_once_nothing_is_sent(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=1000)

    def run() -> None:
        reader = gevent.spawn(layer.receive_batch, ["reply!"], 20, 5)
        for number in range(100):
            layer.send("http.request", {"reply_channel": f"reply!{number}"})
        assert gathers(layer)
        layer.send("reply!x", {"text": "here"})
        assert reader.get(timeout=PATIENCE) == [("reply!x", {"text": "here"})]
        assert layer.receive_batch(["reply!"], 20, 0.2) == []
        assert not gathers(layer)
        server.client.flushall()

    in_hub(run)


def test_replies_that_wait_for_a_server_say_nothing_about_workers(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url], capacity=1000)
    in_hub(lambda: send_together(layer, "reply!x", 50))
    assert multiple(layer) == 1.0


def test_nothing_waits_for_others_where_workers_share_the_process(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[server.url])
    layer._state.pace._usual = 1.0
    layer.receive(["http.request"])
    layer._state.pace.sent("reply!a")
    layer._state.pace.received("reply!a")
    assert layer._state.pace.patience == 0
    # What the application has set counts.
    layer.set_patience(0.002)
    layer.receive(["websocket.receive"])
    assert layer._state.pace.patience == 0.002
    layer.close()


# The measure


def test_a_message_that_finds_no_other_waiting_shortens_the_waits() -> None:
    measured = Pace()
    measured.sent("reply!a")
    measured.received("reply!a")
    usual = measured.patience
    for _ in range(100):
        measured.queued(2)
    measured.sent("reply!b")
    measured.received("reply!b")
    assert measured.patience > 1.5 * usual
    for _ in range(100):
        measured.queued(1)
    measured.sent("reply!c")
    measured.received("reply!c")
    assert measured.patience < 1.5 * usual


def test_a_round_trip_that_brings_many_replies_shortens_the_waits() -> None:
    measured = Pace()

    def exchange() -> float:
        measured.sent("reply!a")
        measured.received("reply!a")
        return measured.patience

    usual = exchange()
    for part in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16):
        measured.took(MANY_REPLIES + 1)
        assert exchange() == pytest.approx(part * usual, rel=0.01)
    for _ in range(30):
        measured.took(MANY_REPLIES)
    assert exchange() == pytest.approx(usual, rel=0.01)


def test_the_pace_follows_a_change_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "monotonic", lambda: now)
    measured = Pace()
    for number in range(60):
        measured.sent(str(number))
        now += 0.02
        measured.received(str(number))
    assert measured.patience >= 0.002


def test_patience_follows_the_time_to_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "monotonic", lambda: now)
    measured = Pace()

    def exchanges(seconds: float) -> float:
        nonlocal now
        for number in range(500):
            measured.sent(str(number))
            now += seconds
            measured.received(str(number))
        return measured.patience

    assert exchanges(0.0001) < 0.0001
    assert 0.001 <= exchanges(0.01) <= 0.003
    assert exchanges(0.03) == LIMIT
    assert exchanges(1.5) == LONG_LIMIT
    assert exchanges(0.0001) < 0.0001
    measured.fix(0.5)
    assert exchanges(0.01) == 0.5


def test_replies_that_never_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace, "monotonic", lambda: now)
    measured = Pace()
    for number in range(1000):
        measured.sent(f"lost{number}")
    assert len(measured._probes) == PROBES
    measured.sent("late")
    measured.received("late")
    assert measured.patience == 0
    now += 2
    measured.sent("seen")
    now += 0.02
    measured.received("seen")
    assert measured.patience > 0
    assert not measured._probes
