"""Kept greenlets: used again, and nothing of one function is there in the next."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, ref

import gevent
import pytest
from gevent.event import Event
from gevent.local import local

from greendaphne.core import greenlets as module
from greendaphne.core.greenlets import Greenlets, Task

variable: ContextVar[str] = ContextVar("variable", default="nothing")
storage = local()

Run = Callable[..., Any]


def done(task: Task) -> bool:
    return task.done


@pytest.fixture
def kept() -> Iterator[Greenlets]:
    greenlets = Greenlets()
    yield greenlets
    gevent.spawn(greenlets.close).get(timeout=20)


@pytest.fixture(params=["call", "spawn"])
def run(request: pytest.FixtureRequest, kept: Greenlets) -> Run:
    """Runs a function to its end in a kept greenlet, in either way."""

    def spawn(function: Run, *arguments: Any) -> None:
        task = kept.spawn(function, *arguments)
        task.join()
        assert task.done

    return kept.call if request.param == "call" else spawn


@pytest.fixture
def made(kept: Greenlets, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an entry for each greenlet that is made beside the first."""
    numbers: list[int] = []

    class Counted(module._Worker):
        __slots__ = ()

        def __init__(self, owner: Greenlets) -> None:
            super().__init__(owner)
            numbers.append(len(numbers))

    monkeypatch.setattr(module, "_Worker", Counted)
    return numbers


def test_used_again(run: Run, kept: Greenlets) -> None:
    seen: set[int] = set()

    def work() -> None:
        seen.add(id(gevent.getcurrent()))
        gevent.sleep(0)

    for _ in range(100):
        run(work)
        gevent.sleep(0)
    assert len(seen) == len(kept.idle) == 1


def test_no_context_locals_or_attributes_of_the_one_before(run: Run, kept: Greenlets) -> None:
    temporary: list[Any] = []

    def work(number: int) -> None:
        current: Any = gevent.getcurrent()
        assert variable.get() == "nothing"
        assert not hasattr(storage, "value")
        assert not hasattr(current, "value")
        variable.set(str(number))
        storage.value = number
        current.value = number
        short_lived = local()
        short_lived.value = 1
        gevent.sleep(0)
        assert (variable.get(), storage.value, current.value) == (str(number), number, number)
        temporary.append(number)

    for number in range(20):
        run(work, number)
    assert temporary == list(range(20))
    assert not kept.idle[-1]._links


def test_no_thread_of_the_one_before(run: Run) -> None:
    from gevent.threading import _DummyThread  # type: ignore[import-not-found]

    before = len(threading._active)  # type: ignore[attr-defined]
    names = []

    def work() -> None:
        thread: Any = _DummyThread()
        assert not hasattr(thread, "mark")
        thread.mark = 1
        names.append(thread.name)

    for _ in range(5):
        run(work)
    assert len(names) == 5
    assert len(threading._active) == before  # type: ignore[attr-defined]


def test_a_timeout_that_was_not_cancelled_meets_no_other(run: Run, kept: Greenlets) -> None:
    timeouts = []
    outcomes = []

    def leave() -> None:
        timeout = gevent.Timeout(0.01)
        timeout.start()
        timeouts.append(timeout)

    def work() -> None:
        gevent.sleep(0.05)
        outcomes.append("slept")

    for _ in range(3):
        run(leave)
        run(work)
    assert outcomes == ["slept"] * 3


def test_a_timeout_that_rings_while_its_greenlet_is_idle_ends_that(run: Run, kept: Greenlets) -> None:
    def leave() -> None:
        kept_alive.append(gevent.Timeout.start_new(0.001))

    kept_alive: list[Any] = []
    run(leave)
    end = time.monotonic() + 20
    while kept.idle:
        assert time.monotonic() < end
        gevent.sleep(0.001)
    run(lambda: None)
    assert len(kept.idle) == 1


def test_a_reference_to_the_last_one_only_ends_none(run: Run, made: list[int]) -> None:
    last: list[Any] = [None]

    def work() -> None:
        last[0] = gevent.getcurrent()

    for _ in range(20):
        run(work)
    assert len(made) == 1


