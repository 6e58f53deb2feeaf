"""Clients of the Django example."""

from __future__ import annotations

import json
import time
from typing import Any

import websocket

from tests.support import legacy

PATIENCE = legacy.PATIENCE


def receive(socket: websocket.WebSocket, kind: str) -> dict[str, Any]:
    """The next object of this type; others are passed over."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        # The server's pings count as answers, so that silence does not end in the socket's own timeout.
        opcode, data = socket.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_TEXT:
            content = json.loads(data)
            if content["type"] == kind:
                return dict(content)
    raise AssertionError(f"nothing of type {kind} came")
