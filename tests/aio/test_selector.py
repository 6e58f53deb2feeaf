"""HubSelector keeps to what the selectors of the standard library do, while other greenlets run."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.monkey import get_original

from greendaphne.aio.hub import AsyncioHub
from greendaphne.aio.selector import HubSelector

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# gevent's own puts it off until the hub has gone round.
_close = get_original("os", "close")
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def selector(hub: AsyncioHub, limit: None) -> Iterator[HubSelector]:
    made = HubSelector()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def events(selector: HubSelector, timeout: float | None = None) -> dict[object, int]:
    return {key.data: found for key, found in selector.select(timeout)}


def test_a_descriptor_that_is_ready(selector: HubSelector, pair: Pair) -> None:
    key = selector.register(pair[0], READ, "left")
    assert (key.fd, key.events, key.data) == (pair[0].fileno(), READ, "left")
    assert events(selector, 0) == {}
    pair[1].send(b"x")
    assert events(selector) == {"left": READ}


def test_readiness_is_level_triggered(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ, "left")
    pair[1].send(b"xy")
    for _ in range(3):
        assert events(selector) == {"left": READ}
    pair[0].recv(1)
    assert events(selector) == {"left": READ}
    pair[0].recv(1)
    assert events(selector, 0) == {}
    assert events(selector, 0) == {}


def test_a_round_without_a_wait_sees_what_is_ready(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ, "left")
    selector.register(pair[1], READ, "right")
    pair[1].send(b"x")
    pair[0].send(b"x")
    assert events(selector, 0) == {"left": READ, "right": READ}


def test_reading_and_writing_on_one_descriptor(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ, "r")
    assert events(selector, 0) == {}
    assert selector.modify(pair[0], READ | WRITE, "rw").events == READ | WRITE
    assert events(selector) == {"rw": WRITE}
    pair[1].send(b"x")
    assert events(selector) == {"rw": READ | WRITE}
    selector.modify(pair[0], READ, "r")
    assert events(selector) == {"r": READ}
    selector.modify(pair[0], WRITE, "w")
    assert events(selector) == {"w": WRITE}


def test_modify_changes_data_alone(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], WRITE, "before")
    selector.modify(pair[0], WRITE, "after")
    assert selector.get_key(pair[0]).data == "after"
    assert events(selector) == {"after": WRITE}


def test_modify_refuses_wrong_events(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ)
    for wrong in (0, 8):
        with pytest.raises(ValueError, match="Invalid events"):
            selector.modify(pair[0], wrong)
    with pytest.raises(KeyError):
        selector.modify(pair[1], READ)


def test_unregistered_descriptors_are_not_returned(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ, "left")
    pair[1].send(b"x")
    # The event is there, but nothing has asked for it.
    gevent.sleep(0.01)
    selector.unregister(pair[0])
    assert events(selector, 0) == {}
    with pytest.raises(KeyError):
        selector.unregister(pair[0])


def test_an_event_that_nothing_asks_for_any_more(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ | WRITE, "left")
    gevent.sleep(0.01)
    selector.modify(pair[0], READ, "left")
    assert events(selector, 0) == {}


def test_a_closed_descriptor_is_refused(selector: HubSelector, pair: Pair) -> None:
    fd = pair[0].detach()
    _close(fd)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        selector.register(fd, READ)
    assert caught.value.errno == errno.EBADF
    assert fd not in selector.get_map()


def test_a_descriptor_closed_while_it_is_watched_can_be_unregistered_and_used_again(selector: HubSelector) -> None:
    for _ in range(3):
        left, right = socket.socketpair()
        with left, right:
            selector.register(left, READ, "left")
            right.send(b"x")
            assert events(selector) == {"left": READ}
            fd = left.fileno()
        selector.unregister(fd)
    assert events(selector, 0) == {}


def test_a_closed_descriptor_does_not_keep_the_hub_busy(selector: HubSelector, pair: Pair) -> None:
    reading, writing = os.pipe()
    selector.register(reading, READ, "gone")
    assert events(selector, 0) == {}
    _close(reading)
    _close(writing)
    # Its number is free; the kernel forgets it without a word.
    rounds = 0
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        selector.select(0.05)
        rounds += 1
    assert rounds < 10
    selector.unregister(reading)


def test_the_end_of_a_pipe_is_readable(selector: HubSelector) -> None:
    reading, writing = os.pipe()
    try:
        selector.register(reading, READ, "pipe")
        _close(writing)
        assert events(selector) == {"pipe": READ}
    finally:
        selector.unregister(reading)
        _close(reading)


def test_the_time_limit(selector: HubSelector) -> None:
    for seconds in (0.02, 0.01, 0.03):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            assert selector.select(left) == []
    assert selector.select(0) == []
    assert selector.select(-1) == []


def test_other_greenlets_run_while_it_waits(selector: HubSelector, pair: Pair) -> None:
    selector.register(pair[0], READ, "left")
    gevent.spawn(pair[1].send, b"x")
    assert events(selector) == {"left": READ}


def test_other_greenlets_run_in_a_round_without_a_wait(selector: HubSelector) -> None:
    done: list[int] = []
    gevent.spawn(done.append, 1)
    selector.select(0)
    assert done == [1]


def test_wake_ends_a_wait(selector: HubSelector) -> None:
    gevent.spawn(selector.wake)
    assert selector.select() == []
    # Before the wait, too, and once.
    selector.wake()
    selector.wake()
    assert selector.select() == []
    gevent.spawn(selector.wake)
    assert selector.select() == []


def test_descriptors_registered_while_it_waits(selector: HubSelector, pair: Pair) -> None:
    gevent.spawn(selector.register, pair[0], WRITE, "late")
    assert events(selector) == {"late": WRITE}


def test_a_greenlet_that_is_killed_in_it_is_not_called_again(selector: HubSelector) -> None:
    reached: list[str] = []

    def wait() -> None:
        try:
            selector.select()
        except gevent.GreenletExit:
            # In here it waits for something else.
            gevent.sleep(0.01)
            reached.append("slept")

    greenlet = gevent.spawn(wait)
    gevent.sleep(0)
    started = time.monotonic()
    greenlet.kill(block=False)
    selector.wake()
    greenlet.join()
    assert reached == ["slept"]
    assert time.monotonic() - started >= 0.009


def test_close_stops_everything(hub: AsyncioHub, pair: Pair, limit: None) -> None:
    selector = HubSelector()
    selector.register(pair[0], READ)
    selector.select(0.001)
    selector.close()
    pair[1].send(b"x")
    gevent.sleep(0.005)
    with pytest.raises((RuntimeError, KeyError)):
        selector.get_key(pair[0])
