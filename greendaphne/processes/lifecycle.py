"""What is told of a server's life to those who have to pass it on: a service manager, the master of several workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

logger = logging.getLogger("daphne.server")


class RunningServer(Protocol):
    """What a :class:`Lifecycle` uses of :class:`greendaphne.server.Server`."""

    timeouts: Any
    #: The channel layers that it serves.
    channel_layers: list[Any]

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


class Silent:
    """A :class:`Lifecycle` that does nothing; a base for those to which only some stages matter."""

    def started(self, server: RunningServer) -> None:
        """Nothing."""

    def reloading(self) -> None:
        """Nothing."""

    def reloaded(self) -> None:
        """Nothing."""

    def stopping(self, failed: bool) -> None:
        """Nothing."""

    def stopped(self) -> None:
        """Nothing."""


class Warned(Silent):
    """Logs warnings once the server listens: what keeps a server from starting is more important.

    :param find: returns the warnings.
    """

    def __init__(self, find: Callable[[RunningServer], Iterable[str]]) -> None:
        self._find = find

    def started(self, server: RunningServer) -> None:
        for text in self._find(server):
            logger.warning("%s", text)


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
