"""Ends waits for messages, from any thread, greenlet or signal handler, without cutting them off.

A wait that an exception cuts off may hold a message already.  A wait that was given a :class:`Wake` ends in good order instead: the layer
asks for its end and returns the messages that had come by then.  Needs no gevent where no greenlet waits.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any


class Wake:
    """A switch that ends every wait it was given to, those under way and those still to come.  It cannot be reset.

    It takes no lock, so that a signal handler may call :meth:`set` whatever it interrupts.  Each step is one operation on a dict or a flag,
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
        """Have ``ender`` called at :meth:`set`, or now where it was called before; returns what :meth:`detach` takes.

        :param hub: the gevent hub of the wait: the hub calls ``ender``, which must not wait.  ``None`` for a wait of a plain thread: a
            thread of its own calls ``ender``.  It may be called twice.
        """
        key = object()
        self._enders[key] = (hub, ender)
        if self.is_set:
            _call(hub, ender)
        return key

    def detach(self, key: object) -> None:
        """Take back :meth:`attach`."""
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
    """Call ``function`` in a thread of its own, a native one even where gevent patched threads.

    It takes no lock of Python's, so that a signal handler may do it, and the interpreter does not wait for the thread at its end.
    """
    start = _thread.start_new_thread
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        start = monkey.get_original("_thread", "start_new_thread")
    start(function, arguments)
