"""Who is told what became of requests and WebSockets: the access log, metrics, daphne's action logger.

``exchange`` and the WebSocket bridge report to one :class:`Observer` or to none; :func:`combine` makes one of several.  What is reported
has happened: an observer changes nothing.  Its methods run in the hub, on the path of every request, so they must not wait, must not raise
and should be quick.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .message import Stream


class Observer:
    """Is told of every event and does nothing; a subclass overrides what it wants to know.

    ``stream.request`` is the request, as it is seen behind trusted proxies.  ``stream.status`` is the status that was sent, 0 for none;
    ``stream.sent`` the number of body bytes; ``stream.complete`` tells whether the answer was sent to its end.

    Every ``seconds`` counts from the moment that the request's head had arrived.  ``cause`` is one of :mod:`greendaphne.core.causes`.
    """

    __slots__ = ()

    #: Names, in lower case, of the request fields that it reads of a WebSocket once that is open.  All others are forgotten by then, for
    #: a WebSocket may live for a day.
    websocket_fields: Collection[bytes] = ()

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        """An HTTP request is over: answered by the application (no cause), answered by the server, cut short, or left by its client."""

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        """A request was answered by the server without being served: its head or its opening handshake was in error, or a WebSocket
        could not be offered to the application.

        Where the head could not be read, ``stream.request.target`` is empty and the request stands for an unknown one.
        """

    def websocket_connecting(self, stream: Stream) -> None:
        """A WebSocket was offered to the application.  Exactly one :meth:`websocket_disconnected` follows."""

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        """The application accepted, and the WebSocket is open."""

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        """The WebSocket was not accepted, by the application or by the server in its place; :meth:`websocket_disconnected` follows."""

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        """A WebSocket is over.

        :param code: the close code, as in the ``websocket.disconnect`` message; ``None`` where it never was open.
        """


class _Several(Observer):
    """Tells several observers."""

    __slots__ = ("_observers", "websocket_fields")

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self.websocket_fields = frozenset().union(*(observer.websocket_fields for observer in observers))

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        for observer in self._observers:
            observer.completed(stream, seconds, cause)

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        for observer in self._observers:
            observer.refused(stream, seconds, cause)

    def websocket_connecting(self, stream: Stream) -> None:
        for observer in self._observers:
            observer.websocket_connecting(stream)

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        for observer in self._observers:
            observer.websocket_connected(stream, seconds)

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        for observer in self._observers:
            observer.websocket_rejected(stream, seconds, cause)

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        for observer in self._observers:
            observer.websocket_disconnected(stream, seconds, cause, code)


def combine(observers: Sequence[Observer]) -> Observer | None:
    """One observer that stands for all of ``observers``; ``None`` where there are none."""
    if not observers:
        return None
    return observers[0] if len(observers) == 1 else _Several(observers)
