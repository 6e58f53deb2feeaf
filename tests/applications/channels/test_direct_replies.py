"""Replies to WebSockets that are written at once, in the greenlet of the consumer or the router: order, slow clients, turns."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from greendaphne.applications.channels.looks import Looks
from greendaphne.applications.channels.reply_queue import ReplyQueue
from greendaphne.applications.channels.writers import Writers
from greendaphne.config import Timeouts
from greendaphne.core import causes, turns
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.serving.session import Session
from greendaphne.worker import Message
from tests.support.bridge import handshake, read_frame
from tests.support.server import serve
from tests.support.websocket import CLOSE, TEXT, frame

#: More than one turn of the hub takes.
MANY = 500


def layer_of(receive: Any) -> MemoryChannelLayer:
    """A layer whose workers accept every WebSocket and call ``receive`` for each message of one."""
    layer = MemoryChannelLayer(capacity=10 * MANY)
    layer.routes = {
        "websocket.connect": lambda message: message.reply({"accept": True}),
        "websocket.receive": receive,
    }
    return layer


def test_a_burst_of_all_kinds_keeps_its_order() -> None:
    """Short ones are written at once, long ones, those with more than their data, and those after many others are not."""
    layer = layer_of(burst)
    with serve(layer, inline_workers=1) as server, server.connect() as client:
        client.send(handshake())
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"go"))
        for number in range(MANY):
            opcode, payload = read_frame(client)
            assert opcode == TEXT
            assert payload.partition(b" ")[0] == b"%d" % number
        assert read_frame(client) == (CLOSE, (3001).to_bytes(2, "big"))


def burst(message: Message) -> None:
    for number in range(MANY):
        if number % 7 == 3:
            message.reply({"text": f"{number} {'x' * 10_000}"})
        elif number % 11 == 5:
            message.reply({"text": f"{number} ", "accept": True})
        else:
            message.reply({"text": f"{number} "})
        if number % 50 == 49:
            gevent.sleep(0)
    message.reply({"close": 3001})
    message.reply({"text": "too late"})


def test_a_client_that_reads_late_gets_everything_in_order() -> None:
    """Its socket's buffers fill within the burst, so that some are written at once, and the others wait."""
    number = 4000
    text = "y" * 1500

    def flood(message: Message) -> None:
        for n in range(number):
            message.reply({"text": f"{n} {text}"})
            if n % 100 == 99:
                gevent.sleep(0)

    with serve(layer_of(flood), inline_workers=1) as server, server.connect() as client:
        client.send(handshake())
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"go"))
        client.sock.settimeout(30)
        gevent.sleep(0.3)
        for n in range(number):
            opcode, payload = read_frame(client)
            if opcode == CLOSE:
                # What waits for one client is bounded.
                assert payload[:2] == (1013).to_bytes(2, "big")
                return
            assert payload.partition(b" ")[0] == b"%d" % n


def test_a_group_that_is_larger_than_a_turn() -> None:
    members = 150

    def receive(message: Message) -> None:
        message.layer.send_group("all", {"text": message.content["text"]})

    layer = layer_of(receive)

    def connect(message: Message) -> None:
        layer.group_add("all", message.content["reply_channel"])
        message.reply({"accept": True})

    assert isinstance(layer.routes, dict)
    layer.routes["websocket.connect"] = connect
    with serve(layer, inline_workers=1) as server:
        clients = [server.connect() for _ in range(members)]
        try:
            for client in clients:
                client.send(handshake())
            for client in clients:
                assert client.read_head().status == 101
            for text in (b"one", b"two"):
                clients[0].send(frame(TEXT, text))
            for client in clients:
                assert [read_frame(client) for _ in range(2)] == [(TEXT, b"one"), (TEXT, b"two")]
        finally:
            for client in clients:
                client.close()


