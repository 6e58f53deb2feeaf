"""The states of a WebSocket."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The states of RFC 6455 sections 4.1 and 7.1."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3
