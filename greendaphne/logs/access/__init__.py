"""The access log: every request with its client, result and cause.

``actions`` has daphne's interface, an *action logger*, and the class that writes its lines.  ``entries`` has the values of a request
or a WebSocket, ``formats`` formats them as lines, and ``log`` has the :class:`~greendaphne.core.observer.Observer` that writes the lines.
"""

from __future__ import annotations

from .actions import AccessLogGenerator, ActionLogger, ActionObserver, guarded
from .formats import FormatError, compile_format
from .log import AccessLog, AccessRecords

__all__ = [
    "AccessLog",
    "AccessLogGenerator",
    "AccessRecords",
    "ActionLogger",
    "ActionObserver",
    "FormatError",
    "compile_format",
    "guarded",
]
