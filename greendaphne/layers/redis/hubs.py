"""Which kind of waiting suits the calling thread: gevent's, where a hub runs in it, or the thread's own.

Servers call the layer from greenlets, patched or not; workers call it from plain threads, where gevent may not even be installed.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterable
from threading import RLock
from typing import Any, Protocol


class NativeLock(Protocol):
    """A lock of threads, never of greenlets; to be held for moments in which nothing can switch."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> Any: ...


def _original(module: str, name: str, fallback: Any) -> Any:
    """``module.name`` as it was before gevent patched it."""
    if "gevent.monkey" in sys.modules:
        from gevent.monkey import get_original

        return get_original(module, name)
    return fallback


def native_lock() -> NativeLock:
    """A lock that works between threads with and without hubs; recursive, for a signal handler may come back to its holder."""
    lock: NativeLock = _original("_thread", "RLock", RLock)()
    return lock


def current_hub() -> Any | None:
    """The gevent hub of this thread; ``None`` in a thread that has none and whose process is not monkey-patched."""
    local = sys.modules.get("gevent._hub_local")
    if local is None:
        return None
    hub = local.get_hub_if_exists()
    if hub is not None:
        return hub
    monkey = sys.modules.get("gevent.monkey")
    return local.get_hub() if monkey is not None and monkey.is_module_patched("socket") else None


def sleep(seconds: float) -> None:
    """Wait without holding up other greenlets of this thread."""
    if current_hub() is None:
        time.sleep(seconds)
    else:
        import gevent

        gevent.sleep(seconds)


def new_poller(descriptor: int) -> Any:
    """A poller, the system's own, for one descriptor: ``poll(0)`` tells at once whether there is something to read, an end or an error."""
    poller = _original("select", "poll", select.poll)()
    poller.register(descriptor, select.POLLIN)
    return poller


def wait_readable(descriptors: Iterable[int], timeout: float) -> list[int]:
    """Wait up to ``timeout`` seconds until some of ``descriptors`` are readable, and return those."""
    poller: Any
    if current_hub() is None:
        poller = select.poll()
    else:
        from gevent.select import poll

        poller = poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(timeout * 1000)]
