"""What happens to an accepted connection: TLS where the endpoint has it, then the protocol it turns out to speak."""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from typing import Any, Protocol

from gevent.pool import Pool

from .config import Limits, Timeouts
from .endpoints import Endpoint
from .exchange import Exchange
from .http1.connection import Http1Connection
from .message import Address, ClientDisconnected, ConnectionInfo
from .transport import ByteStream, Transport

logger = logging.getLogger("daphne.server")

_INTERNET = (_socket.AF_INET, _socket.AF_INET6)


class Connection(Protocol):
    """One connection of either protocol version."""

    def run(self) -> None:
        """Serve until the connection ends."""

    def drain(self) -> None:
        """Finish what is open and end."""


class Connections:
    """The open connections of one server.

    :param exchange: serves their streams.
    """

    def __init__(self, exchange: Exchange, limits: Limits, timeouts: Timeouts) -> None:
        self._exchange = exchange
        self._limits = limits
        self._timeouts = timeouts
        self._open: set[Connection] = set()
        self._draining = False
        #: The greenlets of all connections.
        self.pool = Pool(limits.connections or None)

    def handler(self, endpoint: Endpoint) -> Callable[[_socket.socket, Any], None]:
        """What serves the connections that ``endpoint`` accepts."""

        def handle(sock: _socket.socket, address: Any) -> None:
            try:
                connection = self._connect(sock, address)
            except (ClientDisconnected, OSError):
                sock.close()
                return
            if self._draining:
                connection.drain()
            self._open.add(connection)
            try:
                connection.run()
            except Exception:
                logger.exception("Error in a connection")
            finally:
                self._open.discard(connection)

        return handle

    def _connect(self, sock: _socket.socket, address: Any) -> Connection:
        client: Address = None
        server: Address = None
        if sock.family in _INTERNET:
            # Small responses must not wait for the peer's acknowledgement of the last one.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            client = [address[0], address[1]]
            server = list(sock.getsockname()[:2])
        transport = Transport(sock, self._timeouts.send)
        return self._http1(transport, ConnectionInfo("http", client, server), b"")

    def _http1(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        exchange = self._exchange
        return Http1Connection(transport, info, self._limits, self._timeouts, exchange.serve, exchange.refuse, initial)

    def drain(self) -> None:
        """Have every connection finish what it has begun and end."""
        self._draining = True
        for connection in list(self._open):
            connection.drain()

    def __len__(self) -> int:
        return len(self.pool)
