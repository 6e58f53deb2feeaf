"""A gevent protocol server for ASGI channel layers: HTTP/1.1, HTTP/2 and WebSocket on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compat import moved

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Server", "__version__"]

__version__ = "1.0.0"

moved.install()

# Read by Django before 3.2.
default_app_config = "greendaphne.apps.GreendaphneConfig"


def __getattr__(name: str) -> Any:
    # The server brings gevent and much else in, which a command line or a Django app that is only listed can do without.
    if name == "Server":
        from .server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
