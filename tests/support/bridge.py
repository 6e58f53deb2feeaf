"""WebSockets through a server whose application is the test."""

from __future__ import annotations

import os
import struct
from base64 import b64encode
from typing import Any

from tests.support.server import Client, RunningServer

KEY = b64encode(os.urandom(16))


def handshake(path: bytes = b"/ws", *fields: bytes, version: bytes = b"13") -> bytes:
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket"]
    lines += [b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: " + version, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def read_frame(client: Client) -> tuple[int, bytes]:
    first, length = client.read_exactly(2)
    if length == 126:
        (length,) = struct.unpack("!H", client.read_exactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", client.read_exactly(8))
    return first & 15, client.read_exactly(length)


def open_websocket(server: RunningServer, client: Client, **reply: Any) -> dict[str, Any]:
    """Connect and have the application accept; returns the connect message."""
    client.send(handshake())
    _, message = server.app.receive("websocket.connect")
    server.app.reply(message, **(reply or {"accept": True}))
    assert client.read_head().status == 101
    return message
