"""Which classes a server is put together from, where there is a choice.

A server takes the ordinary ones.  Metrics put in their place classes that count as well, so that a server that does not count has no trace
of it on the way of its requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..applications.channels.gate import Gate
from ..applications.channels.router import ReplyRouter
from ..websocket import WebSocket
from .connections import Connections
from .exchange import Exchange


class Parts(NamedTuple):
    """Each is called as the class is."""

    connections: Callable[..., Connections] = Connections
    exchange: Callable[..., Exchange] = Exchange
    websocket: Callable[..., WebSocket] = WebSocket
    gate: Callable[..., Gate] = Gate
    router: Callable[..., ReplyRouter] = ReplyRouter
