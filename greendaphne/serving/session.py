"""WebSockets as applications get them: a session handles the accept deadline, the maximum lifetime, the server's drain and the observers.

:class:`Sessions` serves the WebSockets of one server and ends them when it drains.  :class:`Session` is one of them; it passes messages to
the :class:`~greendaphne.websocket.WebSocket`, which implements the protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import inf
from time import monotonic
from typing import Any, Final, Protocol

import gevent
from gevent import GreenletExit, get_hub

from .. import websocket as protocol
from ..config import Timeouts
from ..core import causes
from ..core.message import ClientDisconnected, Headers, HTTPError, Request, ResponseError, Stream
from ..core.observer import Observer
from ..core.origins import OriginList
from ..websocket import CloseCode

logger = logging.getLogger("daphne.ws_protocol")
_http_logger = logging.getLogger("daphne.http_protocol")

#: Seconds over which all WebSockets are closed, so that their clients do not all reconnect at once; and the seconds for each, which shorten
#: this time for a few.
SPREAD: Final = 2.0
SPREAD_EACH: Final = 0.02
#: Seconds between two checks whether a client that waits to be accepted is still connected, for protocols that do not report a disconnect.
_LOOK: Final = 1.0
#: The header fields of every open WebSocket if none are kept: one list, which is not changed.
_NO_FIELDS: Final[list[tuple[bytes, bytes]]] = []


class Leaver(Protocol):
    """An open WebSocket, or its application's part."""

    def leave(self, cause: str) -> None:
        """End the WebSocket with 1012; does not wait."""


class SessionOwner(Protocol):
    """What is called when a session has to end, or has ended before it was accepted; neither method may wait."""

    def on_leave(self, cause: str) -> None:
        """The WebSocket has to end with 1012 (a drain)."""

    def on_end(self) -> None:
        """The client disconnected, or the deadline passed, before the application accepted."""


