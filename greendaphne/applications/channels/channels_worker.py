"""Channels' own worker inside the server's process, for a layer that Channels 1 configured.

The worker runs the project's routing, as ``manage.py runworker`` does it, in a greenlet, or in a native thread where the process is not
patched.  The worker gets a :class:`_WorkerLayer` instead of its layer, so that its waits can be ended and no message ends the worker.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from functools import WRAPPER_ASSIGNMENTS, wraps
from typing import Any

import gevent
from gevent.monkey import is_module_patched
from gevent.threadpool import ThreadPool

from ...layers.capabilities import Ending, capabilities
from ...layers.reader import Reader
from ...layers.tally import Tally, tally_of
from ...layers.unreadable import LIMIT, describe, is_unreadable
from ...layers.wake import Wake
from ...worker import FAILED, fault
from .runner import Runner

#: Seconds for which a worker of Channels waits for a message, and then looks whether it is to end.
RECEIVE_LIMIT = 5.0
#: Seconds that a worker of Channels pauses after a blocking receive that brought nothing.
EMPTY_PAUSE = 0.001
#: Channels counts how many times a message was put back, to 10 by default; a number that cannot come from that is refused.
_RETRIES = 1 << 31
#: What the client is sent if the consumer of its message raises an exception.
_FAILURES = {"http.request": FAILED, "websocket.connect": {"accept": False}}


def channels_worker(layer: Any) -> Callable[[], Runner] | None:
    """Return the function that makes workers for a layer of Channels; ``None`` for any other layer."""
    asgi = sys.modules.get("channels.asgi")
    if asgi is None:
        return None
    wrapper = next((backend for backend in asgi.channel_layers.backends.values() if layer in (backend, backend.channel_layer)), None)
    if wrapper is None:
        return None
    _add_default_routes(wrapper)
    return _ChannelsWorkers(wrapper)


def _add_default_routes(wrapper: Any) -> None:
    """Add the routes that ``runworker`` adds: Django's views, and its static files where ``runserver`` would serve them."""
    from channels.staticfiles import StaticFilesConsumer
    from django.apps import apps
    from django.conf import settings

    serve_static = settings.DEBUG and apps.is_installed("django.contrib.staticfiles")
    wrapper.router.check_default(http_consumer=StaticFilesConsumer() if serve_static else None)


class _FirstOnly(logging.Filter):
    """Passes the line with the channels of a worker of Channels once."""

    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str) or not record.msg.startswith("Listening on channels"):
            return True
        said, self._said = self._said, True
        return not said


class _ChannelsWorkers:
    """Makes workers of Channels, and sends its signals as ``runworker`` does: one for the process, one for each worker that is ready."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._announced = False
        # Each worker logs its channels, which are the same for all.
        logging.getLogger("django.channels").addFilter(_FirstOnly())

    def __call__(self) -> Runner:
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

    It drops values that are no messages, and tells a client at once that its consumer failed.  Channels collects a request's body in a loop
    of blocking receives without a pause.  If the layer's own receive returned at once, that loop would keep the server, which sends the
    body, from running.
    """

    def __init__(self, wrapper: Any, cooperative: bool) -> None:
        self._wrapper = wrapper
        self._cooperative = cooperative
        self._capabilities = capabilities(wrapper)
        self._wake = Wake()
        self._tally = tally_of(wrapper)
        self._unreadable = 0
        #: Waits in layers whose waits no exception may cut off.
        self._reader: Reader | None = None
        #: Finds the consumer of a message, for Channels' worker.
        self.router = _CheckedRouter(wrapper.router, self._tally)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str | None, dict[str, Any] | None]:
        """Receive as the layer does; ``(None, None)`` for a value that is no message.

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
        """End the wait for the next message; called from any thread."""
        self._wake.set()

    def close(self, worker: Any) -> None:
        """Settle the last message of ``worker``: it is acknowledged after an orderly end, and goes back to the layer after a failure."""
        if self._capabilities.acknowledges:
            if worker.termed and not worker.failed:
                self._wrapper.acknowledge()
            else:
                self._wrapper.release()
            self._wrapper.settle()
        if self._reader is not None:
            self._reader.close()


def _content_fault(content: dict[str, Any]) -> str | None:
    """Why Channels' worker would fail on ``content`` outside of the consumer, whose errors it catches; ``None`` if it would not."""
    reply_channel = content.get("reply_channel")
    if not isinstance(reply_channel, str | bytes | None) or (isinstance(reply_channel, bytes) and not reply_channel.isascii()):
        return "its reply_channel is no name"
    retries = content.get("__retries__", 0)
    return None if isinstance(retries, int) and abs(retries) < _RETRIES else "its __retries__ is no number"


class _CheckedRouter:
    """A project's routing; a consumer that fails tells its client so, and ends no worker."""

    def __init__(self, router: Any, tally: Tally) -> None:
        self._router = router
        self._tally = tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def match(self, message: Any) -> tuple[Callable[..., object], dict[str, Any]] | None:
        """The consumer of ``message`` and its arguments; ``None`` if there is none or the routing raised an exception."""
        try:
            match = self._router.match(message)
        except Exception as error:  # noqa: BLE001 - a filter on a value of another type, whatever it raises
            self._tally.bad_message(message.channel.name, f"the routing raised {type(error).__name__}")
            return None
        if match is None:
            return None
        consumer, arguments = match
        return _contained(consumer), arguments


def _contained(consumer: Callable[..., object]) -> Callable[..., object]:
    """``consumer`` with its exceptions handled, except the one that puts the message back, and with its messages sent.

    A client that waits for an answer hears of a failure at once: 500, or the end of a response that has begun, or the rejection of a
    handshake.  Channels' worker handles ``DenyConnection`` and ``ChannelSocketException``, and sends the messages of a consumer once that
    has ended.  But an exception of any of these ends the worker: that of a message that the layer refuses, for example.
    """
    from channels.exceptions import ChannelSocketException, ConsumeLater, DenyConnection

    def handle(message: Any, arguments: dict[str, Any]) -> None:
        try:
            consumer(message, **arguments)
        except DenyConnection:
            if message.channel.name != "websocket.connect":
                raise ValueError("You cannot DenyConnection from a non-websocket.connect handler.") from None
            message.reply_channel.send({"close": True})
        except ChannelSocketException as exception:
            exception.run(message)

    @wraps(consumer, assigned=[name for name in WRAPPER_ASSIGNMENTS if hasattr(consumer, name)], updated=())
    def call(message: Any, **arguments: Any) -> None:
        try:
            try:
                handle(message, arguments)
            finally:
                _send_messages()
        except ConsumeLater:
            raise
        except BaseException:
            failure = _FAILURES.get(message.channel.name)
            if failure is not None and message.reply_channel is not None:
                message.reply_channel.send(failure)
                _send_messages()
            raise

    return call


def _send_messages() -> None:
    """Send the messages of the consumer that has ended; after an error the others are dropped."""
    from channels.message import pending_message_store

    try:
        pending_message_store.send_and_flush()
    finally:
        # Channels sends the messages again later, and there must be an empty list then.
        pending_message_store.prepare()


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
    """Run ``worker``, then settle its last message."""
    worker.failed = True
    try:
        worker.run()
        worker.failed = False
    finally:
        layer.close(worker)
