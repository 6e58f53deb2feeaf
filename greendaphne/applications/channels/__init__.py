"""The application that answers from a channel layer: requests and frames become messages, replies become responses and frames.

:class:`ChannelLayerApplication` puts the parts together; it knows no socket.  ``gate`` sends, ``router`` receives, ``notifier`` sends
disconnect messages, ``watch`` knows when the layer may have lost something, ``mailbox`` holds replies for one client, ``bodies`` holds
request bodies, ``http`` and ``websocket`` each hold one client's conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...config import Limits, Timeouts
from ...core.message import Request, Stream
from ...serving.session import Session
from ..base import Application
from .bodies import Bodies
from .gate import Gate
from .http import HTTPBridge
from .notifier import OUTAGE_PATIENCE, Notifier
from .requests import RequestMessages
from .router import ReplyRouter
from .watch import LayerWatch, OnLayerLoss
from .websocket import WebSocketBridge

__all__ = ["ChannelLayerApplication", "OnLayerLoss"]

logger = logging.getLogger("daphne.server")


class ChannelLayerApplication(Application):
    """Answers requests from a channel layer.

    :param layer: the channel layer.  Where it has a true attribute ``tls_info``, messages tell how their connection is encrypted.
    :param stream_request_body: pass large bodies on while they come instead of spooling them first.
    :param force_sync: poll the layer for replies even where it can wait.
    :param on_layer_loss: what to do once the layer may have lost messages and groups.
    :param reply_channels: lists in the layer that the replies of this process are spread over.
    :param on_exit: called where that is :attr:`OnLayerLoss.EXIT`; must not wait.
    :param gate: makes what sends; likewise ``router`` what receives.
    """

    interface = "channels"

    def __init__(
        self,
        layer: Any,
        limits: Limits,
        timeouts: Timeouts,
        *,
        stream_request_body: bool = False,
        force_sync: bool = False,
        on_layer_loss: OnLayerLoss = OnLayerLoss.SHED,
        reply_channels: int = 1,
        on_exit: Callable[[], None] | None = None,
        gate: Callable[[Any, LayerWatch], Gate] = Gate,
        router: Callable[[Any, LayerWatch, bool, int], ReplyRouter] = ReplyRouter,
    ) -> None:
        self._layer = layer
        self._on_layer_loss = on_layer_loss
        self._on_exit = on_exit
        self.watch = LayerWatch(layer, self._layer_lost)
        sender = gate(layer, self.watch)
        messages = RequestMessages(tls_info=getattr(layer, "tls_info", False))
        self.bodies = Bodies(limits, stream_request_body)
        self.router = router(layer, self.watch, force_sync, reply_channels)
        self.notifier = Notifier(sender, min(OUTAGE_PATIENCE, getattr(layer, "group_expiry", None) or OUTAGE_PATIENCE))
        self._http = HTTPBridge(sender, self.router, self.notifier, messages, self.bodies, limits, timeouts)
        self._websocket = WebSocketBridge(sender, self.router, self.notifier, messages, limits, timeouts, on_layer_loss)
        #: What slow clients' replies may hold on disk.
        self.replies_on_disk = self._http.disk
        # The bridges' own methods, so that a request costs no call more.
        self.http: Callable[[Request, Stream], None] = self._http.serve  # type: ignore[assignment]
        self.websocket: Callable[[Request, Session], None] = self._websocket.serve  # type: ignore[assignment]

    def announcement(self) -> str:
        return f"Using {self.router.mode} on channel layer"

    def start(self) -> None:
        """Begin to receive replies."""
        self.watch.start()
        self.router.start()
        self.notifier.start()
        self._websocket.start()

    def stop(self, *, at_once: bool = False) -> None:
        """End; notices that wait are sent first."""
        self.notifier.stop(timeout=2)
        self.router.stop()
        self._websocket.stop()
        self.watch.stop()

    def close(self) -> None:
        """Close this hub's connections to a layer that has them; what it still holds is sent first."""
        if hasattr(self._layer, "send_later"):
            self._layer.close()

    def _layer_lost(self) -> None:
        if self._on_layer_loss is OnLayerLoss.SHED:
            if number := self._websocket.shed():
                logger.warning("Messages and groups may be lost; %d WebSockets are closed, for their clients to come back", number)
        elif self._on_layer_loss is OnLayerLoss.EXIT and self._on_exit is not None:
            self._on_exit()
