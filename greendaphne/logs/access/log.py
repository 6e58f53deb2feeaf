"""The access log as an observer: writes a line for every event to a sink or to ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...core.message import Stream
from ...core.observer import Observer
from .entries import CONNECTED, CONNECTING, DISCONNECTED, FIELD_HEADERS, FIELDS, REFUSED, REJECTED, REQUEST, Entry
from .formats import Format

#: The logger for accesses as records.
LOGGER = "daphne.access"
_server_logger = logging.getLogger("daphne.server")


class AccessLog(Observer):
    """Writes access lines.

    :param write: takes a line with its line feed; must not wait.
    """

    def __init__(self, format: Format, write: Callable[[str], None]) -> None:  # noqa: A002 - the usual name in other servers
        self._render = format.render
        self._write = write
        self.websocket_fields = format.headers

    def _log(self, stream: Stream, event: str, seconds: float, cause: str = "", code: int | None = None) -> None:
        line = self._render(stream, event, seconds, cause, code)
        if line is not None:
            self._write(line + "\n")

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        self._log(stream, REQUEST, seconds, cause)

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        self._log(stream, REFUSED, seconds, cause)

    def websocket_connecting(self, stream: Stream) -> None:
        self._log(stream, CONNECTING, 0.0)

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        self._log(stream, CONNECTED, seconds)

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        self._log(stream, REJECTED, seconds, cause)

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        self._log(stream, DISCONNECTED, seconds, cause, code)


class AccessRecords(AccessLog):
    """Logs accesses with ``logging``: the line is the message, and every value is an attribute of the record.

    :param logger: by default the logger :data:`LOGGER`.
    """

    def __init__(self, format: Format, logger: logging.Logger | None = None) -> None:  # noqa: A002
        super().__init__(format, lambda line: None)
        self._logger = logger or logging.getLogger(LOGGER)
        # Handlers may read any attribute.
        self.websocket_fields = format.headers | frozenset(FIELD_HEADERS.values())

    def _log(self, stream: Stream, event: str, seconds: float, cause: str = "", code: int | None = None) -> None:
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        line = self._render(stream, event, seconds, cause, code)
        if line is None:
            return
        entry = Entry(stream, event, seconds, cause, code)
        values = {name: value(entry) for name, value in FIELDS.items()}
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, line, (), None, extra=values)
        try:
            logger.handle(record)
        except Exception:
            _server_logger.exception("Error in a handler of the logger %s", logger.name)