class Session:
    """One WebSocket of an application.

    The opening handshake has passed its checks.  The application calls :meth:`accept` or :meth:`reject`; if it does neither within
    ``timeouts.websocket_connect`` seconds, the session rejects the WebSocket with 403.  One greenlet, the owner, calls :meth:`receive`; any
    greenlet may call :meth:`send` and :meth:`close`.

    :param websocket: the WebSocket, which has not been accepted.
    """

    __slots__ = ("_born", "_deadline", "_sessions", "_timer", "_told", "code", "name", "owner", "websocket")

    def __init__(self, sessions: Sessions, websocket: protocol.WebSocket) -> None:
        #: The WebSocket itself, an instance of gevent-websocket's class.
        self.websocket = websocket
        #: The close code for the application: 1006 until the closing handshake gives another.
        self.code = int(CloseCode.ABNORMAL_CLOSURE)
        #: The name of the WebSocket in log lines; the target of its request unless the application sets another.
        self.name = websocket.request.target.decode("ascii", "backslashreplace")
        #: Is told of the end.  Without one the session closes the WebSocket itself.
        self.owner: SessionOwner | None = None
        self._sessions = sessions
        self._born = monotonic()
        self._deadline: float | None = None
        self._timer: Any = None
        # Whether the observers were notified that the application has received the WebSocket.
        self._told = False

    # ---- facts

    @property
    def stream(self) -> Stream:
        """The stream that the WebSocket runs on."""
        return self.websocket.stream

    @property
    def request(self) -> Request:
        """The request of the opening handshake; without its header fields once it is accepted."""
        return self.websocket.stream.request

    @property
    def age(self) -> float:
        """Seconds since the application received the WebSocket."""
        return monotonic() - self._born

    @property
    def connecting(self) -> bool:
        """Whether it is neither accepted nor over."""
        return self.websocket.connecting

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self.websocket.closed

    @property
    def lifetime(self) -> float:
        """The maximum lifetime in seconds; negative for no limit."""
        return self._sessions.timeouts.websocket_lifetime

    @property
    def closing_timeout(self) -> float:
        """Seconds for the peer's half of the closing handshake."""
        return self._sessions.timeouts.websocket_close

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._sessions.draining

    # ---- the opening handshake

    def begin(self) -> None:
        """Start the accept deadline, and watch for a client that disconnects before it is accepted."""
        patience = self._sessions.timeouts.websocket_connect
        self._deadline = None if patience < 0 else self._born + patience
        self._timer = get_hub().loop.timer(_LOOK if patience < 0 else min(patience, _LOOK), _LOOK)
        self._timer.start(self._look)

    def offer(self) -> None:
        """Notify the observers that the application has received the WebSocket; further calls do nothing.

        Every other method calls this itself.  An application that may fail to receive the WebSocket calls it once it has received it.
        """
        if self._told:
            return
        self._told = True
        self._born = monotonic()
        observer = self._sessions.observer
        if observer is not None:
            observer.websocket_connecting(self.stream)

    def accept(self, subprotocol: str | None = None, headers: Headers = ()) -> None:
        """Open the WebSocket; parameters and errors as :meth:`greendaphne.websocket.WebSocket.accept`.

        :raises WebSocketClosed: if the session has ended because its client disconnected or the deadline passed.
        """
        self.offer()
        websocket = self.websocket
        if websocket.closed:
            raise protocol.WebSocketClosed(CloseCode.ABNORMAL_CLOSURE)
        websocket.accept(subprotocol, headers)
        self._opened()
        if self._sessions.draining:
            # 1012 asks the client to connect again; a rejection would not.
            self.leave(causes.DRAINING)

    def hand_over(self, headers: Headers) -> None:
        """Hand the stream to an application that implements the protocol itself, as :meth:`greendaphne.websocket.WebSocket.hand_over`.

        The application closes it after its maximum lifetime, :attr:`lifetime`, and when :meth:`SessionOwner.on_leave` is called.

        :raises WebSocketClosed: if the session has ended.
        """
        self.offer()
        opened = self.websocket.was_open
        if self.websocket.closed:
            raise protocol.WebSocketClosed(CloseCode.ABNORMAL_CLOSURE)
        self.websocket.hand_over(headers)
        if not opened:
            self._opened()
        self._deadline = None

    def deny(self, respond: Callable[[], None]) -> None:
        """Call ``respond`` to answer the opening handshake with an ordinary response on :attr:`stream`; the session then ends."""
        self.offer()
        self._stop_timer()
        websocket = self.websocket
        if websocket.closed:
            return
        websocket.cause = causes.REJECTED
        websocket.abandon()
        try:
            respond()
        finally:
            if self._sessions.observer is not None:
                self._sessions.observer.websocket_rejected(websocket.stream, self.age, causes.REJECTED)

    def _opened(self) -> None:
        """The opening handshake has succeeded."""
        self._stop_timer()
        websocket = self.websocket
        sessions = self._sessions
        # The header section is no longer needed, and a WebSocket may live for a day.
        kept = sessions.kept_fields
        request = websocket.request
        websocket.stream.request = request._replace(
            headers=[field for field in request.headers if field[0] in kept] if kept else _NO_FIELDS
        )
        lifetime = sessions.timeouts.websocket_lifetime
        self._deadline = None if lifetime < 0 else self._born + lifetime
        if sessions.observer is not None:
            sessions.observer.websocket_connected(websocket.stream, self.age)

    def reject(self, status: int = 403, reason: str = "Access denied", *, cause: str = causes.REJECTED) -> None:
        """Reject the opening handshake with an error, by decision of the application or the server.

        :param reason: the reason phrase, which HTTP/2 does not have.
        :param cause: one of :mod:`greendaphne.core.causes`.
        """
        self.offer()
        self._stop_timer()
        websocket = self.websocket
        if websocket.closed:
            return
        websocket.cause = cause
        websocket.reject(status, reason)
        if self._sessions.observer is not None:
            self._sessions.observer.websocket_rejected(websocket.stream, self.age, cause)

    def refuse(self, status: int, reason: str, cause: str) -> None:
        """Reject the opening handshake with an error before the application receives it."""
        started = self._born
        try:
            self.websocket.reject(status, reason)
        finally:
            if self._sessions.observer is not None:
                self._sessions.observer.refused(self.websocket.stream, monotonic() - started, cause)

    def _look(self) -> None:
        """End the session if the client disconnects or the deadline passes before the application decides.  Runs in the hub."""
        websocket = self.websocket
        if not websocket.connecting:
            self._stop_timer()
        elif websocket.stream.gone(half_closed=True):
            self._stop_timer()
            self._end()
        elif self._deadline is not None and monotonic() >= self._deadline:
            self._stop_timer()
            gevent.spawn(self._expire)

    def _expire(self) -> None:
        if self.websocket.connecting:
            logger.info("WebSocket %s was not accepted within %g seconds", self.name, self._sessions.timeouts.websocket_connect)
            try:
                self.reject(cause=causes.ACCEPT_TIMEOUT)
            except ClientDisconnected:
                pass
            self._end()

    def _end(self) -> None:
        self.websocket.abandon()
        if self.owner is not None:
            self.owner.on_end()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    # ---- open

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message; text as ``str``, binary as ``bytes``.  Only the owner calls it.

        It closes the WebSocket with 1000 after its maximum lifetime, ``timeouts.websocket`` seconds.

        :param timeout: the maximum time to wait in seconds; ``None`` for no limit.
        :raises TimeoutError: after that time; no message is lost.
        :raises WebSocketClosed: when the WebSocket has ended.
        """
        websocket = self.websocket
        try:
            until = inf if timeout is None else monotonic() + timeout
            while True:
                deadline = self._deadline
                if deadline is None or until < deadline:
                    return websocket.receive_until(until)
                try:
                    return websocket.receive_until(deadline)
                except TimeoutError:
                    self._deadline = None
                    logger.info(
                        "WebSocket %s closed after %g seconds, its maximum lifetime", self.name, self._sessions.timeouts.websocket_lifetime
                    )
                    websocket.close(CloseCode.NORMAL_CLOSURE, cause=causes.LIFETIME)
        except protocol.WebSocketClosed as closed:
            self.code = int(closed.code)
            raise

    def send(self, message: str | bytes) -> None:
        """Send one message; errors as :meth:`greendaphne.websocket.WebSocket.send`."""
        self.websocket.send(message)

    def offer_message(self, message: str | bytes) -> bool:
        """Send one message without waiting, or return false; as :meth:`greendaphne.websocket.WebSocket.offer`."""
        return self.websocket.offer(message)

    def has_room(self, callback: Callable[[], None]) -> bool:
        """Whether :meth:`offer_message` would take a message; as :meth:`greendaphne.websocket.WebSocket.has_room`."""
        return self.websocket.has_room(callback)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "", *, cause: str = causes.NONE) -> None:
        """Start the closing handshake; errors as :meth:`greendaphne.websocket.WebSocket.close`."""
        self.websocket.close(code, reason, cause=cause)

    def leave(self, cause: str) -> None:
        """End the WebSocket with 1012, so that its client reconnects, or with 503 before it is open; does not wait."""
        if self.owner is not None:
            self.owner.on_leave(cause)
        else:
            gevent.spawn(self._leave, cause)

    def _leave(self, cause: str) -> None:
        try:
            if self.websocket.connecting:
                self.reject(503, "Service Unavailable", cause=cause)
                self._end()
            else:
                self.websocket.close(CloseCode.SERVICE_RESTART, cause=cause)
        except (protocol.WebSocketClosed, ClientDisconnected):
            pass

    # ---- the end

    def finish(self, code: int, cause: str = causes.NONE) -> None:
        """Close the WebSocket if it is open, and complete the closing handshake."""
        if self.websocket.closed:
            return
        try:
            self.websocket.close(code, cause=cause)
            while True:
                self.receive()
        except protocol.WebSocketClosed:
            pass

    def over(self) -> None:
        """Release the session's resources and notify the observers."""
        self._stop_timer()
        self.owner = None
        websocket = self.websocket
        observer = self._sessions.observer
        if self._told and observer is not None:
            code = self.code if websocket.was_open else None
            observer.websocket_disconnected(websocket.stream, self.age, websocket.cause, code)


