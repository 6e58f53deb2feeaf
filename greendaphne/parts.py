"""Which classes a server is put together from, where there is a choice.

A server takes the ordinary ones.  Metrics put in their place classes that count as well, so that a server that does not count has no trace
of it on the way of its requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .bridge.gate import Gate
from .bridge.router import ReplyRouter
from .connections import Connections
from .exchange import Exchange
from .websocket import WebSocket


class Parts(NamedTuple):
    """Each is called as the class is."""

    connections: Callable[..., Connections] = Connections
    exchange: Callable[..., Exchange] = Exchange
    websocket: Callable[..., WebSocket] = WebSocket
    gate: Callable[..., Gate] = Gate
    router: Callable[..., ReplyRouter] = ReplyRouter
