"""A selector whose ``select`` waits in gevent's hub, so that other greenlets run meanwhile.

Each registered descriptor has one watcher of the hub's loop that stays started between calls.  gevent's own selector starts and stops all
of them in each call.  Readiness is level-triggered, as with the selectors of the standard library: a watcher that has fired is stopped
until the next call of ``select``, otherwise the hub would call it again and again while the caller computes.
"""

from __future__ import annotations

import errno
import os
import selectors
import sys
from collections.abc import Callable, Collection
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from gevent import get_hub, getcurrent

from .isolation import switch_to
from .private import get_running_loop, set_running_loop

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

#: The hub runs the greenlets that are ready for up to a switch interval (5 ms) before it looks at descriptors and timers.  After a
# ``select(0)`` that took more than this many seconds, the next calls only give those greenlets a turn.
LONG_ROUND: Final = 0.001
#: The number of these calls.
TURNS: Final = 8
#: Seconds for which callbacks of the loop may go on after a turn of the hub before ``select(0)`` gives it the next one.
TURN_SECONDS: Final = 0.0005

#: gevent passes a negative number for a descriptor that cannot be watched.
_ALL = selectors.EVENT_READ | selectors.EVENT_WRITE

set_asyncgen_hooks = sys.set_asyncgen_hooks
get_origin_depth = sys.get_coroutine_origin_tracking_depth

_Base: Any = cast(Any, selectors)._BaseSelectorImpl


class _Visit:
    """A call of a function in the greenlet that waits, and the greenlet that waits for its end; ``None`` where it waits no longer."""

    __slots__ = ("caller", "error", "function")

    def __init__(self, function: Callable[[], bool], caller: Any) -> None:
        self.function = function
        self.caller: Any = caller
        self.error: BaseException | None = None


