"""Serves one stream: calls the application, turns what goes wrong into a response, and reports the outcome to the observer.

This is the one place where exceptions become statuses.  A peer's fault costs one line at most; the application's and the server's own
faults are logged with what is needed to find them, and the client learns no more than a fixed sentence.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Protocol

from gevent import GreenletExit

from ..core import causes
from ..core.errors import CONTENT_TYPE, error_page
from ..core.message import ClientDisconnected, HTTPError, Request, ResponseError, Stream, Unreported
from ..core.observer import Observer
from .policy import RequestPolicy
from .session import Session, Sessions
from .troubles import Troubles

logger = logging.getLogger("daphne.http_protocol")

#: What the client is told about a fault that is not its own; daphne's sentence.
PROCESSING_ERROR = "HTTP processing error"


class Handler(Protocol):
    """What answers the requests of an exchange: an application, or local pages before it."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request`` on ``stream``; return when the response is complete."""

    def websocket(self, request: Request, session: Session) -> None:
        """Serve one WebSocket from its opening handshake to its end."""


class Exchange:
    """Brings streams and the application together.

    :param handler: what answers.
    :param sessions: serves WebSockets.
    :param policy: what holds for every request before the application sees it.
    :param observer: told of what became of requests, or ``None``.
    """

    def __init__(self, handler: Handler, sessions: Sessions, policy: RequestPolicy, observer: Observer | None = None) -> None:
        self._handler = handler
        self._sessions = sessions
        self._policy = policy
        self._observer = observer
        #: Tells of requests that fail because of the server; to be closed.
        self.troubles = Troubles()

    def serve(self, stream: Stream) -> None:
        """Answer ``stream``; never raises for what a peer or the application did."""
        started = monotonic()
        cause = causes.NONE
        try:
            request = self._policy.admit(stream)
            if request.upgrade == b"websocket":
                self._sessions.serve(stream, request, self._handler.websocket)
                return
            self._handler.http(request, stream)
        except Unreported:
            return
        except ClientDisconnected as error:
            cause = error.cause
        except HTTPError as error:
            cause = error.cause
            self.troubles.count(cause)
            self._answer(stream, error)
            if stream.request.upgrade == b"websocket" and self._observer is not None:
                self._observer.refused(stream, monotonic() - started, cause)
        except ResponseError as error:
            cause = error.cause
            if cause == causes.BAD_RESPONSE:
                logger.error("Bad response to %s: %s", _name(stream), error)
            else:
                logger.debug("Response to %s is cut short: %s", _name(stream), error)
                self.troubles.count(cause)
            self._answer(stream, HTTPError(500, PROCESSING_ERROR))
        except Exception:
            cause = causes.ERROR
            logger.exception("Error processing %s", _name(stream))
            self._answer(stream, HTTPError(500, PROCESSING_ERROR, close=True))
        except GreenletExit:
            self._completed(stream, started, causes.DRAINING)
            raise
        self._completed(stream, started, cause)

    def _completed(self, stream: Stream, started: float, cause: str) -> None:
        observer = self._observer
        # What becomes of a WebSocket the application tells.
        if observer is not None and stream.request.upgrade != b"websocket":
            observer.completed(stream, monotonic() - started, cause)

    def refuse(self, stream: Stream, error: HTTPError) -> None:
        """Answer a stream whose request head was in error; no request was served."""
        logger.debug("Request refused: %s %s", error.status, error.detail)
        started = monotonic()
        self._answer(stream, error)
        if self._observer is not None:
            self._observer.refused(stream, monotonic() - started, error.cause)

    def _answer(self, stream: Stream, error: HTTPError) -> None:
        """Answer with ``error``, or abort where a response has begun."""
        if stream.begun:
            stream.reset()
            return
        page = error_page(error.status, error.detail, self._policy.footer)
        headers = [CONTENT_TYPE, (b"Content-Length", b"%d" % len(page)), *error.headers]
        if error.close:
            headers.append((b"Connection", b"close"))
        stream.extra_headers = self._policy.extra_headers
        try:
            stream.start(error.status, headers)
            stream.finish(page)
        except ClientDisconnected:
            pass


def _name(stream: Stream) -> str:
    """The request's method and target, for the log."""
    return f"{stream.request.method} {stream.request.target.decode('ascii', 'backslashreplace')}"