def test_the_cause_of_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    over = Session.over

    def note(session: Session) -> None:
        ends.append(session.websocket.cause)
        over(session)

    monkeypatch.setattr(Session, "over", note)

    def flood(message: Message) -> None:
        for n in range(200_000):
            if ends:
                return
            message.reply({"text": "y" * 4000})
            if n % 50 == 49:
                gevent.sleep(0.001)

    timeouts = Timeouts(send=0.2, websocket_close=0.2, graceful=2)
    with serve(layer_of(flood), inline_workers=1, timeouts=timeouts) as server, server.connect() as client:
        client.send(handshake())
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"go"))
        with gevent.Timeout(30):
            while not ends:
                gevent.sleep(0.01)
    assert ends == [causes.CLIENT_SLOW]


# ---- the parts


def test_what_the_queue_offers() -> None:
    """Only what nothing waits before, and what is refused waits."""
    offered: list[Any] = []
    queue = ReplyQueue(10_000)

    class Taker:
        def notify(self) -> None:
            """Nothing: the queue has no other writer."""

        def write_now(self, message: Any) -> bool:
            offered.append(message["n"])
            return bool(message["n"] != 2)

    queue.direct = Taker()
    for n in range(2):
        assert queue.offer({"n": n})
    queue.put({"n": 2})
    assert queue.offer({"n": 3})
    queue.put({"n": 4})
    assert offered == [0, 1, 2]
    assert [queue.poll(), queue.poll(), queue.poll(), queue.poll()] == [{"n": 2}, {"n": 3}, {"n": 4}, None]
    queue.put({"n": 5})
    assert offered == [0, 1, 2, 5]
    queue.close()


def test_a_turn_has_an_end_and_the_hub_begins_the_next() -> None:
    writers = Writers()
    allowed = 0
    while writers.may_write():
        allowed += 1
        assert allowed < 10_000
    assert allowed >= 50
    gevent.sleep(0)
    assert writers.may_write()
    writers.close()


def test_looks_end_what_lasts_and_nothing_else() -> None:
    looks = Looks(0.1)
    seen: list[str] = []
    looks.enter("left", lambda: seen.append("left"))
    looks.leave("left")
    looks.leave("left")
    for name in ("a", "b"):
        looks.enter(name, lambda name=name: seen.append(name))  # type: ignore[misc]
    with gevent.Timeout(30):
        while len(seen) < 2:
            gevent.sleep(0.01)
    assert seen == ["a", "b"]
    # Nothing is left that a timer would be needed for.
    gevent.sleep(0.2)
    assert not looks._running
    looks.enter("again", lambda: seen.append("again"))
    with gevent.Timeout(30):
        while len(seen) < 3:
            gevent.sleep(0.01)


def test_a_wait_with_looks_ends_in_time_and_loses_nothing() -> None:
    looks = Looks(0.1)
    queue = ReplyQueue(10_000)
    with pytest.raises(TimeoutError):
        queue.get(0.1, looks)
    gevent.spawn(queue.put, {"n": 1})
    assert queue.get(0.1, looks) == {"n": 1}
    waiting = gevent.spawn(queue.get, 0.1, looks)
    gevent.sleep(0)
    waiting.kill()
    assert not looks._younger
    assert not looks._elder
    queue.put({"n": 2})
    assert queue.poll() == {"n": 2}


def test_many_waits_that_end_together_leave_the_loop_its_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    loop: Any = gevent.get_hub().loop
    passed: list[int] = []
    check = loop.check(priority=loop.MAXPRI)
    check.start(passed.append, 0)
    looks = Looks(0.02)
    seen: list[tuple[int, int]] = []
    number = 10 * turns.EVENTS_EVERY
    for key in range(number):
        looks.enter(key, lambda key=key: seen.append((key, len(passed))))  # type: ignore[misc]
    with gevent.Timeout(30):
        while not seen:
            gevent.sleep(0)
        # One that has not been called yet is taken back all the same.
        looks.leave(number - 1)
        while len(seen) < number - 1:
            gevent.sleep(0.001)
    check.stop()
    check.close()
    assert [key for key, _ in seen] == [*range(number - 1)]
    assert len({iteration for _, iteration in seen}) >= 5
    assert not looks._due
