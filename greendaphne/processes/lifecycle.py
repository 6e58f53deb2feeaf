"""What is told of a server's life to those who have to pass it on: a service manager, the master of several workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..server import Server


class Lifecycle(Protocol):
    """Hears of the stages of a server that runs as a process' job.  Each method returns at once and raises nothing."""

    def started(self, server: Server) -> None:
        """``server`` listens, and signals are handled."""

    def reloading(self) -> None:
        """Certificates are being read again."""

    def reloaded(self) -> None:
        """That is done."""

    def stopping(self, failed: bool) -> None:
        """The drain begins; ``failed`` is whether the server ends because of an error."""

    def stopped(self) -> None:
        """Everything has ended."""
