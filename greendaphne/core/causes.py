"""Why the server, and not the application, decided how a request or a WebSocket ended: a fixed vocabulary.

A cause is a short word for logs and metrics.  Exceptions of ``message`` carry one; an
:class:`~greendaphne.core.observer.Observer` is told it.
Where the application's own answer reached the client in full there is none, :data:`NONE`.  The words are stable: dashboards and filters
are built on them.
"""

from __future__ import annotations

from typing import Final

#: The application's answer, or an ordinary end of a WebSocket by either side.
NONE: Final = ""

LAYER_FULL: Final = "layer-full"
LAYER_DOWN: Final = "layer-down"
WORKER_TIMEOUT: Final = "worker-timeout"
NO_ROOM: Final = "no-room"
DRAINING: Final = "draining"
CLIENT_GONE: Final = "client-gone"
CLIENT_SLOW: Final = "client-slow"
BAD_REQUEST: Final = "bad-request"
LIMIT: Final = "limit"
BAD_RESPONSE: Final = "bad-response"
ERROR: Final = "error"
REJECTED: Final = "rejected"
ACCEPT_TIMEOUT: Final = "accept-timeout"
PING_TIMEOUT: Final = "ping-timeout"
LIFETIME: Final = "lifetime"
PROTOCOL_ERROR: Final = "protocol-error"
SHED: Final = "shed"

#: Every cause and what it means, in one sentence for people.
CAUSES: Final[dict[str, str]] = {
    LAYER_FULL: "The channel layer took no more messages: there are too few workers for the load, or none.",
    LAYER_DOWN: "The channel layer was out of reach.",
    WORKER_TIMEOUT: "No worker answered, or went on answering, within --http-timeout.",
    NO_ROOM: "The server's memory or disk for clients was used up.",
    DRAINING: "The server was stopping.",
    CLIENT_GONE: "The client left before the end.",
    CLIENT_SLOW: "The client sent or took too little within a time limit, or let more replies pile up than it may.",
    BAD_REQUEST: "The request broke the protocol or asked for what the server does not do.",
    LIMIT: "The request, its body or a WebSocket message was larger than a limit.",
    BAD_RESPONSE: "The application's answer could not be sent as it was.",
    ERROR: "Something failed in the server; the log has the traceback.",
    REJECTED: "The application did not accept the WebSocket.",
    ACCEPT_TIMEOUT: "The application did not say within --websocket-connect-timeout whether it accepts the WebSocket.",
    PING_TIMEOUT: "The WebSocket's client did not answer a ping within --ping-timeout.",
    LIFETIME: "The WebSocket reached its longest life, --websocket-timeout.",
    PROTOCOL_ERROR: "The WebSocket's client broke the protocol.",
    SHED: "The WebSocket was closed because the channel layer may have lost its groups.",
}

#: The server's own trouble or its deployment's, as opposed to a client's or the application's.
TROUBLES: Final = frozenset((LAYER_FULL, LAYER_DOWN, WORKER_TIMEOUT, NO_ROOM))

_OF_STATUS: Final = {408: CLIENT_SLOW, 413: LIMIT, 414: LIMIT, 431: LIMIT}


def of_status(status: int) -> str:
    """The cause of an answer of the server's own that names none."""
    return _OF_STATUS.get(status) or (BAD_REQUEST if status < 500 or status in (501, 505) else ERROR)


def of_exception(error: BaseException) -> str:
    """The cause that an exception stands for, which ended the serving of a request."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, str):
        return cause
    # Whatever is no Exception was thrown at the greenlet to end it, which the server does at the end of its graceful time.
    return ERROR if isinstance(error, Exception) else DRAINING
