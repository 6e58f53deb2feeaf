"""Requests that wait for their application without a greenlet.

An application that answers from elsewhere, such as a channel layer's worker, may leave a stream behind: it returns from ``http`` and has a
:class:`Detached` object answer.  A whole response that needs no wait is then sent by the greenlet that has it.  Everything else (a time
limit, an error, a response in parts, a client that must be waited for) is taken up in a greenlet again, by the code that serves all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .message import Stream


class Detached(Protocol):
    """What answers a request that has no greenlet.  No method but :meth:`run` waits, switches or raises."""

    #: Whether the request has ended without a greenlet.
    done: bool
    #: Called with the stream, :attr:`started` and a cause when it ends without a greenlet; ``None`` where no observer is told.
    completed: Callable[[Stream, float, str], None] | None
    #: When the request came, on the monotonic clock.
    started: float

    def abandon(self) -> None:
        """The client gave the request up."""

    def run(self) -> None:
        """Answer the rest, in a greenlet, after :meth:`Detachable.resume`; errors as those of an application."""

    def discard(self) -> None:
        """The greenlet was killed before it could begin with :meth:`run`."""


class Detachable(Stream, Protocol):
    """A stream that can be left without a greenlet."""

    #: What the stream was left to; the caller of the application does not end the stream then.
    detached: Detached | None

    @property
    def detachable(self) -> bool:
        """Whether the stream can be left now."""

    def respond(self, status: int, headers: Any, data: bytes, check: Callable[[Any], list[tuple[bytes, bytes]]] | None = None) -> bool:
        """Send a whole response if that needs no wait; false where nothing was done.  Never switches and never raises.

        :param headers: anything.
        :param check: makes fields of ``headers``, or raises :class:`~greendaphne.core.message.ResponseError`;
            with ``None`` only fields are sent that were checked before.
        """

    def resume(self) -> None:
        """Have :meth:`Detached.run` called in a greenlet, as an application is."""

    def end_detached(self) -> None:
        """End the stream, for which nothing runs any more."""
