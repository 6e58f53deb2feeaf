"""Logs: formatters and handlers for ``logging``, the access log, and writing that never blocks the hub.

Files of ``--log-config`` may name the classes below.  They are imported on first use, because ``logging`` must not be imported before
gevent patches the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formatters import JSONFormatter, SinkHandler, StderrHandler, TextFormatter

__all__ = ["JSONFormatter", "SinkHandler", "StderrHandler", "TextFormatter"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import formatters

        return getattr(formatters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
