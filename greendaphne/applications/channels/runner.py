"""What an inline worker runs."""

from __future__ import annotations

from typing import Protocol


class Runner(Protocol):
    """One life of a worker."""

    def run(self) -> object:
        """Work until stopped; raises what ends it otherwise."""

    def stop(self) -> object:
        """Make :meth:`run` return soon, without cutting a message off."""
