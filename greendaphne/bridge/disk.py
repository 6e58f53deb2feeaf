"""What the log hears of the disk that bodies and replies are stored on: one line when it fails and one when it works again.

Requests fail one by one meanwhile, each with its own answer; what the operator has to know is why.
"""

from __future__ import annotations

import logging
from tempfile import gettempdir
from typing import Final

logger = logging.getLogger("daphne.server")


class DiskLog:
    """Hears of every attempt to store something, and writes what is new."""

    def __init__(self) -> None:
        self._failing = False

    def failed(self, error: Exception) -> None:
        """Something could not be stored."""
        if not self._failing:
            self._failing = True
            logger.error("Cannot store large bodies and replies on disk for now (TMPDIR is %s): %s", _directory(), error)

    def works(self) -> None:
        """Something has been stored."""
        if self._failing:
            self._failing = False
            logger.info("Large bodies and replies can be stored on disk again")


#: All servers of the process share the disk.
disk_log: Final = DiskLog()


def _directory() -> str:
    try:
        return gettempdir()
    except OSError:
        return "nowhere"
