"""A listening socket of its own for metrics and health checks, which stays open while the server drains.

It speaks HTTP/1.1 under tight limits and knows nothing but its pages.
"""

from __future__ import annotations

import logging
from typing import Final

from .. import websocket as protocol
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

logger = logging.getLogger("daphne.server")

#: Who asks here is one of a few, and asks little.
_LIMITS: Final = Limits(request_line=2 * KIB, request_fields=50, request_field_size=4 * KIB, request_head=16 * KIB, connections=32)
#: Whoever is idle takes the place of others, and a scrape or a check may as well connect anew.
_TIMEOUTS: Final = Timeouts(keep_alive=5, header=5, body=5, send=10, linger=1, tls_handshake=5)
#: Seconds for what has been asked to be answered in the end: a little more than an idle connection has.
_PATIENCE: Final = DRAIN_MOMENT + 0.5
#: Seconds for connections to release what they hold.
_KILL_PATIENCE: Final = 1.0


class MonitoringEndpoint:
    """Serves the pages of :attr:`pages`.

    :param endpoint: where to listen.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        #: What is served; everything else is not found.
        self.pages = LocalPages(Nothing())
        exchange = Exchange(self.pages, Sessions(_no_websocket, _TIMEOUTS), RequestPolicy())
        self._connections = Connections(exchange, _LIMITS, _TIMEOUTS, Http2Limits())
        self._acceptor: Acceptor | None = None
        #: What is listened on, once started.
        self.listener: Listener | None = None

    def start(self) -> None:
        """Listen.

        :raises EndpointError: where that is not possible.
        """
        endpoint = self._endpoint
        logger.info("Listening on endpoint %s for metrics and health checks", endpoint)
        self.listener = Listener(endpoint, endpoint.bind())
        if getattr(endpoint, "port", None) == 0:
            logger.info("Port 0 of endpoint %s is %s", endpoint, self.listener.address.port)
        self._connections.start()
        self._acceptor = Acceptor(self.listener.socket, self._connections.handler(endpoint), self._connections.pool, endpoint.shared)
        self._acceptor.start()

    def drain(self) -> None:
        """Leave new connections to the others where the socket is shared, for they serve on; one of its own stays open to the end."""
        if self._endpoint.shared:
            self._close()
            self._connections.drain()

    def stop(self, *, at_once: bool) -> None:
        """Close everything; what has been asked is still answered, unless it is to end ``at_once``."""
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


def _no_websocket(stream: Stream) -> protocol.WebSocket:
    """One that is refused as soon as it is offered."""
    return protocol.WebSocket(stream, _LIMITS, _TIMEOUTS)
