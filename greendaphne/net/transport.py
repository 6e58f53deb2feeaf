"""A connected socket as a cooperative byte stream, the lowest layer that protocol code sees.

:class:`Transport` owns a plain non-blocking socket and two hub watchers that exist only once something had to wait, so a silent
connection costs little.  Every wait is bounded by a timeout.  A broken connection is always :class:`ClientDisconnected`, never an
``OSError``: whoever reads or writes can do nothing about the difference.  One greenlet may read while one other writes; two writers
are the caller's error.  :mod:`greendaphne.net.tls` offers the same interface over TLS.
"""

from __future__ import annotations

import _socket
import struct
from math import inf
from time import monotonic
from typing import Any, Protocol

from gevent import get_hub
from gevent.exceptions import ConcurrentObjectUseError
from gevent.hub import Waiter
from gevent.socket import wait

from ..core.accounts import FREE, Account
from ..core.message import ClientDisconnected, ClientTooSlow

#: The most that one ``recv`` asks for; large enough for uploads, small enough to come from the allocator's free lists.
RECV_SIZE = 64 * 1024

_READ, _WRITE = 1, 2
# A peer that sends as fast as it is read never makes its reader wait; after so many reads in a row the others get their turn.
_READS_IN_A_ROW = 16
_ABORTIVE = struct.pack("ii", 1, 0)


