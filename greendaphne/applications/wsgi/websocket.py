"""``environ["wsgi.websocket"]``: gevent-websocket's interface to a WebSocket.

The messages are those of :class:`~greendaphne.serving.session.Session`, which does the protocol.  Return values, exceptions and attributes
are gevent-websocket's, so that ``Resource``, ``WebSocketApplication``, flask-sockets and python-engineio find what they know.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import gevent
from gevent import get_hub
from gevent.lock import Semaphore
from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_CLOSED, MSG_SOCKET_DEAD  # type: ignore[import-untyped]
from geventwebsocket.websocket import WebSocket as _GeventWebSocket

from ...core.message import ClientDisconnected, Headers, ResponseError
from ...serving.session import Session
from ...websocket import CloseCode, WebSocketClosed

_MAX_REASON: Final = 123
_CLOSE: Final = 8


class Handshake:
    """The opening handshake of one session, which is answered once: by the server for ``wsgi.websocket``, or by the application itself.

    :param subprotocol: the one that the application chose, ``None`` for the server's choice.
    """

    __slots__ = ("_lock", "environ", "handed_over", "session", "subprotocol")

    def __init__(self, session: Session, environ: dict[str, Any], subprotocol: str | None) -> None:
        self.session = session
        self.environ = environ
        self.subprotocol = subprotocol
        #: Whether the application speaks the protocol itself.
        self.handed_over = False
        self._lock = Semaphore(1)

    @property
    def answered(self) -> bool:
        """Whether the handshake has been answered, or can be no more."""
        return not self.session.connecting

    def accept(self) -> None:
        """Open the WebSocket where it is not open.

        :raises WebSocketClosed: where it has ended.
        """
        if self.session.websocket.was_open:
            return
        with self._lock:
            websocket = self.session.websocket
            if websocket.was_open:
                return
            try:
                self.session.accept(self.subprotocol)
            except ClientDisconnected:
                websocket.abandon()
                raise WebSocketClosed(CloseCode.ABNORMAL_CLOSURE) from None
            # A library that makes its own answer from the environ comes to the same result.
            self.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
            if websocket.subprotocol is None:
                self.environ.pop("HTTP_SEC_WEBSOCKET_PROTOCOL", None)
            else:
                self.environ["HTTP_SEC_WEBSOCKET_PROTOCOL"] = websocket.subprotocol

    def hand_over(self, headers: Headers) -> None:
        """Answer with the application's own ``headers``; where the server has answered, they are dropped.

        :raises OSError: where the WebSocket has ended, or compresses messages, which the application does not know.
        """
        with self._lock:
            websocket = self.session.websocket
            if websocket.was_open and websocket.compresses:
                raise OSError("the WebSocket was accepted with compression before its socket was used; see --wsgi-websocket=lazy")
            try:
                self.session.hand_over(headers)
            except (WebSocketClosed, ClientDisconnected):
                raise BrokenPipeError("the WebSocket has ended") from None
            self.handed_over = True

    def accept_when_waiting(self) -> None:
        """Open the WebSocket as soon as the calling greenlet first waits for something, unless it is answered by then."""
        get_hub().loop.run_callback(self._waits)

    def _waits(self) -> None:
        # Runs in the hub.
        if self.session.connecting and not self._lock.locked():
            gevent.spawn(self._accept_quietly)

    def _accept_quietly(self) -> None:
        try:
            self.accept()
        except WebSocketClosed:
            pass


class Client:
    """What gevent-websocket's ``server.clients`` has of each WebSocket."""

    __slots__ = ("address", "ws")

    def __init__(self, address: Any, ws: WebSocket) -> None:
        self.address = address
        self.ws = ws


