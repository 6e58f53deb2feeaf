"""Tells an application of the start and the end of its server (ASGI "Lifespan" 2.0)."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from time import monotonic
from typing import Any, Final

from gevent.event import Event

from ...aio.loop import HubLoop
from ...aio.task_names import describe
from ...config import ConfigurationError
from .callables import App, Message
from .scope import Scopes

logger = logging.getLogger("greendaphne.asgi")

#: Seconds between log lines while the application starts.
_PATIENCE: Final = 10.0


class Lifespan:
    """One application's lifespan: one task from before the first request to after the last.

    :param app: the application.
    :param mode: ``auto`` goes on without where the application does not speak it, ``on`` does not.
    :param scopes: get the state that the application leaves.
    """

    def __init__(self, app: App, loop: HubLoop, mode: str, scopes: Scopes) -> None:
        self._app = app
        self._loop = loop
        self._mode = mode
        self._scopes = scopes
        self._task: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {}
        # What the application was told; the futures that receive() waits for.
        self._asked_to_start = False
        self._stopping: asyncio.Future[None] = loop.create_future()
        # Its answers: set with the message, or with None where the task has ended without one.
        self._started = Event()
        self._stopped = Event()
        self._start_answer: Message | None = None
        self._stop_answer: Message | None = None
        self._cut_short = False

    @property
    def active(self) -> bool:
        """Whether the application has completed its startup and is to be told of the end."""
        return self._completed and self._task is not None and not self._task.done()

    @property
    def _completed(self) -> bool:
        return self._start_answer is not None and self._start_answer["type"] == "lifespan.startup.complete"

    # ---- for the application

    async def _receive(self) -> dict[str, Any]:
        if not self._asked_to_start:
            self._asked_to_start = True
            return {"type": "lifespan.startup"}
        await asyncio.shield(self._stopping)
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.complete", "lifespan.startup.failed"):
            if self._start_answer is not None:
                raise RuntimeError(f"{kind} is sent after {self._start_answer['type']}")
            self._start_answer = message
            self._started.set()
        elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            if not self._stopping.done():
                raise RuntimeError(f"{kind} is sent before lifespan.shutdown")
            self._stop_answer = message
            self._stopped.set()
        else:
            raise ValueError(f"the message type {kind!r} is not known")

    # ---- for the server

    def start(self, timeout: float) -> None:
        """Start the application and wait for its answer, for ``timeout`` seconds; 0 for no limit.

        :raises ConfigurationError: where it fails, does not answer in time, or does not speak lifespan although it has to.
        """
        scope = self._scopes.lifespan(self._state)
        self._task = self._loop.create_task_in(self._app(scope, self._receive, self._send), name="lifespan", context=Context())
        self._task.add_done_callback(self._on_end)
        self._wait_for_start(timeout)
        answer = self._start_answer
        if answer is None:
            self._unsupported()
        elif answer["type"] == "lifespan.startup.failed":
            self._task.cancel()
            text = str(answer.get("message") or "no reason given").rstrip()
            raise ConfigurationError(f"The application could not start: {text}")
        else:
            self._scopes.state = self._state

    def _wait_for_start(self, timeout: float) -> None:
        begun = monotonic()
        while True:
            left = begun + timeout - monotonic() if timeout else _PATIENCE
            if self._started.wait(min(max(left, 0), _PATIENCE)):
                return
            if self._cut_short:
                raise ConfigurationError("The server was stopped while the application started.")
            if timeout and monotonic() >= begun + timeout:
                assert self._task is not None
                self._task.cancel()
                raise ConfigurationError(f"The application has not started within {timeout:g} seconds (--lifespan-timeout).")
            logger.info("Waiting for the application to start (lifespan.startup), %.0f seconds now", monotonic() - begun)

    def _unsupported(self) -> None:
        assert self._task is not None
        error = None if self._task.cancelled() else self._task.exception()
        if isinstance(error, SystemExit):
            # The application wants the process to end.
            raise error
        if self._mode == "on":
            raise ConfigurationError(
                f"The application does not support lifespan: {error!r}." if error else "The application does not support lifespan."
            ) from error
        logger.debug("The application does not support lifespan%s", f": {error!r}" if error else "")

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._started.set()
        self._stopped.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and self._completed and self._stop_answer is None:
            logger.error("The application's lifespan has failed in %s", describe(task), exc_info=error)

    def stop(self, timeout: float) -> None:
        """Tell the application of the end and wait for its answer, for ``timeout`` seconds at most."""
        if not self.active:
            return
        if not self._stopping.done():
            self._stopping.set_result(None)
        if not self._stopped.wait(timeout):
            if not self._cut_short:
                logger.warning("The application has not answered lifespan.shutdown within %g seconds", timeout)
        elif self._stop_answer is not None and self._stop_answer["type"] == "lifespan.shutdown.failed":
            logger.error("The application could not end: %s", str(self._stop_answer.get("message") or "no reason given").rstrip())

    def cut_short(self) -> None:
        """Wait no longer."""
        self._cut_short = True
        self._started.set()
        self._stopped.set()
