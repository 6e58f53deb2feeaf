"""The server's own trouble, told without a line for every request that it costs.

An overload may refuse thousands of requests a second.  :class:`Troubles` logs each kind of trouble when it begins, a count while it goes
on, and its end.  What a client or the application did wrong is not its business, and neither is an outage of the channel layer, which is
logged where it is noticed.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import gevent

from ..core.causes import APP_BUSY, APP_TIMEOUT, CAUSES, LAYER_FULL, NO_ROOM, WORKER_TIMEOUT

logger = logging.getLogger("daphne.server")

#: What is told.
TOLD: Final = frozenset((LAYER_FULL, WORKER_TIMEOUT, NO_ROOM, APP_BUSY, APP_TIMEOUT))
#: Seconds between two lines about one kind of trouble; it is over after as long without a case of it.
INTERVAL: Final = 60.0


class Troubles:
    """Counts cases and tells of them.

    :param what: what fails.
    :param interval: see :data:`INTERVAL`.
    """

    def __init__(self, what: str = "Requests", interval: float = INTERVAL) -> None:
        self._what = what
        self._interval = interval
        # Cases since the last line, by cause; a cause is in here as long as it goes on.
        self._counts: dict[str, int] = {}
        self._greenlet: Any = None

    def count(self, cause: str) -> bool:
        """Something could not be served, for ``cause``; whether that is the first case of it, which is told at once."""
        if cause not in TOLD:
            return False
        if cause in self._counts:
            self._counts[cause] += 1
            return False
        self._counts[cause] = 0
        logger.warning("%s fail (%s): %s", self._what, cause, CAUSES[cause])
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._tell)
        return True

    def _tell(self) -> None:
        while self._counts:
            gevent.sleep(self._interval)
            self._report(f"in the last {self._interval:g} seconds")
        self._greenlet = None

    def _report(self, when: str) -> None:
        for cause, number in list(self._counts.items()):
            if number:
                logger.warning("%s fail (%s): %d more %s", self._what, cause, number, when)
                self._counts[cause] = 0
            else:
                logger.warning("%s no longer fail (%s)", self._what, cause)
                del self._counts[cause]

    def close(self) -> None:
        """End; what was counted and not told is told."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        for cause, number in self._counts.items():
            if number:
                logger.warning("%s fail (%s): %d more until the end", self._what, cause, number)
        self._counts.clear()
