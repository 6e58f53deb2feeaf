"""Waiting for a wake-up that may come from any thread and any gevent hub.

:func:`new_waiter` returns a waiter for the caller: a greenlet of a thread with a hub waits on that hub, and other greenlets run meanwhile;
a native thread without a hub waits on a native lock.  Both work in patched and unpatched processes, because they use the original native
primitives.  A waiter is used for one wait; its owner calls ``wake`` at most once.

A waiter does not know the reason of the wait, and takes no lock: the caller's lock protects :attr:`signalled`.
"""

from __future__ import annotations

from typing import Literal

# get_hub() would create a hub in a native thread that needs none; this function does not.
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Hub
from gevent.hub import Waiter as HubWaiter
from gevent.monkey import get_original

_allocate_lock = get_original("_thread", "allocate_lock")

#: Seconds that mean "no limit".  A hub that has only a wait without a timer would raise LoopExit.
FOREVER = 86400.0


class GreenletWaiter:
    """A greenlet that waits on its thread's hub."""

    __slots__ = ("hub", "signalled", "waiter")

    #: This waiter is for one wait, unlike a :class:`~greendaphne.layers.receiver.Receiver`.
    lasting: Literal[False] = False

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.waiter: HubWaiter[None] = HubWaiter(hub)
        self.signalled = False

    def wait(self, timeout: float) -> None:
        """Return when woken or after ``timeout`` seconds.  An exception that is thrown into the greenlet meanwhile is raised."""
        timer = self.hub.loop.timer(timeout)
        timer.start(self.waiter.switch, None)
        try:
            self.waiter.get()
        finally:
            timer.stop()
            timer.close()

    def wake(self) -> bool:
        """Make :meth:`wait` return soon, from any thread; false if its thread's hub is gone.  Never switches."""
        loop = self.hub.loop
        try:
            if get_hub_if_exists() is self.hub:
                loop.run_callback(self.waiter.switch, None)
            else:
                loop.run_callback_threadsafe(self.waiter.switch, None)
        except Exception:  # noqa: BLE001 - a destroyed hub: None instead of a loop, or a loop that refuses in one way or another
            return False
        return True


class ThreadWaiter:
    """A native thread that waits on a native lock."""

    __slots__ = ("lock", "signalled")

    #: A plain thread has none.
    hub = None
    lasting: Literal[False] = False

    def __init__(self) -> None:
        self.lock = _allocate_lock()
        self.lock.acquire()
        self.signalled = False

    def wait(self, timeout: float) -> None:
        """Return when woken or after ``timeout`` seconds."""
        self.lock.acquire(True, timeout)

    def wake(self) -> bool:
        """Make :meth:`wait` return, from any thread."""
        self.lock.release()
        return True


def new_waiter() -> GreenletWaiter | ThreadWaiter:
    """A waiter for the calling greenlet or native thread."""
    hub = get_hub_if_exists()
    return ThreadWaiter() if hub is None else GreenletWaiter(hub)
