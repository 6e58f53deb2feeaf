"""The stages of a server's life, reported to components that pass them on to a service manager or to the master of several workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

logger = logging.getLogger("daphne.server")


class RunningServer(Protocol):
    """The part of :class:`greendaphne.server.Server` that a :class:`Lifecycle` uses."""

    timeouts: Any
    #: The channel layers that it serves.
    channel_layers: list[Any]

    @property
    def connections(self) -> int:
        """The number of open connections."""

    @property
    def listeners(self) -> Sequence[Any]:
        """The listeners, in the order of the endpoints."""

    def stop(self, *, take_waiting: bool = False, succeeded: bool = False) -> None:
        """Start to stop gracefully; from any thread."""

    def end_now(self) -> None:
        """End the rest of a drain at once."""

    def reopen(self) -> None:
        """Reopen the log files."""

    def show_failure(self, text: str) -> None:
        """Show browsers the traceback ``text`` of a successor that could not load the application."""


class Silent:
    """A :class:`Lifecycle` that does nothing; a base class for implementations that use only some stages."""

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
    """Logs warnings once the server listens, so that they do not stand before an error that prevents the start.

    :param find: returns the warnings.
    """

    def __init__(self, find: Callable[[RunningServer], Iterable[str]]) -> None:
        self._find = find

    def started(self, server: RunningServer) -> None:
        for text in self._find(server):
            logger.warning("%s", text)


class Lifecycle(Protocol):
    """Receives the stages of a server that a process runs.  Each method returns at once and raises no exception."""

    def started(self, server: RunningServer) -> None:
        """``server`` listens, and signals are handled."""

    def reloading(self) -> None:
        """The server begins to read its certificates again."""

    def reloaded(self) -> None:
        """The certificates have been read."""

    def stopping(self, failed: bool) -> None:
        """The drain begins; ``failed`` is whether the server ends because of an error."""

    def stopped(self) -> None:
        """The server has ended."""
