"""Serves accepted connections: reads a PROXY header and performs the TLS handshake where configured, then serves HTTP/1 or HTTP/2."""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from functools import partial
from heapq import nsmallest
from time import monotonic
from typing import Any, Final, Protocol

from gevent import Greenlet, spawn_later

from ..config import Limits, Timeouts
from ..core.accounts import Account
from ..core.addresses import AddressList
from ..core.message import Address, ClientDisconnected, ConnectionInfo
from ..core.tlsinfo import TLSInfo
from ..http1.connection import DRAIN_MOMENT, Http1Connection
from ..http2 import PREFACE, Http2Limits
from ..net import batch
from ..net.acceptor import ConnectionPool
from ..net.byte_stream import RECV_SIZE, ByteStream
from ..net.endpoints import Endpoint
from ..net.proxy_protocol import HeaderReader, ProxyProtocol
from ..net.service import Service
from ..net.transport import Transport
from .addresses import AddressCounts
from .exchange import Exchange
from .overload import HTTP2, TLS, Overload

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

    @property
    def idle_since(self) -> float:
        """The time since when it waits for a request, on the monotonic clock; 0 while it serves one."""

    def make_room(self) -> None:
        """End an idle connection because another client waits."""

    def evict(self) -> None:
        """End at once, because the memory or disk that it holds is needed."""


class ConnectionMeter(Protocol):
    """Hooks for the metrics of connections."""

    def failed(self, error: BaseException, *, encrypted: bool) -> None:
        """A connection ended before its protocol was known."""

    def opened(self, transport: ByteStream, info: ConnectionInfo, protocol: str, initial: bytes) -> ByteStream:
        """A connection's protocol is known; returns the byte stream that replaces ``transport``."""


#: Seconds that a connection must have been idle to make room for another.
IDLE_LEAST: Final = 1.0
#: The number of connections that are closed at a time to make room, those idle for longest first.
ROOM: Final = 16


