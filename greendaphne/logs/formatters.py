"""Formatters and a handler for ``logging``; files of ``--log-config`` may name them."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from time import gmtime, strftime
from typing import Any, Final, TextIO

from .sink import Sink

#: The descriptor of standard error.
STANDARD_ERROR: Final = 2

# The formatters keep line feeds and tabs, which tracebacks contain.  Apart from control characters, the pattern matches other characters
# that end a line or change the direction of text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class TextFormatter(logging.Formatter):
    """Text without control sequences for terminals: control characters except line feeds and tabs are written ``\\xNN``.

    Lines of a message after the first are indented.  Messages may contain data from clients, such as the decoded path in Django's
    "Not Found", and such data must not look like a separate record.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        if "\n" in record.message:
            record.message = record.message.replace("\n", "\n    ")
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if text.isprintable():
            return text
        return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class JSONFormatter(logging.Formatter):
    """One JSON object per line, in printable ASCII.

    Its keys are ``time`` (UTC, in milliseconds), ``level``, ``logger``, ``message`` and ``pid``; ``exception`` and ``stack`` where
    present; and every attribute given as ``extra``, unless its name is one of these.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(record.created))}.{int(record.created % 1 * 1000):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["exception"] = record.exc_text
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD_ATTRIBUTES:
                entry.setdefault(name, value)
        try:
            text = json.dumps(entry, default=str)
        except (TypeError, ValueError):
            # The record has a structure that refers to itself, or keys that JSON does not allow.
            text = json.dumps({name: value if isinstance(value, str | int) else repr(value) for name, value in entry.items()})
        return text.replace("\x7f", "\\u007f")


class SinkHandler(logging.Handler):
    """A handler that never waits.

    It still works after :meth:`close`, as handlers of standard streams do, because ``dictConfig``, which Django calls, closes all existing
    handlers, including those that stay in use.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        # The method of logging would write to standard error, and block.
        if logging.raiseExceptions:
            text = f"Cannot log what {record.pathname}:{record.lineno} says:\n{traceback.format_exc()}"
            self._sink.write(_CONTROL.sub(_escape, text))

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self.flush()
        super().close()


class StderrHandler(SinkHandler):
    """Writes to standard error and never waits for its reader."""

    def __init__(self) -> None:
        fd = descriptor(sys.stderr)
        super().__init__(Sink(STANDARD_ERROR if fd is None else fd, "the log"))


# ---- the process's logs


def descriptor(stream: TextIO | None) -> int | None:
    """The descriptor of a standard stream; ``None`` where it is closed."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
