"""Replies on their way to clients: those that wait while the disk is slow, and how long others may be left to gather in the layer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greendaphne.applications.channels.reply_queue import Overflow, ReplyQueue
from greendaphne.config import Limits
from greendaphne.core.accounts import Allowance
from greendaphne.core.message import ClientDisconnected
from greendaphne.serving.spool import Spool
from tests.support.redis_server import in_hub
from tests.support.server import PATIENCE, serve
from tests.support.settling import settle_reply_queue

LAST_CHUNK = b"0\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class SlowDisk:
    """Writes that have begun wait in their threads until they are let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        write = os.pwrite

        def slow(descriptor: int, data: bytes, offset: int) -> int:
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            return write(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", slow)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def piece(number: int, size: int = 1_500) -> dict[str, Any]:
    return {"content": bytes([number]) * size, "number": number}


def while_writing(disk: SlowDisk, meanwhile: Callable[[ReplyQueue], None]) -> tuple[ReplyQueue, Allowance]:
    """Fill a reply queue until the disk is asked, do something else as long as that takes, and let the disk go on."""
    allowance = Allowance(1_000_000)
    box = ReplyQueue(2_000, Spool(allowance))

    def fill() -> None:
        for number in range(4):
            box.put(piece(number))

    router = gevent.spawn(fill)
    while not disk.begun.is_set():
        gevent.sleep(0.001)
    # Others' replies do not wait for this disk.
    assert router.ready()
    meanwhile(box)
    disk.go_on.set()
    settle_reply_queue(box)
    return box, allowance


def test_a_slow_disk_keeps_the_order(disk: SlowDisk) -> None:
    def run() -> None:
        box, allowance = while_writing(disk, lambda box: None)
        assert [box.get(0) for _ in range(4)] == [piece(number) for number in range(4)]
        assert allowance.left == allowance.size

    in_hub(run)


def test_a_reply_is_taken_while_it_is_written(disk: SlowDisk) -> None:
    """It is still in memory, and what is on disk then serves nobody."""

    def run() -> None:
        received: list[Any] = []
        box, allowance = while_writing(disk, lambda box: received.extend(box.get(0) for _ in range(2)))
        received.extend(box.get(0) for _ in range(2))
        assert received == [piece(number) for number in range(4)]
        assert allowance.left == allowance.size

    in_hub(run)


def test_a_client_waits_while_its_reply_is_written(disk: SlowDisk) -> None:
    def run() -> None:
        received: list[Any] = []
        waiting: list[gevent.Greenlet[..., None]] = []

        def take(box: ReplyQueue) -> None:
            def take_all() -> None:
                received.extend(box.get(PATIENCE) for _ in range(4))

            waiting.append(gevent.spawn(take_all))
            gevent.sleep(0)

        _, allowance = while_writing(disk, take)
        waiting[0].get(timeout=PATIENCE)
        assert received == [piece(number) for number in range(4)]
        assert allowance.left == allowance.size

    in_hub(run)


@pytest.mark.parametrize("how", ["close", "abandon"])
def test_a_client_leaves_while_its_reply_is_written(disk: SlowDisk, how: str) -> None:
    def run() -> None:
        box, allowance = while_writing(disk, lambda box: getattr(box, how)())
        if how == "abandon":
            # What waits is of no use any more.
            assert allowance.left == allowance.size
            with pytest.raises(ClientDisconnected):
                box.get(0)
            box.close()
        assert allowance.left == allowance.size
        box.put(piece(9))
        assert box.poll() is None

    in_hub(run)


def test_a_write_that_fails_late_is_an_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there is delivered before it."""

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "pwrite", full)

    def run() -> None:
        allowance = Allowance(1_000_000)
        box = ReplyQueue(2_000, Spool(allowance))
        for number in range(4):
            box.put(piece(number))
        settle_reply_queue(box)
        assert [box.get(0)["number"] for _ in range(2)] == [0, 1]
        with pytest.raises(Overflow):
            box.get(0)
        box.close()
        assert allowance.left == allowance.size

    in_hub(run)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3_000), st.none()), max_size=60))
def test_whatever_is_put_and_taken_comes_in_order(steps: list[int | None]) -> None:
    """A number puts a piece of that size, ``None`` takes what is next."""
    wanted, found = b"", b""

    def run() -> None:
        nonlocal wanted, found
        allowance = Allowance(1_000_000)
        box = ReplyQueue(4_000, Spool(allowance))
        for number, size in enumerate(steps):
            if size is None:
                settle_reply_queue(box)
                found += (box.poll() or {}).get("content", b"")
            else:
                content = bytes([number]) * size
                wanted += content
                box.put({"content": content, "more_content": True})
        settle_reply_queue(box)
        while (message := box.poll()) is not None:
            found += message["content"]
        assert allowance.left == allowance.size

    in_hub(run)
    assert found == wanted


def test_a_slow_disk_holds_up_no_other_work(disk: SlowDisk) -> None:
    """A download waits for it, and the replies behind it; the server still reads and refuses, and loses nothing."""
    with serve(limits=Limits(reply_queue=100_000)) as server, server.connect() as slow, server.connect() as other:
        slow.send(GET)
        message = server.app.request()
        server.app.reply(message, status=200, more_content=True)
        slow.read_head()
        # More than the sockets between take while nobody reads.
        content = bytes(range(256)) * 4_000
        sent = 0
        while not disk.begun.is_set():
            try:
                server.app.reply(message, content=content, more_content=True)
                sent += 1
            except server.layer.ChannelFull:
                assert disk.begun.wait(PATIENCE)
        other.send(b"nonsense\r\n\r\n")
        assert other.read_response().status == 400
        disk.go_on.set()
        received = bytearray(slow.buffer)
        server.app.reply(message, content=b"")
        while not received.endswith(LAST_CHUNK):
            received += slow.sock.recv(1 << 20)
        assert dechunked(bytes(received)) == content * sent


def dechunked(data: bytes) -> bytes:
    """The content of a chunked body."""
    content = []
    position = 0
    while data[position : position + len(LAST_CHUNK)] != LAST_CHUNK:
        line = data.index(b"\r\n", position)
        begin, length = line + 2, int(data[position:line], 16)
        assert length
        position = begin + length + 2
        assert data[begin + length : position] == b"\r\n"
        content.append(data[begin : begin + length])
    assert position + len(LAST_CHUNK) == len(data)
    return b"".join(content)


# ---- waits that other events end


def test_a_reply_that_comes_with_an_exception_disturbs_no_later_wait() -> None:
    class Interrupted(Exception):
        pass

    hub = gevent.get_hub()
    ended: list[object] = []

    def wait(reply_queue: ReplyQueue, add: Callable[[dict[str, Any]], object]) -> None:
        waiter = gevent.getcurrent()
        # In this order: the exception is raised before the reply's callback has its turn.
        hub.loop.run_callback(waiter.throw, Interrupted())
        hub.loop.run_callback(add, {"number": 1})
        try:
            reply_queue.get(PATIENCE)
        except Interrupted:
            gevent.spawn(hub.loop.run_callback, waiter.switch, "another event")
            ended.append(hub.switch())

    for name in ("put", "offer"):
        reply_queue = ReplyQueue(10_000)
        add = getattr(reply_queue, name)
        early = ReplyQueue(10_000)
        gevent.spawn(wait, reply_queue, add).join(PATIENCE)
        greenlet = gevent.spawn(_interrupted_behind_the_reply, early, getattr(early, name), Interrupted, ended)
        greenlet.join(PATIENCE)
        assert greenlet.successful()
    assert ended == ["another event"] * 4


def _interrupted_behind_the_reply(
    reply_queue: ReplyQueue, add: Callable[[dict[str, Any]], object], kind: type[Exception], ended: list[object]
) -> None:
    """The exception is raised between the reply and its callback."""
    hub = gevent.get_hub()
    waiter = gevent.getcurrent()

    def both() -> None:
        add({"number": 1})
        waiter.throw(kind())

    hub.loop.run_callback(both)
    try:
        reply_queue.get(PATIENCE)
    except kind:
        gevent.spawn(hub.loop.run_callback, waiter.switch, "another event")
        ended.append(hub.switch())


@pytest.mark.parametrize("value", [None, True, (), "late"])
def test_another_event_ends_no_wait_for_a_reply(value: object) -> None:
    reply_queue = ReplyQueue(10_000)
    hub = gevent.get_hub()
    waiter = gevent.spawn(reply_queue.get, PATIENCE)
    gevent.sleep(0)
    for _ in range(3):
        hub.loop.run_callback(waiter.switch, value)
        gevent.sleep(0)
        gevent.sleep(0)
    assert not waiter.ready()
    reply_queue.put({"number": 1})
    assert waiter.get(timeout=PATIENCE) == {"number": 1}
