"""``python -m tests.soak.worker``: a process of workers of this package, which ends in good order by SIGTERM."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402 - after the patches, as in every process that imports an application
import signal  # noqa: E402

from greendaphne.worker import Worker  # noqa: E402

from .application import channel_layer  # noqa: E402

#: Messages in process at a time.
CONCURRENCY = 8


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    worker = Worker(channel_layer, channel_layer.routes, concurrency=CONCURRENCY)
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stop())
    worker.run()
    channel_layer.close()


if __name__ == "__main__":
    main()
