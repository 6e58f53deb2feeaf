"""Blocking calls from a greenlet without blocking its hub: each runs in a native thread that the caller owns.

The hub's thread pool is not used, because it serves name lookups and files: an authority that takes a minute to answer must not occupy it.
In a patched process the thread gets its own hub when it uses sockets, so the code is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import gevent
from gevent.threadpool import ThreadPool

T = TypeVar("T")

#: Seconds without work after which the thread ends.
_IDLE: Final = 60
#: Seconds to wait for the thread's end.  Writing a file takes less; a request that an authority does not answer is abandoned.
_PATIENCE: Final = 0.3


class NativeThread:
    """One native thread, started by the first call; for the greenlets of one hub."""

    def __init__(self) -> None:
        self._pool: Any = ThreadPool(1, idle_task_timeout=_IDLE)

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """Return the result of ``function``, or raise its exception.

        When the waiting greenlet is killed, the call continues to its end.
        """
        value, error = self._pool.spawn(_outcome, function, args).get()
        if error is not None:
            raise error
        result: T = value
        return result

    def close(self, last: Callable[[], object] | None = None) -> None:
        """End the thread after the current call; waits at most :data:`_PATIENCE` seconds.

        :param last: called in the thread before it ends.  Objects created in the thread must be closed there, because in a patched process
            their sockets belong to the thread's hub.
        """
        gevent.spawn(self._end, last).join(_PATIENCE)

    def _end(self, last: Callable[[], object] | None) -> None:
        if last is not None:
            self._pool.spawn(_outcome, last, ()).get()
        self._pool.kill()


def _outcome(function: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    # The pool would print every exception as unexpected.
    try:
        return function(*args), None
    except Exception as error:  # noqa: BLE001 - raised again in the greenlet
        return None, error
