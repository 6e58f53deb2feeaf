"""Observers of requests and WebSockets: the access log, metrics, daphne's action logger.

``exchange`` and the WebSocket bridge report to at most one :class:`Observer`; :func:`combine` makes one of several.  Reports come after the
event, so an observer cannot change it.  Its methods run in the hub for every request: they must not wait or raise, and should be
quick.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .message import Stream


class Observer:
    """Receives every event and does nothing; a subclass overrides the methods for the events that it needs.

    ``stream.request`` is the request with the client's data from trusted proxies.  ``stream.status`` is the status sent, 0 for none;
    ``stream.sent`` is the number of body bytes sent; ``stream.complete`` tells whether the complete answer was sent.

    ``seconds`` is always the time since the request's head arrived.  ``cause`` is one of :mod:`greendaphne.core.causes`.
    """

    __slots__ = ()

    #: Lower-case names of the request fields that the observer reads from an open WebSocket.  All other fields are dropped when the
    #: WebSocket opens, because it may live for a day.
    websocket_fields: Collection[bytes] = ()

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        """An HTTP request ended: answered by the application (no cause), answered by the server, truncated, or abandoned by the client."""

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        """The server answered a request without passing it to the application: its head or its opening handshake was invalid, or the
        application could not receive a WebSocket.

        For an unreadable head, ``stream.request.target`` is empty and the other values are placeholders.
        """

    def websocket_connecting(self, stream: Stream) -> None:
        """The application was offered a WebSocket.  Exactly one :meth:`websocket_disconnected` follows."""

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        """The application accepted, and the WebSocket is open."""

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        """The application, or the server on its behalf, refused the WebSocket; :meth:`websocket_disconnected` follows."""

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        """A WebSocket ended.

        :param code: the close code, as in the ``websocket.disconnect`` message; ``None`` for a WebSocket that never opened.
        """


class _Several(Observer):
    """Forwards every event to several observers."""

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
    """One observer that forwards to all of ``observers``; ``None`` for an empty sequence."""
    if not observers:
        return None
    return observers[0] if len(observers) == 1 else _Several(observers)
