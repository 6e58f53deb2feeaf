"""A gevent hub under which asyncio's per-thread state belongs to the greenlet.

asyncio stores the running loop, the current task, the hooks of asynchronous generators and the depth of coroutine origin tracking per
thread. When a greenlet waits in the hub in the middle of ``asyncio.run``, every other greenlet of the thread finds that state: its own
``asyncio.run`` raises ``RuntimeError: asyncio.run() cannot be called from a running event loop``, or its tasks replace the current task of
the first. :class:`AsyncioHub` removes the state from the thread while a greenlet waits and restores it before the greenlet goes on.

Without asyncio there is no such state.  So :mod:`.isolation`, which has the code for it, is imported when the program imports asyncio, and
a process that never does pays nothing.

Only switches through the hub do this, and all waiting functions of gevent go through the hub.  ``greenlet.switch`` called by hand does not:
the greenlet that is switched to sees the state of the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import gevent
from gevent.hub import Hub

from . import gevent_names
from .asyncio_hub import AsyncioHub, give_up

__all__ = ["AsyncioHub", "install", "is_isolated", "isolate"]


def install() -> bool:
    """Make :class:`AsyncioHub` the class of every hub created from now on; return whether it is.

    Call it after ``gevent.monkey.patch_all()``, where the process is patched, and before anything else imports asyncio.  A hub that this
    thread has already becomes an :class:`AsyncioHub`; hubs of other threads stay as they are.  A second call does nothing.

    The import of asyncio, or the function where that has been imported, runs :func:`.isolation.self_test`.  When that fails, hubs behave as
    gevent's and one line of level WARNING gives the reason: everything but concurrent asyncio code in greenlets works.
    """
    if AsyncioHub.installed:
        return True
    if "asyncio" not in sys.modules and not gevent_names.MISSING:
        sys.meta_path.insert(0, _OnImport())
    elif not isolate():
        return False
    gevent_names.set_default_hub_class(AsyncioHub)
    hub = gevent_names.get_hub_if_exists()
    if hub is None:
        if gevent_names.get_hub_class() is not AsyncioHub:
            # This thread had a hub before, so gevent keeps the class for the next one.
            gevent_names.set_hub(AsyncioHub())
    elif type(hub) is Hub:
        hub.__class__ = AsyncioHub
    AsyncioHub.installed = True
    return True


def is_isolated() -> bool:
    """Return whether this thread's hub is an :class:`AsyncioHub` that passed the self-test; creates a hub where there is none."""
    return isinstance(gevent.get_hub(), AsyncioHub) and not AsyncioHub.failed


def isolate() -> bool:
    """Give :class:`AsyncioHub` its ``switch``, and test it; return whether it works."""
    try:
        from . import isolation
    except Exception as error:  # noqa: BLE001 - whatever is wrong with asyncio, the server works without it
        give_up(error)
        return False
    return isolation.isolate()


class _OnImport:
    """Stands before the finders of modules until asyncio is imported, and calls :func:`isolate` at the end of that import.

    No event loop can run before.
    """

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find asyncio by the other finders; ``None`` for all other modules."""
        if name != "asyncio":
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                self._call_after(spec)
                return spec
        return None

    def _call_after(self, spec: ModuleSpec) -> None:
        """Have :func:`isolate` called after the module of ``spec`` has been executed."""
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                # The self-test runs in another thread, whose imports of asyncio would wait for the end of this one.
                module.__spec__._initializing = False  # type: ignore[union-attr]
                if f"{__package__}.isolation" in sys.modules:
                    AsyncioHub.pending = True
                else:
                    isolate()

        loader.exec_module = exec_module
