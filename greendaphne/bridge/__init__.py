"""The application that answers from a channel layer: requests and frames become messages, replies become responses and frames.

:class:`ChannelLayerApplication` puts the parts together; it knows no socket.  ``gate`` sends, ``router`` receives, ``mailbox`` holds
replies for one client, ``bodies`` holds request bodies, ``http`` and ``websocket`` each hold one client's conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from ..config import Limits, Timeouts
from ..message import Headers, Request, Stream
from ..websocket import WebSocket
from .bodies import Bodies
from .gate import Gate
from .http import HTTPBridge
from .requests import RequestMessages
from .router import Notifier, ReplyRouter
from .websocket import WebSocketBridge

__all__ = ["ChannelLayerApplication"]


class ChannelLayerApplication:
    """Answers requests from a channel layer; :class:`greendaphne.message.Application` is its interface.

    :param layer: the channel layer.  Where it has a true attribute ``tls_info``, messages tell how their connection is encrypted.
    :param root_path: the application's mount point, percent-encoded.
    :param stream_request_body: pass large bodies on while they come instead of spooling them first.
    :param force_sync: poll the layer for replies even where it can wait.
    :param extra_headers: fields added to every HTTP response that does not have them.
    :param action_logger: told of the state of WebSockets, or ``None``.
    """

    def __init__(
        self,
        layer: Any,
        limits: Limits,
        timeouts: Timeouts,
        *,
        root_path: str = "",
        stream_request_body: bool = False,
        force_sync: bool = False,
        extra_headers: Headers = (),
        action_logger: Callable[[str, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        gate = Gate(layer)
        messages = RequestMessages(unquote(root_path), tls_info=getattr(layer, "tls_info", False))
        bodies = Bodies(limits, stream_request_body)
        self.router = ReplyRouter(layer, force_sync)
        self._notifier = Notifier(gate.try_send)
        self._http = HTTPBridge(gate, self.router, self._notifier, messages, bodies, layer.new_channel, limits, timeouts, extra_headers)
        self._websocket = WebSocketBridge(gate, self.router, self._notifier, messages, limits, timeouts, action_logger)
        self.http: Callable[[Request, Stream], None] = self._http.serve
        self.websocket: Callable[[Request, WebSocket], None] = self._websocket.serve

    def start(self) -> None:
        """Begin to receive replies."""
        self.router.start()
        self._notifier.start()

    def drain(self) -> None:
        """Have every WebSocket closed; requests finish by themselves."""
        self._websocket.drain()

    def stop(self) -> None:
        """End; notices that wait are sent first."""
        self._notifier.stop(timeout=2)
        self.router.stop()
