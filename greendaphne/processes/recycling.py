"""Ends a process gracefully after a number of requests or above a size in memory (``--max-requests``, ``--max-rss``).

Under a master the process asks to be replaced, and serves until its successor does.  Any other process drains and ends with exit code 0, so
that its process manager starts it again.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import gevent

from ..core.message import Stream
from ..core.observer import Observer

if TYPE_CHECKING:
    from .lifecycle import RunningServer

logger = logging.getLogger("greendaphne.processes")

#: Seconds between two measurements of the process' size.
INTERVAL: Final = 5.0
_STATM: Final = "/proc/self/statm"
_MEGABYTE: Final = 1024 * 1024


class Recycler(Observer):
    """Counts requests and measures the memory of this process.

    A WebSocket counts as one request once it has been opened or rejected.

    :param max_requests: the number of requests; 0 for no limit.
    :param jitter: adds a random number of requests up to this one, so that processes which started together do not end together.
    :param max_rss: bytes of resident memory; 0 for no limit.
    :param replace: called with the reason to ask for a successor; ``None`` if the process ends by itself.
    """

    __slots__ = ("_left", "_max_requests", "_max_rss", "_replace", "_server")

    def __init__(self, max_requests: int, jitter: int, max_rss: int, replace: Callable[[str], None] | None) -> None:
        self._max_requests = max_requests + random.randint(0, jitter) if max_requests else 0
        self._left = self._max_requests
        self._max_rss = max_rss
        self._replace = replace
        self._server: RunningServer | None = None

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        self._count()

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        self._count()

    def websocket_connecting(self, stream: Stream) -> None:
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._end(f"{self._max_requests} requests")

    def started(self, server: RunningServer) -> None:
        self._server = server
        if self._max_rss:
            gevent.spawn(self._watch)

    def _watch(self) -> None:
        while self._server is not None:
            size = resident_size()
            if size > self._max_rss:
                self._end(f"{size / _MEGABYTE:.0f} MiB of memory")
                return
            gevent.sleep(INTERVAL)

    def _end(self, reason: str) -> None:
        server, self._server = self._server, None
        if server is None:
            return  # it already ends
        if self._replace is not None:
            self._replace(reason)
        else:
            logger.info("The server ends, to be started again: %s", reason)
            server.stop()

    def reloading(self) -> None:
        """Does nothing: a reload changes neither number."""

    def reloaded(self) -> None:
        """Nothing."""

    def stopping(self, failed: bool) -> None:
        self._server = None

    def stopped(self) -> None:
        """Does nothing."""


def resident_size() -> int:
    """Bytes of resident memory of this process; 0 if the system does not report them."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
