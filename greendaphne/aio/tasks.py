"""Tasks that are kept until they end.

asyncio refers to tasks weakly, so a task that only waits for itself can be collected in the middle.  :class:`Tasks` holds strong
references, counts, waits for the end, cancels, and logs what nothing else would.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from typing import Any

from gevent.event import Event

from .loop import HubLoop
from .task_names import describe

logger = logging.getLogger("greendaphne.aio")


class Tasks:
    """The tasks that one part of the program has started on a loop, with strong references.

    :param loop: where they run.
    :param on_error: called with each task that ends with an exception, in the loop's greenlet, or in the greenlet of :meth:`create` where
        the first step ends the task.  By default the loop's exception handler is called, which logs the exception.
    """

    def __init__(self, loop: HubLoop, on_error: Callable[[asyncio.Task[Any]], object] | None = None) -> None:
        #: Whether :meth:`cancel` was called.
        self.cancelled = False
        self._loop = loop
        self._on_error = on_error if on_error is not None else _report
        # With what keep() was told to call in the end.
        self._tasks: dict[asyncio.Task[Any], Callable[[asyncio.Task[Any]], object] | None] = {}
        # Set at the end of the last task; made where a greenlet waits for that.
        self._empty: Event | None = None
        #: The callback of each task for its end, see :meth:`settle`.
        self.on_done = self._discard

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._tasks))

    def create(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        first_step: bool = False,
    ) -> asyncio.Task[Any]:
        """Start a task for ``coroutine``; called in any greenlet of the loop's thread.

        :param name: the task's name.
        :param context: the task runs in it; Python 3.10 takes a copy.  The default is a copy of the current one.
        :param first_step: run the first step at once in the calling greenlet, see :meth:`.loop.HubLoop.create_started_task`.
        """
        create = self._loop.create_started_task if first_step else self._loop.create_task_in
        task = create(coroutine, name=name, context=context)
        if task.done():
            self._ended(task)
        else:
            self._tasks[task] = None
            task.add_done_callback(self.on_done)
        return task

    def keep(self, task: asyncio.Task[Any], on_end: Callable[[asyncio.Task[Any]], object]) -> None:
        """Keep a task that was made elsewhere and has not ended.

        :param on_end: called with the task, in the loop's greenlet, once it has ended.
        """
        self._tasks[task] = on_end
        task.add_done_callback(self.on_done)

    def settle(self, task: asyncio.Task[Any]) -> None:
        """Look at a task that has lost its callback :attr:`on_done`, which costs a round of the loop: is it over, or has to be kept on?

        No exception of it is reported, where it is over.
        """
        if task.done():
            self._drop(task)
        else:
            task.add_done_callback(self.on_done)

    def cancel(self) -> int:
        """Ask all tasks to end; returns their number."""
        self.cancelled = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return len(tasks)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait in the calling greenlet until no task is left, for at most ``timeout`` seconds; returns whether none is."""
        if not self._tasks:
            return True
        if self._empty is None or self._empty.is_set():
            self._empty = Event()
        return bool(self._empty.wait(timeout))

    def close(self, timeout: float | None = None, *, patience: float = 1.0) -> bool:
        """Wait for the end of all tasks, cancel those that are left after ``timeout`` seconds, and wait for them for ``patience`` seconds.

        :param timeout: ``None`` waits without limit, 0 cancels at once.
        :returns: whether all tasks have ended.  The names of the others are logged.
        """
        if self.wait(timeout):
            return True
        self.cancel()
        if self.wait(patience):
            return True
        names = ", ".join(sorted(describe(task) for task in self._tasks))
        logger.warning("%d tasks have not ended after they were cancelled: %s", len(self._tasks), names)
        return False

    def _discard(self, task: asyncio.Task[Any]) -> None:
        on_end = self._drop(task)
        if on_end is not None:
            on_end(task)
        self._ended(task)

    def _drop(self, task: asyncio.Task[Any]) -> Callable[[asyncio.Task[Any]], object] | None:
        on_end = self._tasks.pop(task)
        if self._empty is not None and not self._tasks:
            self._empty.set()
        return on_end

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._on_error(task)


def _report(task: asyncio.Task[Any]) -> None:
    context = {"message": f"Exception in {describe(task)}", "exception": task.exception(), "task": task}
    task.get_loop().call_exception_handler(context)
