"""The one greenlet that waits on the process' reply channels and hands each reply to its client's reply queue.

All clients of a process share one list in the channel layer, or a few, with a small capacity, so the router only ever moves messages: it
takes them in batches and waits for no client.  A reply queue may write a short reply at once where the socket takes it.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import get_hub

from ...layers.capabilities import Ending, beside
from ...layers.channel_store import DirectClients
from ...layers.reader import Reader
from ...layers.tally import tally_of
from ...layers.unreadable import LIMIT, describe, is_unreadable
from .detached import AttendedReplies, DetachedRequest
from .names import ReplyChannels
from .reply_queue import ReplyQueue
from .supervisor import Part, Supervisor
from .watch import LayerWatch

logger = logging.getLogger("daphne.server")

#: Seconds between attempts to reach a layer that fails: the first, and the most it grows to.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0


class ReplyRouter:
    """Routes replies by channel name.

    :param layer: the channel layer.
    :param watch: told of failures and successes.
    :param force_sync: poll the layer even where it can wait.
    :param channels: lists that the clients are spread over.
    :param supervisor: restarts the router should it ever end; by default one of its own.
    """

    def __init__(
        self, layer: Any, watch: LayerWatch, force_sync: bool = False, channels: int = 1, supervisor: Supervisor | None = None
    ) -> None:
        self.channels = ReplyChannels(channels)
        #: Reply queues by reply channel.
        self.clients: dict[str, ReplyQueue | DetachedRequest] = {}
        self._reader = Reader(layer, self.channels.prefixes, force_sync=force_sync)
        # A layer inside of this process hands over at once what is sent in this hub.
        direct = self._reader.ending is Ending.WAKE
        self._attach = beside(layer, "attach", "receive_batch") if direct else None
        #: Whether replies that are sent in this hub are handed over in the sender's greenlet.
        self.hands_over = self._attach is not None
        self._detach = layer.detach if self._attach is not None else None
        # For a layer that lets clients take a reply as its sender has it.
        self._direct: DirectClients | None = None
        # Whether a batch is being routed: what is sent meanwhile comes after it.
        self._routing = False
        # Whether garbage is being collected.  A finalizer may send in the middle of anything, also while a connection writes, so what is
        # sent meanwhile waits in the layer.
        self._collecting = False
        self._watch = watch
        self._tally = tally_of(layer)
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self._part: Part | None = None
        #: Called with the number of replies in each batch, for metrics.
        self.on_batch: Callable[[int], None] | None = None

    @property
    def mode(self) -> str:
        """How the layer is waited for, for the log."""
        mode: str = self._reader.mode
        return mode

    def start(self) -> None:
        self._part = self._supervisor.start("reply router", self._run)
        if self._attach is not None:
            gc.callbacks.append(self._on_collection)
            names = self.channels.prefixes
            if len(names) == 1:
                kinds = frozenset((DetachedRequest, AttendedReplies, ReplyQueue))
                self._direct = DirectClients(get_hub(), names[0], self.clients, kinds, self.on_batch)
            for name in names:
                self._attach(name, self._take, self._direct)

    def stop(self) -> None:
        if self._detach is not None:
            if self._on_collection in gc.callbacks:
                gc.callbacks.remove(self._on_collection)
            for name in self.channels.prefixes:
                self._detach(name)
        part, self._part = self._part, None
        if part is not None:
            part.stop()
            self._reader.close()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        # Runs in the thread that collects.
        self._collecting = collecting = phase == "start"
        if self._direct is not None:
            self._direct.closed = collecting or self._routing

    def register(self, reply_queue: ReplyQueue) -> str:
        """Give ``reply_queue`` a reply channel of its own."""
        channel = self.channels.new()
        self.clients[channel] = reply_queue
        return channel

    def unregister(self, channel: str) -> None:
        """Later replies to ``channel`` are dropped."""
        reply_queue = self.clients.pop(channel, None)
        if reply_queue is not None:
            reply_queue.close()

    def _run(self) -> None:
        pause = 0.0
        unreadable = 0
        while True:
            try:
                batch: list[tuple[str, Any]] = self._reader.receive()
            except Exception as error:  # noqa: BLE001 - a layer may fail with anything, and every client depends on this greenlet
                if is_unreadable(error) and unreadable < LIMIT:
                    # One message is lost, and the layer is there.
                    unreadable += 1
                    self._tally.bad_message(self.channels.prefixes[0], describe(error))
                    gevent.sleep(0)
                    continue
                self._watch.failed("receive", error)
                pause = min(pause * 2 or _FIRST_PAUSE, _LAST_PAUSE)
                gevent.sleep(pause)
                continue
            pause = 0.0
            unreadable = 0
            if self._watch.down:
                self._watch.succeeded()
            self._route(batch)
            number = len(batch)
            if self.on_batch is not None:
                self.on_batch(number)
            # Nothing of it is kept while this waits for the next.
            del batch

    def _take(self, channel: str, message: Any) -> bool:
        """Hand over one reply that has not been in the layer's queue; false where it has to take that way.  Never switches."""
        reply_queue = self.clients.get(channel)
        if reply_queue is None or self._routing or self._collecting:
            return False
        try:
            if not reply_queue.offer(message):
                return False
        except Exception:
            # The sender has done nothing wrong.
            self._supervisor.failed("reply router")
            logger.exception("A reply could not be handed to its client:")
        if self.on_batch is not None:
            self.on_batch(1)
        return True

    def _route(self, batch: list[tuple[str, Any]]) -> None:
        """Hand replies to their clients; what is no reply is dropped."""
        clients = self.clients
        replies = iter(batch)
        self._routing = True
        if self._direct is not None:
            self._direct.closed = True
        try:
            self._route_all(clients, replies)
        finally:
            self._routing = False
            if self._direct is not None:
                self._direct.closed = self._collecting

    def _route_all(self, clients: dict[str, ReplyQueue | DetachedRequest], replies: Iterator[tuple[str, Any]]) -> None:
        while True:
            # An entry of any shape may come from a layer; the loop goes on after the one that raised.  Good ones pay nothing for it.
            try:
                for channel, message in replies:
                    reply_queue = clients.get(channel)
                    if reply_queue is None:
                        self._unknown(channel)
                    elif isinstance(message, dict):
                        reply_queue.put(message)
                    else:
                        self._tally.bad_message(channel, f"it is {_type(message)}, not a dict")
                return
            except (TypeError, ValueError):
                self._tally.bad_message(self.channels.prefixes[0], "it is not a pair of a channel name and a message")
            except Exception:
                self._supervisor.failed("reply router")
                logger.exception("A reply could not be handed to its client:")

    def _unknown(self, channel: Any) -> None:
        """A message on a channel without a client: usual for one that left while it is still in a group."""
        if type(channel) is not str:
            self._tally.bad_message(self.channels.prefixes[0], f"its channel name is {_type(channel)}, not a str")
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("Message on unknown channel %.120r - discarding", channel)


def _type(value: object) -> str:
    return type(value).__name__
