"""One life of a server: a greenlet that any thread can end and wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

_new_lock = get_original("_thread", "allocate_lock")


class Lifetime:
    """Runs ``body`` in a greenlet of the hub that makes it.

    :param body: ends by itself once it is told to.
    """

    def __init__(self, body: Callable[[], None]) -> None:
        self._hub: Any = get_hub()
        # A native lock, held while the greenlet lives, as another thread may have no hub to wait in.
        self._alive = _new_lock()
        self._alive.acquire()
        self._greenlet = gevent.Greenlet(body)
        self._greenlet.rawlink(self._release)
        self._greenlet.start()

    def _release(self, _: object) -> None:
        self._alive.release()

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._greenlet.ready()

    def call(self, function: Callable[[], object]) -> None:
        """Have the hub call ``function``; from any thread.  Nothing happens where the hub is gone, and with it what ran there."""
        loop = self._hub.loop
        if loop is not None:
            try:
                loop.run_callback_threadsafe(function)
            except ValueError:
                pass  # destroyed at this moment

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; from any thread, and cooperatively where that has a hub.  Returns whether it came within ``timeout``."""
        hub = get_hub_if_exists()
        if hub is self._hub:
            self._greenlet.join(timeout)
        elif hub is not None and hub.loop is not None:
            hub.threadpool.apply(self._wait, (timeout,))
        else:
            self._wait(timeout)
        return self.ended

    def get(self) -> None:
        """Wait for the end as :meth:`join` does; in its own thread it raises what ended it early."""
        if get_hub_if_exists() is self._hub:
            self._greenlet.get()
        else:
            self.join()

    def _wait(self, timeout: float | None) -> None:
        if self._alive.acquire(timeout=-1 if timeout is None else timeout):
            self._alive.release()

    def kill(self, release: Callable[[], object]) -> None:
        """End it at once.

        :param release: called then, in its thread, as it may have been killed before it began or while it was ending.
        """

        def end() -> None:
            self._greenlet.kill()
            release()

        if get_hub_if_exists() is self._hub:
            end()
        else:
            self.call(lambda: gevent.spawn(end))
