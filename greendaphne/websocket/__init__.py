"""WebSocket (RFC 6455), over HTTP/1.1 and over HTTP/2 (RFC 8441), with permessage-deflate (RFC 7692).

* ``handshake`` checks the opening handshake and writes its answer;
* ``frames`` turns bytes into messages and control frames, and payloads into frames; it does no input or output;
* ``deflate`` negotiates and applies the compression;
* ``connection`` is :class:`WebSocket`, which brings these together on a :class:`~greendaphne.core.message.Stream`;
* ``errors`` has the exceptions, ``codes`` the close codes.

The package knows no socket and no channel layer.  Except for the codes, its modules are imported when one of their names is first used,
because they need gevent-websocket and ``websockets``, which a server without WebSockets does not load.  :func:`load` imports them one by
one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from gevent.event import Event

from ..core.turns import events
from .codes import CloseCode

if TYPE_CHECKING:
    from .connection import State, WebSocket
    from .errors import WebSocketClosed

__all__ = ["CloseCode", "State", "WebSocket", "WebSocketClosed"]

#: What a WebSocket needs, the last first; each takes a few milliseconds at most to import once those after it are there.  Modules that
#: import each other, as those of gevent-websocket and the exceptions and frames of websockets do, are one piece.
_unloaded = [
    f"{__name__}.connection",
    f"{__name__}.handshake",
    f"{__name__}.sending",
    f"{__name__}.compat",
    f"{__name__}.state",
    f"{__name__}.keepalive",
    f"{__name__}.alarm",
    f"{__name__}.frames",
    f"{__name__}.deflate",
    f"{__name__}.errors",
    "websockets.extensions.permessage_deflate",
    "websockets.headers",
    "websockets.exceptions",
    "websockets.speedups",
    "websockets.typing",
    "websockets.version",
    "websockets",
    "geventwebsocket.websocket",
    "gevent.pywsgi",
    "http.client",
    "email.parser",
    "email.feedparser",
    "email.message",
]


#: Set when the greenlet that imports has ended; ``None`` while none does.
_loading: Event | None = None


def load(pause: Callable[[], object]) -> None:
    """Import all that a WebSocket needs; without this, its first use imports all at once, and every client waits for that.

    One greenlet at a time imports, and others wait for it: they would import several pieces in one iteration of the event loop.

    :param pause: called after each piece; lets other greenlets run.
    """
    global _loading  # noqa: PLW0603 - imports belong to the process
    while _unloaded or _loading is not None:
        if _loading is not None:
            _loading.wait()
            # Many may have waited.
            events().wait()
            continue
        _loading = loaded = Event()
        try:
            while _unloaded:
                name = _unloaded.pop()
                if name not in sys.modules:
                    import_module(name)
                    pause()
        finally:
            _loading = None
            loaded.set()


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .connection import State, WebSocket
    from .errors import WebSocketClosed

    globals().update(State=State, WebSocket=WebSocket, WebSocketClosed=WebSocketClosed)
    return globals()[name]
