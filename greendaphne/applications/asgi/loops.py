"""The event loop of all ASGI applications that one hub serves: they may share connections, locks and other objects of asyncio."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from gevent import get_hub

from ...aio.loop import SERVER_SIGNALS, HubLoop

#: For each hub its loop and how many applications use it.
_loops: WeakKeyDictionary[Any, tuple[HubLoop, int]] = WeakKeyDictionary()


def acquire() -> HubLoop:
    """The running loop of this thread's hub; :func:`release` gives it back."""
    hub = get_hub()
    loop, users = _loops.get(hub, (None, 0))
    if loop is None or loop.is_closed():
        loop, users = HubLoop(owned_signals=SERVER_SIGNALS), 0
        # An application that raises SystemExit ends its request and not the loop of all others.
        loop.start(survive=True)
    _loops[hub] = (loop, users + 1)
    return loop


def release(loop: HubLoop, timeout: float) -> None:
    """Give the loop back; the last user shuts it down, within about ``timeout`` seconds for each of its steps."""
    hub = get_hub()
    known, users = _loops.get(hub, (None, 0))
    if known is loop and users > 1:
        _loops[hub] = (loop, users - 1)
        return
    if known is loop:
        del _loops[hub]
    loop.shutdown(timeout)
