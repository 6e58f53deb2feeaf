"""Ends the workers of Channels 1 gracefully on a signal.

``manage.py runworker`` calls ``sys.exit`` in its signal handler.  In an idle worker that interrupts any code of the main thread, even at
the moment when a message arrives, and with ``--threads`` it interrupts the consumers of all threads.  :func:`attend` replaces the handler
by one that raises no exception: the workers finish their messages, their waits end, and the process ends after the last of them.

The module never imports Channels: the layer calls :func:`attend`, which does nothing without Channels.
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
    """The methods of a layer that the end of a worker needs."""

    def interrupt(self) -> None:
        """End the waits for messages, from a signal handler."""

    def finished(self) -> None:
        """Record that the consumer of the calling thread has returned."""


#: The layers that workers of Channels receive from.
_layers: WeakSet[Layer] = WeakSet()
#: The completed steps: ``"signals"`` of Channels are connected, ``"handlers"`` of the main thread's worker are replaced.
_done: set[str] = set()


def attend(layer: Layer) -> None:
    """Make the calling worker of Channels, if it is one, end gracefully.  Cheap after the first call."""
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
    """Connect to Channels' signals: to learn when a consumer has returned, and to give the handler to a group of threads, which installs
    Channels' own later."""
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
    """Replace the handlers that a worker has already installed."""
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
    """Wait for the threads of a group, because the interpreter does not wait for them."""
    if worker.termed:
        for thread in getattr(worker, "threads", ()):
            thread.join()
