"""A gevent protocol server for ASGI channel layers: HTTP/1.1, HTTP/2 and WebSocket on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compat import moved
from .core.version import __version__

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Server", "__version__"]

moved.install()

# Read by Django before 3.2.
default_app_config = "greendaphne.apps.GreendaphneConfig"


def __getattr__(name: str) -> Any:
    # Imported on access, because the server imports gevent and much else that a command line or an unused Django app does not need.
    if name == "Server":
        from .server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
