"""Ends waits for messages without losing one, from any thread, greenlet or signal handler.

A wait that an exception interrupts may already hold a message.  A wait with a :class:`Wake` ends regularly instead: the layer ends it and
returns the messages that have arrived.  The module needs no gevent if no greenlet waits.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any


class Wake:
    """A switch that ends all waits that have it, present and future ones.  It cannot be reset.

    It takes no lock, so that a signal handler may call :meth:`set` at any time.  Each step is one operation on a dict or a flag,
    and :meth:`attach` adds its entry before it reads the flag: either :meth:`set` finds the entry, or :meth:`attach` finds the flag.
    """

    __slots__ = ("_enders", "is_set")

    def __init__(self) -> None:
        #: Whether :meth:`set` was called.
        self.is_set = False
        self._enders: dict[object, tuple[Any, Callable[[], object]]] = {}

    def set(self) -> None:
        """End the waits.  Returns at once; each layer ends its waits soon afterwards."""
        self.is_set = True
        for hub, ender in list(self._enders.values()):
            _call(hub, ender)

    def attach(self, hub: Any, ender: Callable[[], object]) -> object:
        """Call ``ender`` at :meth:`set`, or now if that was called before; returns the argument for :meth:`detach`.

        :param hub: the gevent hub of the wait: the hub calls ``ender``, which must not wait.  ``None`` for a wait of a native thread: a
            separate thread calls ``ender``.  It may be called twice.
        """
        key = object()
        self._enders[key] = (hub, ender)
        if self.is_set:
            _call(hub, ender)
        return key

    def detach(self, key: object) -> None:
        """Undo :meth:`attach`."""
        self._enders.pop(key, None)


def _call(hub: Any, ender: Callable[[], object]) -> None:
    if hub is None:
        start_native_thread(ender, ())
        return
    try:
        hub.loop.run_callback_threadsafe(ender)
    except Exception:  # noqa: BLE001 - a hub that was destroyed together with the wait
        pass


def start_native_thread(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Call ``function`` in a new native thread, even if gevent has patched threads.

    It takes no lock of Python's, so that a signal handler may do it, and the interpreter does not wait for the thread at its end.
    """
    start = _thread.start_new_thread
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        start = monkey.get_original("_thread", "start_new_thread")
    start(function, arguments)
