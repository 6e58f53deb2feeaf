"""Waiting for messages whatever the channel layer: :class:`Reader` hides how a layer waits.

Layers differ: those of this package wait cooperatively and hand out batches, asgi_redis waits in a socket, asgi_ipc blocks its whole
thread, asgiref's in-memory layer ignores ``block`` and returns at once.  A reader waits in the best way the layer has, lets other
greenlets run meanwhile, and returns as many messages as are ready, so that one wake-up serves many.

The reader knows nothing of what the messages mean.  What the layer raises reaches the caller, who decides when to try again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from .capabilities import Ending, beside, blocks_natively, capabilities
from .wake import Wake

__all__ = ["BLOCKING", "POLLING", "Reader", "blocks_natively"]

logger = logging.getLogger("greendaphne.layers")

#: What :attr:`Reader.mode` says; the second is daphne's wording.
BLOCKING = "blocking greenlet mode"
POLLING = "busy-loop synchronous mode"

#: Messages of one :meth:`Reader.receive` at most: enough to amortise a wake-up, few enough not to keep other greenlets waiting.
BATCH_LIMIT = 100
#: Seconds after which :meth:`Reader.receive` returns an empty list.
IDLE_LIMIT = 5.0
#: Seconds between two looks at a layer that does not wait: the first, and the most it doubles to while nothing comes.
FIRST_PAUSE = 0.001
LAST_PAUSE = 0.05
#: After this number of returns in a row that were empty and immediate, :attr:`Reader.mode` says that the layer is polled.
IMMEDIATE_RETURNS = 3

_Batch = list[tuple[str, dict[str, Any]]]


class Reader:
    """Receives the messages of some channels for one greenlet.

    :param layer: any ASGI channel layer.
    :param channels: the names to receive on; process-specific ones end in ``!``.
    :param force_sync: never wait in the layer, poll it.
    :param threaded: wait in a native thread, for a layer that would block the whole hub.  ``None``, the default, decides by the layer's
        attribute ``blocks_natively`` where it has one, and otherwise does it for asgi_ipc, and for every layer of others in a process that
        is not monkey-patched.
    :param limit: messages that :meth:`receive` returns at most, unless it is told otherwise.
    """

    def __init__(
        self,
        layer: Any,
        channels: Iterable[str],
        force_sync: bool = False,
        *,
        threaded: bool | None = None,
        limit: int = BATCH_LIMIT,
    ) -> None:
        self.layer = layer
        self.channels = list(channels)
        self.limit = limit
        #: What the layer can do.
        self.capabilities = found = capabilities(layer)
        self._receive_batch = layer.receive_batch if found.batches and not force_sync else None
        self._block = not force_sync
        self._polls = force_sync or found.ending is Ending.POLL
        if threaded is None:
            threaded = not self._polls and found.blocks_natively
        self._threaded = threaded
        #: Whether the layer ends its wait when it is told to.
        self._wakes = self._receive_batch is not None and not threaded and found.ending is Ending.WAKE
        # What receives in the place of receive_batch, made at the first wait.
        self._make_receiver: Any = beside(layer, "receiver", "receive_batch") if self._wakes else None
        self._receiver: Any = None
        #: Made at the first wait, for it belongs to the hub of the greenlet that waits.
        self._pool: ThreadPool | None = None
        #: What the native thread is at when a receive was interrupted; the next one takes its result.
        self._task: Any = None
        #: What was received when the rest of a receive was interrupted.
        self._kept: _Batch = []
        self._pause = FIRST_PAUSE
        self._immediate = 0

    @property
    def receiver(self) -> Any:
        """What the layer receives with for this greenlet, if :meth:`receive` only passes its calls on to that; ``None`` before the first.

        For a caller that receives for each message: :meth:`greendaphne.layers.receiver.Receiver.receive` with :data:`IDLE_LIMIT`.
        """
        return self._receiver

    @property
    def mode(self) -> str:
        """:data:`BLOCKING` or :data:`POLLING`; a layer that turns out not to wait changes it."""
        return POLLING if self._polls else BLOCKING

    @property
    def ending(self) -> Ending:
        """How :meth:`receive` ends before its time: at once by ``wake``, between two looks, or not at all."""
        if self._wakes:
            return Ending.WAKE
        return Ending.POLL if self._polls and not self._threaded else Ending.LIMIT

    def receive(self, limit: int | None = None, wake: Wake | None = None) -> _Batch:
        """Wait for messages and return those that are ready, at most ``limit``, as ``(channel, message)``.

        Returns an empty list where nothing comes for about :data:`IDLE_LIMIT` seconds, which shows that the layer still answers.  A timeout
        or kill at any moment loses no message: the layers of this package put back what they had, and of others the next call returns it,
        or :meth:`close` sends it again.

        :param wake: once it is set, this returns with the messages that the layer has handed over by then: at once where :attr:`ending`
            is not :attr:`~greendaphne.layers.capabilities.Ending.LIMIT`, else when the layer's own wait is over.
        """
        if limit is None:
            limit = self.limit
        received: list[tuple[str, dict[str, Any]]]
        receiver = self._receiver
        if receiver is not None:
            received = receiver.receive(limit, IDLE_LIMIT, wake)
            return received
        if self._receive_batch is not None and not self._threaded:
            # It waits by itself, so there is nothing to measure.
            if self._make_receiver is not None:
                receiver = self._receiver = self._make_receiver(self.channels)
                if receiver is None:
                    self._make_receiver = None
            if receiver is not None:
                received = receiver.receive(limit, IDLE_LIMIT, wake)
            elif self._wakes and wake is not None:
                received = self._receive_batch(self.channels, limit, IDLE_LIMIT, wake=wake)
            else:
                received = self._receive_batch(self.channels, limit, IDLE_LIMIT)
            return received
        deadline = time.monotonic() + IDLE_LIMIT
        while True:
            if wake is not None and wake.is_set and self._task is None:
                return []
            started = time.monotonic()
            batch = self._collect_apart(limit) if self._threaded or not self._polls else self._collect(limit)
            now = time.monotonic()
            if batch:
                self._pause = FIRST_PAUSE
                self._immediate = 0
                return batch
            self._rest(now - started)
            if now >= deadline:
                return []

    def close(self) -> None:
        """Give the reader up: its native thread ends, where it has one, after the wait that it is in.

        Messages that the layer handed over when nothing waited for them any more are sent again, to the end of their channels.
        """
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()
        pool, self._pool = self._pool, None
        task, self._task = self._task, None
        kept, self._kept = self._kept, []
        if task is not None or kept:
            gevent.spawn(self._send_again, task, kept, pool)
        elif pool is not None:
            gevent.spawn(pool.kill)

    def _send_again(self, task: Any, batch: _Batch, pool: ThreadPool | None) -> None:
        if task is not None:
            result: _Batch | Exception = task.get()
            if not isinstance(result, Exception):
                batch = batch + result
            batch, self._kept = batch + self._kept, []
        for channel, message in batch:
            try:
                self.layer.send(channel, message)
            except Exception as error:  # noqa: BLE001 - of any layer
                logger.error("A message on %s that came when its reader had ended could not be sent again: %s", channel, error)
        if pool is not None:
            pool.kill()

    def _rest(self, waited: float) -> None:
        """Wait after an empty return as long as the layer should have; whatever it did wait counts."""
        if waited >= LAST_PAUSE:
            self._pause = FIRST_PAUSE
            self._immediate = 0
            return
        if waited < FIRST_PAUSE:
            self._immediate += 1
            if self._immediate == IMMEDIATE_RETURNS:
                self._polls = True
        pause = self._pause
        self._pause = min(pause * 2, LAST_PAUSE)
        if waited < pause:
            gevent.sleep(pause - waited)

    def _collect(self, limit: int) -> _Batch:
        """One wait of the layer, then what else is ready."""
        if self._receive_batch is not None:
            received: _Batch = self._receive_batch(self.channels, limit, IDLE_LIMIT)
            return received
        batch, self._kept = self._kept, []
        receive = self.layer.receive
        try:
            block = self._block and not batch
            while len(batch) < limit:
                channel, message = receive(self.channels, block=block)
                if channel is None:
                    break
                batch.append((channel, message))
                block = False
        except BaseException as error:
            # What was received is not lost with the error: a lasting one comes again with the next call, a kill is for now.
            if not batch:
                raise
            if not isinstance(error, Exception):
                self._kept = batch
                raise
        return batch

    def _collect_apart(self, limit: int) -> _Batch:
        """Collect in a native thread or, from a layer that waits cooperatively, in another greenlet: no exception is thrown into those."""
        if self._task is None:
            if not self._threaded:
                self._task = gevent.spawn(self._try_to_collect, limit)
            else:
                if self._pool is None:
                    self._pool = ThreadPool(1)
                self._task = self._pool.spawn(self._try_to_collect, limit)
        result: _Batch | Exception = self._task.get()
        self._task = None
        if isinstance(result, Exception):
            raise result
        return result

    def _try_to_collect(self, limit: int) -> _Batch | Exception:
        # gevent prints what a task in a thread raises, so the error is returned.
        try:
            return self._collect(limit)
        except Exception as error:  # noqa: BLE001 - raised again in the greenlet
            return error
