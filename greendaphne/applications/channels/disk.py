"""What the log hears of the disk that bodies and replies are stored on, when it fails.

Requests fail one by one meanwhile, each with its own answer; what the operator has to know is why.  On a disk that is nearly full some
things fit and some do not, so there is no line for each turn of that.
"""

from __future__ import annotations

import logging
from math import inf
from tempfile import gettempdir
from time import monotonic
from typing import Final

logger = logging.getLogger("daphne.server")

#: Seconds between two lines.
INTERVAL: Final = 60.0


class DiskLog:
    """Hears of every failure to store something, and writes a line now and then."""

    def __init__(self) -> None:
        self._next = -inf

    def failed(self, error: Exception) -> None:
        """Something could not be stored."""
        now = monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            logger.error("Cannot store a large body or reply (TMPDIR is %s): %s", _directory(), error)


#: All servers of the process share the disk.
disk_log: Final = DiskLog()


def _directory() -> str:
    try:
        return gettempdir()
    except OSError:
        return "nowhere"
