"""What asyncio stores per thread, taken off the thread while a greenlet waits; and the self-test of that.

:mod:`.hub` imports this module when the program imports asyncio, or at once where it has.  From then on
:class:`~.asyncio_hub.AsyncioHub` has the ``switch`` that is defined here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import gevent
from gevent.hub import Hub
from gevent.monkey import get_original

from . import gevent_names
from .asyncio_hub import AsyncioHub, give_up
from .private import get_running_loop, set_running_loop, swap_current_task

#: Seconds after which a self-test that does not end counts as failed.
SELF_TEST_LIMIT: Final = 10.0

_hub_switch = Hub.switch


def _switch(self: Any) -> Any:
    """Let other greenlets run until the hub switches back to the calling greenlet; returns what is passed to it."""
    loop = get_running_loop()
    if loop is None:
        return _hub_switch(self)
    return _switch_without(loop, self)


def _switch_without(loop: asyncio.AbstractEventLoop, greenlet: Any) -> Any:
    """Switch to ``greenlet``, and take asyncio's state off the thread until something switches back."""
    # The task first: Python 3.14 knows the current task of the running loop only.
    task = swap_current_task(loop, None)
    hooks = sys.get_asyncgen_hooks()
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_asyncgen_hooks(None, None)
    if depth:
        sys.set_coroutine_origin_tracking_depth(0)
    set_running_loop(None)
    try:
        return _hub_switch(greenlet) if isinstance(greenlet, Hub) else greenlet.switch()
    finally:
        set_running_loop(loop)
        if depth:
            sys.set_coroutine_origin_tracking_depth(depth)
        sys.set_asyncgen_hooks(*hooks)
        if task is not None:
            swap_current_task(loop, task)


def switch_to(greenlet: Any) -> Any:
    """Switch to a greenlet as :meth:`AsyncioHub.switch` switches to the hub: it does not see asyncio's state of the calling one."""
    loop = get_running_loop()
    return greenlet.switch() if loop is None else _switch_without(loop, greenlet)


AsyncioHub.switch = _switch  # type: ignore[method-assign]


def isolate() -> bool:
    """Test the ``switch`` of :class:`AsyncioHub`, and give it up where the test fails; return whether it works."""
    try:
        self_test()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with asyncio, the server works without it
        give_up(error)
        return False
    return True


class SelfTestError(Exception):
    """asyncio's state was not where :class:`AsyncioHub` has to keep it."""


def self_test() -> None:
    """Run asyncio code in two greenlets of an :class:`AsyncioHub` of its own, in a native thread of its own.

    :raises SelfTestError: when a greenlet sees the state of the other one or loses its own, or when the test does not end.
    """
    if gevent_names.MISSING:
        raise SelfTestError(f"there is no {', '.join(gevent_names.MISSING)}")
    allocate_lock: Any = get_original("_thread", "allocate_lock")
    start_new_thread: Any = get_original("_thread", "start_new_thread")
    done = allocate_lock()
    done.acquire()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _self_test()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            failures.append(error)
        finally:
            done.release()

    start_new_thread(run, ())
    if not done.acquire(True, SELF_TEST_LIMIT):
        raise SelfTestError(f"the self-test did not end within {SELF_TEST_LIMIT:g} seconds")
    if failures:
        raise SelfTestError(str(failures[0]) or type(failures[0]).__name__) from failures[0]


def _self_test() -> None:
    # Runs in a thread that has no hub.
    hub = AsyncioHub()
    gevent_names.set_hub(hub)
    probes = [_Probe(), _Probe()]
    failures: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        # The hub would print an exception.
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failures.append(error)

    try:
        functions = [probes[0].run, probes[1].run, lambda: _look(probes)]
        greenlets = [gevent.spawn(guarded, function) for function in functions]
        gevent.joinall(greenlets, timeout=SELF_TEST_LIMIT / 2)
        if failures:
            raise failures[0]
        if not all(greenlet.dead for greenlet in greenlets):
            raise SelfTestError("a greenlet did not end")
    finally:
        hub.destroy(destroy_loop=True)


class _Probe:
    """A loop that waits in the hub in the middle of steps and callbacks, and looks whether everything is in place afterwards."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended = False
        self._errors: list[Any] = []

    def run(self) -> None:
        loop = self.loop
        loop.set_exception_handler(lambda loop, context: self._errors.append(context.get("exception") or context["message"]))
        coroutine = self._task()
        try:
            loop.call_soon(self._callback)
            loop.run_until_complete(coroutine)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self.ended = True
            coroutine.close()
            loop.close()
        if self._errors:
            raise SelfTestError(str(self._errors[0]))

    def _callback(self) -> None:
        # No task is the current one here.
        gevent.sleep(0)
        if get_running_loop() is not self.loop or asyncio.current_task(self.loop) is not None:
            raise SelfTestError("a callback has the state of another greenlet")

    async def _task(self) -> None:
        task = asyncio.current_task()
        hooks = sys.get_asyncgen_hooks()
        if task is None:
            raise SelfTestError("a task is not the current one")
        for _ in range(3):
            # Code that waits cooperatively in the middle of a step is the case that the hub is for.
            gevent.sleep(0)
            if asyncio.get_running_loop() is not self.loop:
                raise SelfTestError("a greenlet has the running loop of another one")
            if asyncio.current_task() is not task:
                raise SelfTestError("a greenlet has the current task of another one")
            if sys.get_asyncgen_hooks() != hooks:
                raise SelfTestError("a greenlet has the asynchronous generator hooks of another one")
            async for _ in _numbers():
                pass
            await asyncio.sleep(0)


async def _numbers() -> AsyncIterator[int]:
    for number in range(2):
        gevent.sleep(0)
        await asyncio.sleep(0)
        yield number


def _look(probes: list[_Probe]) -> None:
    """Look whether a greenlet without a loop sees anything of those that wait."""
    while not all(probe.ended for probe in probes):
        if get_running_loop() is not None or sys.get_asyncgen_hooks() != (None, None):
            raise SelfTestError("a greenlet without a loop has the state of another one")
        if any(asyncio.current_task(probe.loop) is not None for probe in probes):
            raise SelfTestError("a task is the current one while its greenlet waits")
        gevent.sleep(0)


if AsyncioHub.pending:
    # This module imported asyncio, and the test needs the whole of it.
    AsyncioHub.pending = False
    isolate()
