"""Turns of the event loop: greenlets that gave way leave time for all others, in order, and survive being killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greendaphne.core.rates import Patience
from greendaphne.core.turns import EVENTS_EVERY, LOOK_EVERY, SHORT_READ, TURN_SECONDS, Events, Turn, events


def busy(seconds: float) -> None:
    end = monotonic() + seconds
    while monotonic() < end:
        pass


def test_many_busy_greenlets_leave_others_their_turn() -> None:
    """Each iteration of the loop gives them one turn together, not one each."""
    done: list[int] = []

    def work(number: int) -> None:
        turn = Turn()
        for _ in range(400):
            busy(TURN_SECONDS / LOOK_EVERY)
            turn.spend()
        done.append(number)

    greenlets = [gevent.spawn(work, number) for number in range(10)]
    # 125 turns; a loop that ran one of each greenlet's in every iteration would take 13.
    iterations = 0
    while len(done) < 10:
        gevent.sleep(0.0001)
        iterations += 1
    gevent.joinall(greenlets, raise_error=True)
    assert iterations > 40


def test_work_that_fits_in_a_turn_does_not_wait() -> None:
    turn = Turn()
    turn.give_way()
    switched: list[bool] = []

    def other() -> None:
        switched.append(True)

    gevent.spawn(other)
    for _ in range(LOOK_EVERY - 1):
        turn.spend()
    assert not switched


def test_the_next_event_checks_the_clock_after_a_turn_has() -> None:
    """What one connection did before its first check, seven others do not do in the same iteration unseen."""
    counted = events()
    counted.left = EVENTS_EVERY
    turn = Turn()
    turn.spend(LOOK_EVERY - 1)
    assert counted.left == EVENTS_EVERY
    turn.spend()
    assert counted.left == 0


def test_a_short_read_begins_a_turn() -> None:
    turn = Turn()
    turn.left = 1
    turn.received(SHORT_READ)
    assert turn.left == 1
    turn.received(SHORT_READ - 1)
    assert turn.left == LOOK_EVERY


def test_a_turn_that_is_over_says_so_without_waiting() -> None:
    turn = Turn()
    turn.give_way()
    busy(TURN_SECONDS)
    assert not turn.over(LOOK_EVERY - 1)
    assert turn.over(1)


@pytest.mark.parametrize("error", [gevent.GreenletExit, ValueError])
def test_a_greenlet_killed_while_it_waits_disturbs_no_other(error: type[BaseException]) -> None:
    reached: list[str] = []
    started = Event()

    def work(name: str) -> None:
        turn = Turn()
        started.set()
        turn.give_way()
        reached.append(name)

    first, second = gevent.spawn(work, "first"), gevent.spawn(work, "second")
    started.wait()
    first.kill(error, block=False)
    gevent.joinall([first, second])
    assert reached in (["second"], ["first", "second"])
    assert second.successful()


def test_hubs_have_queues_of_their_own() -> None:
    results: list[Any] = []

    def thread() -> None:
        turn = Turn()
        turn.give_way()
        results.append(turn)
        gevent.get_hub().destroy(destroy_loop=True)

    from threading import Thread

    threads = [Thread(target=thread) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert len(results) == 3


def test_patience_is_a_sliding_window() -> None:
    patience = Patience(60, 256)
    # A megabyte at once buys nothing.
    patience.moved(2**20)
    assert patience.left == 60
    patience.waited(59)
    patience.moved(256 * 10)
    assert patience.left == pytest.approx(11)
    # A drip does not keep up.
    for _ in range(2):
        patience.waited(5)
        patience.moved(1)
    assert patience.left == pytest.approx(1, abs=0.01)
    patience.waited(2)
    assert patience.left < 0


def iterations(hub: Any, seen: list[int], done: Callable[[], bool]) -> None:
    """Append an item to ``seen`` in each iteration of the loop, until ``done``."""
    check = hub.loop.check(priority=hub.loop.MAXPRI)
    check.start(seen.append, 0)
    try:
        while not done():
            gevent.sleep(0.001)
    finally:
        check.stop()
        check.close()


def test_events_of_many_connections_share_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the callbacks of one iteration continue is bounded; the rest goes on in the next ones, in the order of its events."""
    from greendaphne.core import turns

    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    hub = gevent.get_hub()
    limit = Events(hub.loop)
    done: list[tuple[int, int]] = []
    seen: list[int] = []

    def resume(number: int) -> None:
        done.append((number, len(seen)))

    def event(number: int) -> None:
        limit.left -= 1
        if limit.left > 0 or not limit.late():
            resume(number)
        else:
            limit.add(partial(resume, number))

    for number in range(10):
        hub.loop.run_callback(event, number)
    iterations(hub, seen, lambda: len(done) == 10)
    assert [number for number, _ in done] == [*range(10)]
    # The first check of the clock begins the measurement, and the second one finds the time over.
    at_once = 2 * EVENTS_EVERY - 1
    assert len({iteration for _, iteration in done[:at_once]}) == 1
    later = [iteration for _, iteration in done[at_once:]]
    assert len({*later, done[0][1]}) == len(later) + 1


def test_a_greenlet_waits_for_an_iteration_with_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from greendaphne.core import turns

    hub = gevent.get_hub()
    limit = Events(hub.loop)
    seen: list[int] = []
    at: list[int] = []

    def work() -> None:
        for _ in range(10 * EVENTS_EVERY):
            limit.wait()
            at.append(len(seen))

    gevent.spawn(work)
    iterations(hub, seen, lambda: len(at) == 10 * EVENTS_EVERY)
    assert len(set(at)) == 1
    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    at.clear()
    gevent.spawn(work)
    iterations(hub, seen, lambda: len(at) == 10 * EVENTS_EVERY)
    assert len(set(at)) >= 5


def test_an_error_does_not_stop_the_events_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "handle_error", lambda *args: None)
    limit = Events(hub.loop)
    done = Event()

    def fail() -> None:
        raise LookupError

    limit.add(fail)
    limit.add(done.set)
    assert done.wait(20)
    done.clear()
    limit.add(done.set)
    assert done.wait(20)
