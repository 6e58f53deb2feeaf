"""For greendaphne: its in-memory layer, served by inline workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from benchmarks.apps.consumers import CHANNELS, consume
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message


def _serve(channel: str, message: Message) -> None:
    consume(message.layer, channel, message.content)


def _consumer(channel: str) -> Callable[[Message], None]:
    return partial(_serve, channel)


channel_layer = MemoryChannelLayer(capacity=int(os.environ["BENCH_CAPACITY"]))
channel_layer.routes = {channel: _consumer(channel) for channel in CHANNELS}
