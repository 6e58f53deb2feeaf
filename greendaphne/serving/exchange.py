"""Serves one stream: calls the application, turns exceptions into responses, and reports the outcome to the observer.

No other module turns exceptions into statuses.  A fault of the peer costs at most one log line.  Faults of the application and the server
are logged with details, and the client gets only a fixed sentence.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Protocol

from gevent import GreenletExit

from ..core import causes
from ..core.detached import Detached
from ..core.errors import CONTENT_TYPE, error_page
from ..core.message import ClientDisconnected, HTTPError, Request, ResponseError, Stream, Unreported
from ..core.observer import Observer
from .failure_log import FailureLog
from .policy import RequestPolicy
from .session import Session, Sessions

logger = logging.getLogger("daphne.http_protocol")

#: daphne's sentence for faults that the client has not caused.
PROCESSING_ERROR = "HTTP processing error"


class Handler(Protocol):
    """Answers the requests of an exchange: an application, or local pages before it."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request`` on ``stream``; return when the response is complete."""

    def websocket(self, request: Request, session: Session) -> None:
        """Serve one WebSocket from its opening handshake to its end."""


class Exchange:
    """Connects streams and the application.

    :param handler: answers the requests.
    :param sessions: serves WebSockets.
    :param policy: the rules for every request before the application receives it.
    :param observer: receives the outcome of requests; ``None`` for no observer.
    """

    def __init__(self, handler: Handler, sessions: Sessions, policy: RequestPolicy, observer: Observer | None = None) -> None:
        self._handler = handler
        self._sessions = sessions
        self._policy = policy
        self._observer = observer
        #: Whether :meth:`serve` may return before the response of a detached stream.
        self.detaches = True
        #: Logs requests that fail because of the server; the owner closes it.
        self.failure_log = FailureLog()

    def serve(self, stream: Stream, detached: Detached | None = None) -> None:
        """Answer ``stream``; errors of the peer and the application are handled here.

        :param detached: answers a stream that an earlier call has left.
        """
        # The time is for the observer alone.
        started = 0.0
        if self._observer is not None:
            started = monotonic() if detached is None else detached.started
        cause = causes.NONE
        answer: HTTPError | None = None
        refused = False
        try:
            if detached is not None:
                detached.run()
            elif stream.request.upgrade == b"websocket":
                # This frame must not keep the request in memory while the WebSocket is open.
                self._sessions.serve(stream, self._policy.admit, self._handler.websocket)
                return
            else:
                request = self._policy.admit(stream)
                self._handler.http(request, stream)
        except Unreported:
            return
        except ClientDisconnected as error:
            cause = error.cause
        except HTTPError as error:
            cause = error.cause
            self.failure_log.count(cause)
            refused = stream.request.upgrade == b"websocket"
            answer = error
        except ResponseError as error:
            cause = error.cause
            if cause == causes.BAD_RESPONSE:
                logger.error("Bad response to %s: %s", _name(stream), error)
            else:
                logger.debug("Response to %s is cut short: %s", _name(stream), error)
                self.failure_log.count(cause)
            answer = HTTPError(500, PROCESSING_ERROR)
        except GreenletExit:
            self._completed(stream, started, causes.DRAINING)
            raise
        except KeyboardInterrupt:
            # Of the terminal, in a program without signal handlers of the server; it ends the program.
            raise
        except BaseException:
            # The application may also raise SystemExit, which must not end the server, gevent.Timeout, or asyncio's CancelledError.
            cause = causes.ERROR
            logger.exception("Error processing %s", _name(stream))
            answer = HTTPError(500, PROCESSING_ERROR, close=True)
        if answer is not None:
            # The client may read the answer slowly, and the frames of the traceback may hold a whole response in memory.
            answer.__traceback__ = answer.__cause__ = answer.__context__ = None
            self._answer(stream, answer)
            if refused and self._observer is not None:
                self._observer.refused(stream, monotonic() - started, cause)
        if self._observer is not None:
            left: Detached | None = getattr(stream, "detached", None)
            if left is None or left.done:
                self._completed(stream, started, cause)
            else:
                left.started = started
                left.completed = self._completed

    def _completed(self, stream: Stream, started: float, cause: str) -> None:
        observer = self._observer
        # The session reports the outcome of a WebSocket.
        if observer is not None and stream.request.upgrade != b"websocket":
            observer.completed(stream, monotonic() - started, cause)

    def refuse(self, stream: Stream, error: HTTPError) -> None:
        """Answer a stream with an invalid request head; the application does not receive it."""
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
        request = stream.request
        if error.close or (request.upgrade == b"websocket" and not request.by_extended_connect):
            # What follows a handshake may be frames, which must not be taken for a request.
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
