"""Pauses before the next worker is started, which grow while workers end soon after their start."""

from __future__ import annotations

import logging
import time
from typing import Final

logger = logging.getLogger("greendaphne.processes")

#: A worker that ends within this number of seconds after its start counts as failed at the start.
SOON: Final = 10.0
#: Seconds before a worker is started after one that failed at the start: the first pause, and the maximum to which it doubles.
FIRST_PAUSE: Final = 1.0
LAST_PAUSE: Final = 30.0
#: Failures that are counted; further ones change nothing.
_MOST: Final = 10


class Pauses:
    """The time of the next start."""

    def __init__(self) -> None:
        #: The time on the monotonic clock before which no worker is started; 0 where one may be.
        self.until = 0.0
        self._failures = 0
        self._last_failure = 0.0

    def end(self) -> None:
        """Let the next worker start at once, and begin with the first pause again."""
        self._failures, self.until = 0, 0.0

    def add(self) -> None:
        """Set a pause before the next start, twice the last one if that was recent."""
        now = time.monotonic()
        pause = min(FIRST_PAUSE * 2**self._failures, LAST_PAUSE)
        if self._failures and now - self._last_failure > SOON + pause:
            self._failures, pause = 0, FIRST_PAUSE
        if now < self.until:
            return  # several workers ended at the same time
        self._failures = min(self._failures + 1, _MOST)
        self._last_failure, self.until = now, now + pause
        logger.warning("The next worker starts in %g seconds", pause)
