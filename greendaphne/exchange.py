"""Serves one stream: calls the application, turns what goes wrong into a response, and reports the outcome to the action logger.

This is the one place where exceptions become statuses.  A peer's fault costs one line at most; the application's and the server's own
faults are logged with what is needed to find them, and the client learns no more than a fixed sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from .access import ActionLogger
from .message import Application, ClientDisconnected, Headers, HTTPError, Request, ResponseError, Stream, Unreported
from .pages import CONTENT_TYPE, error_page
from .websocket import WebSocket

logger = logging.getLogger("daphne.http_protocol")

#: What the client is told about a fault that is not its own; daphne's sentence.
PROCESSING_ERROR = "HTTP processing error"


class Exchange:
    """Brings streams and the application together.

    :param application: what answers.
    :param websockets: makes the WebSocket of a stream that asks for one.
    :param action_logger: told of completed requests, or ``None``.
    :param locate: returns the request as it is seen behind trusted proxies, or ``None`` where none are configured.
    :param extra_headers: fields that every response of the server's own carries.
    """

    def __init__(
        self,
        application: Application,
        websockets: Callable[[Stream], WebSocket],
        action_logger: ActionLogger | None = None,
        locate: Callable[[Request], Request] | None = None,
        extra_headers: Headers = (),
    ) -> None:
        self._application = application
        self._websockets = websockets
        self._action_logger = action_logger
        self._locate = locate
        self._extra_headers = extra_headers

    def serve(self, stream: Stream) -> None:
        """Answer ``stream``; never raises for what a peer or the application did."""
        started = monotonic()
        try:
            if self._locate is not None:
                stream.request = self._locate(stream.request)
            if stream.request.upgrade == b"websocket":
                self._websocket(stream)
                return
            self._application.http(stream.request, stream)
        except (ClientDisconnected, Unreported):
            return
        except HTTPError as error:
            if not self._answer(stream, error):
                return
        except ResponseError as error:
            logger.error("Bad response to %s: %s", _name(stream), error)
            if not self._answer(stream, HTTPError(500, PROCESSING_ERROR)):
                return
        except Exception:
            logger.exception("Error processing %s", _name(stream))
            if not self._answer(stream, HTTPError(500, PROCESSING_ERROR, close=True)):
                return
        if self._action_logger is not None and stream.request.upgrade != b"websocket":
            self._log(self._action_logger, stream, monotonic() - started)

    def _websocket(self, stream: Stream) -> None:
        # The request is in no variable here: it could not be released while the WebSocket lives.
        websocket = self._websockets(stream)
        try:
            websocket.check()
        except HTTPError:
            logger.debug("Connection %s did not get successful WS handshake.", stream.request.connection.client)
            raise
        self._application.websocket(stream.request, websocket)

    def refuse(self, stream: Stream, error: HTTPError) -> None:
        """Answer a stream whose request head was in error; no request was served, so no access line is due."""
        logger.debug("Request refused: %s %s", error.status, error.detail)
        try:
            self._answer(stream, error)
        except ClientDisconnected:
            pass

    def _answer(self, stream: Stream, error: HTTPError) -> bool:
        """Answer with ``error``, or abort where a response has begun; whether the response is complete."""
        if stream.status:
            stream.reset()
            return stream.complete
        page = error_page(error.status, error.detail)
        headers = [CONTENT_TYPE, (b"Content-Length", b"%d" % len(page)), *error.headers, *self._extra_headers]
        if error.close:
            headers.append((b"Connection", b"close"))
        try:
            stream.start(error.status, headers)
            stream.finish(page)
        except ClientDisconnected:
            return False
        return True

    @staticmethod
    def _log(action_logger: ActionLogger, stream: Stream, duration: float) -> None:
        request = stream.request
        client = request.connection.client
        action_logger(
            "http",
            "complete",
            {
                "path": request.target.decode("latin-1"),
                "status": stream.status,
                "method": request.method,
                "client": None if client is None else f"{client[0]}:{client[1]}",
                "time_taken": duration,
                "size": stream.sent,
            },
        )


def _name(stream: Stream) -> str:
    """The request's method and target, for the log."""
    return f"{stream.request.method} {stream.request.target.decode('ascii', 'backslashreplace')}"
