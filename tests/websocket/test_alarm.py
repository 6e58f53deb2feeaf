"""The alarms of WebSockets: one timer for all of a hub."""

from __future__ import annotations

from itertools import pairwise
from textwrap import dedent
from time import monotonic

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greendaphne.websocket import alarm as module
from greendaphne.websocket.alarm import GRAIN, Alarm, Woken
from tests.support.scripts import run_script

PATIENCE = 30.0


def wait(alarm: Alarm) -> float:
    """Wait until ``alarm`` rings; returns when it did."""
    alarm.waiting = gevent.getcurrent()
    try:
        with gevent.Timeout(PATIENCE):
            gevent.get_hub().switch()
    except Woken:
        return monotonic()
    finally:
        alarm.waiting = None
    raise AssertionError("woken by something else")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-0.01, 0.1), min_size=1, max_size=20))
def test_alarms_ring_in_time_and_never_early(delays: list[float]) -> None:
    now = monotonic()
    alarms = []
    for delay in delays:
        alarm = Alarm()
        alarm.set(now + delay, now)
        assert now + delay < alarm.at <= max(now, now + delay) + GRAIN
        alarms.append(alarm)
    due = [alarm.at for alarm in alarms]
    waits = [gevent.spawn(wait, alarm) for alarm in alarms]
    gevent.joinall(waits, timeout=PATIENCE, raise_error=True)
    assert all(waiting.get() >= at for waiting, at in zip(waits, due, strict=True))
    # In order, whatever the order in which they were set.
    rung = sorted((at, waiting.get()) for waiting, at in zip(waits, due, strict=True))
    for (early, first), (late, second) in pairwise(rung):
        assert early == late or first <= second


def test_a_greenlet_that_waits_can_be_woken_before_its_alarm_rings() -> None:
    alarm = Alarm()
    # None waits.
    alarm.wake()
    waiting = gevent.spawn(wait, alarm)
    gevent.sleep(0)
    alarm.wake()
    assert waiting.get(timeout=PATIENCE) <= monotonic()


def test_an_alarm_that_was_stopped_or_set_anew_rings_at_no_other_time() -> None:
    now = monotonic()
    stopped, moved, last = Alarm(), Alarm(), Alarm()
    stopped.set(now + 0.02, now)
    stopped.stop()
    moved.set(now + 0.15, now)
    moved.set(now + 0.05, now)
    last.set(now + 0.25, now)
    rung: list[str] = []

    def note(name: str, alarm: Alarm) -> None:
        while True:
            wait(alarm)
            rung.append(name)

    notes = [gevent.spawn(note, "stopped", stopped), gevent.spawn(note, "moved", moved)]
    wait(last)
    gevent.killall(notes)
    assert rung == ["moved"]


def test_an_alarm_that_is_set_again_is_entered_once() -> None:
    now = monotonic()
    alarm = Alarm()
    for _ in range(1000):
        alarm.set(now + 0.05, now)
    clock = module._clocks[gevent.get_hub()]
    assert sum(each is alarm for alarms in clock._alarms.values() for each in alarms) == 1
    assert wait(alarm) > now + 0.05


def test_a_far_alarm_rings_early_rather_than_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.05)
    alarm, closed = Alarm(), Alarm()
    now = monotonic()
    alarm.set(now + 86400, now)
    assert alarm.at < now + 1
    closed.set(now + 86400, now)
    closed.stop()
    wait(alarm)
    last = Alarm()
    last.set(monotonic(), monotonic())
    wait(last)
    clock = module._clocks[gevent.get_hub()]
    assert not any(closed in alarms for alarms in clock._alarms.values())


def test_a_greenlet_that_fails_takes_no_alarm_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = monotonic()

    class Raising(Alarm):
        def ring(self) -> None:
            raise LookupError("rung")

    raising, alarm = Raising(), Alarm()
    raising.set(now + 0.02, now)
    alarm.set(now + 0.06, now)
    errors = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *details: errors.append(details[1]))
    wait(alarm)
    assert errors == [LookupError]


def test_many_alarms_of_one_time_leave_the_loop_to_others() -> None:
    """Greenlets that work when they are woken: other greenlets run between two of them."""
    now = monotonic()
    alarms = [Alarm() for _ in range(20)]
    for alarm in alarms:
        alarm.set(now + 0.02, now)
    rung = 0
    seen: list[int] = []

    def work(alarm: Alarm) -> None:
        nonlocal rung
        wait(alarm)
        rung += 1
        end = monotonic() + 0.003
        while monotonic() < end:
            pass

    def other() -> None:
        while rung < len(alarms):
            seen.append(rung)
            gevent.sleep(0.0001)

    workers = [gevent.spawn(work, alarm) for alarm in alarms]
    gevent.spawn(other)
    gevent.joinall(workers, timeout=PATIENCE, raise_error=True)
    assert len({number for number in seen if 0 < number < len(alarms)}) >= 5, seen


def test_a_clock_goes_with_its_hub() -> None:
    """Also where alarms are still set."""
    source = """
        import gc
        from time import monotonic, sleep
        import gevent
        from gevent.monkey import get_original
        from greendaphne.websocket import alarm as module

        ended = get_original("_thread", "allocate_lock")()
        ended.acquire()

        def run():
            try:
                now = monotonic()
                module.Alarm().set(now + 30, now)
                assert len(module._clocks) == 1
                gevent.get_hub().destroy(destroy_loop=True)
            finally:
                ended.release()

        get_original("_thread", "start_new_thread")(run, ())
        ended.acquire()
        # The thread's hub goes with the rest of the thread.
        end = monotonic() + 30
        while module._clocks and monotonic() < end:
            gc.collect()
            sleep(0.01)
        print(len(module._clocks))
    """
    assert run_script(dedent(source)) == "0"
