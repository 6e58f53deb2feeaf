"""An asyncio event loop in one greenlet of gevent's hub, in the hub's thread, in patched and unpatched processes.

:class:`HubLoop` is the standard library's selector event loop on a :class:`~.selector.HubSelector`.  While the loop waits, other greenlets
run. Greenlets of the loop's thread may call ``call_soon``, ``call_later``, ``call_at``, ``create_task``, ``stop`` and the methods of
futures as if they were callbacks of the loop; the standard library's loops expect such calls from the loop's own callbacks only and would
not notice them before the next event.  Other native threads use ``call_soon_threadsafe``, as with any loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context, copy_context
from heapq import heappush
from operator import attrgetter
from time import monotonic
from types import MethodType
from typing import Any, Final, TypeVar, cast

from gevent import Greenlet, get_hub, getcurrent, spawn
from gevent.event import Event
from gevent.monkey import get_original

from . import private
from .hub import AsyncioHub, is_isolated
from .private import get_running_loop
from .selector import HubSelector
from .task_names import describe

logger = logging.getLogger("greendaphne.aio")

T = TypeVar("T")

#: The signals that the ``greendaphne`` command handles, for ``owned_signals``.
SERVER_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})

_get_ident: Callable[[], int] = get_original("_thread", "get_ident")
_Task: Any = asyncio.Task
# Handles are made without their constructors, which would cost more than all the rest.
_new: Any = object.__new__
#: No context, and what a call of ``call_soon`` that makes no handle returns; the new task, which has made it, drops that.
_NO_CONTEXT: Final = object()
_NO_HANDLE: Final = cast(events.Handle, None)


class HubLoop(asyncio.SelectorEventLoop):
    """An event loop on the hub of the thread that creates it.

    It runs in the greenlet that calls ``run_forever`` or ``run_until_complete``, or in one of its own with :meth:`start`; never in the
    hub's greenlet, where nothing may wait, in another thread or in a forked process.

    :param owned_signals: signals that the server handles.  ``add_signal_handler`` refuses them with one line of level WARNING and returns.
    """

    # Attributes of the superclass that the type hints of the standard library leave out.
    _closed: bool
    _debug: bool
    _ready: deque[Any]
    _scheduled: list[Any]
    _task_factory: Any
    _thread_id: int | None

    def __init__(self, *, owned_signals: Collection[int] = ()) -> None:
        #: Native identity of the loop's thread, also in a patched process.
        self.native_thread = _get_ident()
        self._owned_signals = frozenset(owned_signals)
        self._hub = get_hub()
        self._process = os.getpid()
        self._hub_selector = HubSelector()
        # Lets other native threads wake the selector.  It keeps nothing alive by itself.
        self._async: Any = self._hub.loop.async_(ref=False)
        self._async.start(self._hub_selector.wake)
        self._greenlet: Greenlet[..., Any] | None = None
        # Whether stop() was called since start().
        self._ended = False
        # The context of a task that is being made, and its first step.
        self._first_context: object = _NO_CONTEXT
        self._first_step: Any = None
        # Whether first steps may run at once, and in the way that costs least.
        self._isolated = type(self._hub) is AsyncioHub and is_isolated()
        self._takes_first_steps = self._isolated and sys.version_info >= (3, 11)
        super().__init__(self._hub_selector)
        #: Calls a function in the hub's next round; called in any greenlet of the loop's thread.
        self.call_in_hub: Callable[..., object] = self._hub.loop.run_callback
        # Each task and future that is made asks for it: a call without a frame of Python.
        self.get_debug = MethodType(attrgetter("_debug"), self)  # type: ignore[method-assign]
        private.know_loop(self)

    # ---- running

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called.

        :raises RuntimeError: in the hub's greenlet, in another thread than the one of the loop's hub, in a process that was forked from the
            loop's one, and where a loop runs already.
        """
        if os.getpid() != self._process:
            raise RuntimeError("the event loop was created before a fork; create one in each process")
        if _get_ident() != self.native_thread:
            raise RuntimeError("the event loop runs in the thread that has created it only")
        if getcurrent() is self._hub:
            raise RuntimeError("the event loop cannot run in the hub's greenlet")
        super().run_forever()

    def start(self) -> Greenlet[..., Any]:
        """Run in a greenlet of its own until :meth:`stop` or :meth:`shutdown` is called; returns the greenlet.

        ``SystemExit`` ends the task that raises it, and not the loop, which serves other tasks as well.
        """
        if self._greenlet is None or self._greenlet.dead:
            self._ended = False
            self._greenlet = spawn(self._run_on)
            self._greenlet.name = "asyncio"
        return self._greenlet

    def _run_on(self) -> None:
        while True:
            try:
                self.run_forever()
            except SystemExit as error:
                # asyncio raises it out of run_forever(), and keeps what is ready.  A task also has it as its result.
                if not _is_of_task(error):
                    self.call_exception_handler({"message": "SystemExit in a callback of the event loop", "exception": error})
                if self._ended:
                    # run_forever() forgets a stop() of the same round.
                    return
            else:
                return

    def stop(self) -> None:
        """End :meth:`run_forever` after the callbacks that are ready; called in any greenlet."""
        self._ended = True
        super().stop()
        self._hub_selector.wake()

    def shutdown(self, timeout: float = 1.0) -> bool:
        """Cancel all tasks, wait for them for at most ``timeout`` seconds, end asynchronous generators and the executor, close the loop.

        Called in another greenlet than the loop's, after :meth:`start`.

        :returns: whether all tasks and the executor have ended in time.  What has not is logged.
        """
        if self.is_closed():
            return True
        clean = True
        if self._greenlet is not None and not self._greenlet.dead:
            main = self.create_task(self._shut_down(timeout), name="shutdown")
            # Each of the three steps has its time, and closes what it can.
            clean = wait_for(main, 3 * timeout + 1) and main.result()
            self.stop()
            self._greenlet.join(timeout)
            if not self._greenlet.dead:
                logger.warning("The event loop has not stopped, it is in %s", self.running_task_name() or "a callback")
                return False
        self.close()
        return clean

    async def _shut_down(self, timeout: float) -> bool:
        clean = True
        tasks = asyncio.all_tasks(self) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            done, left = await asyncio.wait(tasks, timeout=timeout)
            if left:
                clean = False
                names = ", ".join(sorted(describe(task) for task in left))
                logger.warning("%d tasks have not ended after they were cancelled: %s", len(left), names)
            for task in done:
                if not task.cancelled() and task.exception() is not None:
                    context = {"message": "Exception in a task that was cancelled", "exception": task.exception(), "task": task}
                    self.call_exception_handler(context)
        for what, coroutine in (("asynchronous generators", self.shutdown_asyncgens()), ("the executor", self.shutdown_default_executor())):
            try:
                await asyncio.wait_for(coroutine, timeout)
            except (asyncio.TimeoutError, TimeoutError):
                clean = False
                logger.warning("The end of %s took more than %g seconds", what, timeout)
        return clean

    def close(self) -> None:
        """Close the loop, which must not run; calls after the first one do nothing."""
        was_closed = self.is_closed()
        super().close()
        if not was_closed:
            waker, self._async = self._async, None
            waker.stop()
            waker.close()

    #: The loop's clock, called without a frame of Python.
    time = staticmethod(monotonic)

    # ---- calls from other greenlets and threads

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> events.Handle:  # type: ignore[override]
        """Call ``callback`` in the loop's next round; called in any greenlet of the loop's thread."""
        if context is self._first_context:
            # A new task hands over its first step, see create_started_task().
            self._first_step = callback
            self._first_context = _NO_CONTEXT
            return _NO_HANDLE
        if self._debug or self._closed:
            handle = super().call_soon(callback, *args, context=context)
            _without_caller(handle)
        else:
            # As the superclass does without debug mode.  Every step of every task comes through here.
            handle = _new(_Handle)
            handle._context = copy_context() if context is None else context
            handle._loop = self
            handle._callback = callback
            handle._args = args
            handle._cancelled = False
            handle._repr = handle._source_traceback = None
            self._ready.append(handle)
        if self._hub_selector.waiting:
            self._hub_selector.wake()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        """Call ``callback`` at the loop's time ``when``; called in any greenlet of the loop's thread."""
        if self._debug or self._closed or when is None:
            timer = super().call_at(when, callback, *args, context=context)
            if timer._source_traceback:  # type: ignore[attr-defined]
                _without_caller(timer)
            if self._hub_selector.inside and self._scheduled[0] is timer:
                self._hub_selector.ring_in(max(when - self.time(), 0.0))
            return timer
        return self._timer_at(when, callback, args, context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        """Call ``callback`` in ``delay`` seconds; called in any greenlet of the loop's thread."""
        if delay is None:
            raise TypeError("delay must not be None")
        if not (self._debug or self._closed):
            return self._timer_at(self.time() + delay, callback, args, context)
        timer = self.call_at(self.time() + delay, callback, *args, context=context)
        if timer._source_traceback:  # type: ignore[attr-defined]
            _without_caller(timer)
        return timer

    def _timer_at(self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> _Timer:
        """As the superclass makes a timer without debug mode.  Every wait with a time limit comes through here."""
        timer: _Timer = _new(_Timer)
        timer._context = copy_context() if context is None else context
        timer._loop = self
        timer._callback = callback
        timer._args = args
        timer._cancelled = False
        timer._repr = timer._source_traceback = None
        timer._when = when
        timer._scheduled = True
        heappush(self._scheduled, timer)
        if self._hub_selector.inside and self._scheduled[0] is timer:
            # The selector waits for a later one.
            self._hub_selector.ring_in(max(when - self.time(), 0.0))
        return timer

    def _write_to_self(self) -> None:
        # After a call of call_soon_threadsafe.
        if _get_ident() == self.native_thread:
            self._hub_selector.wake()
            return
        waker = self._async
        if waker is not None:
            waker.send()

    def _check_thread(self) -> None:
        # In debug mode.  The superclass compares what a patched process has for each greenlet.
        if self._thread_id is not None and _get_ident() != self.native_thread:
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    # ---- signals

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call ``callback`` when the process receives ``sig``.

        A signal that the server handles is refused: the function logs a line and returns.
        """
        if sig in self._owned_signals:
            logger.warning("The application asks for %s, which the server handles; its handler is not installed", signal.Signals(sig).name)
            return
        super().add_signal_handler(sig, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler of ``sig``; returns whether there was one."""
        return sig not in self._owned_signals and super().remove_signal_handler(sig)

    # ---- tasks

    def create_task(self, coro: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:  # type: ignore[override]
        """Create a task for ``coro``; called in any greenlet of the loop's thread.

        A task factory, which may run the first step itself, is called in the loop's greenlet.  Where that is in the middle of a step that
        waits cooperatively, a call from another greenlet does without the factory.

        :param options: ``name``, and since Python 3.11 ``context``.
        """
        if self._task_factory is None or get_running_loop() is not None or not self.is_running():
            return super().create_task(coro, **options)
        made: list[asyncio.Task[T]] = []
        create = super().create_task

        def call() -> bool:
            made.append(create(coro, **options))
            return True

        return made[0] if self._hub_selector.visit(call) else asyncio.Task(coro, loop=self, **options)

    def create_task_in(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """``create_task`` with a context on all versions of Python; 3.10 runs the task in a copy of ``context``."""
        if context is None:
            return self.create_task(coroutine, name=name)
        create: Any = self.create_task
        takes_context = sys.version_info >= (3, 11)
        task = create(coroutine, name=name, context=context) if takes_context else context.run(create, coroutine, name=name)
        return cast("asyncio.Task[T]", task)

    def create_started_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Create a task whose first step runs before the function returns.

        The calling greenlet switches to the loop's greenlet, which runs the step, and back, without a turn of other greenlets and of tasks
        that are ready.  A coroutine that never waits for the loop has ended then.  All steps of a task run in the loop's greenlet:
        libraries such as SQLAlchemy rely on that.

        The step runs later, as with ``create_task``, where the loop's greenlet does not wait for events: the loop does not run yet, or a
        step of another task waits cooperatively in it; where the caller is a callback of a loop or of the hub; where the loop has a task
        factory that starts tasks by itself.

        :param name: the task's name.
        :param context: the task runs in it; Python 3.10 takes a copy.  The default is a copy of the current one.
        :raises RuntimeError: when the loop is closed.
        """
        ready = self._ready
        if self._takes_first_steps and self._task_factory is None and not self._debug and get_running_loop() is None and not self._closed:
            own = self._first_context = context if context is not None else copy_context()
            try:
                task: asyncio.Task[T] = _Task(coroutine, loop=self, name=name, context=own)
            finally:
                self._first_context = _NO_CONTEXT
            begin, self._first_step = self._first_step, None
            try:
                if not self._hub_selector.step(begin, own, ready):
                    self.call_soon(begin, context=own)
            except BaseException:
                _retrieve(task)
                raise
            return task
        before = len(ready)
        task = self.create_task_in(coroutine, name=name, context=context)
        if len(ready) <= before or get_running_loop() is not None or not self._isolated:
            return task
        handle = ready.pop()
        step_of: object = getattr(handle._callback, "__self__", None)

        def step() -> bool:
            handle._run()
            return bool(ready) or not task.done()

        try:
            visited = step_of is task and self._hub_selector.visit(step)
        except BaseException:
            _retrieve(task)
            raise
        if not visited:
            ready.append(handle)
        return task

    def run_from_greenlet(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run ``coroutine`` as a task and wait for its result in the calling greenlet, while the loop runs in another one.

        :param timeout: seconds after which the task is cancelled; ``None`` waits without limit.
        :raises TimeoutError: when they have passed.
        :raises RuntimeError: in a callback of the loop itself, which could never end.
        """
        if get_running_loop() is self:
            coroutine.close()
            raise RuntimeError("a callback of the event loop cannot wait for the loop; use await")
        task = self.create_task(coroutine)
        try:
            ended = wait_for(task, timeout)
        except BaseException:
            # The calling greenlet is killed or has its own time limit.
            task.cancel()
            raise
        if not ended:
            task.cancel()
            raise TimeoutError(f"{describe(task)} has not ended after {timeout:g} seconds")
        return task.result()

    def running_task_name(self) -> str | None:
        """Return the name of the task that runs now, for logs; ``None`` where none does.  Called in any thread."""
        task = asyncio.current_task(self)
        return None if task is None else describe(task)


class _Handle(events.Handle):
    """A handle of a loop without debug mode; :meth:`HubLoop.call_soon` gives it its attributes."""

    __slots__ = ()


class _Timer(events.TimerHandle):
    """A timer of a loop without debug mode, whose methods cost less than those of the superclass."""

    __slots__ = ()

    # Attributes of the superclass that the type hints of the standard library leave out.
    _args: Any
    _callback: Any
    _context: Context
    _loop: Any
    _repr: str | None
    _scheduled: bool
    _source_traceback: Any
    _when: float

    def cancel(self) -> None:
        if self._scheduled or self._loop._debug:
            super().cancel()
        elif not self._cancelled:
            # It has been called, as that of each asyncio.sleep() that ends.
            self._cancelled = True
            self._callback = self._args = None

    def __lt__(self, other: Any) -> bool:
        # The loop compares timers with each other only, and a heap of many timers compares each several times.
        return self._when < other._when  # type: ignore[no-any-return]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note that the exception of ``task``, if it has one, is raised elsewhere: asyncio does not report it as never retrieved."""
    if task.done() and not task.cancelled():
        task.exception()


def _is_of_task(error: SystemExit) -> bool:
    """Whether a step of a task raised ``error`` in a loop."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is events.Handle._run.__code__:
            return isinstance(getattr(frame.f_locals["self"]._callback, "__self__", None), asyncio.Task)
        traceback = traceback.tb_next
    return False


def _without_caller(handle: Any) -> None:
    """Take this module's frame off the traceback that debug mode keeps of the call that made ``handle``."""
    if handle._source_traceback:
        del handle._source_traceback[-1]


def wait_for(task: asyncio.Task[Any], timeout: float | None = None) -> bool:
    """Wait in the calling greenlet for the end of ``task``, for at most ``timeout`` seconds; returns whether it has ended."""
    deadline = None if timeout is None else monotonic() + timeout
    ended = Event()

    def on_end(task: asyncio.Task[Any]) -> None:
        ended.set()

    task.add_done_callback(on_end)
    try:
        while not task.done():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            ended.wait(left)
    finally:
        task.remove_done_callback(on_end)
    return True
