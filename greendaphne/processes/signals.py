"""Signals while a server starts, runs and ends, and what they meant before once it has ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import gevent


@contextmanager
def survive(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Let signals that would end the process do nothing while the block runs; in another thread than the main one they are as they were.

    Programs that the block starts have the system's default again, as they would not with ``SIG_IGN``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _do_nothing) for number in numbers}
    try:
        yield
    finally:
        for number, action in previous.items():
            if action is not None:
                signal.signal(number, action)


def _do_nothing(number: int, frame: object) -> None:
    """Handle a signal."""


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