class Sessions:
    """The WebSockets of one server.

    :param make: returns the WebSocket for a stream with an opening handshake.
    :param timeouts: ``websocket_connect``, ``websocket`` and ``graceful`` are used.
    :param observer: receives every change of a WebSocket's state, or ``None``.
    :param origins: the origins of pages that may open WebSockets; ``None`` for all.
    """

    def __init__(
        self,
        make: Callable[[Stream], protocol.WebSocket],
        timeouts: Timeouts,
        observer: Observer | None = None,
        origins: OriginList | None = None,
    ) -> None:
        self._make = make
        self._origins = origins
        self._open: set[Session] = set()
        # Passes the arguments of a call on, so that no frame refers to them; empty again before another greenlet runs.
        self._arguments: list[Any] = []
        self.timeouts = timeouts
        self.observer = observer
        #: Request fields that are kept during the whole life of a WebSocket.
        self.kept_fields = frozenset() if observer is None else frozenset(observer.websocket_fields)
        self.draining = False

    def serve(self, stream: Stream, admit: Callable[[Stream], Request], application: Callable[[Request, Session], None]) -> None:
        """Let ``application`` serve the WebSocket whose opening handshake ``stream`` carries.

        :param admit: returns the request as the application gets it.
        :raises HTTPError: for an invalid opening handshake, and if the application raises it before it accepts.
        """
        request = admit(stream)
        del admit
        protocol.load(_pause)
        websocket = self._make(stream)
        try:
            websocket.check()
        except HTTPError:
            _http_logger.debug("Connection %s did not get successful WS handshake.", stream.request.connection.client)
            raise
        if self._origins is not None and not self._origins.allow(request):
            raise HTTPError(403, "WebSockets may not be opened from this origin.", cause=causes.REJECTED)
        session = Session(self, websocket)
        self._open.add(session)
        session.begin()
        try:
            # The application owns the request; this frame must not keep it in memory while the WebSocket is open.
            arguments = self._arguments
            arguments += (session, request, application)
            del request, application
            arguments.pop()(arguments.pop(), arguments.pop())
            if session.connecting:
                session.reject()
            else:
                session.finish(CloseCode.NORMAL_CLOSURE)
        except protocol.WebSocketClosed:
            pass
        except BaseException as error:
            known = isinstance(error, (GreenletExit, KeyboardInterrupt, ClientDisconnected, HTTPError, ResponseError))
            # Of the exceptions that do not derive from Exception, the application may raise SystemExit, gevent.Timeout and CancelledError.
            websocket.cause = websocket.cause or (causes.of_exception(error) if known else causes.ERROR)
            if known or websocket.connecting or websocket.closed:
                raise
            logger.exception("Error in the application of WebSocket %s", session.name)
            session.finish(CloseCode.INTERNAL_ERROR, causes.ERROR)
        finally:
            self._open.discard(session)
            session.over()

    def start(self) -> None:
        """Serve WebSockets, again after :meth:`drain`."""
        self.draining = False

    def drain(self) -> None:
        """End every open WebSocket with 1012; a WebSocket in its opening handshake is opened first."""
        self.draining = True
        leave([session for session in self._open if not session.connecting], causes.DRAINING, min(SPREAD, self.timeouts.graceful / 2))


def _pause() -> None:
    # Not 0, which gevent does not poll the sockets for.
    gevent.sleep(0.001)


def leave(sessions: Iterable[Leaver], cause: str, seconds: float | None = None) -> int:
    """End ``sessions`` with 1012 one after the other; returns their number.

    :param seconds: the time within which all of them end; :data:`SPREAD` by default.
    """
    leaving = list(sessions)
    seconds = SPREAD if seconds is None else seconds
    if leaving:
        gevent.spawn(_leave_each, leaving, cause, min(seconds / len(leaving), SPREAD_EACH))
    return len(leaving)


def _leave_each(sessions: list[Leaver], cause: str, pause: float) -> None:
    begun = monotonic()
    for number, session in enumerate(sessions):
        session.leave(cause)
        ahead = begun + (number + 1) * pause - monotonic()
        if ahead > 0:
            gevent.sleep(ahead)
