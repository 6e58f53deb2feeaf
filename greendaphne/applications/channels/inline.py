"""Workers inside the server's process, for ``--inline-workers``: one command serves a whole site.

The channel layer decides what a worker runs.  A layer that Channels 1 configured gets Channels' own worker with the project's
routing, as from ``manage.py runworker``.  Any other layer names its consumers itself, in an attribute ``routes``::

    channel_layer = MemoryChannelLayer()
    channel_layer.routes = {"http.request": hello}

A greenlet runs each worker, and starts it again after a pause where it ends by itself.  The module starts no process and installs no signal
handler.
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

#: Seconds before a worker that ended by itself is started again: the first pause, and the maximum to which it doubles.
FIRST_PAUSE = 0.1
LAST_PAUSE = 10.0
#: After a run of at least this number of seconds, the next end of the worker counts as the first.
WELL_AFTER = 60.0
#: Seconds that a worker has to run before it counts as up, after one that ended by itself.
SETTLED = 1.0
#: Seconds that :func:`stop_workers` gives to messages in process by default: longer than asgi_redis waits for a message, since nothing
#: ends such a wait.
STOP_TIMEOUT = 6.0
#: Seconds to wait for the end of a worker that was killed.
KILL_TIMEOUT = 1.0


class InlineWorker(gevent.Greenlet):  # type: ignore[type-arg]  # only generic in its stubs
    """Runs a worker and starts it again whenever it ends by itself.

    :param name: for the log.
    :param make: makes the next worker.
    :param on_end: called in a new greenlet, with this worker, when this greenlet was killed instead of stopped.
    """

    def __init__(self, name: str, make: Callable[[], Runner], on_end: Callable[[InlineWorker], None] | None = None) -> None:
        super().__init__()
        self._worker_name = self.name_in_log = name
        self.on_end = on_end
        self.rawlink(self._ended)
        self._make = make
        self._runner: Runner | None = None
        self._stopping = Event()
        self._began = 0.0
        #: The number of times that its worker ended by itself.
        self.deaths = 0

    @property
    def up(self) -> bool:
        """Whether its worker runs; after an end by itself, the next worker counts after :data:`SETTLED` seconds."""
        return self._runner is not None and (not self.deaths or time.monotonic() - self._began >= SETTLED)

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
            started = self._began = time.monotonic()
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
    :param number: the number of workers.
    """

    def __init__(self, layer: Any, number: int) -> None:
        self._layer = layer
        self.number = number
        self._workers: list[gevent.Greenlet[..., None]] = []
        # Whether retire() was called, because other processes continue to serve.
        self._retired = False

    def start(self) -> None:
        """Start them; errors as :func:`start_workers`."""
        self._workers = start_workers(self._layer, self.number)

    def retire(self) -> None:
        """Make them finish the messages that they have, and take no further ones.  Does not wait."""
        retire_workers(self._workers)
        self._retired = bool(self._workers)

    def resume(self) -> None:
        """Start as many new workers, if :meth:`retire` was called."""
        if self._retired:
            self._retired = False
            self._workers += start_workers(self._layer, self.number)

    def end_now(self) -> None:
        """Kill them; does not wait."""
        gevent.killall(self._workers, block=False)

    def stop(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the messages that they have, then kill them."""
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
    :raises ConfigurationError: when neither Channels nor ``routes`` names consumers.
    """
    make = _runner(layer, n, application)
    workers: list[gevent.Greenlet[..., None]] = []
    for number in range(1, n + 1):
        workers.append(InlineWorker(f"{number} of {n}", make, partial(_replace, workers, make)))
    for worker in workers:
        worker.start()
    return workers


def _replace(workers: list[gevent.Greenlet[..., None]], make: Callable[[], Runner], ended: InlineWorker) -> None:
    """Replace a worker whose greenlet was killed."""
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
    """Check whether :func:`start_workers` could start ``n`` workers.

    :raises ConfigurationError: if not.
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
    """Make workers of :func:`start_workers` end after the messages in process; returns at once."""
    for worker in workers:
        if isinstance(worker, InlineWorker):
            worker.stop()


def stop_workers(workers: Iterable[gevent.Greenlet[..., None]], timeout: float = STOP_TIMEOUT) -> None:
    """Stop workers of :func:`start_workers`, and kill those that run after ``timeout`` seconds."""
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
