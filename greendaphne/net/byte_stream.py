"""The interface between protocol code and transports: :class:`ByteStream`, the lowest layer that protocol code uses."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from ..core.message import ClientDisconnected
from ..core.turns import Turn

#: The most bytes that one ``recv`` requests: large enough for uploads, small enough to come from the allocator's free lists.
RECV_SIZE = 64 * 1024
#: As a shift: to read 8 KiB is one unit of :meth:`.core.turns.Turn.spend`.
_READ_SHIFT: Final = 13


class ByteStream(Protocol):
    """A connection as bytes; :class:`.transport.Transport` and :class:`.tls.TLSTransport` implement it."""

    @property
    def closed(self) -> bool:
        """Whether the socket has been released."""

    def recv(self, n: int, timeout: float | None) -> bytes:
        """Return 1 to ``n`` bytes, or ``b""`` at the end of the stream.

        :raises TimeoutError: after ``timeout`` seconds without a byte (``None``: wait without limit; 0: do not wait).
        :raises ClientDisconnected: when the connection is broken.
        """

    def wait_readable(self, timeout: float | None) -> None:
        """Return once :meth:`recv` would not wait; raises :class:`TimeoutError`."""

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; :class:`ClientDisconnected` if the peer takes nothing for the send timeout.

        First waits for the bytes that :meth:`offer` took.  A transport with a batch may send small ``data`` at the end of the hub's round;
        if that fails, the next call raises.
        """

    def offer(self, data: bytes) -> bool:
        """Send everything without waiting, or return false: then nothing of ``data`` was sent.

        A greenlet of the transport sends the bytes that the socket does not take at once, within the send timeout.  Until it has sent all
        of them, ``offer`` returns false.  A transport with a batch may delay small ``data`` as :meth:`sendall` does.

        :raises ClientDisconnected: when the connection broke.
        """

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        """Whether :meth:`offer` would take data; if not, ``callback`` is called once when it does, or when the connection breaks."""

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything that :meth:`offer` and the batch took has been sent, or the connection broke; never raises.

        :param timeout: seconds to wait at most.
        :returns: whether nothing is left to send.
        """

    @property
    def observed(self) -> bool:
        """Whether :meth:`observe` is in force."""

    def observe(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` in the hub whenever :meth:`recv` would not wait and no greenlet waits in it; ``None`` ends that.

        The callback must read, or end the observation; it must not wait and not raise.
        """

    def hung_up(self, *, half_closed: bool) -> bool:
        """Whether the peer, whose stream has ended, is known to have disconnected.

        :param half_closed: whether a peer that has only stopped sending counts as disconnected if the two cannot be distinguished: on TCP
            both send a FIN.  A UNIX socket distinguishes them, and so does TLS if the peer only ended its TLS stream.
        """

    def delivery(self) -> tuple[int, int] | None:
        """The number of bytes that the peer's system has acknowledged so far, and the number that wait in this system; ``None`` if
        unknown."""

    def shutdown_write(self) -> None:
        """Close the sending side, so that the peer sees the end of the stream; never raises."""

    def shutdown_read(self) -> None:
        """Close the receiving side, so that a waiting reader sees the end of the stream; never raises."""

    def close(self) -> None:
        """Release the socket; idempotent."""

    def abort(self) -> None:
        """Release the socket with a reset, so that the peer does not treat truncated data as complete; idempotent."""


def lingering_close(transport: ByteStream, seconds: float) -> None:
    """Close after an early answer without losing the answer (RFC 9112 section 9.6).

    Closing a socket with unread input makes the kernel send a reset, which may erase the answer from the peer's buffer.  So this closes
    the sending side first, then reads and discards input for at most ``seconds`` in total.  A peer may send as fast as the server reads, so
    the reads count for a turn.
    """
    transport.shutdown_write()
    deadline = monotonic() + seconds
    turn = Turn()
    try:
        while (left := deadline - monotonic()) > 0 and (data := transport.recv(RECV_SIZE, left)):
            turn.spend(1 + (len(data) >> _READ_SHIFT))
    except (TimeoutError, ClientDisconnected):
        pass
    transport.close()
