"""The access log: who asked for what, what came of it, and why.

``actions`` has daphne's interface, an *action logger* and the class that writes its lines; ``entries`` says what can be known of a request
or a WebSocket; ``formats`` makes lines of that; ``log`` is the :class:`~greendaphne.core.observer.Observer` that writes them.
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
