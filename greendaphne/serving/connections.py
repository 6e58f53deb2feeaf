"""Serves accepted connections: reads a PROXY header and performs the TLS handshake where configured, then serves HTTP/1 or HTTP/2."""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from gevent import Greenlet, spawn_later
from gevent.pool import Pool

from ..config import Limits, Timeouts
from ..core.message import Address, ClientDisconnected, ConnectionInfo
from ..core.tlsinfo import TLSInfo
from ..http1.connection import DRAIN_MOMENT, Http1Connection
from ..http2 import PREFACE, Http2Limits
from ..net.endpoints import Endpoint
from ..net.proxy_protocol import HeaderReader, ProxyProtocol
from ..net.transport import RECV_SIZE, ByteStream, Transport
from .exchange import Exchange

logger = logging.getLogger("daphne.server")

_INTERNET = (_socket.AF_INET, _socket.AF_INET6)


class Connection(Protocol):
    """One connection of either protocol version."""

    def run(self) -> None:
        """Serve until the connection ends."""

    def drain(self) -> None:
        """Finish the requests in flight, then end."""

    def end_if_idle(self) -> None:
        """End the connection if it has been idle since :meth:`drain`."""


class ConnectionMeter(Protocol):
    """Hooks for the metrics of connections."""

    def failed(self, error: BaseException, *, encrypted: bool) -> None:
        """A connection ended before its protocol was known."""

    def opened(self, transport: ByteStream, info: ConnectionInfo, protocol: str, initial: bytes) -> ByteStream:
        """A connection's protocol is known; returns the byte stream that replaces ``transport``."""


