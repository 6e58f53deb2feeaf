"""Hooks that count into :class:`~greendaphne.monitoring.metrics.Metrics`; a server without metrics is assembled without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..core.message import ConnectionInfo, Stream
from ..core.observer import Observer
from ..net.byte_stream import ByteStream
from .metrics import Metrics

_HTTP: Final = "http"
_WEBSOCKET: Final = "websocket"


class MeteredTransport:
    """A :class:`~greendaphne.net.byte_stream.ByteStream` that counts its bytes."""

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

    def offer(self, data: bytes) -> bool:
        taken = self._inner.offer(data)
        if taken:
            self._metrics.sent_bytes += len(data)
        return taken

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        return self._inner.has_room(callback)

    def flush(self, timeout: float | None = None) -> bool:
        return self._inner.flush(timeout)

    @property
    def observed(self) -> bool:
        return self._inner.observed

    def observe(self, callback: Callable[[], None] | None) -> None:
        self._inner.observe(callback)

    def delivery(self) -> tuple[int, int] | None:
        return self._inner.delivery()

    def hung_up(self, *, half_closed: bool) -> bool:
        return self._inner.hung_up(half_closed=half_closed)

    def shutdown_write(self) -> None:
        self._inner.shutdown_write()

    def shutdown_read(self) -> None:
        self._inner.shutdown_read()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()


class ConnectionMeter:
    """Counts connections, TLS handshakes and bytes; a hook of :class:`~greendaphne.serving.connections.Connections`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def failed(self, error: BaseException, *, encrypted: bool) -> None:
        """Count a connection that ended before its protocol was known."""
        metrics = self._metrics
        metrics.connections["none",] += 1
        if encrypted:
            # Imported only where there is TLS.
            from ..net.tls import HandshakeError

            if isinstance(error, HandshakeError):
                metrics.tls_failures[_handshake_failure(error),] += 1

    def opened(self, transport: ByteStream, info: ConnectionInfo, protocol: str, initial: bytes) -> ByteStream:
        """Count a connection; returns the byte stream that replaces ``transport``."""
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


def metered_serve(metrics: Metrics, serve: Callable[[Stream], None]) -> Callable[[Stream], None]:
    """Wrap the ``serve`` method of an exchange, and count the streams in it."""

    def counted(stream: Stream) -> None:
        metrics.streams += 1
        try:
            serve(stream)
        finally:
            metrics.streams -= 1

    return counted


class MessageMeter:
    """Counts WebSocket messages and their uncompressed payload; a hook of :class:`~greendaphne.websocket.WebSocket`."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def received(self, message: str | bytes) -> None:
        """Count a message from the client."""
        metrics = self._metrics
        metrics.websocket_messages_received += 1
        metrics.websocket_bytes_received += _size(message)

    def sent(self, message: str | bytes) -> None:
        """Count a message to the client."""
        metrics = self._metrics
        metrics.websocket_messages_sent += 1
        metrics.websocket_bytes_sent += _size(message)


def _size(message: str | bytes) -> int:
    """The size of ``message`` on the wire in bytes."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)


class MetricsObserver(Observer):
    """Counts requests and WebSockets by their result."""

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
