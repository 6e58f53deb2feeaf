"""The greenlet that runs a started server; any thread may stop or join it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

_new_lock = get_original("_thread", "allocate_lock")


class Lifetime:
    """Runs ``body`` in a greenlet of the current hub.

    :param body: returns after a request to stop.
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
        """Whether the greenlet has ended."""
        return self._greenlet.ready()

    def call(self, function: Callable[[], object]) -> None:
        """Call ``function`` in the hub; from any thread.  Does nothing after the hub has been destroyed."""
        loop = self._hub.loop
        if loop is not None:
            try:
                loop.run_callback_threadsafe(function)
            except ValueError:
                pass  # destroyed in the meantime

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; from any thread, cooperatively in one with a hub.  Returns whether it came within ``timeout`` seconds."""
        hub = get_hub_if_exists()
        if hub is self._hub:
            self._greenlet.join(timeout)
        elif hub is not None and hub.loop is not None:
            hub.threadpool.apply(self._wait, (timeout,))
        else:
            self._wait(timeout)
        return self.ended

    def get(self) -> None:
        """Wait for the end like :meth:`join`; in the hub's own thread it raises the exception that ended the greenlet."""
        if get_hub_if_exists() is self._hub:
            self._greenlet.get()
        else:
            self.join()

    def _wait(self, timeout: float | None) -> None:
        if self._alive.acquire(timeout=-1 if timeout is None else timeout):
            self._alive.release()

    def kill(self, release: Callable[[], object]) -> None:
        """End the greenlet at once.

        :param release: called afterwards in the hub's thread, because the greenlet may be killed before it starts or while it ends.
        """

        def end() -> None:
            self._greenlet.kill()
            release()

        if get_hub_if_exists() is self._hub:
            end()
        else:
            self.call(lambda: gevent.spawn(end))
