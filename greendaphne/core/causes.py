"""Causes: why the server, and not the application, ended a request or a WebSocket.

A cause is a word of this fixed vocabulary, for logs and metrics.  The exceptions of :mod:`.message` carry one, and every
:class:`~greendaphne.core.observer.Observer` receives one.  The cause is :data:`NONE` where the application's own answer reached the client
in full.  The words are stable, because dashboards and filters depend on them.
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
APP_BUSY: Final = "app-busy"
APP_TIMEOUT: Final = "app-timeout"

#: Every cause and its meaning, one sentence each; the log prints it.
CAUSES: Final[dict[str, str]] = {
    LAYER_FULL: "The channel layer took no more messages: there are too few workers for the load, or none.",
    LAYER_DOWN: "The channel layer was out of reach.",
    WORKER_TIMEOUT: "No worker sent the first reply, or the next one, within --http-timeout.",
    NO_ROOM: "The server's memory or disk for clients was used up.",
    DRAINING: "The server was stopping.",
    CLIENT_GONE: "The client disconnected before the end.",
    CLIENT_SLOW: "The client sent or took too little within a time limit, or its queue of replies was full.",
    BAD_REQUEST: "The request broke the protocol or asked for an unsupported feature.",
    LIMIT: "The request, its body or a WebSocket message was larger than a limit.",
    BAD_RESPONSE: "The application's answer could not be sent as it was.",
    ERROR: "Something failed in the server; the log has the traceback.",
    REJECTED: "The application did not accept the WebSocket.",
    ACCEPT_TIMEOUT: "The application did not accept or reject the WebSocket within --websocket-connect-timeout.",
    PING_TIMEOUT: "The WebSocket's client did not answer a ping within --ping-timeout.",
    LIFETIME: "The WebSocket reached its maximum lifetime, --websocket-timeout.",
    PROTOCOL_ERROR: "The WebSocket's client broke the protocol.",
    APP_BUSY: "As many requests as --app-concurrency allows were inside the application, for longer than --app-queue.",
    APP_TIMEOUT: "The application did not begin its response within --request-timeout, or not complete it within --http-timeout.",
    SHED: "The WebSocket was closed because the channel layer may have lost its groups.",
}

#: Causes in the server or its deployment, as opposed to the client or the application.
TROUBLES: Final = frozenset((LAYER_FULL, LAYER_DOWN, WORKER_TIMEOUT, NO_ROOM, APP_BUSY, APP_TIMEOUT))

_OF_STATUS: Final = {408: CLIENT_SLOW, 413: LIMIT, 414: LIMIT, 431: LIMIT}


def of_status(status: int) -> str:
    """The cause of an error response by the server that does not name one, derived from its status."""
    return _OF_STATUS.get(status) or (BAD_REQUEST if status < 500 or status in (501, 505) else ERROR)


def of_exception(error: BaseException) -> str:
    """The cause of an exception that ended a request; :data:`ERROR` where it does not carry one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, str):
        return cause
    # The server ends greenlets at the end of the graceful time with an exception that does not derive from Exception.
    return ERROR if isinstance(error, Exception) else DRAINING
