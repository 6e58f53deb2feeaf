"""The application interface for ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...aio.loop import HubLoop
from ...aio.task_names import describe
from ...aio.tasks import Tasks
from ...config import AsgiOptions, ConfigurationError
from ...core.causes import DRAINING
from ...core.message import ClientDisconnected, HTTPError, Request, ResponseError, Stream
from ...serving.session import Session
from ..base import Application
from . import loops
from .callables import coroutine_function
from .errors import is_quiet
from .http import HTTPConversation
from .lifespan import Lifespan
from .scope import Scopes
from .websocket import WebSocketConversation

if TYPE_CHECKING:
    from .lag import LoopLag

logger = logging.getLogger("greendaphne.asgi")

#: Seconds for tasks that were cancelled, and for lifespan.shutdown where the graceful time is used up.
_LAST_PATIENCE: Final = 1.0


class ASGIApplication(Application):
    """Serves an ASGI application.

    Each request and each WebSocket is a task in a context of its own.  A task goes on when its client leaves, and after its response; the
    server waits for such tasks in its end.

    :param target: the application.
    :param options: its lifespan, and how long its tasks are waited for.
    :param double_callable: whether it is an ASGI 2 application.
    :param measured: whether there are metrics, so that the event loop's lag is sampled.
    """

    interface: ClassVar[str] = "asgi"

    def __init__(self, target: Any, options: AsgiOptions | None = None, *, double_callable: bool = False, measured: bool = False) -> None:
        self._target = target
        self._options = options or AsgiOptions()
        self._app = coroutine_function(target, double=double_callable)
        self._scopes = Scopes("2.0" if double_callable else "3.0")
        self._double = double_callable
        self._loop: HubLoop | None = None
        self._tasks: Tasks | None = None
        self._lifespan: Lifespan | None = None
        self._at_once = False
        self._measured = measured
        self._lag: LoopLag | None = None

    # ---- start and end

    def check(self) -> None:
        if not callable(self._target):
            raise ConfigurationError(f"an ASGI application has to be callable, and {type(self._target).__name__} is not.")

    def start(self) -> None:
        self.check()
        self._at_once = False
        loop = self._loop = loops.acquire()
        # What became of a task is told where its request is served.
        self._tasks = Tasks(loop, on_error=_nothing)
        self._scopes.state = None
        if self._measured:
            from .lag import LoopLag

            self._lag = LoopLag(loop)
            self._lag.start()
        if self._options.lifespan != "off":
            self._lifespan = Lifespan(self._app, loop, self._options.lifespan, self._scopes)
            self._lifespan.start(self._options.lifespan_timeout)
            if self._double:
                self._scopes.state = None

    def stop(self, patience: float = 0, *, at_once: bool = False) -> None:
        loop, tasks, lifespan = self._loop, self._tasks, self._lifespan
        if loop is None:
            return
        deadline = monotonic() + patience
        self._at_once = self._at_once or at_once
        if tasks is not None:
            number = len(tasks)
            if number and not self._at_once:
                logger.info("Waiting for %d tasks of the application", number)
            tasks.close(0 if self._at_once else min(self._options.close_timeout, patience), patience=_LAST_PATIENCE)
        if lifespan is not None and not self._at_once:
            lifespan.stop(max(deadline - monotonic(), _LAST_PATIENCE))
        if self._lag is not None:
            self._lag.stop()
        self._loop = self._tasks = self._lifespan = self._lag = None
        loops.release(loop, _LAST_PATIENCE)

    def end_now(self) -> None:
        self._at_once = True
        if self._tasks is not None:
            self._tasks.cancel()
        if self._lifespan is not None:
            self._lifespan.cut_short()

    def health(self) -> str:
        return "" if self._loop is not None and self._loop.is_running() else "The event loop does not run."

    # ---- requests

    def http(self, request: Request, stream: Stream) -> None:
        tasks, loop = self._tasks, self._loop
        if tasks is None or loop is None:
            raise HTTPError(503, "The server is about to end.", cause=DRAINING)
        conversation = HTTPConversation(loop, stream)
        task = loop.create_started_task(self._app(self._scopes.http(request), conversation.receive, conversation.send), context=Context())
        done = task.done()
        if not done:
            tasks.keep(task, conversation.on_task_end)
            if not conversation.complete:
                self._serve(conversation, tasks, task, request)
                done = task.done()
        if conversation.complete:
            if not done or task.cancelled() or task.exception() is not None:
                _leave_alone(task, request)
            stream.flush()
            return
        conversation.leave()
        error = _incomplete(conversation, task, request, ending=tasks.cancelled)
        # The traceback of the error has this frame, and a task has its error: such a circle would keep what the application holds.
        del task, conversation
        try:
            raise error
        finally:
            del error

    def _serve(self, conversation: HTTPConversation, tasks: Tasks, task: asyncio.Task[None], request: Request) -> None:
        """Do what a response needs that was not complete after the first step of its task."""
        timeout = self._options.response_timeout
        timer = None if timeout is None or self._loop is None else self._loop.call_later(timeout, self._expire, conversation, task)
        conversation.on_done = tasks.on_done
        try:
            conversation.serve(task)
        except BaseException:
            _leave_alone(task, request)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if conversation.task is None:
                tasks.settle(task)
            # A task has its error, whose frames have the conversation: no circle.
            conversation.task = None
            conversation.leave()

    def _expire(self, conversation: HTTPConversation, task: asyncio.Task[None]) -> None:
        """The response was not complete in time; the task hears so, and is cancelled where it does not end by itself."""
        conversation.expire()
        if not task.done():
            task.get_loop().call_later(self._options.close_timeout, task.cancel)

    def websocket(self, request: Request, session: Session) -> None:
        tasks, loop = self._tasks, self._loop
        if tasks is None or loop is None:
            raise HTTPError(503, "The server is about to end.", cause=DRAINING)
        conversation = WebSocketConversation(loop, session)
        session.offer()
        scope = self._scopes.websocket(request)
        # Nothing here keeps the header section in memory while the WebSocket lives.
        task = tasks.create(self._app(scope, conversation.receive, conversation.send), context=Context(), first_step=True)
        del request, scope
        try:
            error = conversation.serve(task)
        finally:
            if not task.done():
                task.add_done_callback(_Report(session.name))
        if error is not None:
            # As in http().
            del task, conversation
            try:
                raise error
            finally:
                del error

    # ---- metrics

    def metric_families(self) -> Iterable[Any]:
        from ...monitoring.families import Family, Sample

        tasks = 0 if self._tasks is None else len(self._tasks)
        lifespan = self._lifespan is not None and self._lifespan.active
        yield Family("greendaphne_asgi_tasks", "gauge", "Tasks of requests and WebSockets of the application.", [Sample("", {}, tasks)])
        yield Family(
            "greendaphne_asgi_lifespan", "gauge", "1 while the application has completed its startup.", [Sample("", {}, int(lifespan))]
        )
        if self._lag is not None:
            yield from self._lag.families()


def _incomplete(conversation: HTTPConversation, task: asyncio.Task[None], request: Request, *, ending: bool) -> BaseException:
    """Return what the exchange has to hear of a response that is not complete.

    :param ending: whether the server has cancelled its tasks.
    """
    if not task.done():
        # The client has left, or its body cannot be taken; the task may go on.
        _leave_alone(task, request)
        return conversation.error or ClientDisconnected()
    if task.cancelled():
        if ending:
            return HTTPError(503, "The server is about to end.", cause=DRAINING, close=True)
        return conversation.error or ResponseError("the application was cancelled before its response was complete")
    error = task.exception()
    if conversation.error is not None and (error is None or is_quiet(error)):
        return conversation.error
    if error is None:
        return ResponseError("the application returned before its response was complete")
    return error


def _leave_alone(task: asyncio.Task[None], request: Request) -> None:
    """The request is over for the server: what becomes of its task is logged only."""
    report = _Report(f"{request.method} {request.target.decode('ascii', 'backslashreplace')}")
    if task.done():
        report(task)
    else:
        task.add_done_callback(report)


class _Report:
    """Logs the exception of a task that nothing waits for."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not is_quiet(error):
            logger.error("Error in the application after %s, in %s", self._name, describe(task), exc_info=error)


def _nothing(task: asyncio.Task[Any]) -> None:
    """The error of a task is told where its request is served."""