class Clients:
    """Takes the place of gevent-websocket's server for applications: ``handler.server``.

    :param application: the WSGI application.
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        #: The open WebSockets of this process by their client's address.
        self.clients: dict[Any, Client] = {}
        self.logger = logging.getLogger("greendaphne.wsgi.websocket")


class Handler:
    """Takes the place of gevent-websocket's handler for applications: ``ws.handler``, ``ws.stream.handler``."""

    __slots__ = ("client_address", "environ", "server", "websocket")

    def __init__(self, server: Clients, environ: dict[str, Any]) -> None:
        self.server = server
        self.environ: dict[str, Any] | None = environ
        self.websocket: WebSocket | None = None
        #: Address and port of the client; several WebSockets on one HTTP/2 connection have a number besides.
        self.client_address: Any = (environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT") or 0))

    @property
    def active_client(self) -> Client:
        """The client of this WebSocket."""
        return self.server.clients[self.client_address]

    @property
    def application(self) -> Any:
        """The WSGI application."""
        return self.server.application

    @property
    def logger(self) -> logging.Logger:
        """The logger of all WebSockets."""
        return self.server.logger

    def enter(self, websocket: WebSocket) -> None:
        """Put the WebSocket among the open ones."""
        self.websocket = websocket
        clients = self.server.clients
        address, number = self.client_address, 1
        while self.client_address in clients:
            number += 1
            self.client_address = (*address, number)
        clients[self.client_address] = Client(self.client_address, websocket)

    def leave(self) -> None:
        """Take the WebSocket out, and break the circle of references."""
        self.server.clients.pop(self.client_address, None)
        self.websocket = self.environ = None


class _Stream:
    """What applications look for in gevent-websocket's ``ws.stream``."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler


class _NoApp:
    """Stands for the ``current_app`` of an application that has none."""

    def on_close(self, *arguments: Any) -> None:
        """Do nothing."""


_NO_APP: Final = _NoApp()


class WebSocket(_GeventWebSocket):  # type: ignore[misc]
    """The WebSocket of one request, as applications of gevent-websocket know it.

    One greenlet at a time calls :meth:`receive`; it also answers pings and completes the closing handshake.  Any greenlet may call
    :meth:`send` and :meth:`close`.
    """

    __slots__ = ("_ended", "_handshake", "_open", "_session")

    environ: Any
    handler: Any

    def __init__(self, handshake: Handshake, environ: dict[str, Any], handler: Handler) -> None:
        # The superclass's constructor would only make the parts that this class does without.
        self._handshake = handshake
        self._session = handshake.session
        self.environ = environ
        self.handler = handler
        # Whether the application knows of the end: it closed, or was told None.
        self._ended = False
        # Whether the handshake was seen to be answered.
        self._open = False

    def __del__(self) -> None:
        """Do nothing; the superclass would write from wherever the garbage collector runs."""

    # -- what it is

    @property
    def closed(self) -> bool:
        """Whether it is over or closing."""
        if self._ended:
            return True
        websocket = self._session.websocket
        return bool(websocket.closed or websocket.closing)

    @property
    def stream(self) -> Any:
        """Has ``handler``; ``None`` once it is closed."""
        return None if self.closed else _Stream(self.handler)

    @property
    def origin(self) -> str | None:
        """The ``Origin`` field."""
        origin: str | None = self.environ.get("HTTP_ORIGIN")
        return origin

    @property
    def protocol(self) -> str | None:
        """The subprotocol in use; until it is open, those that the client offers."""
        protocol: str | None = self._session.websocket.subprotocol or self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
        return protocol

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol."""
        return "13"

    @property
    def path(self) -> str:
        """``PATH_INFO``."""
        path: str = self.environ["PATH_INFO"]
        return path

    @property
    def current_app(self) -> Any:
        """The application's own ``current_app`` where it has one."""
        return getattr(self.handler.server.application, "current_app", None) or _NO_APP

    @property
    def logger(self) -> logging.Logger:
        """The logger of all WebSockets."""
        logger: logging.Logger = self.handler.logger
        return logger

    # -- messages

    def accept(self) -> None:
        """Open it where it is not open; :meth:`receive`, :meth:`send` and :meth:`close` do so too.

        :raises WebSocketError: where it has ended.
        """
        try:
            self._handshake.accept()
        except WebSocketClosed:
            self._die(MSG_SOCKET_DEAD)

    def receive(self) -> str | bytes | None:
        """Return the next message, text as ``str``; ``None`` once where the WebSocket is over.

        :raises WebSocketError: after that.
        """
        if self._ended:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            raise WebSocketError(MSG_SOCKET_DEAD)
        try:
            if not self._open:
                self._handshake.accept()
                self._open = True
            return self._session.receive()
        except WebSocketClosed:
            self._ended = True
            self.current_app.on_close(MSG_CLOSED)
            return None

    def read_message(self) -> str | bytes | None:
        """:meth:`receive` under another name."""
        return self.receive()

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send a message.

        :param binary: whether as binary data; by default where it is not ``str``.
        :raises WebSocketError: where the WebSocket is over or closing.
        :raises ValueError: for text with surrogates.
        """
        if not isinstance(message, (str, bytes)):
            message = bytes(message) if binary is not False else str(message)
        try:
            if self._ended:
                raise WebSocketClosed(CloseCode.ABNORMAL_CLOSURE)
            if not self._open:
                self._handshake.accept()
                self._open = True
            self._session.websocket.send(message, binary)
        except WebSocketClosed:
            self._die(MSG_SOCKET_DEAD)
        except ResponseError as error:
            raise ValueError(str(error)) from None

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send one frame with ``opcode``; errors as :meth:`send`."""
        if opcode == _CLOSE:
            self.close(message=message)
            return
        try:
            if self._ended:
                raise WebSocketClosed(CloseCode.ABNORMAL_CLOSURE)
            self._handshake.accept()
            self._session.websocket.send_frame(message, opcode)
        except WebSocketClosed:
            self._die(MSG_ALREADY_CLOSED)

    def close(self, code: int = 1000, message: Any = b"") -> None:
        """Close it; never raises.

        A code that must not be sent counts as 1000, and of a long message the first 123 bytes are sent.
        """
        if self._ended:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            return
        self._ended = True
        text = message.decode("utf-8", "replace") if isinstance(message, (bytes, bytearray)) else str(message or "")
        text = text.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore")
        try:
            self._handshake.accept()
            try:
                self._session.close(code, text)
            except ValueError:
                self._session.close(CloseCode.NORMAL_CLOSURE, text)
        except (WebSocketClosed, ClientDisconnected, RuntimeError):
            pass

    def _die(self, text: str) -> None:
        self.current_app.on_close(text)
        raise WebSocketError(text) from None
