"""Calls that block, made from a greenlet without holding up its hub: each runs in one native thread of the caller's own.

It is not the hub's thread pool, which serves name lookups and files: an authority that takes a minute to answer must not take their places.
In a patched process the thread gets a hub of its own where it uses sockets, so the code is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import gevent
from gevent.threadpool import ThreadPool

T = TypeVar("T")

#: Seconds after which a thread that has nothing to do ends.
_IDLE: Final = 60
#: Seconds to wait for its end.  Files are written in less; a request to an authority that does not answer is left alone.
_PATIENCE: Final = 0.3


class NativeThread:
    """One native thread, which begins with the first call; for the greenlets of one hub."""

    def __init__(self) -> None:
        self._pool: Any = ThreadPool(1, idle_task_timeout=_IDLE)

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """Return what ``function`` returns, or raise what it raises.

        A greenlet that is killed while it waits leaves the call to run to its end by itself.
        """
        value, error = self._pool.spawn(_outcome, function, args).get()
        if error is not None:
            raise error
        result: T = value
        return result

    def close(self, last: Callable[[], object] | None = None) -> None:
        """Have the thread end behind a call that is under way, for which :data:`_PATIENCE` seconds are waited.

        :param last: called in the thread before it ends.  What was made there has to be closed there: in a patched process its sockets
            belong to the thread's hub.
        """
        gevent.spawn(self._end, last).join(_PATIENCE)

    def _end(self, last: Callable[[], object] | None) -> None:
        if last is not None:
            self._pool.spawn(_outcome, last, ()).get()
        self._pool.kill()


def _outcome(function: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    # The pool prints exceptions as if nobody expected them.
    try:
        return function(*args), None
    except Exception as error:  # noqa: BLE001 - raised again in the greenlet
        return None, error
