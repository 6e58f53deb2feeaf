"""Reused greenlets: each runs one function after another, and no function sees state of the previous one.

A new greenlet costs more than a small request: CPython maps memory for the frames of each and unmaps it at the end.  So greenlets are kept
and reused.  Under gevent much state belongs to the greenlet, and all of it ends with the function:

* *Context variables*: each function begins with an empty context, as in a new greenlet.
* *Thread-locals*, gevent's locals and the ``threading`` module's entries for greenlets: they register a callback for the end of their
  greenlet with ``rawlink``, and it is called at the end of the function.
* *Attributes* that were set on the greenlet are deleted.
* *Other references to the greenlet*: a ``gevent.Timeout`` that was not cancelled, a callback that will switch to it, a dict with greenlets
  as keys.  A greenlet with such a reference is not reused: it ends, and a new one is created.

:class:`Task` can be joined and killed.  It drops its greenlet at the end of its function, so that a late kill reaches no other function.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from sys import getrefcount
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary, getweakrefcount

from gevent import GreenletExit, get_hub
from gevent.hub import Waiter
from greenlet import getcurrent, greenlet

#: The maximum number of greenlets that one :class:`Greenlets` keeps.  A kept greenlet holds about 20 KiB.
KEPT: Final = 256
#: The number of greenlets that stay after a peak.
FEW: Final = 8
#: Functions that begin in a row before the clock is read, and the seconds for all that begin in one iteration of the event loop.
IN_A_ROW: Final = 16
ROW_SECONDS: Final = 0.005
#: Seconds between two checks for greenlets that were idle all the time since the last check; half of these end.
TRIM_INTERVAL: Final = 10.0


class Task:
    """One function in a kept greenlet."""

    __slots__ = ("_arguments", "_function", "_links", "_worker", "done", "error")

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._function: Callable[..., object] | None = function
        self._arguments = arguments
        # The greenlet from the moment when it begins with the function until the end of the function.
        self._worker: _Worker | None = None
        self._links: list[Callable[[Task], object]] | None = None
        #: Whether the function has ended.
        self.done = False
        #: The exception of the function.
        self.error: BaseException | None = None

    def kill(self) -> None:
        """Raise ``GreenletExit`` in the function soon, or do not call it if it has not begun; does not wait."""
        if self.done:
            return
        if self._worker is None:
            self._function = None
        else:
            get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.throw(GreenletExit)

    def join(self) -> None:
        """Wait for the end of the function; does not raise its exception."""
        if self.done:
            return
        waiter: Waiter[Task] = Waiter()
        links = self._links
        if links is None:
            links = self._links = []
        links.append(waiter.switch)
        try:
            waiter.get()
        finally:
            if waiter.switch in links:
                links.remove(waiter.switch)

    def link(self, callback: Callable[[Task], object]) -> None:
        """Have the hub call ``callback`` with the task at the end of the function, which has not begun yet; also where it never begins."""
        links = self._links
        if links is None:
            links = self._links = []
        links.append(callback)

    def _ended(self) -> None:
        self.done = True
        links = self._links
        if links:
            run_callback = get_hub().loop.run_callback
            for link in links:
                run_callback(link, self)
            # In the same list, because a waiter that gives up searches it there.
            links.clear()


class _Worker(greenlet):
    """Calls the functions of one task after the other."""

    # Attributes that applications set are in __dict__, which is cleared.
    __slots__ = ("_hub", "_links", "_owner", "task")

    def __init__(self, owner: Greenlets) -> None:
        super().__init__(parent=owner.hub)
        self._owner = owner
        self._hub = owner.hub
        # None until the first rawlink(), and the task until the first call(): thousands of greenlets may wait at a time.
        self._links: list[Callable[[Any], object]] | None = None
        #: The task of :meth:`Greenlets.call`, to which nothing refers between two calls.
        self.task: Task | None = None

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` at the end of the function; gevent has this method for the end of a greenlet."""
        links = self._links
        if links is None:
            self._links = [callback]
        else:
            links.append(callback)

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Undo :meth:`rawlink`."""
        links = self._links
        if links is not None and callback in links:
            links.remove(callback)

    def run(self, task: Any) -> None:
        owner = self._owner
        hub = self._hub
        idle = owner.idle
        while True:
            # Not if it was killed before it began.
            function = task._function
            if function is not None:
                task._worker = self
                try:
                    function(*task._arguments)
                except BaseException as error:  # noqa: BLE001 - the task stores it
                    task.error = error
                task._function = None
                task._arguments = ()
                function = None
                if self._links:
                    self._call_links()
                self.gr_context = None
                if self.__dict__:
                    self.__dict__.clear()
                task._worker = None
            if task._links is None:
                task.done = True
            else:
                task._ended()
            parent: Any = self.parent
            if parent is hub:
                if task.error is not None:
                    self._report(task)
                if owner.left > 0 and getrefcount(self) <= owner.references and not getweakrefcount(self):
                    # The next function needs no switch through the hub.
                    owner.left -= 1
                    task = owner.tasks.popleft()
                    continue
            else:
                # It must not keep another greenlet in memory.
                self.parent = hub
                if not owner.references:
                    owner.references = getrefcount(self)
            task = None
            if owner.closed or len(idle) >= KEPT:
                self.parent = parent
                return
            idle.append(self)
            try:
                task = parent.switch()
                parent = hub
                while type(task) is not Task:
                    # A late wake-up for an earlier function; this greenlet is still in ``idle``.
                    task = hub.switch()
            except BaseException:  # noqa: BLE001 - likewise, or the greenlet's end
                if self in idle:
                    idle.remove(self)
                return

    def _call_links(self) -> None:
        """Call what :meth:`rawlink` was told to call, and what these calls tell it."""
        while links := self._links:
            self._links = None
            for link in links:
                try:
                    link(self)
                except BaseException:  # noqa: BLE001 - a finalizer of the application
                    self._hub.handle_error(self, *sys.exc_info())

    def _report(self, task: Task) -> None:
        """Print the exception that ended a function without a waiter, as gevent does."""
        error = task.error
        task.error = None
        if error is not None and not isinstance(error, GreenletExit):
            self._hub.handle_error(task, type(error), error, error.__traceback__)


class Greenlets:
    """Runs functions in reused greenlets of the hub in which it was created."""

    def __init__(self) -> None:
        self.hub = get_hub()
        #: The idle greenlets.
        self.idle: list[_Worker] = []
        #: Whether no greenlet is kept any more.
        self.closed = False
        #: Functions that have not begun.
        self.tasks: deque[Task] = deque()
        #: How many further functions may begin in this callback of the hub; 0 outside of :meth:`_begin`.
        self.left = 0
        #: The references that a greenlet has in :meth:`_Worker.run` between two functions; 0 until :meth:`call` was used.
        self.references = 0
        # Whether the hub will call _begin().
        self._scheduled = False
        self._run_callback = self.hub.loop.run_callback
        # The iteration of the loop in which functions began last, and the time from which on they wait for the next one.  gevent may run
        # fifty callbacks before it polls, so one that puts itself back every few milliseconds would keep the loop from its sockets.
        self._iteration = -1
        self._ends = 0.0
        self._next = self.hub.loop.timer(0)
        # The lowest number of idle greenlets since the last check.
        self._fewest = 0
        self._users = 0
        # The timer of the checks; it does not keep the loop running.
        self._timer = self.hub.loop.timer(TRIM_INTERVAL, TRIM_INTERVAL, ref=False)
        # The references that an idle greenlet has in _take().
        self._references = sys.maxsize
        self.call(_nothing)
        worker = self.idle.pop()
        self._references = getrefcount(worker)
        self.idle.append(worker)
        self._timer.start(self._trim)

    def spawn(self, function: Callable[..., object], *arguments: Any) -> Task:
        """Call ``function`` soon in a separate greenlet, as ``gevent.spawn`` does; prints its exception."""
        task = Task(function, arguments)
        self.tasks.append(task)
        if not self._scheduled:
            self._scheduled = True
            self._run_callback(self._begin)
        return task

    def _begin(self) -> None:
        """Begin the functions in their order; called by the hub, which continues here when a greenlet waits or has no function left."""
        tasks = self.tasks
        # What they call in turn comes after the callbacks that the hub has by now.
        number = len(tasks)
        iteration = self.hub.loop.iteration
        if iteration != self._iteration or iteration < 0:
            self._iteration = iteration
            self._ends = monotonic() + ROW_SECONDS
        ends = self._ends
        late = False
        try:
            while number > 0:
                self.left = row = min(number, IN_A_ROW)
                number -= row
                while self.left > 0:
                    self.left -= 1
                    worker = self._take()
                    worker.switch(tasks.popleft())
                    # _take() counts the references.
                    del worker
                if monotonic() >= ends:
                    late = True
                    break
        finally:
            self.left = 0
            self._scheduled = bool(tasks)
            if tasks:
                if late and not self.closed:
                    self._next.stop()
                    self._next.start(self._begin)
                else:
                    self._run_callback(self._begin)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call ``function`` in a separate greenlet, and return its result; raises its exception.

        The function begins at once, and control comes back when it ends; neither needs a turn of the hub.  An exception that is thrown into
        the calling greenlet meanwhile, such as ``GreenletExit``, is thrown into the function and raised once that has ended.
        """
        self._call(getcurrent(), function, arguments)

    def _call(self, caller: greenlet, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        worker = self._take()
        task = worker.task
        if task is None:
            task = worker.task = Task(_nothing, ())
        task._function = function
        task._arguments = arguments
        task.done = False
        worker.parent = caller
        try:
            worker.switch(task)
            while not task.done:
                # Woken by another event than the end of the function.
                self.hub.switch()
        except BaseException as error:
            # The function may outlast a wait that is interrupted again; its end must not be that of a later call.
            worker.task = None
            del worker
            self._end(task, error)
            raise
        thrown = task.error
        if thrown is not None:
            task.error = None
            try:
                raise thrown
            finally:
                del thrown

    def isolate(self, function: Callable[..., object], *arguments: Any) -> None:
        """Like :meth:`call`, but in the calling greenlet if that is a reused one, which then serves nothing else."""
        caller = getcurrent()
        if type(caller) is _Worker:
            function(*arguments)
        else:
            self._call(caller, function, arguments)

    def _end(self, task: Task, error: BaseException) -> None:
        """Throw ``error`` into the function and wait for its end.  The hub throws, so that it restores the greenlet's state."""
        worker = task._worker
        if worker is None:
            return
        self._run_callback(worker.throw, error)
        del worker
        while not task.done:
            # The end passes control to this greenlet, the worker's parent.
            self.hub.switch()

    def _take(self) -> _Worker:
        """An idle greenlet without other references, or a new one."""
        idle = self.idle
        put_back: _Worker | None = None
        while idle:
            worker = idle.pop()
            if getrefcount(worker) <= self._references and not getweakrefcount(worker):
                if put_back is not None:
                    idle.append(put_back)
                if len(idle) < self._fewest:
                    self._fewest = len(idle)
                return worker
            if put_back is None and not getweakrefcount(worker):
                # Its function may have switched to the greenlet of an event loop, which refers to the last one that it has switched back to
                # until it runs again.
                put_back = worker
                continue
            # A Timeout may still be thrown into it, or other code may take it for the greenlet of the earlier function.
            self._run_callback(worker.throw)
        self._fewest = 0
        if put_back is not None:
            idle.append(put_back)
        return _Worker(self)

    def _trim(self) -> None:
        self._shrink((self._fewest + 1) // 2)

    def shrink(self) -> None:
        """End all idle greenlets but :data:`FEW`; called from the hub, after a peak."""
        self._shrink(max(len(self.idle) - FEW, 0))

    def _shrink(self, number: int) -> None:
        idle = self.idle
        surplus = idle[:number]
        del idle[:number]
        self._fewest = len(idle)
        for worker in surplus:
            # In the hub, which is their parent.
            worker.throw()

    def close(self) -> None:
        """End the idle greenlets, in the thread that created them, and keep none from now on."""
        self.closed = True
        for timer in (self._timer, self._next):
            timer.stop()
            timer.close()
        if self.tasks:
            self._run_callback(self._begin)
        idle = self.idle[:]
        self.idle.clear()
        for worker in idle:
            worker.parent = getcurrent()
            worker.throw()


def _nothing() -> None:
    pass


_shared: WeakKeyDictionary[Any, Greenlets] = WeakKeyDictionary()


def enter() -> Greenlets:
    """The shared greenlets of the calling thread's hub; each call needs one of :func:`leave`."""
    hub = get_hub()
    greenlets = _shared.get(hub)
    if greenlets is None:
        greenlets = _shared[hub] = Greenlets()
    greenlets._users += 1
    return greenlets


def shrink() -> None:
    """End most idle greenlets of the calling thread's hub; called from the hub, after a peak."""
    greenlets = _shared.get(get_hub())
    if greenlets is not None:
        greenlets.shrink()


def leave(greenlets: Greenlets) -> None:
    """Undo :func:`enter`; the last call ends the kept greenlets."""
    greenlets._users -= 1
    if not greenlets._users:
        _shared.pop(greenlets.hub, None)
        greenlets.close()