class HubSelector(_Base):  # type: ignore[misc]
    """A :class:`selectors.BaseSelector` on the hub of the thread that creates it.

    One greenlet at a time may wait in :meth:`select`; other greenlets may register, modify and unregister descriptors and call :meth:`wake`
    meanwhile.

    :raises OSError: out of ``register``, with ``EBADF``, for a descriptor that is not open.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hub = get_hub()
        self._loop: Any = self._hub.loop
        self._watchers: dict[int, Any] = {}
        # Events by descriptor that the next select returns.
        self._fired: dict[int, int] = {}
        # Descriptors with a watcher that select starts again.
        self._silent: list[int] = []
        #: Whether a greenlet waits in :meth:`select` that nothing has called back yet.
        self.waiting = False
        #: Whether a greenlet is in :meth:`select` and waits, or runs a first step for another greenlet meanwhile.
        self.inside = False
        # The greenlet in select from its switch away until its return, whether it was called back or not.
        self._parked: Any = None
        self._visit: _Visit | None = None
        # What step() has left for the greenlet, and the greenlet that called it.
        self._first: tuple[Callable[[], object], Context] | None = None
        self._caller: Any = None
        self._ready: Collection[Any] = ()
        self._failure: BaseException | None = None
        self._woken = False
        # Whether the hub will call _resume(), and the callback where it is one.
        self._called = False
        self._call: Any = None
        # Until when a select(0) returns without a turn of the hub.
        self._turn_ends = 0.0
        # Rounds for which the hub does not have to look at the descriptors.
        self._turns = 0
        # A timer that rings at the monotonic time _due.  It goes on after select has returned, for the next call often needs the same one.
        self._timer: Any = None
        self._due = 0.0
        # Rings after the hub has looked at the descriptors once, and after all that it has found there: its priority is the lower one.
        self._round: Any = self._loop.timer(0, priority=-1)

    # ---- descriptors

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch ``fileobj`` for ``events``, see :meth:`selectors.BaseSelector.register`."""
        key: selectors.SelectorKey = super().register(fileobj, events, data)
        try:
            _require_open(key.fd)
            watcher = self._loop.io(key.fd, events)
            watcher.start(self._on_ready, key.fd, pass_events=True)
        except BaseException:
            super().unregister(fileobj)
            raise
        self._watchers[key.fd] = watcher
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """Watch ``fileobj`` no longer; it may be closed already."""
        key: selectors.SelectorKey = super().unregister(fileobj)
        watcher = self._watchers.pop(key.fd)
        watcher.stop()
        watcher.close()
        self._fired.pop(key.fd, None)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """Change events and data of ``fileobj``."""
        key: selectors.SelectorKey = self.get_key(fileobj)
        if events == key.events:
            if data is key.data:
                return key
        else:
            if not events or events & ~_ALL:
                raise ValueError(f"Invalid events: {events!r}")
            watcher = self._watchers[key.fd]
            watcher.stop()
            watcher.events = events
            watcher.start(self._on_ready, key.fd, pass_events=True)
        self._fd_to_key[key.fd] = key = key._replace(events=events, data=data)
        return key

    def close(self) -> None:
        """Watch nothing any more."""
        for watcher in self._watchers.values():
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._fired.clear()
        self._silent.clear()
        self._stop_timer()
        if self._round is not None:
            self._round.close()
            self._round = None
        super().close()

    def _on_ready(self, events: int, fd: int) -> None:
        # Runs in the hub.
        watcher = self._watchers.get(fd)
        if watcher is None:
            return
        watcher.stop()
        if events < 0:
            # The descriptor was closed.  The watcher stays stopped, and the reader or writer finds out by itself.
            events = _ALL
        else:
            self._silent.append(fd)
        self._fired[fd] = self._fired.get(fd, 0) | events
        self.wake()

    # ---- waiting

    def wake(self) -> None:
        """Make :meth:`select` return soon, or the next one at once; called by the hub and by greenlets of its thread.  Never switches."""
        if not self.waiting:
            self._woken = True
        else:
            self.waiting = False
            self._called = True
            self._call = self._loop.run_callback(self._resume)

    def _resume(self) -> None:
        # Runs in the hub.
        self._called = False
        self._call = None
        parked = self._parked
        if parked is None:
            # The greenlet runs a step which waits itself.
            self._woken = True
        else:
            parked.switch()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until a descriptor is ready, :meth:`wake` is called or ``timeout`` seconds have passed.

        Without a time limit, ``None``, it waits for ever.  With 0 or less, the hub and all greenlets that are ready have a turn, unless the
        last one was less than :data:`TURN_SECONDS` ago.

        :returns: pairs of a key and the events of its descriptor that are ready; may be empty before the time has passed.
        """
        if self._silent:
            self._watch_again()
        if timeout is not None and timeout <= 0:
            if monotonic() >= self._turn_ends:
                self._give_turn()
        elif not self._fired and not self._woken:
            if timeout is not None:
                self.ring_in(timeout)
            self.waiting = True
            self._wait()
            self._turn_ends = monotonic() + TURN_SECONDS
        self._woken = False
        fired = self._fired
        if not fired:
            return []
        self._fired = {}
        keys = self._fd_to_key
        ready = []
        for fd, events in fired.items():
            key = keys.get(fd)
            if key is not None and (events := events & key.events):
                ready.append((key, events))
        return ready

    def _watch_again(self) -> None:
        watchers = self._watchers
        for fd in self._silent:
            watcher = watchers.get(fd)
            if watcher is not None and not watcher.active:
                watcher.start(self._on_ready, fd, pass_events=True)
        self._silent.clear()

    def visit(self, function: Callable[[], bool]) -> bool:
        """Call ``function`` at once in the greenlet that waits in :meth:`select`, and return after that; returns whether there was one.

        The calling greenlet switches there and back without the hub.  :meth:`select` returns soon where ``function`` returns true.  An
        exception of ``function`` is raised here.
        """
        parked = self._parked
        caller = getcurrent()
        if parked is None or caller is self._hub or caller is parked:
            return False
        visit = self._visit = _Visit(function, caller)
        try:
            parked.switch()
        finally:
            # The function may wait cooperatively.  A caller that is killed meanwhile must not be switched to.
            visit.caller = None
        if visit.error is not None:
            raise visit.error
        return True

    def step(self, step: Callable[[], object], context: Context, ready: Collection[Any]) -> bool:
        """As :meth:`visit` with the first step of a task, at less cost: each request of an ASGI application comes through here.

        :param step: the step, which raises nothing.
        :param ready: :meth:`select` returns soon where there is something in it after the step.
        """
        parked = self._parked
        if parked is None or parked is (caller := getcurrent()) or get_origin_depth():
            return False
        self._first = (step, context)
        self._ready = ready
        self._caller = caller
        try:
            parked.switch()
        finally:
            if self._caller is caller:
                # The step waits cooperatively, and the caller is killed meanwhile: it must not be switched to.
                self._caller = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return True

    def _wait(self) -> None:
        greenlet = getcurrent()
        hooks = sys.get_asyncgen_hooks()
        loop = get_running_loop()
        self.inside = True
        self._parked = greenlet
        try:
            self._hub.switch()
            while True:
                first = self._first
                if first is not None:
                    # What step() asks for.  It costs each request, so it is all in one place.
                    self._first = None
                    caller = self._caller
                    self._parked = None
                    self.waiting = False
                    try:
                        first[1].run(first[0])
                    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are raised in the caller
                        self._failure = error
                    if self._caller is not caller:
                        break
                    self._caller = first = None
                    self._parked = greenlet
                    if not self._called:
                        if self._ready or self._woken or self._fired:
                            self._called = True
                            self._call = self._loop.run_callback(self._resume)
                        else:
                            self.waiting = True
                    # Outside of a task the state is that of a running loop, as the hub's switch would find it.
                    set_asyncgen_hooks(None, None)
                    set_running_loop(None)
                    try:
                        caller.switch()
                    finally:
                        caller = None
                        set_running_loop(loop)
                        set_asyncgen_hooks(*hooks)
                    continue
                visit = self._visit
                if visit is None:
                    break
                self._visit = self._parked = None
                self.waiting = False
                woken = False
                try:
                    woken = visit.function()
                except BaseException as error:  # noqa: BLE001 - it is raised in the caller
                    visit.error = error
                if visit.caller is None:
                    break
                self._parked = greenlet
                if not self._called:
                    if woken or self._woken or self._fired:
                        self._called = True
                        self._call = self._loop.run_callback(self._resume)
                    else:
                        self.waiting = True
                switch_to(visit.caller)
        finally:
            # A greenlet that is killed must not be called later.
            self._parked = None
            self.waiting = self.inside = self._called = False
            if self._call is not None:
                self._call.stop()
                self._call = None

    def _give_turn(self) -> None:
        self._called = True
        if self._turns:
            # Greenlets that give way and go on keep the hub from its descriptors for a while.  The caller has its turn among them.
            self._turns -= 1
            self._call = self._loop.run_callback(self._resume)
            self._wait()
            self._turn_ends = monotonic() + TURN_SECONDS
            return
        began = monotonic()
        timer = self._round
        timer.start(self._resume)
        try:
            self._wait()
        finally:
            timer.stop()
        now = monotonic()
        self._turn_ends = now + TURN_SECONDS
        if now - began > LONG_ROUND:
            self._turns = TURNS

    def ring_in(self, timeout: float) -> None:
        """Have :meth:`select` return in ``timeout`` seconds at the latest, where it waits already as well."""
        due = monotonic() + timeout
        if self._timer is not None:
            if self._due <= due:
                # It comes earlier; select then returns before its time, and its caller asks again.
                return
            self._stop_timer()
        self._due = due
        self._timer = self._loop.timer(timeout)
        # The loop's clock stands still while greenlets run, so it has to be set first.
        self._timer.start(self._on_timer, update=True)

    def _on_timer(self) -> None:
        # Runs in the hub.
        self._stop_timer()
        if self.inside:
            self.wake()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()


def _require_open(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
