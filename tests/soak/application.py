"""The site for workers of this package, inside the server or in processes of their own.

``SOAK_REDIS``, the URL of a Redis server, chooses the Redis layer instead of the one in memory.
"""

from __future__ import annotations

import os
from typing import Any

from greendaphne.worker import Message

from .answers import respond

#: Messages of one channel: enough that no client is told that the site is busy.
CAPACITY = 1000


def _layer() -> Any:
    if url := os.environ.get("SOAK_REDIS"):
        from greendaphne.layers.redis import RedisChannelLayer

        return RedisChannelLayer(hosts=[url], capacity=CAPACITY)
    from greendaphne.layers.memory import MemoryChannelLayer

    return MemoryChannelLayer()


def _request(message: Message) -> None:
    respond(message.content, message.body, message.reply)


def _connect(message: Message) -> None:
    message.reply({"accept": True})


def _receive(message: Message) -> None:
    message.reply({"text": message.content["text"]})


def _ignore(message: Message) -> None:
    """A client has left."""


channel_layer = _layer()
channel_layer.routes = {
    "http.request": _request,
    "http.disconnect": _ignore,
    "websocket.connect": _connect,
    "websocket.receive": _receive,
    "websocket.disconnect": _ignore,
}
