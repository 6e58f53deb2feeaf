"""What a task is called in logs, and which one runs."""

from __future__ import annotations

import asyncio
from typing import Any

from . import private


def describe(task: asyncio.Task[Any]) -> str:
    """Return the name of ``task`` and of its coroutine, such as ``Task-7 (site.views.index)``."""
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
    code = getattr(coroutine, "cr_code", None)
    module = getattr(getattr(coroutine, "cr_frame", None), "f_globals", {}).get("__name__") if code is not None else None
    return f"{task.get_name()} ({module}.{name})" if module else f"{task.get_name()} ({name})"


def running_task(thread: int) -> str | None:
    """Return :func:`describe` of the task that runs in a native thread now, ``None`` where there is none; called in any thread.

    While the task's greenlet waits in an :class:`.hub.AsyncioHub`, the task does not run: what the function names keeps the hub from
    running.  Python 3.14 keeps the current task with the thread, so there the function knows the tasks of :class:`.loop.HubLoop` only.

    :param thread: the native identity of the thread with the hub.
    """
    for loop, task in private.current_tasks():
        if getattr(loop, "native_thread", thread) == thread:
            return describe(task)
    return None
