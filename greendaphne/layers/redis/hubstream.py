"""The byte stream of a connection that a hub's greenlets use: the server's own transport, with a look at whether it is still good.

Imported only where gevent is.
"""

from __future__ import annotations

import _socket
from typing import Any

from ...core.message import ClientDisconnected
from ...net.transport import Transport
from .hubs import new_poller


class HubStream(Transport):
    """A :class:`~greendaphne.layers.redis.streams.Stream` on watchers that stay started, so that the hub tells of its end by itself.

    :param sock: a connected gevent socket, which is taken over.
    :param timeout: seconds without progress after which a send gives up.
    """

    __slots__ = ("_poller",)

    def __init__(self, sock: Any, timeout: float) -> None:
        super().__init__(_socket.socket(fileno=sock.detach()), timeout)
        self._poller = new_poller(self._fd)

    def recv(self, n: int, timeout: float | None) -> bytes:
        try:
            return super().recv(n, timeout)
        except ClientDisconnected:
            raise ConnectionError("the connection broke") from None

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        try:
            super().sendall(data)
        except ClientDisconnected:
            raise ConnectionError("the connection broke") from None

    def _wait_writable(self) -> None:
        open_before = not self.closed
        try:
            super()._wait_writable()
        except ClientDisconnected:
            if open_before:
                # A server that hangs is to be known as one.
                raise TimeoutError from None
            raise

    def close(self) -> None:
        writing = self._writer is not None
        super().close()
        if not writing:
            # No greenlet has to be told first, and the hub may have no further turn in which to do it.
            self._sock.close()

    def is_stale(self) -> bool:
        if self._watching:
            # The hub would have stopped watching had there been anything.
            return False
        return self.closed or bool(self._poller.poll(0))

    def abandon(self) -> None:
        # Its watchers went with the hub.
        self.closed = True
        self._sock.close()
