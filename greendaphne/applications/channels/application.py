"""The application that answers from a channel layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import gevent

from ...config import Channels, Limits, Timeouts
from ...core.accounts import Allowance
from ...core.message import Request, Stream
from ...layers.sharing import is_local
from ...layers.tally import tally_of
from ...serving.overload import Overload
from ...serving.session import Session
from ..base import Application
from .bodies import Bodies
from .http import HTTPBridge
from .inline import STOP_TIMEOUT, InlineWorkers, check_workers
from .layer_client import LayerClient
from .notifier import OUTAGE_PATIENCE, Notifier
from .probe import LayerProbe
from .requests import RequestMessages
from .router import ReplyRouter
from .site import SiteWatch
from .supervisor import Supervisor
from .watch import LayerWatch, OnLayerLoss
from .websocket import WebSocketBridge

if TYPE_CHECKING:
    from ...monitoring.families import Family
    from .meter import LayerMeter

logger = logging.getLogger("daphne.server")

#: Seconds for workers in this process to begin to read a layer inside of it, before it is an error that there are none.
_UNSERVED_PATIENCE: Final = 2.0


class ChannelLayerApplication(Application):
    """Answers requests from a channel layer.

    :param layer: the channel layer.  Where it has a true attribute ``tls_info``, messages tell how their connection is encrypted.
    :param config: how the layer is used.
    :param on_exit: called where the loss of the layer is to end the server; must not wait.
    :param meter: counts messages; ``None`` for a server without metrics.
    :param overload: the server's memory and disk for clients; by default its own.
    """

    interface = "channels"

    def __init__(
        self,
        layer: Any,
        limits: Limits,
        timeouts: Timeouts,
        config: Channels,
        *,
        on_exit: Callable[[], None] | None = None,
        meter: LayerMeter | None = None,
        overload: Overload | None = None,
    ) -> None:
        self.layer = layer
        self._on_layer_loss = OnLayerLoss(config.on_layer_loss)
        self._on_exit = on_exit
        #: Restarts the parts that all clients depend on, and knows which are down.
        self.supervisor = Supervisor()
        #: The messages that the layer lost.
        self.tally = tally_of(layer)
        self.watch = LayerWatch(layer, self._layer_lost, self.supervisor)
        layer_client = LayerClient(layer, self.watch)
        self.router = ReplyRouter(layer, self.watch, config.force_sync, config.reply_channels, self.supervisor)
        if meter is not None:
            meter.attach(layer_client, self.router)
        self.meter = meter
        messages = RequestMessages(tls_info=getattr(layer, "tls_info", False))
        overload = overload or Overload(limits)
        self._memory = overload.memory
        # A layer that holds its messages in this process tells the allowance how many bytes they have.
        self._count_in: Callable[[Allowance | None], None] | None = getattr(getattr(layer, "channel_layer", layer), "count_in", None)
        self.bodies = Bodies(limits, overload.spool, config.stream_request_body)
        patience = min(OUTAGE_PATIENCE, getattr(layer, "group_expiry", None) or OUTAGE_PATIENCE)
        self.notifier = Notifier(layer_client, patience, self.supervisor)
        self._http = HTTPBridge(
            layer_client,
            self.router,
            self.notifier,
            messages,
            self.bodies,
            limits,
            timeouts,
            self.tally,
            answer_half_closed=config.answer_half_closed,
        )
        self._websocket = WebSocketBridge(
            layer_client, self.router, self.notifier, messages, limits, timeouts, self._on_layer_loss, self.tally, self.supervisor
        )
        # The bridges' own methods, so that a request costs no call more.
        self.http: Callable[[Request, Stream], None] = self._http.serve  # type: ignore[assignment]
        self.websocket: Callable[[Request, Session], None] = self._websocket.serve  # type: ignore[assignment]
        #: Workers of the application inside this process; ``None`` where there are to be none.
        self.workers = InlineWorkers(layer, config.inline_workers) if config.inline_workers else None
        self._site = SiteWatch(layer)
        self._unserved_warning: gevent.Greenlet[..., None] | None = None
        self._probe: LayerProbe | None = None

    def check(self) -> None:
        if self.workers is not None:
            check_workers(self.layer, self.workers.number)

    def start(self) -> None:
        logger.info("Using %s on channel layer", self.router.mode)
        if self._count_in is not None:
            self._count_in(self._memory)
        self.watch.start()
        self.router.start()
        self.notifier.start()
        # A hub before this one may have ended without its turn.
        self._http.send_notices()
        self._websocket.start()
        self._site.start()
        if self.workers is not None:
            self.workers.start()
        elif self._unserved():
            self._unserved_warning = gevent.spawn(self._warn_unserved)

    def drain(self, *, succeeded: bool = False) -> None:
        if self.workers is None:
            return
        if not succeeded:
            # Requests of this server's clients may wait in the layer, and no other process would take them.
            self.workers.resume()
        elif not is_local(self.layer):
            # First of all: what a worker takes from here on would only make the end later.
            self.workers.retire()

    def end_now(self) -> None:
        if self.workers is not None:
            self.workers.end_now()

    def stop(self, patience: float = 0, *, at_once: bool = False) -> None:
        """End; notices that wait are sent first, and inline workers finish the messages that they have unless it is to end ``at_once``."""
        if self._unserved_warning is not None:
            self._unserved_warning.kill(block=False)
            self._unserved_warning = None
        self._site.stop()
        if self._probe is not None:
            self._probe.close()
        self._http.send_notices()
        self.notifier.stop(timeout=2)
        self.router.stop()
        self._websocket.stop()
        self.watch.stop()
        if self.workers is not None:
            self.workers.stop(self._workers_patience(patience, at_once))
        if self._count_in is not None:
            self._count_in(None)
        # This hub's connections to a layer that has them; what it still holds is sent first.
        if hasattr(self.layer, "send_later"):
            self.layer.close()

    def _workers_patience(self, patience: float, at_once: bool) -> float:
        if at_once:
            return 0
        if is_local(self.layer):
            # All clients have ended, in time or not.
            return STOP_TIMEOUT if patience > 0 else 0
        # The workers may be at requests of other processes' clients, which have the same time as those of this one.
        return max(patience, STOP_TIMEOUT)

    def health(self) -> str:
        if self._probe is None:
            self._probe = LayerProbe(self.layer, self.router.channels.prefixes)
        if self.watch.troubled or not self._probe.check():
            return "channel layer out of reach"
        down = self.supervisor.down()
        if self.workers is not None and self.workers.all_down():
            down.append("inline workers")
        if self._unserved():
            down.append("no worker reads the channel layer")
        return f"down: {', '.join(down)}" if down else ""

    def metric_families(self) -> Iterable[Family]:
        # Only a server with metrics needs what this imports.
        from .families import families

        return families(self)

    def _unserved(self) -> bool:
        """Whether no worker can ever have taken a request: the layer is inside this process, and no reader of it has come."""
        return self.workers is None and bool(getattr(getattr(self.layer, "channel_layer", self.layer), "unserved", False))

    def _warn_unserved(self) -> None:
        gevent.sleep(_UNSERVED_PATIENCE)
        if self._unserved():
            logger.error(
                "No worker reads the channel layer, and none outside of this process can: requests are not answered. "
                "Run workers inside the server (--inline-workers)."
            )

    def _layer_lost(self) -> None:
        if self._on_layer_loss is OnLayerLoss.SHED:
            if number := self._websocket.shed():
                logger.warning("Messages and groups may be lost; %d WebSockets are closed, for their clients to come back", number)
        elif self._on_layer_loss is OnLayerLoss.EXIT and self._on_exit is not None:
            self._on_exit()
