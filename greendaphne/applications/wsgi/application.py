"""Calls a WSGI application for requests and WebSockets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]

from ...core import greenlets
from ...core.configuration import ConfigurationError
from ...core.greenlets import Greenlets
from ...core.message import ClientDisconnected, HTTPError, Request, Stream
from ...core.version import __version__
from ...serving.session import Session
from ...websocket.handshake import offered_subprotocols
from ..base import Application
from ..concurrency import blocking_drivers
from .buffering import Buffers
from .environ import EnvironFactory, add_websocket
from .input import EMPTY, BodyError, Input
from .rawsocket import RawSocket
from .response import Response
from .websocket import Clients, Handler, Handshake, WebSocket

logger = logging.getLogger("daphne.server")


class WSGIApplication(Application):
    """Serves a WSGI application.

    Each call of it has a greenlet of its own, so that neither context variables nor thread-locals pass from one request to the next.

    :param application: called as ``application(environ, start_response)``.
    :param multiprocess: whether other processes serve it too (``wsgi.multiprocess``).
    :param environ: strings that every ``environ`` has besides.
    :param websocket_eager: whether WebSockets are accepted as soon as the application waits for something; otherwise only when it uses
        ``wsgi.websocket``, and until then its response denies the opening handshake.
    :param buffers: reads request bodies before the application is called; ``None`` where it reads them itself.
    """

    interface: ClassVar[str] = "wsgi"

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        *,
        multiprocess: bool = False,
        environ: Mapping[str, str] | None = None,
        websocket_eager: bool = True,
        buffers: Buffers | None = None,
    ) -> None:
        self._application = application
        self._environs = EnvironFactory(multiprocess=multiprocess, extra=environ or {}, software=f"greendaphne/{__version__}")
        self._eager = websocket_eager
        self._buffers = buffers
        self._clients = Clients(application)
        # Where the application is called; those of the hub in which this was started.
        self._greenlets: Greenlets | None = None
        self._isolate: Callable[..., None]

    def check(self) -> None:
        if not callable(self._application):
            raise ConfigurationError(f"a WSGI application has to be callable, and {type(self._application).__name__} is not.")

    def stop(self, patience: float = 0, *, at_once: bool = False) -> None:
        shared, self._greenlets = self._greenlets, None
        if shared is not None:
            greenlets.leave(shared)

    def start(self) -> None:
        self.check()
        if self._greenlets is None:
            # It may be another thread's than before.
            self._greenlets = greenlets.enter()
            self._isolate = self._greenlets.isolate
        drivers = blocking_drivers()
        if drivers:
            logger.warning("Database drivers that keep all requests waiting while they wait: %s", "; ".join(drivers))

    # -- requests

    def http(self, request: Request, stream: Stream) -> None:
        if self._buffers is not None and request.content_length != 0:
            with self._buffers.read(stream) as buffered:
                self._isolate(self._http, request, stream, buffered.input, buffered.length)
        else:
            self._isolate(self._http, request, stream, Input(stream.read) if request.content_length != 0 else EMPTY, None)

    def _http(self, request: Request, stream: Stream, source: Input, length: int | None) -> None:
        environ = self._environs.make(request)
        environ["wsgi.input"] = source
        if length is not None:
            environ["CONTENT_LENGTH"] = str(length)
        response = Response(stream)
        if request.http_version != "1.0":
            environ["wsgi.early_hints"] = response.early_hints
        try:
            result = self._application(environ, response.start_response)
            try:
                response.send(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except ClientDisconnected:
            raise
        except Exception as error:
            reason = _reason(error, source, response)
            if reason is None:
                raise
            raise reason from None

    # -- WebSockets

    def websocket(self, request: Request, session: Session) -> None:
        self._isolate(self._websocket, request, session)

    def _websocket(self, request: Request, session: Session) -> None:
        environ = self._environs.make(request)
        add_websocket(environ, request)
        environ["wsgi.input"] = EMPTY
        handshake = Handshake(session, environ, self._subprotocol(request, environ))
        handler = Handler(self._clients, environ)
        websocket = WebSocket(handshake, environ, handler)
        raw = RawSocket(handshake)
        environ["wsgi.websocket"] = websocket
        environ["wsgi.websocket_version"] = "13"
        environ["gunicorn.socket"] = raw
        session.offer()
        handler.enter(websocket)
        if self._eager:
            handshake.accept_when_waiting()
        try:
            self._run_websocket(handshake, environ)
        except Exception as error:
            if not self._ended_so(error, websocket, raw):
                if self._eager and session.connecting:
                    # Its client hears of the failure as of one that comes later.
                    handshake.accept()
                raise
        finally:
            handler.leave()
            environ["wsgi.websocket"] = None
            if raw.switched:
                raw.end()

    def _run_websocket(self, handshake: Handshake, environ: dict[str, Any]) -> None:
        """Call the application; its response counts only where it may deny the opening handshake and nothing has answered that."""
        session = handshake.session
        response = _Denial(session.stream)
        result = self._application(environ, response.start_response)
        try:
            if handshake.answered or self._eager:
                for _ in result or ():
                    pass
            else:
                session.deny(lambda: response.send(result))
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        if self._eager:
            handshake.accept()

    def _subprotocol(self, request: Request, environ: dict[str, Any]) -> str | None:
        """The subprotocol that the application names, as gevent-websocket asks for it, where the client offers it."""
        app_protocol = getattr(self._application, "app_protocol", None)
        if app_protocol is None:
            return None
        offered = offered_subprotocols(request.headers)
        chosen = app_protocol(environ["PATH_INFO"]) if offered else None
        return chosen if chosen in offered else None

    @staticmethod
    def _ended_so(error: Exception, websocket: WebSocket, raw: RawSocket) -> bool:
        """Whether ``error`` is an ordinary end of a WebSocket."""
        if raw.switched:
            # How python-engineio and Flask-Sock leave servers that know no WebSocket.
            return isinstance(error, (StopIteration, ConnectionError))
        return isinstance(error, WebSocketError) and websocket.closed


class _Denial(Response):
    """A response to an opening handshake, which is sent only once the application has returned."""

    __slots__ = ("_written",)

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def send(self, result: Any) -> None:
        if self._stream.request.http_version != "2" and self._headers is not None:
            self._headers.append((b"Connection", b"close"))
        for data in self._written:
            super().write(data)
        super().send(result)


def _reason(error: BaseException, source: Input, response: Response) -> HTTPError | ClientDisconnected | None:
    """What has made the application fail where it is not its own fault: its client left, or the request body could not be read."""
    if response.disconnected is not None:
        return response.disconnected
    failure = source.failure
    if failure is None:
        return None
    seen: BaseException | None = error
    for _ in range(16):
        if seen is None:
            return None
        if isinstance(seen, BodyError):
            return failure.cause
        seen = seen.__cause__ or seen.__context__
    return None
