"""When the channel layer may have lost messages and groups, and what follows from it for those who depend on them.

A layer that reports its state (``add_listener``) knows best and logs it itself.  Of any other layer only failures are known: the
code that sends or receives tells of them, and once they are over the data counts as lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from time import monotonic
from typing import Any, Final

import gevent
from gevent import get_hub

from .supervisor import Supervisor

logger = logging.getLogger("daphne.server")

#: Seconds without a failure after which an outage of a layer that reports nothing is over; one of its several servers may still be down.
#: The router tries once a second.
QUIET: Final = 2.0


class OnLayerLoss(str, Enum):
    """What to do once data may have been lost."""

    #: Close all WebSockets, so that their clients come back and join their groups again.
    SHED = "shed"
    #: Keep them.
    KEEP = "keep"
    #: End the process, in good order and with an error.
    EXIT = "exit"


class LayerWatch:
    """The state of one channel layer, as one server sees it.

    :param on_loss: called in the server's hub when data may have been lost; it must not wait.
    :param supervisor: told where that fails.
    """

    def __init__(self, layer: Any, on_loss: Callable[[], None], supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor
        self._layer = layer
        self._on_loss = on_loss
        self._reports = hasattr(layer, "add_listener")
        self._hub: Any = None
        self._last_failure = self._last_success = -QUIET
        self._settling: gevent.Greenlet[..., None] | None = None
        #: Whether the last word on a layer that reports nothing was a failure; :meth:`succeeded` is due then.
        self.down = False
        #: How many times it went out of reach, and how many times data may have been lost.
        self.outages = self.losses = 0

    @property
    def troubled(self) -> bool:
        """Whether anybody has failed to reach the layer a moment ago."""
        return self.down or monotonic() - self._last_failure < QUIET

    @property
    def reachable(self) -> bool:
        """Whether the whole layer is in reach, as far as is known: a layer that reports its state says so itself."""
        available = getattr(self._layer, "available", None) if self._reports else None
        return not self.down if available is None else bool(available)

    def start(self) -> None:
        self._hub = get_hub()
        if self._reports:
            self._layer.add_listener(self._heard)

    def stop(self) -> None:
        if self._reports and self._hub is not None:
            self._layer.remove_listener(self._heard)
        self._hub = None
        if self._settling is not None:
            self._settling.kill()
            self._settling = None

    def failed(self, action: str, reason: object) -> None:
        """An attempt to ``send`` or to ``receive`` failed."""
        self._last_failure = monotonic()
        if self._reports:
            logger.debug("Error trying to %s messages: %s", action, reason)
            return
        if not self.down:
            self.down = True
            self.outages += 1
            logger.error("Error trying to %s messages: %s", action, reason)

    def succeeded(self) -> None:
        """An attempt succeeded although :attr:`down` is true."""
        self._last_success = monotonic()
        if self._settling is None or self._settling.dead:
            self._settling = gevent.spawn_later(QUIET, self._settle)

    def _settle(self) -> None:
        self._settling = None
        if self._last_failure > self._last_success:
            # The next success is looked at again.
            return
        quiet = monotonic() - self._last_failure
        if quiet < QUIET:
            self._settling = gevent.spawn_later(QUIET - quiet, self._settle)
            return
        self.down = False
        logger.warning("The channel layer is back; its data may be lost")
        self.losses += 1
        self._tell()

    def _tell(self) -> None:
        """Have the loss acted on; an error there is not the watch's end."""
        try:
            self._on_loss()
        except Exception:
            if self._supervisor is not None:
                self._supervisor.failed("layer watch")
            logger.exception("The loss of messages could not be acted on:")

    def _heard(self, event: str, data_lost: bool) -> None:
        """The layer's report; comes in any thread."""
        if event == "lost":
            self.outages += 1
        self.losses += data_lost
        hub = self._hub
        if data_lost and hub is not None and hub.loop is not None:
            hub.loop.run_callback_threadsafe(self._tell)
