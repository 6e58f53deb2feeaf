"""Reports faults that an operator has to correct, and that persist until then."""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import schedule

logger = logging.getLogger(__name__)


class Reports:
    """Logs each line of level ERROR when it is new, and once a day while it persists.

    :param clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The last line of each subject, and its time.
        self._last: dict[str, tuple[str, float]] = {}

    def add(self, subject: str, line: str) -> None:
        """Log ``line`` unless it was the last one about ``subject`` within a day."""
        now = self._clock()
        last, at = self._last.get(subject, ("", 0.0))
        if line != last or now >= at + schedule.REPORT_INTERVAL:
            self._last[subject] = line, now
            logger.error("%s", line)
