"""Signals while a server runs, and what they meant before once it has ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import gevent


@contextmanager
def handle_signals(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call each handler in a greenlet of its own when its signal comes, while the block runs; only in the main thread."""
    previous = {number: signal.getsignal(number) for number in handlers}
    watchers = [gevent.signal_handler(number, handler) for number, handler in handlers.items()]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        for number, action in previous.items():
            # The event loop leaves the system's default behind: Ctrl-C would end the process without a word.
            if action is not None:
                signal.signal(number, action)
