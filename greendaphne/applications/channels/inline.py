"""Workers inside the server's process, for ``--inline-workers``: one command serves a whole site.

What a worker runs is found by the channel layer.  A layer that Channels 1 configured is served by Channels' own worker with the project's
routing, as ``manage.py runworker`` does it.  Any other layer names its consumers itself, in an attribute ``routes``::

    channel_layer = MemoryChannelLayer()
    channel_layer.routes = {"http.request": hello}

Each worker lives in a greenlet that starts it again, after a pause, should it ever die.  No process is started and no signal handler
installed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import gevent
from gevent.event import Event

from ...config import ConfigurationError
from ...layers import LayerUnavailable
from ...worker import Worker
from .channels_worker import channels_worker
from .runner import Runner

logger = logging.getLogger("greendaphne.worker")

#: Seconds before a worker that died is started again: the first, and the most it doubles to.
FIRST_PAUSE = 0.1
LAST_PAUSE = 10.0
#: A worker that ran for this number of seconds was well; its next death counts as the first.
WELL_AFTER = 60.0
#: Seconds that a worker which has died has to run before it counts as up.
SETTLED = 1.0
#: Seconds for which :func:`stop_workers` lets messages in process finish, unless it is told otherwise: longer than asgi_redis waits for a
#: message, since such a wait can only end by itself.
STOP_TIMEOUT = 6.0
#: Seconds for a worker that was killed to end; one that does not is left behind.
KILL_TIMEOUT = 1.0


class InlineWorker(gevent.Greenlet):  # type: ignore[type-arg]  # only generic in its stubs
    """Runs a worker and starts it again whenever it ends by itself.

    :param name: for the log.
    :param make: makes the worker of the next life.
    :param on_end: called in a greenlet of its own, with this worker, where this greenlet ends though it was not stopped.
    """

    def __init__(self, name: str, make: Callable[[], Runner], on_end: Callable[[InlineWorker], None] | None = None) -> None:
        super().__init__()
        self._worker_name = self.name_in_log = name
        self.on_end = on_end
        self.rawlink(self._ended)
        self._make = make
        self._runner: Runner | None = None
        self._stopping = Event()
        self._born = 0.0
        #: How many times its worker has died.
        self.deaths = 0

    @property
    def up(self) -> bool:
        """Whether its worker runs; one that has died counts after :data:`SETTLED` seconds of its next life."""
        return self._runner is not None and (not self.deaths or time.monotonic() - self._born >= SETTLED)

    def _ended(self, greenlet: object) -> None:
        if self.on_end is not None and not self._stopping.is_set():
            gevent.spawn(self.on_end, self)

    def stop(self) -> None:
        """End after the message in process."""
        self._stopping.set()
        if self._runner is not None:
            self._runner.stop()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            started = self._born = time.monotonic()
            try:
                self._runner = self._make()
                self._runner.run()
            except LayerUnavailable as error:
                logger.error("Inline worker %s lost the channel layer: %s", self._worker_name, error)
            except Exception:
                logger.exception("Inline worker %s died:", self._worker_name)
            finally:
                self._runner = None
            if self._stopping.is_set():
                return
            self.deaths += 1
            if time.monotonic() - started >= WELL_AFTER:
                pause = FIRST_PAUSE
            logger.warning("Inline worker %s starts again in %g s", self._worker_name, pause)
            self._stopping.wait(pause)
            pause = min(pause * 2, LAST_PAUSE)


class InlineWorkers:
    """The workers of one server.

    :param layer: the raw channel layer, or the wrapper that Channels has around it.
    :param number: how many there are to be.
    """

    def __init__(self, layer: Any, number: int) -> None:
        self._layer = layer
        self.number = number
        self._workers: list[gevent.Greenlet[..., None]] = []
        # Whether they take nothing any more because other processes serve on.
        self._retired = False

    def start(self) -> None:
        """Start them; errors as :func:`start_workers`."""
        self._workers = start_workers(self._layer, self.number)

    def retire(self) -> None:
        """Have them take no further message; they finish those that they have.  Does not wait."""
        retire_workers(self._workers)
        self._retired = bool(self._workers)

    def resume(self) -> None:
        """Have as many new ones take messages, where those before were retired."""
        if self._retired:
            self._retired = False
            self._workers += start_workers(self._layer, self.number)

    def end_now(self) -> None:
        """Kill them; does not wait."""
        gevent.killall(self._workers, block=False)

    def stop(self, timeout: float) -> None:
        """Let them finish the messages that they have, for ``timeout`` seconds at most."""
        self._retired = False
        stop_workers(self._workers, timeout)
        self._workers = []

    def all_down(self) -> bool:
        """Whether there are workers, and none of them runs."""
        return all_down(self._workers)


def start_workers(layer: Any, n: int, application: object = None) -> list[gevent.Greenlet[..., None]]:
    """Start ``n`` workers for ``layer`` in greenlets of the calling thread's hub.

    :param layer: the raw channel layer, or the wrapper that Channels has around it.
    :param application: where ``routes`` is looked for if the layer has none, such as the module that the layer comes from.
    :raises ConfigurationError: neither Channels nor ``routes`` says what to run.
    """
    make = _runner(layer, n, application)
    workers: list[gevent.Greenlet[..., None]] = []
    for number in range(1, n + 1):
        workers.append(InlineWorker(f"{number} of {n}", make, partial(_replace, workers, make)))
    for worker in workers:
        worker.start()
    return workers


def _replace(workers: list[gevent.Greenlet[..., None]], make: Callable[[], Runner], ended: InlineWorker) -> None:
    """Put another in the place of a worker whose greenlet has ended though it was not stopped: it was killed."""
    logger.error("Inline worker %s was killed; another takes its place in %g s", ended.name_in_log, FIRST_PAUSE)
    worker = InlineWorker(ended.name_in_log, make, ended.on_end)
    worker.deaths = ended.deaths + 1
    workers[workers.index(ended)] = worker
    worker.start_later(FIRST_PAUSE)


def all_down(workers: Iterable[gevent.Greenlet[..., None]]) -> bool:
    """Whether there are inline workers among ``workers``, and none of them runs."""
    states = [worker.up for worker in workers if isinstance(worker, InlineWorker)]
    return bool(states) and not any(states)


def check_workers(layer: Any, n: int) -> None:
    """Find out whether :func:`start_workers` could start ``n`` workers.

    :raises ConfigurationError: as it would.
    """
    _runner(layer, n, None)


def _runner(layer: Any, n: int, application: object) -> Callable[[], Runner]:
    if n < 1:
        raise ConfigurationError(f"The number of inline workers must be at least 1, not {n}.")
    make = channels_worker(layer) or _plain_worker(layer, application)
    if make is None:
        raise ConfigurationError(
            f"No consumers for inline workers: {type(layer).__module__}.{type(layer).__qualname__} belongs to no Channels project "
            "and has no attribute 'routes', a dict of consumers by channel name."
        )
    return make


def retire_workers(workers: Iterable[gevent.Greenlet[..., None]]) -> None:
    """Have what :func:`start_workers` returned take no further message and end after those in process; returns at once."""
    for worker in workers:
        if isinstance(worker, InlineWorker):
            worker.stop()


def stop_workers(workers: Iterable[gevent.Greenlet[..., None]], timeout: float = STOP_TIMEOUT) -> None:
    """Stop what :func:`start_workers` returned; after ``timeout`` seconds kill what is left."""
    workers = list(workers)
    retire_workers(workers)
    gevent.joinall(workers, timeout=timeout)
    gevent.killall(workers, timeout=KILL_TIMEOUT)


def _plain_worker(layer: Any, application: object) -> Callable[[], Runner] | None:
    for place in (layer, application):
        routes = getattr(place, "routes", None)
        if isinstance(routes, Mapping) and routes:
            return _PlainWorkers(layer, routes)
    return None


class _PlainWorkers:
    """Makes workers for consumers by channel; the first one logs the channels."""

    def __init__(self, layer: Any, routes: Mapping[str, Any]) -> None:
        self._layer = layer
        self._routes = routes
        self._announced = False

    def __call__(self) -> Runner:
        worker = Worker(self._layer, self._routes)
        worker.announced = not self._announced
        self._announced = True
        return worker
