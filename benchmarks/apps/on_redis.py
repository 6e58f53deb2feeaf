"""For both servers and their workers: one Redis between them, under the layer that ``BENCH_REDIS_LAYER`` names.

``python -m benchmarks.apps.on_redis`` is a worker: a process with the given number of threads, as a supervisor would run several.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

from benchmarks.apps.consumers import CHANNELS, consume


def _layer() -> Any:
    module, _, name = os.environ["BENCH_REDIS_LAYER"].rpartition(".")
    return getattr(importlib.import_module(module), name)(hosts=[os.environ["BENCH_REDIS_URL"]], capacity=int(os.environ["BENCH_CAPACITY"]))


channel_layer = _layer()


def work() -> None:
    """Consume for ever."""
    while True:
        channel, content = channel_layer.receive(CHANNELS, block=True)
        if channel is not None:
            try:
                consume(channel_layer, channel, content)
            except channel_layer.ChannelFull:
                # The client waits in vain, as it would with Channels, whose worker logs the error.
                pass


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        threading.Thread(target=work, daemon=True).start()
    signal.pause()
