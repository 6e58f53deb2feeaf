"""Tasks are kept until they end, counted, waited for and cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref
from typing import Any

import gevent
import pytest

from greendaphne.aio import task_names
from greendaphne.aio.loop import HubLoop, wait_for
from greendaphne.aio.task_names import describe, running_task
from greendaphne.aio.tasks import Tasks
from tests.support.scripts import PATIENCE


async def value(result: int = 1) -> int:
    await asyncio.sleep(0)
    return result


def test_a_task_that_nothing_refers_to_goes_on(running: HubLoop) -> None:
    tasks = Tasks(running)
    woken: list[Any] = []

    async def waits_for_itself() -> None:
        future = asyncio.get_running_loop().create_future()
        # Only the task's own frame and this weak reference know the future.
        woken.append(weakref.ref(future))
        await future
        woken.append("done")

    _ = tasks.create(waits_for_itself())
    while not woken:
        gevent.sleep(0)
    gc.collect()
    assert len(tasks) == 1
    future = woken[0]()
    assert future is not None
    future.set_result(None)
    del future
    assert tasks.wait(PATIENCE)
    assert woken[1] == "done"
    assert len(tasks) == 0


def test_tasks_can_be_looked_at(running: HubLoop) -> None:
    tasks = Tasks(running)
    made = {tasks.create(asyncio.sleep(PATIENCE), name=f"t{n}") for n in range(3)}
    assert set(tasks) == made
    assert {task.get_name() for task in tasks} == {"t0", "t1", "t2"}
    assert tasks.cancel() == 3
    assert tasks.wait(PATIENCE)
    assert all(task.cancelled() for task in made)


def test_close_waits_and_then_cancels(running: HubLoop) -> None:
    tasks = Tasks(running)
    quick = tasks.create(value())
    slow = tasks.create(asyncio.sleep(PATIENCE))
    assert tasks.close(0.01)
    assert quick.result() == 1
    assert slow.cancelled()
    assert tasks.close()


def test_a_task_without_its_callback_is_settled(running: HubLoop) -> None:
    tasks = Tasks(running)
    told: list[Any] = []
    task = running.create_started_task(asyncio.sleep(PATIENCE))
    tasks.keep(task, told.append)
    assert task.remove_done_callback(tasks.on_done) == 1
    # It goes on, so it is kept, and its end is told.
    tasks.settle(task)
    task.cancel()
    assert tasks.wait(PATIENCE)
    assert told == [task]
    ended = running.create_started_task(asyncio.sleep(0))
    tasks.keep(ended, told.append)
    ended.remove_done_callback(tasks.on_done)
    assert wait_for(ended, PATIENCE)
    assert len(tasks) == 1
    tasks.settle(ended)
    assert not tasks
    assert told == [task]


def test_a_task_that_ignores_its_cancellation_is_named(running: HubLoop, caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks(running)
    release: list[asyncio.Event] = []

    async def stubborn() -> None:
        release.append(asyncio.Event())
        while not release[0].is_set():
            try:
                await release[0].wait()
            except asyncio.CancelledError:
                pass

    _ = tasks.create(stubborn(), name="mule")
    assert not tasks.close(0.01, patience=0.01)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "greendaphne.aio"]
    assert "1 tasks have not ended" in line
    assert "mule" in line
    assert "stubborn" in line
    running.call_soon(release[0].set)
    assert tasks.wait(PATIENCE)


def test_exceptions_are_reported_once(loop: HubLoop) -> None:
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    tasks = Tasks(loop)

    async def fails() -> None:
        raise ZeroDivisionError

    for first_step in (False, True):
        _ = tasks.create(fails(), name="sum", first_step=first_step)
        loop.run_until_complete(asyncio.sleep(0.001))
        gc.collect()
        assert len(tasks) == 0
        (context,) = reported
        assert isinstance(context["exception"], ZeroDivisionError)
        assert "sum" in context["message"]
        reported.clear()


def test_exceptions_can_be_taken(running: HubLoop) -> None:
    failed: list[asyncio.Task[Any]] = []
    tasks = Tasks(running, failed.append)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    task = tasks.create(fails())
    assert tasks.wait(PATIENCE)
    assert failed == [task]


def test_the_context_is_the_given_one(running: HubLoop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
    context = contextvars.Context()
    context.run(variable.set, "given")
    tasks = Tasks(running)

    async def look() -> str:
        await asyncio.sleep(0)
        return variable.get()

    for first_step in (False, True):
        task = tasks.create(look(), context=context, first_step=first_step)
        assert wait_for(task, PATIENCE)
        assert task.result() == "given"
    assert variable.get() == "default"


def test_wait_for(running: HubLoop) -> None:
    task = running.create_task(asyncio.sleep(PATIENCE))
    assert not wait_for(task, 0.005)
    gevent.spawn_later(0.005, task.cancel)
    assert wait_for(task)
    assert wait_for(task, 0)


def test_names(running: HubLoop) -> None:
    task = running.create_task(value(), name="number")
    assert describe(task) == f"number ({__name__}.value)"
    assert wait_for(task, PATIENCE)
    assert describe(task) == "number (value)"


def test_the_task_that_runs_has_a_name(running: HubLoop) -> None:
    found: list[str | None] = []
    thread = running.native_thread

    async def looks() -> None:
        found.append(running_task(thread))
        found.append(running_task(thread + 1))
        # What other greenlets do meanwhile is not this task's doing.
        other = gevent.spawn(lambda: found.append(running_task(thread)))
        other.join()
        found.append(running.running_task_name())
        await asyncio.sleep(0)

    running.run_from_greenlet(looks())
    mine = found[0]
    assert mine is not None
    assert "looks" in mine
    assert found == [mine, None, None, mine]
    assert running_task(thread) is None
    assert running.running_task_name() is None


def test_the_task_is_named_from_a_native_thread(running: HubLoop) -> None:
    """As the watchdog asks, while the hub stands still."""
    from gevent.monkey import get_original

    allocate_lock, start = get_original("_thread", "allocate_lock"), get_original("_thread", "start_new_thread")
    found: list[str | None] = []

    def look(lock: Any) -> None:
        found.append(running_task(running.native_thread))
        lock.release()

    async def blocks() -> None:
        lock = allocate_lock()
        lock.acquire()
        start(look, (lock,))
        assert lock.acquire(True, PATIENCE)

    running.run_from_greenlet(blocks())
    assert found[0] is not None
    assert "blocks" in found[0]


def test_the_watchdog_names_the_task(running: HubLoop, caplog: pytest.LogCaptureFixture) -> None:
    from gevent.monkey import get_original

    from greendaphne.monitoring.watchdog import Watchdog

    caplog.set_level(logging.WARNING)
    sleep = get_original("time", "sleep")
    watchdog = Watchdog(0.05)
    watchdog.start()

    async def blocks_the_hub() -> None:
        while not watchdog.blockages:
            sleep(0.01)

    try:
        gevent.sleep(0)
        running.run_from_greenlet(blocks_the_hub())
        text = "in the asyncio task"
        while not any(text in record.getMessage() for record in caplog.records):
            gevent.sleep(0.01)
    finally:
        watchdog.stop()
    (line,) = [record.getMessage() for record in caplog.records if text in record.getMessage()]
    assert line.splitlines()[-1].endswith("blocks_the_hub)")
    assert task_names.running_task(running.native_thread) is None
