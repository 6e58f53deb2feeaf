"""HTTP/2 (RFC 9113) and the bootstrapping of WebSockets on it (RFC 8441), over h2.

``limits`` states what is allowed, ``budgets`` counts; ``compression`` is HPACK, ``fields`` the rules about header fields, ``engine`` h2
made into a server's; ``priority`` and ``writer`` send, ``stream`` is one request, ``connection`` brings all of it together.
"""

from .connection import Http2Connection
from .engine import PREFACE
from .limits import Http2Limits
from .stream import Http2Stream

__all__ = ["PREFACE", "Http2Connection", "Http2Limits", "Http2Stream"]