class Connections:
    """The open connections of one server.

    :param exchange: serves the streams of the connections.
    :param http2_cleartext: whether a plain connection may begin with HTTP/2's preface (RFC 9113 section 3.3).
    :param proxy_protocol: reads PROXY headers, on endpoints with them.
    :param meter: counts connections; ``None`` without metrics.
    :param overload: the memory, disk and descriptors for clients; by default a new one.
    :param proxies: peers whose connections are those of many clients, for ``limits.connections_per_address``.
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
        overload: Overload | None = None,
        proxies: AddressList | None = None,
    ) -> None:
        self.exchange = exchange
        self._service = Service(limits, timeouts, exchange.serve, exchange.refuse, exchange.detaches)
        self._timeouts = timeouts
        self._http2_limits = http2_limits
        self._http2_cleartext = http2_cleartext
        self._proxy_protocol = proxy_protocol or ProxyProtocol()
        self._meter = meter
        self._open: set[Connection] = set()
        # The sockets of connections whose protocol is not known yet, each with the time of its acceptance.
        self._undecided: dict[_socket.socket, float] = {}
        self._draining = False
        # The server's address of the last connection, which most have in common.
        self._server: Address = None
        # Closes idle connections DRAIN_MOMENT after the drain starts.
        self._closer: Greenlet[..., None] | None = None
        self.overload = overload or Overload(limits)
        #: Counts the connections of each client address; ``None`` without a limit.
        self.addresses = AddressCounts(limits.connections_per_address, proxies) if limits.connections_per_address else None
        #: The greenlets of all connections.
        self.pool = ConnectionPool(self.overload.connections or None)

    def handler(self, endpoint: Endpoint) -> Callable[[_socket.socket, Any], None]:
        """The function that serves the connections accepted on ``endpoint``."""
        if self._http2_cleartext or (endpoint.tls is not None and "h2" in endpoint.tls.options.alpn):
            _import_http2()

        def handle(sock: _socket.socket, address: Any) -> None:
            overload = self.overload
            account = overload.open()
            cost = 0
            host: str | None = None
            try:
                self._undecided[sock] = monotonic()
                try:
                    found = self._connect(sock, address, endpoint, account)
                except (ClientDisconnected, OSError) as error:
                    if self._meter is not None:
                        self._meter.failed(error, encrypted=endpoint.tls is not None)
                    sock.close()
                    return
                finally:
                    del self._undecided[sock]
                connection, host = found
                cost = (TLS if endpoint.tls is not None else 0) + (HTTP2 if hasattr(connection, "serving") else 0)
                if cost:
                    overload.charge(cost)
                account.connection = connection
                if self._draining:
                    connection.drain()
                self._open.add(connection)
                try:
                    connection.run()
                except Exception:
                    logger.exception("Error in a connection")
                finally:
                    self._open.discard(connection)
            finally:
                sock.close()
                overload.closed(account, cost)
                if host is not None and self.addresses is not None:
                    self.addresses.leave(host)

        return handle

    def _connect(self, sock: _socket.socket, address: Any, endpoint: Endpoint, account: Account) -> tuple[Connection, str | None]:
        """Determine the peer's protocol; also returns the key under which :attr:`addresses` counts it.

        :raises ClientDisconnected: if the peer disconnects before its protocol is known; also for a failed handshake, and if its address
            has too many connections.
        """
        info = self._origin(sock, address, endpoint, account)
        host = None
        if self.addresses is not None:
            # As early as the address is known, because a TLS handshake costs more than all steps before it.
            host = self.addresses.enter(info.client)
        try:
            return self._speak(sock, endpoint, account, info), host
        except BaseException:
            if host is not None and self.addresses is not None:
                self.addresses.leave(host)
            raise

    def _origin(self, sock: _socket.socket, address: Any, endpoint: Endpoint, account: Account) -> ConnectionInfo:
        """The addresses of the client and of the server; those of the PROXY header if the connection has to begin with one."""
        client: Address = None
        server: Address = None
        socket_path = ""
        if sock.family in _INTERNET:
            # Small responses must not wait for the acknowledgement of the previous one.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            client = [address[0], address[1]]
            server = self._server
            name = sock.getsockname()
            if server is None or server[1] != name[1] or server[0] != name[0]:
                server = self._server = [name[0], name[1]]
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
        return ConnectionInfo("http", client, server, client_tls, peer, socket_path, account)

    def _speak(self, sock: _socket.socket, endpoint: Endpoint, account: Account, info: ConnectionInfo) -> Connection:
        """Perform the TLS handshake, if any, and determine the protocol."""
        if endpoint.tls is not None:
            # Imported here, because it imports OpenSSL, which a server without TLS does not need.
            from ..net.tls import handshake

            secure = handshake(sock, endpoint.tls, timeout=self._patience(self._timeouts.tls_handshake), send_timeout=self._timeouts.send)
            secure.account = account
            secure.batch = batch.current()
            info = info._replace(scheme="https", tls=secure.info)
            return self._http2(secure, info, b"") if secure.alpn == "h2" else self._http1(secure, info, b"")
        transport = Transport(sock, self._timeouts.send)
        transport.account = account
        transport.batch = batch.current()
        if info.tls is not None:
            info = info._replace(scheme="https")
        if not self._http2_cleartext:
            return self._http1(transport, info, b"")
        try:
            initial = self._first_bytes(transport)
        except BaseException:
            transport.close()
            raise
        return self._http2(transport, info, initial) if initial.startswith(PREFACE) else self._http1(transport, info, initial)

    def _patience(self, seconds: float) -> float:
        """The seconds within which a connection has to show its protocol: ``seconds``, but less during a drain."""
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

        if self._meter is not None:
            transport = self._meter.opened(transport, info, "http/2", initial)
        return Http2Connection(transport, info, self._service, self._http2_limits, initial)

    def _http1(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        if self._meter is not None:
            transport = self._meter.opened(transport, info, "http/1", initial)
        return Http1Connection(transport, info, self._service, initial)

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

    def make_room(self) -> bool:
        """End some of the connections that have been idle for longest; returns whether it found any.

        An acceptor at its limit calls this.  A client whose connection ends between two requests connects again, as after the keep-alive
        timeout; a client that cannot connect is not served at all.  Connections without a known protocol or a complete head count as idle.
        """
        latest = monotonic() - IDLE_LEAST
        idle: list[tuple[float, Callable[[], None]]] = []
        for connection in self._open:
            since = connection.idle_since
            if 0 < since < latest:
                idle.append((since, connection.make_room))
        for sock, since in self._undecided.items():
            if since < latest:
                idle.append((since, partial(_end_reading, sock)))
        chosen = nsmallest(min(ROOM, max(len(idle) // 8, 1)), idle, key=_since)
        for _, end in chosen:
            end()
        self.overload.displaced += len(chosen)
        return bool(chosen)

    def _end_idle(self, connections: list[Connection], socks: list[_socket.socket]) -> None:
        for connection in self._open.intersection(connections):
            connection.end_if_idle()
        # No request is lost: a connection within its handshake has sent none.
        for sock in self._undecided.keys() & set(socks):
            _end_reading(sock)

    def census(self) -> tuple[int, int, int]:
        """The numbers of open HTTP/1 connections, of open HTTP/2 connections, and of the latter's streams."""
        # HTTP/1 connections serve one request at a time and have no count.
        streams = [serving for connection in self._open if (serving := getattr(connection, "serving", None)) is not None]
        return len(self._open) - len(streams), len(streams), sum(streams)

    def __len__(self) -> int:
        return len(self.pool)


def _import_http2() -> None:
    """Import HTTP/2 now, which takes 40 ms and would otherwise delay the first connection and all others."""
    from ..http2 import connection  # noqa: F401


def _since(candidate: tuple[float, Callable[[], None]]) -> float:
    return candidate[0]


def _end_reading(sock: _socket.socket) -> None:
    """Shut ``sock`` down, so that its reader gets the end of the stream."""
    try:
        sock.shutdown(_socket.SHUT_RD)
    except OSError:
        pass  # the peer has already closed the connection
