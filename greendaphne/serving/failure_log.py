"""Rate-limited logging of server failures: start, count per minute, end.

An overload may refuse thousands of requests a second.  :class:`FailureLog` logs each cause when it begins, a count while it continues,
and its end.  It ignores faults of clients and applications.  It also ignores outages of the channel layer, which the layer's own
supervision logs.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import gevent

from ..core.causes import APP_BUSY, APP_TIMEOUT, CAUSES, LAYER_FULL, NO_ROOM, WORKER_TIMEOUT

logger = logging.getLogger("daphne.server")

#: The causes that are logged.
TOLD: Final = frozenset((LAYER_FULL, WORKER_TIMEOUT, NO_ROOM, APP_BUSY, APP_TIMEOUT))
#: Seconds between two lines about one cause; a cause ends after the same time without a failure.
INTERVAL: Final = 60.0


class FailureLog:
    """Counts failures and logs them.

    :param what: the subject of the log lines, such as ``"Requests"``.
    :param interval: see :data:`INTERVAL`.
    """

    def __init__(self, what: str = "Requests", interval: float = INTERVAL) -> None:
        self._what = what
        self._interval = interval
        # Failures since the last line, by cause; a cause is present while it continues.
        self._counts: dict[str, int] = {}
        self._greenlet: Any = None

    def count(self, cause: str) -> bool:
        """Count a failure for ``cause``; returns whether it is the first one, which is logged at once."""
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
        """Stop, and log the failures not logged yet."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        for cause, number in self._counts.items():
            if number:
                logger.warning("%s fail (%s): %d more until the end", self._what, cause, number)
        self._counts.clear()
