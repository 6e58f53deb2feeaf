"""The access log in daphne's format, byte for byte.

An *action logger* is called as ``action_logger(protocol, action, details)``: ``("http", "complete", {path, status, method, client,
time_taken, size})`` and ``("websocket", "connecting" | "connected" | "rejected" | "disconnected", {path, client})``.
:class:`AccessLogGenerator` is the action logger that writes lines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from ...core.message import Stream
from ...core.observer import Observer
from .entries import CLOCK, escaped

logger = logging.getLogger("daphne.access")

ActionLogger = Callable[[str, str, Mapping[str, Any]], None]

_WEBSOCKET_REQUESTS = {
    "connecting": "WSCONNECTING",
    "connected": "WSCONNECT",
    "rejected": "WSREJECT",
    "disconnected": "WSDISCONNECT",
}


def guarded(action_logger: ActionLogger) -> ActionLogger:
    """``action_logger`` with its exceptions logged: it reports past events, so its failure must not affect the request."""

    def call(protocol: str, action: str, details: Mapping[str, Any]) -> None:
        try:
            action_logger(protocol, action, details)
        except Exception:
            logger.exception("Error in the action logger at %s %s", protocol, action)

    return call


class ActionObserver(Observer):
    """Calls an action logger for the same events and with the same details as daphne."""

    __slots__ = ("_action_logger",)

    def __init__(self, action_logger: ActionLogger) -> None:
        self._action_logger = action_logger

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        if stream.complete:
            request = stream.request
            self._action_logger(
                "http",
                "complete",
                {
                    "path": request.target.decode("latin-1"),
                    "status": stream.status,
                    "method": request.method,
                    "client": _client(stream),
                    "time_taken": seconds,
                    "size": stream.sent,
                },
            )

    def websocket_connecting(self, stream: Stream) -> None:
        self._websocket("connecting", stream)

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        self._websocket("connected", stream)

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        self._websocket("rejected", stream)

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        self._websocket("disconnected", stream)

    def _websocket(self, action: str, stream: Stream) -> None:
        self._action_logger("websocket", action, {"path": stream.request.path.decode("ascii"), "client": _client(stream)})


def _client(stream: Stream) -> str | None:
    client = stream.request.connection.client
    return None if client is None else f"{client[0]}:{client[1]}"


class AccessLogGenerator:
    """Writes a line for every completed request and every change of a WebSocket's state.

    :param stream: a text stream that is line-buffered or unbuffered.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._failed = False

    def __call__(self, protocol: str, action: str, details: Mapping[str, Any]) -> None:
        if protocol == "http":
            if action == "complete":
                request = f"{details['method']} {details['path']}"
                self._write(details["client"], request, details["status"] or "-", details["size"] or "-")
        elif (name := _WEBSOCKET_REQUESTS.get(action)) is not None:
            self._write(details["client"], f"{name} {details['path']}", "-", "-")

    def _write(self, client: str | None, request: str, status: object, length: object) -> None:
        try:
            # The client may contain the zone of an IPv6 address from a proxy's field, which is arbitrary text.
            self.stream.write(f'{escaped(str(client))} - - [{CLOCK.now().daphne}] "{escaped(request)}" {status} {length}\n')
        except (OSError, ValueError) as error:
            # A full disk or a closed pipe must not stop the service; the first failure is logged.
            if not self._failed:
                self._failed = True
                logger.error("Cannot write to the access log: %s", error)
        else:
            self._failed = False
