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
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import WRAPPER_ASSIGNMENTS, partial, wraps
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.monkey import is_module_patched
from gevent.threadpool import ThreadPool

from ...config import ConfigurationError
from ...layers import LayerUnavailable
from ...layers.capabilities import Ending, capabilities
from ...layers.reader import Reader
from ...layers.tally import Tally, tally_of
from ...layers.unreadable import LIMIT, describe, is_unreadable
from ...layers.wake import Wake
from ...worker import FAILED, Worker, fault

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

#: Seconds for which a worker of Channels waits for a message, and then looks whether it is to end.
RECEIVE_LIMIT = 5.0
#: Seconds that a worker of Channels pauses after a blocking receive that brought nothing.
EMPTY_PAUSE = 0.001


class _Runner(Protocol):
    """One life of a worker."""

    def run(self) -> object:
        """Work until stopped; raises what ends it otherwise."""

    def stop(self) -> object:
        """Make :meth:`run` return soon, without cutting a message off."""


class InlineWorker(gevent.Greenlet):  # type: ignore[type-arg]  # only generic in its stubs
    """Runs a worker and starts it again whenever it ends by itself.

    :param name: for the log.
    :param make: makes the worker of the next life.
    :param on_end: called in a greenlet of its own, with this worker, where this greenlet ends though it was not stopped.
    """

    def __init__(self, name: str, make: Callable[[], _Runner], on_end: Callable[[InlineWorker], None] | None = None) -> None:
        super().__init__()
        self._worker_name = self.name_in_log = name
        self.on_end = on_end
        self.rawlink(self._ended)
        self._make = make
        self._runner: _Runner | None = None
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


def _replace(workers: list[gevent.Greenlet[..., None]], make: Callable[[], _Runner], ended: InlineWorker) -> None:
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


def _runner(layer: Any, n: int, application: object) -> Callable[[], _Runner]:
    if n < 1:
        raise ConfigurationError(f"The number of inline workers must be at least 1, not {n}.")
    make = _channels_worker(layer) or _plain_worker(layer, application)
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


def _plain_worker(layer: Any, application: object) -> Callable[[], _Runner] | None:
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

    def __call__(self) -> _Runner:
        worker = Worker(self._layer, self._routes)
        worker.announced = not self._announced
        self._announced = True
        return worker


def _channels_worker(layer: Any) -> Callable[[], _Runner] | None:
    """What makes workers for a layer of Channels; ``None`` for any other."""
    asgi = sys.modules.get("channels.asgi")
    if asgi is None:
        return None
    wrapper = next((backend for backend in asgi.channel_layers.backends.values() if layer in (backend, backend.channel_layer)), None)
    if wrapper is None:
        return None
    _add_default_routes(wrapper)
    return _ChannelsWorkers(wrapper)


def _add_default_routes(wrapper: Any) -> None:
    """What ``runworker`` adds: Django's views, and its static files where ``runserver`` would serve them."""
    from channels.staticfiles import StaticFilesConsumer
    from django.apps import apps
    from django.conf import settings

    serve_static = settings.DEBUG and apps.is_installed("django.contrib.staticfiles")
    wrapper.router.check_default(http_consumer=StaticFilesConsumer() if serve_static else None)


class _FirstOnly(logging.Filter):
    """Lets the line about the channels that a worker of Channels listens on pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str) or not record.msg.startswith("Listening on channels"):
            return True
        said, self._said = self._said, True
        return not said


class _ChannelsWorkers:
    """Makes workers of Channels and sends its signals as ``runworker`` does: for the process once, for each worker when it is ready."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._announced = False
        # Each worker logs its channels, which are the same for all.
        logging.getLogger("django.channels").addFilter(_FirstOnly())

    def __call__(self) -> _Runner:
        from channels.signals import worker_process_ready
        from channels.worker import Worker as ChannelsWorker

        # The stores of Channels and Django are local to a thread, which is a greenlet only where threading is patched.
        cooperative = is_module_patched("threading")
        layer = _WorkerLayer(self._wrapper, cooperative)
        worker = ChannelsWorker(layer, signal_handlers=False)
        if not self._announced:
            self._announced = True
            worker_process_ready.send(sender=worker)
        worker.ready()
        return _ChannelsGreenlet(worker, layer) if cooperative else _ChannelsThread(worker, layer)


