"""A separate listening socket for metrics and health checks, which stays open while the server drains.

It serves HTTP/1.1 with low limits and has only these pages.
"""

from __future__ import annotations

import logging
from typing import Final

from ..config import KIB, Limits, Timeouts
from ..core.message import Stream
from ..http1.connection import DRAIN_MOMENT
from ..http2 import Http2Limits
from ..net.acceptor import Acceptor
from ..net.endpoints import Endpoint
from ..net.listeners import Listener
from ..serving.connections import Connections
from ..serving.exchange import Exchange
from ..serving.localpages import LocalPages, Nothing
from ..serving.policy import RequestPolicy
from ..serving.session import Sessions
from ..websocket import WebSocket

logger = logging.getLogger("daphne.server")

#: Few clients, small requests.
_LIMITS: Final = Limits(request_line=2 * KIB, request_fields=50, request_field_size=4 * KIB, request_head=16 * KIB, connections=32)
#: Idle clients occupy one of the few places, and scrapes and checks can easily connect again.
_TIMEOUTS: Final = Timeouts(keep_alive=5, header=5, body=5, send=10, linger=1, tls_handshake=5)
#: Seconds to answer the pending requests at the end: slightly more than an idle connection gets.
_PATIENCE: Final = DRAIN_MOMENT + 0.5
#: Seconds for connections to release their resources.
_KILL_PATIENCE: Final = 1.0


class MonitoringEndpoint:
    """Serves the pages of :attr:`pages`.

    :param endpoint: the endpoint to listen on.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        #: The pages; every other path is answered with 404.
        self.pages = LocalPages(Nothing())
        exchange = Exchange(self.pages, Sessions(_no_websocket, _TIMEOUTS), RequestPolicy())
        self._connections = Connections(exchange, _LIMITS, _TIMEOUTS, Http2Limits())
        self._acceptor: Acceptor | None = None
        #: The listener, while started.
        self.listener: Listener | None = None

    def start(self) -> None:
        """Start to listen.

        :raises EndpointError: on failure.
        """
        endpoint = self._endpoint
        self.listener = Listener(endpoint, endpoint.bind())
        logger.info("Listening on endpoint %s for metrics and health checks", endpoint)
        if getattr(endpoint, "port", None) == 0:
            logger.info("Port 0 of endpoint %s is %s", endpoint, self.listener.address.port)
        self._connections.start()
        self._acceptor = Acceptor(self.listener.socket, self._connections.handler(endpoint), self._connections.pool, endpoint.shared)
        self._acceptor.start()

    def drain(self) -> None:
        """Leave new connections to the other workers where the socket is shared; a socket of one server stays open to the end."""
        if self._endpoint.shared:
            self._close()
            self._connections.drain()

    def stop(self, *, at_once: bool) -> None:
        """Close everything; pending requests are answered first, unless ``at_once``."""
        self._close()
        if not at_once:
            self._connections.drain()
            self._connections.pool.join(timeout=_PATIENCE)
        self._connections.kill(_KILL_PATIENCE)

    def _close(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        listener, self.listener = self.listener, None
        if acceptor is not None:
            acceptor.stop_accepting()
        if listener is not None:
            listener.endpoint.close(listener.socket)
        if acceptor is not None:
            acceptor.close()


def _no_websocket(stream: Stream) -> WebSocket:
    """A WebSocket that :class:`~greendaphne.serving.localpages.Nothing` refuses at once."""
    return WebSocket(stream, _LIMITS, _TIMEOUTS)