class ByteStream(Protocol):
    """What a connection's protocol code needs of a transport; :class:`Transport` and ``tls.TLSTransport`` offer it."""

    @property
    def closed(self) -> bool:
        """Whether the socket has been released."""

    def recv(self, n: int, timeout: float | None) -> bytes:
        """Return 1 to ``n`` bytes, ``b""`` at the end of the stream.

        :raises TimeoutError: after ``timeout`` seconds without a byte (``None``: wait for ever; 0: do not wait).
        :raises ClientDisconnected: when the connection broke.
        """

    def wait_readable(self, timeout: float | None) -> None:
        """Return once :meth:`recv` would not wait; raises :class:`TimeoutError`."""

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; :class:`ClientDisconnected` when the peer takes nothing for the send timeout."""

    def shutdown_write(self) -> None:
        """Tell the peer that nothing more follows; never raises."""

    def shutdown_read(self) -> None:
        """Let a greenlet that waits to read see the end of the stream; never raises."""

    def close(self) -> None:
        """Release the socket; idempotent."""

    def abort(self) -> None:
        """Release the socket with a reset, so that the peer cannot take what it has for complete; idempotent."""


class Transport:
    """A connected TCP or UNIX stream socket.

    A busy connection waits to read thousands of times a second.  So the read watcher stays started between waits, and stops only when
    something arrives that nobody waits for; and the timer of a wait is left running for the next, which moves the deadline instead.
    Neither costs a system call then.

    :param sock: the socket; made non-blocking here whatever ``socket.setdefaulttimeout`` says.
    :param send_timeout: seconds without progress after which a send gives up.
    """

    __slots__ = (
        "_deadline",
        "_drained",
        "_fd",
        "_reader",
        "_reads",
        "_send_timeout",
        "_sock",
        "_timer",
        "_timer_at",
        "_waiter",
        "_watching",
        "_writer",
        "account",
        "closed",
    )

    def __init__(self, sock: _socket.socket, send_timeout: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._send_timeout = send_timeout
        self._reader: Any = None
        self._writer: Any = None
        self._timer: Any = None
        # Whether the read watcher is started.
        self._watching = False
        # Who waits to read, and until when; and when the timer will look at that, ``inf`` for never.
        self._waiter: Waiter[bool] | None = None
        self._deadline = inf
        self._timer_at = inf
        # Whether the last read emptied the kernel's buffer.  Waiting at once is then cheaper than a read that is bound to fail.
        self._drained = False
        self._reads = 0
        self.closed = False
        #: Is told of what waits to be sent.
        self.account: Account = FREE

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._sock.fileno()

    def wait_readable(self, timeout: float | None) -> None:
        if self.closed:
            raise ClientDisconnected
        if self._waiter is not None:
            raise ConcurrentObjectUseError("Another greenlet is reading from this connection")
        waiter: Waiter[bool] = Waiter()
        self._waiter = waiter
        try:
            if not self._watching:
                if self._reader is None:
                    self._reader = get_hub().loop.io(self._fd, _READ)
                self._reader.start(self._on_readable)
                self._watching = True
            if timeout is not None:
                self._deadline = deadline = monotonic() + timeout
                if deadline < self._timer_at:
                    self._set_timer(timeout, deadline)
            if not waiter.get():
                raise TimeoutError
        finally:
            self._waiter = None
            self._deadline = inf
        self._drained = False
        self._reads = 0

    def _on_readable(self) -> None:
        # Runs in the hub.
        waiter = self._waiter
        if waiter is None:
            # Somebody will read it later; until then it would wake the hub again and again.
            self._reader.stop()
            self._watching = False
        else:
            waiter.switch(True)

    def _set_timer(self, seconds: float, at: float) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer_at = at
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._on_timer, update=True)

    def _on_timer(self) -> None:
        # Runs in the hub.
        self._timer_at = inf
        if self._deadline == inf:
            return
        left = self._deadline - monotonic()
        if left > 0:
            self._set_timer(left, self._deadline)
        elif self._waiter is not None:
            self._waiter.switch(False)

    def recv(self, n: int, timeout: float | None) -> bytes:
        if self._drained and timeout != 0:
            self.wait_readable(timeout)
        while True:
            try:
                data = self._sock.recv(n)
            except BlockingIOError:
                if timeout == 0:
                    raise TimeoutError from None
                self.wait_readable(timeout)
            except OSError:
                raise ClientDisconnected from None
            else:
                self._reads += 1
                self._drained = 0 < len(data) < n or self._reads >= _READS_IN_A_ROW
                return data

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise ClientDisconnected from None
        if sent == len(data):
            return
        # All of it stays in memory until the last byte is sent.
        size = len(data)
        account = self.account
        account.take(size)
        try:
            view = memoryview(data)[sent:]
            while view:
                self._wait_writable()
                try:
                    view = view[self._sock.send(view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise ClientDisconnected from None
        finally:
            account.give(size)

    def _wait_writable(self) -> None:
        if self.closed:
            raise ClientDisconnected
        writer = self._writer
        if writer is None:
            writer = self._writer = get_hub().loop.io(self._fd, _WRITE)
        try:
            wait(writer, self._send_timeout, TimeoutError)
        except TimeoutError:
            # Half of something is in the socket's buffer: only a reset tells the peer that it is not complete.
            self.abort()
            raise ClientTooSlow from None

    def shutdown_write(self) -> None:
        self._shutdown(_socket.SHUT_WR)

    def shutdown_read(self) -> None:
        self._shutdown(_socket.SHUT_RD)

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            pass  # the peer was quicker

    def abort(self) -> None:
        if not self.closed:
            try:
                self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _ABORTIVE)
            except OSError:
                pass
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            reader.close()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()
        hub = get_hub()
        if self._waiter is not None:
            hub.loop.run_callback(self._waiter.throw, ClientDisconnected)
        # A greenlet that waits to write is told so by the hub before the descriptor's number can be used again.
        writer, self._writer = self._writer, None
        hub.cancel_waits_close_and_then((writer,), ClientDisconnected, self._sock.close)


def lingering_close(transport: ByteStream, seconds: float) -> None:
    """Close after an early answer without destroying it (RFC 9112 section 9.6).

    Closing a socket with unread input makes the kernel send a reset, which may erase the response from the peer's buffer.  So the
    sending side is shut first and what still comes is read and thrown away, for ``seconds`` at most in all.
    """
    transport.shutdown_write()
    deadline = monotonic() + seconds
    try:
        while (left := deadline - monotonic()) > 0 and transport.recv(RECV_SIZE, left):
            pass
    except (TimeoutError, ClientDisconnected):
        pass
    transport.close()
