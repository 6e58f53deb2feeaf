"""Disconnect messages, sent off the path of the responses from a greenlet of their own.

A message is offered again only where it certainly was not stored: to a full channel for a while, to a layer out of reach for as long as
a consumer could still be waiting for it.  What may have been stored is not sent a second time.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event

from .layer_client import LayerClient, LayerDown
from .reply_queue import Message
from .supervisor import Part, Supervisor

logger = logging.getLogger("daphne.server")

#: Notices that may wait; a layer that is this far behind is in trouble anyway.
LIMIT: Final = 10_000
#: Seconds between attempts.
PAUSE: Final = 0.05
#: Seconds for which a notice outlives an outage, unless the groups of the layer live shorter: their members have left by then.
OUTAGE_PATIENCE: Final = 600.0


class _Notice:
    """A message that waits, and until when it may: ``patience`` counts from its first full channel on."""

    __slots__ = ("channel", "deadline", "full_deadline", "message", "patience")

    def __init__(self, channel: str, message: Message, patience: float, deadline: float) -> None:
        self.channel = channel
        self.message = message
        self.patience = patience
        self.deadline = deadline
        self.full_deadline = 0.0


class Notifier:
    """Sends notices in their order, each at most once.

    Where more than :data:`LIMIT` wait, the oldest are given up.

    :param outage_patience: seconds for which a notice waits for a layer that is out of reach.
    :param supervisor: restarts the notifier should it ever end; by default one of its own.
    """

    def __init__(self, layer_client: LayerClient, outage_patience: float = OUTAGE_PATIENCE, supervisor: Supervisor | None = None) -> None:
        self._layer_client = layer_client
        self._outage_patience = outage_patience
        self._pending: deque[_Notice] = deque()
        self._wanted = Event()
        self._stopping = False
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self._part: Part | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def start(self) -> None:
        self._stopping = False
        self._part = self._supervisor.start("notifier", self._run)

    def add(self, channel: str, message: Message, patience: float = 0) -> None:
        """Send ``message`` soon; into a full channel for ``patience`` seconds.  Without patience there is one attempt."""
        pending = self._pending
        if len(pending) >= LIMIT:
            logger.error("%d disconnect messages are given up, more than %d wait", LIMIT // 10, LIMIT)
            for _ in range(LIMIT // 10):
                pending.popleft()
        pending.append(_Notice(channel, message, patience, monotonic() + self._outage_patience))
        self._wanted.set()

    def stop(self, timeout: float) -> None:
        """Send what is left, for ``timeout`` seconds at most, and end."""
        part, self._part = self._part, None
        if part is not None:
            # The greenlet itself ends when nothing is left, for it may be in the middle of sending the only copy of a notice.
            self._stopping = True
            self._wanted.set()
            part.stop(timeout)

    def _run(self) -> None:
        if self._pending:
            # A life before this one has left them.
            self._wanted.set()
        while not self._stopping:
            self._wanted.wait()
            self._wanted.clear()
            while self._pending:
                if self._offer():
                    gevent.sleep(PAUSE)

    def _offer(self) -> bool:
        """Offer everything that waits once; whether something has to be offered again."""
        layer_client = self._layer_client
        again: list[_Notice] = []
        # A layer that fails and a channel that is full are not asked for every single notice.
        down = False
        full: set[str] = set()
        try:
            for _ in range(len(self._pending)):
                if not self._pending:
                    break
                notice = self._pending.popleft()
                if down or notice.channel in full:
                    if notice.patience:
                        again.append(notice)
                    continue
                try:
                    layer_client.send(notice.channel, notice.message)
                except layer_client.channel_full:
                    full.add(notice.channel)
                    if not notice.full_deadline:
                        notice.full_deadline = monotonic() + notice.patience
                    if monotonic() < notice.full_deadline:
                        again.append(notice)
                except layer_client.message_too_large:
                    logger.error("A message on %s is larger than the channel layer accepts", notice.channel)
                except LayerDown as error:
                    if error.maybe_stored:
                        continue
                    down = True
                    if notice.patience and monotonic() < notice.deadline:
                        again.append(notice)
        finally:
            # Also where this greenlet is killed: the next life goes on with them.
            self._pending.extendleft(reversed(again))
        return bool(again)