class _WorkerLayer:
    """The layer of one worker of Channels: its wait can be ended, no message ends the worker, and other greenlets always run.

    It drops what is no message, and tells a client at once that its consumer failed.  Channels collects a request's body in a loop of
    blocking receives without a pause: where the layer's own returns at once, it would keep the server, which sends that body, from ever
    running.
    """

    def __init__(self, wrapper: Any, cooperative: bool) -> None:
        self._wrapper = wrapper
        self._cooperative = cooperative
        self._capabilities = capabilities(wrapper)
        self._wake = Wake()
        self._tally = tally_of(wrapper)
        self._unreadable = 0
        #: Waits in layers of others, whose waits no exception may cut off.
        self._reader: Reader | None = None
        #: What Channels' worker asks for the consumer of a message.
        self.router = _CheckedRouter(wrapper.router, self._tally)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, dict[str, Any] | None]:
        """Receive as the layer does; ``(None, None)`` for what is no message.

        An empty return of a blocking receive takes at least :data:`EMPTY_PAUSE`.
        """
        channels = list(channels)
        try:
            received = self._receive(channels, block)
        except Exception as error:
            if not is_unreadable(error) or self._unreadable >= LIMIT:
                raise
            self._unreadable += 1
            self._tally.bad_message(channels[0] if channels else None, describe(error))
            return None, None
        self._unreadable = 0
        if received[0] is not None and (reason := fault(received) or _content_fault(received[1])) is not None:
            self._tally.bad_message(received[0], reason)
            received = None, None
        if block and received[0] is None and self._cooperative:
            gevent.sleep(EMPTY_PAUSE)
        channel, content = received
        return channel, content

    def _receive(self, channels: list[str], block: bool) -> Any:
        if not block:
            return self._wrapper.receive_many(channels)
        # The consumer of a message that came before the end may still wait for the rest of its request.
        idle = not any("?" in channel or "!" in channel for channel in channels)
        return self._receive_waiting(channels, idle)

    def _receive_waiting(self, channels: list[str], idle: bool) -> Any:
        if self._capabilities.ending is Ending.WAKE:
            batch = self._wrapper.receive_batch(channels, 1, RECEIVE_LIMIT, wake=self._wake if idle else None)
            return batch[0] if batch else (None, None)
        if idle and self._cooperative and self._capabilities.ending is Ending.LIMIT:
            if self._reader is None:
                self._reader = Reader(self._wrapper, channels, limit=1)
            batch = self._reader.receive(wake=self._wake)
            return batch[0] if batch else (None, None)
        return self._wrapper.receive_many(channels, block=True)

    def end_waits(self) -> None:
        """Have the wait for the next message return; from any thread."""
        self._wake.set()

    def close(self, worker: Any) -> None:
        """Settle what ``worker`` had taken: its last message is handled where it ended by itself, and goes back where it failed."""
        if self._capabilities.acknowledges:
            if worker.termed and not worker.failed:
                self._wrapper.acknowledge()
            else:
                self._wrapper.release()
            self._wrapper.settle()
        if self._reader is not None:
            self._reader.close()


def _content_fault(content: dict[str, Any]) -> str | None:
    """What Channels' worker cannot do with ``content`` outside of the consumer, whose errors it catches."""
    if not isinstance(content.get("reply_channel"), str | bytes | None):
        return "its reply_channel is no name"
    return None if isinstance(content.get("__retries__", 0), int) else "its __retries__ is no number"


class _CheckedRouter:
    """A project's routing, whose consumers tell a client that they failed."""

    def __init__(self, router: Any, tally: Tally) -> None:
        self._router = router
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def match(self, message: Any) -> tuple[Callable[..., object], dict[str, Any]] | None:
        """The consumer of ``message`` and its arguments; ``None`` where there is none or the message cannot be looked at."""
        try:
            match = self._router.match(message)
        except Exception as error:  # noqa: BLE001 - a filter on a value of another type, whatever it raises
            self._tally.bad_message(message.channel.name, f"the routing raised {type(error).__name__}")
            return None
        if match is None or message.channel.name != "http.request" or message.reply_channel is None:
            return match  # type: ignore[no-any-return]
        consumer, arguments = match
        return _answering(consumer), arguments


def _answering(consumer: Callable[..., object]) -> Callable[..., object]:
    """``consumer`` of ``http.request``, whose client is answered with 500, or cut off within a response, where it raises."""
    from channels.exceptions import ChannelSocketException, ConsumeLater, DenyConnection

    @wraps(consumer, assigned=[name for name in WRAPPER_ASSIGNMENTS if hasattr(consumer, name)], updated=())
    def call(message: Any, **arguments: Any) -> object:
        try:
            return consumer(message, **arguments)
        except (ChannelSocketException, ConsumeLater, DenyConnection):
            raise
        except BaseException:
            # In its turn behind what the consumer has sent: Channels holds that back until the consumer has ended.
            message.reply_channel.send(FAILED)
            raise

    return call


class _ChannelsGreenlet:
    """A worker of Channels in the greenlet that calls :meth:`run`."""

    def __init__(self, worker: Any, layer: _WorkerLayer) -> None:
        self._worker = worker
        self._layer = layer

    def run(self) -> None:
        _run_to_the_end(self._worker, self._layer)

    def stop(self) -> None:
        self._worker.termed = True
        self._layer.end_waits()


class _ChannelsThread:
    """A worker of Channels in a native thread, for a process that is not monkey-patched."""

    def __init__(self, worker: Any, layer: _WorkerLayer) -> None:
        self._worker = worker
        self._layer = layer

    def run(self) -> None:
        pool = ThreadPool(1)
        try:
            error = pool.spawn(self._try_to_run).get()
            if error is not None:
                raise error
        finally:
            self.stop()
            gevent.spawn(pool.kill)

    def stop(self) -> None:
        self._worker.termed = True
        self._layer.end_waits()

    def _try_to_run(self) -> Exception | None:
        # gevent prints what a task in a thread raises, so the error is returned.
        try:
            _run_to_the_end(self._worker, self._layer)
        except Exception as error:  # noqa: BLE001 - raised again in the greenlet
            return error
        return None


def _run_to_the_end(worker: Any, layer: _WorkerLayer) -> None:
    """Run ``worker``, then settle what it had taken."""
    worker.failed = True
    try:
        worker.run()
        worker.failed = False
    finally:
        layer.close(worker)