@pytest.mark.parametrize("kind", [dict, WeakKeyDictionary])
def test_a_dict_with_greenlets_as_keys_sees_new_ones(kind: Any, run: Run) -> None:
    values = kind()

    def work(number: int) -> None:
        current = gevent.getcurrent()
        assert current not in values
        values[current] = number

    for number in range(10):
        run(work, number)


def test_a_late_switch_wakes_no_other(run: Run, kept: Greenlets) -> None:
    hub = gevent.get_hub()

    def leave() -> None:
        hub.loop.run_callback(gevent.getcurrent().switch, "late")

    def work() -> None:
        outcomes.append(hub_wait())

    def hub_wait() -> Any:
        event = Event()
        gevent.spawn_later(0.01, event.set)
        return event.wait(20)

    outcomes: list[Any] = []
    for _ in range(3):
        run(leave)
        run(work)
    assert outcomes == [True] * 3


def test_nothing_is_held_for_the_ended(run: Run) -> None:
    class Thing:
        pass

    things = []

    def work(thing: Thing) -> None:
        things.append(ref(thing))
        storage.value = thing

    run(work, Thing())
    gevent.sleep(0)
    gc.collect()
    assert things[0]() is None


def test_exceptions_of_a_call_pass(kept: Greenlets) -> None:
    def fail() -> None:
        storage.value = 1
        raise LookupError("x")

    for _ in range(3):
        with pytest.raises(LookupError, match="x"):
            kept.call(fail)
    assert len(kept.idle) == 1


