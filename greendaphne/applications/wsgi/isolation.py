"""A greenlet for each call of the application: neither context variables nor thread-locals outlive a request.

The greenlet of a connection serves many requests.  Under gevent both ``contextvars`` and ``threading.local`` belong to the greenlet, so
values that one request leaves would be there in the next one of the same client.

A new greenlet for each request costs 18 µs in a Flask application on CPython 3.11, which maps new memory for the frames of each greenlet,
and that is 30 % of the whole request.  So greenlets are kept and used again, each with a new context, and between two requests it looks to
thread-locals as if it had ended: gevent's locals, and the entries of ``threading`` for greenlets, ask for that by ``rawlink``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from gevent import get_hub
from greenlet import getcurrent, greenlet

#: Greenlets that are kept for the next request.
KEPT: Final = 256


class _Worker(greenlet):
    """Calls one function after the other, each in a context of its own and without thread-locals of the ones before."""

    def __init__(self, kept: list[_Worker]) -> None:
        super().__init__()
        self._hub = get_hub()
        self._kept = kept
        self._links: list[Callable[[Any], object]] = []
        self.idle = False

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Have ``callback`` called at the end of the function; gevent's method for the end of a greenlet."""
        self._links.append(callback)

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Undo :meth:`rawlink`."""
        if callback in self._links:
            self._links.remove(callback)

    def run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call ``function``, then wait for the next one; an exception ends the greenlet and is raised in its parent."""
        while True:
            try:
                Context().run(function, *arguments)
            finally:
                links = self._links
                if links:
                    self._links = []
                    for link in links:
                        link(self)
            kept = self._kept
            if len(kept) >= KEPT:
                return
            del function, arguments
            parent = self.parent
            # It must not keep the greenlet of a connection in memory.
            self.parent = self._hub
            self.idle = True
            kept.append(self)
            function, arguments = parent.switch()  # type: ignore[union-attr]


class Isolation:
    """Calls functions in greenlets of their own, in one thread."""

    def __init__(self) -> None:
        self._kept: list[_Worker] = []

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function`` and return when it has returned; raises what it raises.

        The function runs at once, and control comes back when it ends; neither needs a turn of the hub.  An exception that is thrown into
        the calling greenlet meanwhile, such as ``GreenletExit``, is thrown into the function and raised once that has ended.
        """
        kept = self._kept
        worker = kept.pop() if kept else _Worker(kept)
        worker.idle = False
        worker.parent = getcurrent()
        try:
            worker.switch(function, arguments)
        except BaseException as error:
            if worker.dead:
                raise
            _end(worker, error)
            raise

    def close(self) -> None:
        """End the greenlets that are kept, in the thread that made them."""
        kept, self._kept = self._kept, []
        for worker in kept:
            worker.parent = getcurrent()
            worker.throw()


def _end(worker: _Worker, error: BaseException) -> None:
    """Throw ``error`` into what ``worker`` calls and wait for its end.  The hub throws, so that it restores the greenlet's state."""
    hub = get_hub()
    hub.loop.run_callback(worker.throw, error)
    while not worker.dead and not worker.idle:
        # The end passes control to this greenlet, the worker's parent.
        hub.switch()