class Connections:
    """The open connections of one server.

    :param exchange: serves the streams of the connections.
    :param http2_cleartext: whether a plain connection may begin with HTTP/2's preface (RFC 9113 section 3.3).
    :param proxy_protocol: reads PROXY headers, on endpoints with them.
    :param meter: counts connections; ``None`` without metrics.
    """

    def __init__(
        self,
        exchange: Exchange,
        limits: Limits,
        timeouts: Timeouts,
        http2_limits: Http2Limits,
        http2_cleartext: bool = False,
        proxy_protocol: ProxyProtocol | None = None,
        meter: ConnectionMeter | None = None,
    ) -> None:
        self._exchange = exchange
        self._limits = limits
        self._timeouts = timeouts
        self._http2_limits = http2_limits
        self._http2_cleartext = http2_cleartext
        self._proxy_protocol = proxy_protocol or ProxyProtocol()
        self._meter = meter
        self._open: set[Connection] = set()
        # The sockets of connections whose protocol is not known yet.
        self._undecided: set[_socket.socket] = set()
        self._draining = False
        # Closes idle connections DRAIN_MOMENT after the drain starts.
        self._closer: Greenlet[..., None] | None = None
        #: The greenlets of all connections.
        self.pool = Pool(limits.connections or None)

    def handler(self, endpoint: Endpoint) -> Callable[[_socket.socket, Any], None]:
        """The function that serves the connections accepted on ``endpoint``."""
        if self._http2_cleartext or (endpoint.tls is not None and "h2" in endpoint.tls.options.alpn):
            _import_http2()

        def handle(sock: _socket.socket, address: Any) -> None:
            self._undecided.add(sock)
            try:
                connection = self._connect(sock, address, endpoint)
            except (ClientDisconnected, OSError) as error:
                if self._meter is not None:
                    self._meter.failed(error, encrypted=endpoint.tls is not None)
                sock.close()
                return
            finally:
                self._undecided.discard(sock)
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

    def _connect(self, sock: _socket.socket, address: Any, endpoint: Endpoint) -> Connection:
        """Determine the protocol of the connection.

        :raises ClientDisconnected: when the peer leaves before that, and for a failed handshake.
        """
        client: Address = None
        server: Address = None
        socket_path = ""
        if sock.family in _INTERNET:
            # Small responses must not wait for the acknowledgement of the previous one.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            client = [address[0], address[1]]
            server = list(sock.getsockname()[:2])
        else:
            name = sock.getsockname()
            socket_path = name if isinstance(name, str) else name.decode("utf-8", "replace")
        peer: Address = None
        client_tls: TLSInfo | None = None
        if endpoint.proxy_protocol:
            reader = HeaderReader(sock, endpoint.proxy_protocol, self._patience(self._timeouts.header))
            header = self._proxy_protocol.read(reader, None if client is None else address[0])
            if header is not None:
                peer = client or []
                client, server, client_tls = header
        if endpoint.tls is not None:
            # Imported here, because it imports OpenSSL, which a server without TLS does not need.
            from ..net.tls import handshake

            secure = handshake(sock, endpoint.tls, timeout=self._patience(self._timeouts.tls_handshake), send_timeout=self._timeouts.send)
            info = ConnectionInfo("https", client, server, secure.info, peer, socket_path)
            return self._http2(secure, info, b"") if secure.alpn == "h2" else self._http1(secure, info, b"")
        transport = Transport(sock, self._timeouts.send)
        info = ConnectionInfo("http" if client_tls is None else "https", client, server, client_tls, peer, socket_path)
        if not self._http2_cleartext:
            return self._http1(transport, info, b"")
        try:
            initial = self._first_bytes(transport)
        except BaseException:
            transport.close()
            raise
        return self._http2(transport, info, initial) if initial.startswith(PREFACE) else self._http1(transport, info, initial)

    def _patience(self, seconds: float) -> float:
        """The seconds that a connection has to show its protocol: ``seconds``, but less during a drain."""
        return min(seconds, DRAIN_MOMENT) if self._draining else seconds

    def _first_bytes(self, transport: ByteStream) -> bytes:
        """Read enough bytes to tell whether the connection begins with HTTP/2's preface."""
        data = b""
        deadline = monotonic() + self._patience(self._timeouts.keep_alive)
        try:
            while PREFACE.startswith(data) and len(data) < len(PREFACE):
                more = transport.recv(RECV_SIZE, max(deadline - monotonic(), 0))
                if not more:
                    raise ClientDisconnected
                if not data:
                    # Absolute, so that a slow trickle of bytes does not extend it.
                    deadline = monotonic() + self._timeouts.header
                data += more
        except TimeoutError:
            raise ClientDisconnected from None
        return data

    def _http2(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        # Imported by a server that can speak it, before it listens: see _import_http2().
        from ..http2.connection import Http2Connection

        exchange = self._exchange
        if self._meter is not None:
            transport = self._meter.opened(transport, info, "http/2", initial)
        return Http2Connection(transport, info, self._limits, self._timeouts, self._http2_limits, exchange.serve, exchange.refuse, initial)

    def _http1(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        exchange = self._exchange
        if self._meter is not None:
            transport = self._meter.opened(transport, info, "http/1", initial)
        return Http1Connection(transport, info, self._limits, self._timeouts, exchange.serve, exchange.refuse, initial)

    def start(self) -> None:
        """Serve new connections; also after :meth:`drain`."""
        self._draining = False

    def drain(self) -> None:
        """Make every connection finish its requests in flight, then end."""
        self._draining = True
        connections = list(self._open)
        for connection in connections:
            connection.drain()
        self._closer = spawn_later(DRAIN_MOMENT, self._end_idle, connections, list(self._undecided))

    def kill(self, timeout: float) -> None:
        """Cut off the remaining connections, and wait at most ``timeout`` seconds until they have released their resources."""
        if self._closer is not None:
            self._closer.kill(block=False)
            self._closer = None
        self.pool.kill(timeout=timeout)

    def _end_idle(self, connections: list[Connection], socks: list[_socket.socket]) -> None:
        for connection in self._open.intersection(connections):
            connection.end_if_idle()
        # No request is lost: a connection within its handshake has sent none.
        for sock in self._undecided.intersection(socks):
            try:
                # A waiting reader sees the end of the stream.
                sock.shutdown(_socket.SHUT_RD)
            except OSError:
                pass  # the peer closed the connection first

    def census(self) -> tuple[int, int, int]:
        """The numbers of open HTTP/1 connections, of open HTTP/2 connections, and of the latter's streams."""
        # Those of HTTP/1 serve one request at a time and do not count them.
        streams = [serving for connection in self._open if (serving := getattr(connection, "serving", None)) is not None]
        return len(self._open) - len(streams), len(streams), sum(streams)

    def __len__(self) -> int:
        return len(self.pool)


def _import_http2() -> None:
    """Import what takes 40 ms now, rather than while the first connection waits and all others with it."""
    from ..http2 import connection  # noqa: F401
