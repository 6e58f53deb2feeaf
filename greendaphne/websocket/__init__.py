"""WebSocket (RFC 6455), over HTTP/1.1 and over HTTP/2 (RFC 8441), with permessage-deflate (RFC 7692).

* ``handshake`` judges the opening handshake and writes its answer;
* ``frames`` turns bytes into messages and control frames, and payloads into frames, without any input or output of its own;
* ``deflate`` negotiates and applies the compression;
* ``connection`` is :class:`WebSocket`, which brings these together on a :class:`~greendaphne.core.message.Stream`;
* ``errors`` has the exceptions and the close codes.

Nothing here knows a socket or a channel layer.
"""

from .connection import State, WebSocket
from .errors import CloseCode, WebSocketClosed

__all__ = ["CloseCode", "State", "WebSocket", "WebSocketClosed"]
