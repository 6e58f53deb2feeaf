"""Ends the workers of Channels 1 in good order when a signal comes.

``manage.py runworker`` ends by ``sys.exit`` in its signal handler: out of whatever the main thread is at where the worker is idle, which
includes the moment in which a message arrives, and with ``--threads`` out of every thread's consumer.  :func:`attend` puts a handler in its
place that raises nothing: the workers finish their messages, their waits end, and the process ends when the last of them is done.

Channels is asked for by its layer, never imported: without it nothing here happens.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
from typing import Any, Protocol
from weakref import WeakSet

logger = logging.getLogger("greendaphne.worker")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Layer(Protocol):
    """What the end of a worker needs of its layer."""

    def interrupt(self) -> None:
        """End the waits for messages, from a signal handler."""

    def finished(self) -> None:
        """Take note that the consumer of the calling thread has returned."""


#: The layers that workers of Channels receive from.
_layers: WeakSet[Layer] = WeakSet()
#: What is done: ``"signals"`` of Channels are connected, ``"handlers"`` of the main thread's worker are replaced.
_done: set[str] = set()


def attend(layer: Layer) -> None:
    """See to it that the calling worker of Channels, if it is one, ends in good order.  Cheap after the first time."""
    if "handlers" in _done and layer in _layers:
        return
    _layers.add(layer)
    if "signals" not in _done:
        _done.add("signals")
        _connect()
    if "handlers" not in _done and threading.current_thread() is threading.main_thread():
        _done.add("handlers")
        _replace_handlers()


def _connect() -> None:
    """Learn when a consumer has returned, and give the handler to a group of threads, which install Channels' own after they began."""
    worker = sys.modules.get("channels.worker")
    if worker is None:
        return
    worker.consumer_finished.connect(_consumer_finished, weak=False, dispatch_uid=__name__)
    for kind in (worker.Worker, worker.WorkerGroup):
        kind.sigterm_handler = _handle


def _consumer_finished(**_: object) -> None:
    for layer in list(_layers):
        layer.finished()


def _replace_handlers() -> None:
    """Replace the handlers that a worker has installed already."""
    worker = sys.modules.get("channels.worker")
    if worker is None:
        return
    for number in SIGNALS:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(owner, worker.Worker):
            signal.signal(number, owner.sigterm_handler)
            if number == signal.SIGTERM:
                atexit.register(_join, owner)


def _handle(self: Any, signo: int, frame: object) -> None:
    """The signal handler of workers of Channels: ``self`` is one, or a group of them."""
    logger.info("%s: the worker ends after the messages in process", signal.Signals(signo).name)
    for worker in (self, *getattr(self, "workers", ())):
        worker.termed = True
    for layer in list(_layers):
        layer.interrupt()


def _join(worker: Any) -> None:
    """Wait for the threads of a group, which the interpreter would not wait for."""
    if worker.termed:
        for thread in getattr(worker, "threads", ()):
            thread.join()
