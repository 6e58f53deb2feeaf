"""HTTP/2 (RFC 9113) and the bootstrapping of WebSockets on it (RFC 8441).

``limits`` states what is allowed, ``budgets`` counts.  The protocol without input and output: ``frames`` has the layout, ``states`` those
of streams, ``settings`` SETTINGS, ``compression`` HPACK, ``fields`` the rules about header fields; ``sender`` is what the server sends,
``control`` and ``engine`` are what it receives, and ``listener`` is told.  One request: ``stream``, with its ``inbox``, its ``outbound``
queue and the ``progress`` of that.  The connection: ``priority`` and ``writer`` send, ``early`` ends requests that were answered early,
and ``connection`` brings all of it together.

All but the limits is imported with the first use of one of its names: a server without TLS rarely speaks HTTP/2, and hpack takes time.
"""

from typing import TYPE_CHECKING

from .limits import PREFACE, Http2Limits

if TYPE_CHECKING:
    from .connection import Http2Connection
    from .stream import Http2Stream

__all__ = ["PREFACE", "Http2Connection", "Http2Limits", "Http2Stream"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .connection import Http2Connection
    from .stream import Http2Stream

    globals().update(Http2Connection=Http2Connection, Http2Stream=Http2Stream)
    return globals()[name]
