"""Whether a channel layer answers, also while there is no traffic.

The answer comes within :data:`PATIENCE` seconds whatever the layer does, and many checks cost the layer no more than one a second.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from ...layers.reader import blocks_natively

logger = logging.getLogger("greendaphne.monitoring")

#: Seconds that a health check waits for the channel layer.
PATIENCE: Final = 1.5
#: Seconds for which a result holds.
FRESH: Final = 1.0
#: Channels tried to find one that lies on the same server of the layer as the replies; more than enough for any number of servers.
_ATTEMPTS: Final = 1000


class LayerProbe:
    """Finds out whether the channel layer answers, by looking for a message on a channel of its own.

    Of a layer that spreads its channels over several servers, those are asked that the replies to this process come from: without them it
    can answer nothing.

    :param reply_channels: the channels that replies are received on.
    """

    def __init__(self, layer: Any, reply_channels: Iterable[str]) -> None:
        self._receive: Any = layer.receive
        self._channels = _neighbours(layer, list(reply_channels))
        self._threaded = blocks_natively(layer)
        self._pool: ThreadPool | None = None
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._done = Event()
        # When the probe that runs was begun, the last one ended, and what it found.
        self._begun = self._ended = 0.0
        self._answered = False

    def check(self) -> bool:
        """Whether the layer answers; waits :data:`PATIENCE` seconds at most."""
        if self._greenlet is None:
            if self._ended and monotonic() - self._ended < FRESH:
                return self._answered
            self._begun = monotonic()
            self._done.clear()
            self._greenlet = gevent.spawn(self._run)
        # One at a time: a layer that hangs must not collect probes, and who comes later knows sooner.
        return self._done.wait(max(self._begun + PATIENCE - monotonic(), 0)) and self._answered

    def close(self) -> None:
        """Give up a probe that runs."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)
        pool, self._pool = self._pool, None
        if pool is not None:
            # Its thread ends with what it is at.
            gevent.spawn(pool.kill)

    def _run(self) -> None:
        answered = False
        try:
            if self._threaded:
                if self._pool is None:
                    self._pool = ThreadPool(1)
                error = self._pool.apply(self._ask)
            else:
                error = self._ask()
            answered = error is None
            if error is not None:
                logger.debug("The channel layer does not answer: %s", error)
        finally:
            self._answered = answered
            self._ended = monotonic()
            self._greenlet = None
            self._done.set()

    def _ask(self) -> Exception | None:
        # gevent prints what a task in a thread raises, so the error is returned.
        try:
            for channel in self._channels:
                self._receive([channel], block=False)
        except Exception as error:  # noqa: BLE001 - a layer may fail with anything
            return error
        return None


def _neighbours(layer: Any, reply_channels: list[str]) -> list[str]:
    """Channels that are used for nothing else, one for each server of the layer that ``reply_channels`` are on."""
    base = f"greendaphne.health.{secrets.token_hex(8)}"
    place = getattr(layer, "consistent_hash", None)
    if place is None:
        return [f"{base}?probe"]
    channels = []
    for wanted in {place(channel) for channel in reply_channels}:
        found = (name for name in (f"{base}?{number}" for number in range(_ATTEMPTS)) if place(name) == wanted)
        channels.append(next(found, f"{base}?probe"))
    return channels
