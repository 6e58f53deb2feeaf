"""The counting: the server's own classes, each with what it adds to :class:`~greendaphne.monitoring.metrics.Metrics`.

They change nothing but numbers.  :func:`metered` returns them as the parts of a server, :class:`MetricsObserver` is told of what the
exchange and the WebSocket bridge report.
"""

from __future__ import annotations

import _socket
from functools import partial
from time import perf_counter
from typing import Any, Final

from ..applications.channels.gate import Gate, LayerDown
from ..applications.channels.router import ReplyRouter
from ..core.message import ConnectionInfo, Stream
from ..core.observer import Observer
from ..http2 import Http2Connection
from ..net.endpoints import Endpoint
from ..net.transport import ByteStream
from ..serving.connections import Connection, Connections
from ..serving.exchange import Exchange
from ..serving.parts import Parts
from ..websocket import WebSocket
from .metrics import Metrics

_HTTP: Final = "http"
_WEBSOCKET: Final = "websocket"


def metered(metrics: Metrics) -> Parts:
    """The parts of a server that counts into ``metrics``."""
    return Parts(
        connections=partial(MeteredConnections, metrics),
        exchange=partial(MeteredExchange, metrics),
        websocket=partial(MeteredWebSocket, metrics),
        gate=partial(MeteredGate, metrics),
        router=partial(MeteredRouter, metrics),
    )


class MeteredTransport:
    """A :class:`~greendaphne.net.transport.ByteStream` whose bytes are counted."""

    __slots__ = ("_inner", "_metrics")

    def __init__(self, metrics: Metrics, inner: ByteStream) -> None:
        self._metrics = metrics
        self._inner = inner

    @property
    def closed(self) -> bool:
        return self._inner.closed

    def recv(self, n: int, timeout: float | None) -> bytes:
        data = self._inner.recv(n, timeout)
        self._metrics.received_bytes += len(data)
        return data

    def wait_readable(self, timeout: float | None) -> None:
        self._inner.wait_readable(timeout)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.sendall(data)
        self._metrics.sent_bytes += len(data)

    def shutdown_write(self) -> None:
        self._inner.shutdown_write()

    def shutdown_read(self) -> None:
        self._inner.shutdown_read()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()


class MeteredConnections(Connections):
    """Counts connections, TLS handshakes and bytes."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def census(self) -> tuple[int, int, int]:
        """The open connections that speak HTTP/1 and HTTP/2, and the streams of the latter."""
        http2 = [connection for connection in self._open if isinstance(connection, Http2Connection)]
        return len(self._open) - len(http2), len(http2), sum(connection.serving for connection in http2)

    def _connect(self, sock: _socket.socket, address: Any, endpoint: Endpoint) -> Connection:
        try:
            return super()._connect(sock, address, endpoint)
        except BaseException as error:
            metrics = self._metrics
            metrics.connections["none",] += 1
            if endpoint.tls is not None:
                # Imported where there is TLS at all.
                from ..net.tls import HandshakeError

                if isinstance(error, HandshakeError):
                    metrics.tls_failures[_handshake_failure(error),] += 1
            raise

    def _http2(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        return super()._http2(self._counted(transport, info, "http/2", initial), info, initial)

    def _http1(self, transport: ByteStream, info: ConnectionInfo, initial: bytes) -> Connection:
        return super()._http1(self._counted(transport, info, "http/1", initial), info, initial)

    def _counted(self, transport: ByteStream, info: ConnectionInfo, protocol: str, initial: bytes) -> ByteStream:
        metrics = self._metrics
        metrics.connections[protocol,] += 1
        if info.tls is not None:
            metrics.tls_handshakes[info.tls.version,] += 1
        metrics.received_bytes += len(initial)
        return MeteredTransport(metrics, transport)


def _handshake_failure(error: Exception) -> str:
    from ..net.tls import HandshakeTimeout, PlainHTTP

    if isinstance(error, HandshakeTimeout):
        return "timeout"
    return "plain-http" if isinstance(error, PlainHTTP) else "failed"


class MeteredExchange(Exchange):
    """Counts streams that are being served."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def serve(self, stream: Stream) -> None:
        metrics = self._metrics
        metrics.streams += 1
        try:
            Exchange.serve(self, stream)
        finally:
            metrics.streams -= 1


class MeteredWebSocket(WebSocket):
    """Counts messages and their payload, as it is without compression."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def receive(self, timeout: float | None = None) -> str | bytes:
        message = super().receive(timeout)
        metrics = self._metrics
        metrics.websocket_messages_received += 1
        metrics.websocket_bytes_received += _size(message)
        return message

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        super().send(message, binary)
        metrics = self._metrics
        metrics.websocket_messages_sent += 1
        metrics.websocket_bytes_sent += _size(message)


def _size(message: str | bytes) -> int:
    """The bytes that ``message`` has on the wire."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)


class MeteredGate(Gate):
    """Counts messages for the channel layer, and how long it takes to send one."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def send(self, channel: str, message: dict[str, Any]) -> None:
        metrics = self._metrics
        started = perf_counter()
        try:
            Gate.send(self, channel, message)
        except self.channel_full:
            _count(metrics.layer_full, channel)
            raise
        except (self.message_too_large, LayerDown):
            _count(metrics.layer_failed, channel)
            raise
        metrics.layer_send_seconds.observe(perf_counter() - started)
        _count(metrics.layer_sent, channel)

    def post(self, channel: str, message: dict[str, Any]) -> None:
        super().post(channel, message)
        _count(self._metrics.layer_sent, channel)


def _count(numbers: dict[str, int], channel: str) -> None:
    """Count a message by its channel."""
    try:
        numbers[channel] += 1
    except KeyError:
        # Not one of the usual; without the part that is another for each request there are few of them.
        kind = channel.partition("?")[0].partition("!")[0]
        numbers[kind] = numbers.get(kind, 0) + 1


class MeteredRouter(ReplyRouter):
    """Counts replies."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    def _route(self, batch: list[tuple[str, Any]]) -> None:
        self._metrics.layer_received += len(batch)
        ReplyRouter._route(self, batch)


class MetricsObserver(Observer):
    """Counts what became of requests and WebSockets."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        metrics = self._metrics
        request = stream.request
        metrics.request_done(request.method, stream.status, request.http_version, seconds)
        if cause:
            metrics.failures[cause, _HTTP] += 1

    def refused(self, stream: Stream, seconds: float, cause: str) -> None:
        metrics = self._metrics
        request = stream.request
        metrics.request_done(request.method if request.target else "", stream.status, request.http_version, seconds)
        metrics.failures[cause, _WEBSOCKET if request.upgrade == b"websocket" else _HTTP] += 1

    def websocket_connecting(self, stream: Stream) -> None:
        self._metrics.websockets_connecting += 1

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        metrics = self._metrics
        metrics.websockets_connecting -= 1
        metrics.websockets_open += 1
        metrics.websockets_accepted += 1

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        self._metrics.websockets_rejected += 1

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        metrics = self._metrics
        if code is None:
            metrics.websockets_connecting -= 1
        else:
            metrics.websockets_open -= 1
            metrics.websocket_closed(code)
        if cause:
            metrics.failures[cause, _WEBSOCKET] += 1