def test_exceptions_of_a_task_are_printed(kept: Greenlets, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(kept.hub, "handle_error", lambda *arguments: reports.append(arguments[1:3]), raising=False)

    def fail(error: BaseException) -> None:
        raise error

    error = LookupError("x")
    kept.spawn(fail, error).join()
    kept.spawn(fail, gevent.GreenletExit()).join()
    gevent.sleep(0)
    assert reports == [(LookupError, error)]


def test_many_at_a_time(kept: Greenlets) -> None:
    results: list[tuple[int, str]] = []

    def work(number: int) -> None:
        variable.set(str(number))
        storage.value = number
        if number < module.KEPT + 10:
            begun.append(number)
            go.wait()
        gevent.sleep(0.001 * (number % 3))
        results.append((storage.value, variable.get()))

    begun: list[int] = []
    go = Event()
    tasks = [kept.spawn(work, number) for number in range(module.KEPT + 50)]
    while len(begun) < module.KEPT + 10:
        gevent.sleep(0)
    go.set()
    for task in tasks:
        task.join()
    assert sorted(results) == [(number, str(number)) for number in range(module.KEPT + 50)]
    gevent.sleep(0)
    assert len(kept.idle) == module.KEPT


@pytest.mark.parametrize("seconds", [20, 0])
def test_functions_in_a_row_need_no_switch(seconds: float, kept: Greenlets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_SECONDS", seconds)
    seen: list[Any] = []

    def work() -> None:
        seen.append(id(gevent.getcurrent()))

    number = 2 * module.IN_A_ROW
    tasks = [kept.spawn(work) for _ in range(number)]
    # Other callbacks of the hub have their turn when the time is over.
    kept.hub.loop.run_callback(seen.append, "hub")
    for task in tasks:
        task.join()
    assert seen.index("hub") == (number if seconds else module.IN_A_ROW)
    seen.remove("hub")
    assert len(seen) == number
    assert len(set(seen)) == 1


def test_long_rows_leave_the_loop_to_its_sockets(kept: Greenlets) -> None:
    """gevent runs up to fifty callbacks before it polls; each may not be one more row of functions."""
    iterations: Counter[int] = Counter()

    def work() -> None:
        ends = time.monotonic() + module.ROW_SECONDS / module.IN_A_ROW
        iterations[kept.hub.loop.iteration] += 1
        while time.monotonic() < ends:
            pass

    number = 10 * module.IN_A_ROW
    for task in [kept.spawn(work) for _ in range(number)]:
        task.join()
    assert iterations.total() == number
    # One row takes all the time that there is; the first iteration may have begun before.
    assert max(iterations.values()) <= 2 * module.IN_A_ROW


def test_functions_that_wait_for_an_iteration_outlast_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_SECONDS", 0)
    done: list[int] = []
    kept = Greenlets()
    tasks = [kept.spawn(done.append, number) for number in range(3 * module.IN_A_ROW)]
    tasks[0].join()
    assert len(done) < len(tasks)
    kept.close()
    tasks[-1].join()
    assert done == list(range(3 * module.IN_A_ROW))


def test_what_a_function_of_a_row_spawns_comes_after_other_callbacks(kept: Greenlets) -> None:
    order: list[str] = []

    def work() -> None:
        order.append("first")
        kept.spawn(order.append, "third").join()

    task = kept.spawn(work)
    kept.hub.loop.run_callback(order.append, "second")
    task.join()
    assert order == ["first", "second", "third"]


def test_no_state_is_passed_on_in_a_row(kept: Greenlets) -> None:
    seen: list[Any] = []
    ended: list[int] = []

    def work(number: int) -> None:
        current: Any = gevent.getcurrent()
        seen.append((id(current), variable.get(), hasattr(storage, "value"), hasattr(current, "note"), ended[:]))
        variable.set(str(number))
        storage.value = number
        current.note = number
        current.rawlink(lambda _: ended.append(number))

    for task in [kept.spawn(work, number) for number in range(3)]:
        task.join()
    (own,) = {one[0] for one in seen}
    assert seen == [(own, "nothing", False, False, []), (own, "nothing", False, False, [0]), (own, "nothing", False, False, [0, 1])]


def test_a_greenlet_that_others_know_ends_its_row(kept: Greenlets) -> None:
    known: list[Any] = []
    others: list[Any] = []
    first = kept.spawn(lambda: known.append(gevent.getcurrent()))
    second = kept.spawn(lambda: others.append(gevent.getcurrent() in known))
    first.join()
    second.join()
    assert others == [False]


def test_a_row_goes_on_while_one_waits_and_after_an_error(kept: Greenlets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept.hub, "handle_error", lambda *args: None)
    go = Event()
    order: list[int] = []

    def fail() -> None:
        raise LookupError

    first = kept.spawn(go.wait)
    kept.spawn(fail)
    tasks = [kept.spawn(order.append, number) for number in range(3)]
    killed = kept.spawn(order.append, 3)
    killed.kill()
    tasks[-1].join()
    killed.join()
    assert order == [0, 1, 2]
    assert not done(first)
    go.set()
    first.join()


@pytest.mark.parametrize("swallow", [False, True])
def test_a_kill_reaches_the_function(swallow: bool, kept: Greenlets) -> None:
    events: list[str] = []

    def work() -> None:
        try:
            gevent.sleep(100)
        except gevent.GreenletExit:
            gevent.sleep(0.01)
            events.append("killed")
            if not swallow:
                raise
        finally:
            events.append("finally")

    task = kept.spawn(work)
    gevent.sleep(0)
    task.kill()
    task.join()
    assert events == ["killed", "finally"]

    events.clear()
    greenlet = gevent.spawn(kept.call, work)
    gevent.sleep(0)
    greenlet.kill(timeout=20)
    assert events == ["killed", "finally"]
    assert greenlet.dead


def test_a_kill_before_the_beginning(kept: Greenlets) -> None:
    called: list[int] = []
    task = kept.spawn(called.append, 1)
    task.kill()
    task.join()
    assert task.done
    assert not called


def test_a_late_kill_meets_no_other(kept: Greenlets) -> None:
    ended = kept.spawn(lambda: None)
    ended.join()
    gevent.sleep(0)
    outcomes: list[bool] = []
    greenlet = id(kept.idle[-1])

    def work() -> None:
        outcomes.append(id(gevent.getcurrent()) == greenlet)
        gevent.sleep(0.01)
        outcomes.append(True)

    task = kept.spawn(work)
    gevent.sleep(0)
    ended.kill()
    # On its way when the function ends.
    late = kept.spawn(gevent.sleep, 0)
    gevent.sleep(0)
    late.kill()
    task.join()
    assert outcomes == [True, True]


def test_a_function_that_outlasts_its_caller_ends_no_later_call(kept: Greenlets) -> None:
    begun, thrown, go_on, ended = Event(), Event(), Event(), Event()

    def stubborn() -> None:
        begun.set()
        try:
            go_on.wait()
        except gevent.GreenletExit:
            thrown.set()
            go_on.wait()
        ended.set()

    caller = gevent.spawn(kept.call, stubborn)
    assert begun.wait(20)
    caller.kill(block=False)
    assert thrown.wait(20)
    # The caller gives up although the function goes on.
    caller.kill(timeout=20)
    assert caller.dead
    go_on.set()
    assert ended.wait(20)
    results: list[int] = []
    for number in range(3):
        kept.call(results.append, number)
    assert results == [0, 1, 2]


def test_joins_that_are_interrupted(kept: Greenlets) -> None:
    task = kept.spawn(gevent.sleep, 0.03)
    with gevent.Timeout(0.001, False):  # type: ignore[arg-type]
        task.join()
    assert not done(task)
    greenlets = [gevent.spawn(task.join) for _ in range(3)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert done(task)
    task.join()


def test_those_not_needed_end(kept: Greenlets) -> None:
    go = Event()
    tasks = [kept.spawn(go.wait) for _ in range(20)]
    while kept.tasks:
        gevent.sleep(0)
    go.set()
    for task in tasks:
        task.join()
    gevent.sleep(0)
    assert len(kept.idle) == 20
    numbers = []
    for _ in range(8):
        kept.hub.loop.run_callback(kept._trim)
        gevent.sleep(0)
        numbers.append(len(kept.idle))
    assert numbers == [20, 10, 5, 2, 1, 0, 0, 0]


def test_few_stay_after_a_peak() -> None:
    shared = module.enter()
    try:
        go = Event()
        tasks = [shared.spawn(go.wait) for _ in range(50)]
        while shared.tasks:
            gevent.sleep(0)
        go.set()
        for task in tasks:
            task.join()
        # A task has ended before its greenlet is idle.
        gevent.sleep(0)
        workers = shared.idle[:]
        assert len(workers) >= 50
        shared.hub.loop.run_callback(module.shrink)
        gevent.sleep(0)
        assert len(shared.idle) == module.FEW
        assert sum(worker.dead for worker in workers) == len(workers) - module.FEW
        # Fewer than that all stay.
        shared.hub.loop.run_callback(module.shrink)
        gevent.sleep(0)
        assert len(shared.idle) == module.FEW
        shared.call(lambda: None)
    finally:
        module.leave(shared)


def test_shared_in_a_hub_as_long_as_there_are_users() -> None:
    first = module.enter()
    assert module.enter() is first
    first.call(lambda: None)
    workers = first.idle[:]
    module.leave(first)
    assert first.hub in module._shared
    module.leave(first)
    assert first.closed
    assert all(worker.dead for worker in workers)
    later = module.enter()
    assert later is not first
    module.leave(later)


def test_a_task_says_when_it_is_done(kept: Greenlets) -> None:
    task = kept.spawn(lambda: None)
    assert isinstance(task, Task)
    assert not done(task)
    task.join()
    assert done(task)
    assert task.error is None


def test_isolation_needs_no_greenlet_within_another(kept: Greenlets) -> None:
    seen: list[Any] = []

    def outer() -> None:
        seen.append(gevent.getcurrent())
        kept.isolate(lambda: seen.append(gevent.getcurrent()))

    kept.isolate(outer)
    assert seen[0] is seen[1]
    assert seen[0] is not gevent.getcurrent()
