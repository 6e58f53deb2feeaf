"""Every private name of CPython and gevent that :mod:`greendaphne.aio` uses.

A new version of CPython or gevent can change these names.  pyproject.toml limits both versions for that reason, a test compares the tables below
with the interpreter that runs it, and :func:`greendaphne.aio.hub.install` tests their behaviour at each start.

CPython keeps three things of a running event loop per thread: the running loop, the current task and the hooks of asynchronous generators.
The current task is in a dictionary of the module ``_asyncio`` up to Python 3.13, and in the thread's state since 3.14.  There
``_swap_current_task`` sets it, and requires that the loop is the running one.  The function of that name in Python 3.12 and 3.13 fails
where no task is the current one.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import events, tasks
from collections.abc import Callable
from typing import Any, Final

from .gevent_names import GEVENT, MISSING, find

__all__ = ["GEVENT", "MISSING"]

#: Names of ``asyncio``, by module; the second table is for Python 3.14 and later, the third for earlier versions.
ASYNCIO: Final = {
    "asyncio.events": (
        "_get_running_loop",
        "_set_running_loop",
        "Handle._run",
        "Handle._callback",
        "Handle._cancelled",
        "Handle._source_traceback",
    ),
    "asyncio.base_events": (
        "BaseEventLoop._check_closed",
        "BaseEventLoop._check_thread",
        "BaseEventLoop._write_to_self",
    ),
}
ASYNCIO_SINCE_3_14: Final = {"asyncio.tasks": ("_swap_current_task",)}
ASYNCIO_BEFORE_3_14: Final = {"asyncio.tasks": ("_current_tasks",)}
#: Attributes of an event loop's instance.
LOOP_ATTRIBUTES: Final = ("_closed", "_debug", "_ready", "_scheduled", "_task_factory", "_thread_id")
#: Names of ``selectors``.
SELECTORS: Final = {"selectors": ("_BaseSelectorImpl",)}
#: Attributes of a ``_BaseSelectorImpl`` instance.
SELECTOR_ATTRIBUTES: Final = ("_fd_to_key",)

#: Return the running loop of this thread or ``None``.
get_running_loop: Callable[[], asyncio.AbstractEventLoop | None] = find(events, "_get_running_loop")
#: Set the running loop of this thread; ``None`` for no loop.
set_running_loop: Callable[[asyncio.AbstractEventLoop | None], None] = find(events, "_set_running_loop")

if sys.version_info >= (3, 14):
    #: Set the current task of the running loop, ``None`` for no task, and return the previous one.
    swap_current_task: Callable[[Any, Any], Any] = find(tasks, "_swap_current_task")
    _loops: weakref.WeakSet[Any] = weakref.WeakSet()

    def know_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Let :func:`current_tasks` look at ``loop``."""
        _loops.add(loop)

    def current_tasks() -> list[tuple[Any, asyncio.Task[Any]]]:
        """Return loops with the task that runs in them now, for loops passed to :func:`know_loop`; called in any thread."""
        found = ((loop, asyncio.current_task(loop)) for loop in list(_loops))
        return [(loop, task) for loop, task in found if task is not None]

else:
    _current_tasks: dict[Any, Any] = find(tasks, "_current_tasks")

    def swap_current_task(loop: Any, task: Any) -> Any:
        """Set the current task of the running loop, ``None`` for no task, and return the previous one."""
        previous = _current_tasks.pop(loop, None)
        if task is not None:
            _current_tasks[loop] = task
        return previous

    def know_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Let :func:`current_tasks` look at ``loop``."""

    def current_tasks() -> list[tuple[Any, asyncio.Task[Any]]]:
        """Return all loops with the task that runs in them now; called in any thread."""
        return list(_current_tasks.items())
