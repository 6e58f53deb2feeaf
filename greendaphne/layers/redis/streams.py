"""The byte streams under a connection: on a blocking socket, for plain threads and for TLS, or on a hub's own watchers.

Both bound every wait and tell an idle connection's end without a round trip.  A server's every request passes through the second kind,
which costs a system call only where bytes move.  It is made by :func:`hub_stream`, so that gevent is imported only where a hub runs.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from .hubs import new_poller


class Stream(Protocol):
    """A connected stream of bytes; one greenlet or thread uses it at a time."""

    def recv(self, size: int, timeout: float | None) -> bytes:
        """Return 1 to ``size`` bytes, ``b""`` at the end.

        :raises TimeoutError: after ``timeout`` seconds without a byte.
        :raises OSError: when the connection broke.
        """

    def sendall(self, data: bytes) -> None:
        """Send everything; raises as :meth:`recv` does, after as many seconds as the stream was made with."""

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""

    def is_stale(self) -> bool:
        """Whether this idle stream is at its end, or has bytes without a request."""

    def close(self) -> None:
        """Close; may be repeated."""

    def abandon(self) -> None:
        """Close although the hub of the stream is no more."""


class SocketStream:
    """A stream on a socket that blocks: the system's, or gevent's with TLS."""

    def __init__(self, sock: Any, timeout: float) -> None:
        self._sock = sock
        self._timeout = timeout
        self._poller = new_poller(sock.fileno())

    def recv(self, size: int, timeout: float | None) -> bytes:
        self._sock.settimeout(timeout)
        data: bytes = self._sock.recv(size)
        return data

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._timeout)
        # Nearly always all of it goes at once, and gevent's sendall() is several times as dear as its send().
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])

    def fileno(self) -> int:
        descriptor: int = self._sock.fileno()
        return descriptor

    def is_stale(self) -> bool:
        return bool(self._poller.poll(0)) or self._sock.fileno() < 0

    def close(self) -> None:
        try:
            # Also tells another thread that waits here.
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    def abandon(self) -> None:
        try:
            self.close()
        except (AttributeError, ValueError):
            # gevent misses the hub's loop; below its socket there is the system's.
            self._sock._sock.close()


def hub_stream(sock: Any, timeout: float) -> Stream:
    """The stream of the calling hub that takes over a gevent socket, which is of no use afterwards."""
    from .hubstream import HubStream

    return HubStream(sock, timeout)
