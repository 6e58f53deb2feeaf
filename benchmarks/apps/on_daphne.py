"""For daphne 1.4.2: asgiref's in-memory layer with one worker thread in the server's process.

The worker waits as Channels 1.1.8's does: 10 ms when the layer, which never blocks, had nothing.
"""

from __future__ import annotations

import os
import threading
import time

from asgiref.inmemory import ChannelLayer

from benchmarks.apps.consumers import CHANNELS, consume

WORKER_PAUSE = 0.01

channel_layer = ChannelLayer(capacity=int(os.environ["BENCH_CAPACITY"]))


def work() -> None:
    while True:
        channel, content = channel_layer.receive(CHANNELS, block=True)
        if channel is None:
            time.sleep(WORKER_PAUSE)
        else:
            consume(channel_layer, channel, content)


threading.Thread(target=work, daemon=True).start()
