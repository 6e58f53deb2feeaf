"""What is told of a server's life to those who have to pass it on: a service manager, the master of several workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class RunningServer(Protocol):
    """What a :class:`Lifecycle` uses of :class:`greendaphne.server.Server`."""

    timeouts: Any

    @property
    def connections(self) -> int:
        """The number of open connections."""

    @property
    def listeners(self) -> Sequence[Any]:
        """What is listened on, in the order of the endpoints."""

    def stop(self, *, take_waiting: bool = False, succeeded: bool = False) -> None:
        """Begin to end in good order; from any thread."""

    def end_now(self) -> None:
        """Cut short what is left of a drain."""

    def reopen(self) -> None:
        """Open the log files anew."""

    def show_failure(self, text: str) -> None:
        """Show browsers the traceback ``text`` of a successor that could not load the application."""


class Lifecycle(Protocol):
    """Hears of the stages of a server that runs as a process' job.  Each method returns at once and raises nothing."""

    def started(self, server: RunningServer) -> None:
        """``server`` listens, and signals are handled."""

    def reloading(self) -> None:
        """Certificates are being read again."""

    def reloaded(self) -> None:
        """That is done."""

    def stopping(self, failed: bool) -> None:
        """The drain begins; ``failed`` is whether the server ends because of an error."""

    def stopped(self) -> None:
        """Everything has ended."""
