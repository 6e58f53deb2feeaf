"""The one greenlet that waits on the process' reply channel and hands each reply to its client's mailbox.

All clients of a process share one list in the channel layer, with a small capacity, so the router only ever moves messages: it takes
them in batches, touches no socket and waits for no client.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from ..layers.reader import Reader
from .mailbox import Mailbox, Message
from .names import ReplyChannels

logger = logging.getLogger("daphne.server")

#: Seconds between attempts to reach a layer that fails: the first, and the most it grows to.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0


class ReplyRouter:
    """Routes replies by channel name.

    :param layer: the channel layer.
    :param force_sync: poll the layer even where it can wait.
    """

    def __init__(self, layer: Any, force_sync: bool = False) -> None:
        self.channels = ReplyChannels()
        #: Mailboxes by reply channel.
        self.clients: dict[str, Mailbox] = {}
        self._reader = Reader(layer, [self.channels.prefix], force_sync=force_sync)
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def mode(self) -> str:
        """How the layer is waited for, for the log."""
        mode: str = self._reader.mode
        return mode

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
            self._reader.close()

    def register(self, mailbox: Mailbox) -> str:
        """Give ``mailbox`` a reply channel of its own."""
        channel = self.channels.new()
        self.clients[channel] = mailbox
        return channel

    def unregister(self, channel: str) -> None:
        """Later replies to ``channel`` are dropped."""
        mailbox = self.clients.pop(channel, None)
        if mailbox is not None:
            mailbox.close()

    def _run(self) -> None:
        pause = 0.0
        clients = self.clients
        while True:
            try:
                batch: list[tuple[str, Any]] = self._reader.receive()
            except Exception as error:  # noqa: BLE001 - a layer may fail with anything, and every client depends on this greenlet
                if not pause:
                    logger.error("Error trying to receive messages: %s", error)
                pause = min(pause * 2 or _FIRST_PAUSE, _LAST_PAUSE)
                gevent.sleep(pause)
                continue
            if pause:
                logger.info("Receiving messages again")
                pause = 0.0
            for channel, message in batch:
                mailbox = clients.get(channel)
                if mailbox is None:
                    # Usual for a client that left while it is still in a group.
                    logger.debug("Message on unknown channel %r - discarding", channel)
                elif isinstance(message, dict):
                    mailbox.put(message)
                else:
                    logger.error("HTTP/WS send decode error: the message on %s is %s, not dict", channel, type(message).__name__)


class Notifier:
    """Sends disconnect messages off the path of the responses, from a greenlet of its own.

    One that finds its channel full is offered again for as long as it was given, then given up.  Under overload the oldest go first.

    :param send: the layer's send, telling whether it worked and raising nothing.
    """

    #: Notices that may wait; a layer that is this far behind is in trouble anyway.
    LIMIT = 10_000
    #: Seconds between attempts.
    PAUSE = 0.05

    def __init__(self, send: Callable[[str, Message], bool]) -> None:
        self._send = send
        self._pending: list[tuple[str, Message, float]] = []
        self._wanted = Event()
        self._stopping = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        self._stopping = False
        self._greenlet = gevent.spawn(self._run)

    def add(self, channel: str, message: Message, patience: float = 0) -> None:
        """Send ``message`` soon; while that does not work, for ``patience`` seconds."""
        pending = self._pending
        if len(pending) >= self.LIMIT:
            del pending[: self.LIMIT // 10]
        pending.append((channel, message, monotonic() + patience if patience else 0))
        if len(pending) == 1:
            self._wanted.set()

    def stop(self, timeout: float) -> None:
        """Send what is left, for ``timeout`` seconds at most, and end."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            # The greenlet itself ends when nothing is left, for it may be in the middle of sending what nobody else has.
            self._stopping = True
            self._wanted.set()
            greenlet.join(timeout)
            greenlet.kill()

    def _run(self) -> None:
        while not self._stopping:
            self._wanted.wait()
            self._wanted.clear()
            while self._send_pending():
                gevent.sleep(self.PAUSE)

    def _send_pending(self) -> bool:
        """Offer everything once; whether something has to be offered again."""
        batch, self._pending = self._pending, []
        # Looked at together, so that a channel that is full is not asked for every single notice.
        again = [notice for notice in batch if not self._send(notice[0], notice[1]) and notice[2]]
        if again:
            now = monotonic()
            self._pending[:0] = [notice for notice in again if notice[2] > now]
        return bool(self._pending)
