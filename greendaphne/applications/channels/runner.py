"""What an inline worker runs."""

from __future__ import annotations

from typing import Protocol


class Runner(Protocol):
    """A worker from its start to its end."""

    def run(self) -> object:
        """Work until stopped; an exception ends it too."""

    def stop(self) -> object:
        """Make :meth:`run` return after the message in process."""
