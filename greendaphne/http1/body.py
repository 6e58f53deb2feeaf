"""Reads request bodies to their exact end: by length, or in chunks (RFC 9112 section 7.1).

A body reader takes bytes from the connection's :class:`Input` and never one byte more than belongs to the body, so what follows is the
next request and nothing else.  The chunked decoder is strict: CRLF only, one to sixteen hexadecimal digits, bounded extensions and
trailers, trailers checked and dropped.  Time limits hold for the time spent waiting for the client alone.
"""

from __future__ import annotations

import re
from time import monotonic

from ..config import Limits, Timeouts
from ..core.message import ClientDisconnected, HTTPError
from ..net.transport import RECV_SIZE, ByteStream
from .head import TOKEN, bad_request, check_fields

#: A chunk's size line with its extensions, without CRLF.  Nobody is known to use extensions; the bound only has to be finite.
CHUNK_LINE_SIZE = 256

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t !-~\x80-\xff])*"'
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*")
#: Finds a line end that RFC 9112 section 2.2 lets a recipient accept and this server does not.
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


class Input:
    """The bytes that a connection has received and not yet used, with the transport behind them.

    ``buffer[position:]`` is unused; the buffer is replaced, never cut, so that pipelined requests cost no copy each.
    """

    __slots__ = ("buffer", "position", "transport")

    def __init__(self, transport: ByteStream, initial: bytes = b"") -> None:
        self.transport = transport
        self.buffer = initial
        self.position = 0

    def more(self, timeout: float | None) -> bool:
        """Receive behind what is unused; false at the end of the stream."""
        data = self.transport.recv(RECV_SIZE, timeout)
        if self.position < len(self.buffer):
            self.buffer = self.buffer[self.position :] + data
        else:
            self.buffer = data
        self.position = 0
        return bool(data)

    def take(self, n: int) -> bytes:
        """Up to ``n`` unused bytes, without waiting."""
        return self.take_to(self.position + n)

    def take_to(self, end: int) -> bytes:
        """The unused bytes up to the index ``end`` of the buffer."""
        data = self.buffer[self.position : end]
        if end < len(self.buffer):
            self.position = end
        else:
            # A connection may wait for long now, and need not hold what it has used.
            self.buffer = b""
            self.position = 0
        return data

    @property
    def empty(self) -> bool:
        """Whether the next byte has to be received."""
        return self.position >= len(self.buffer)


class _Clock:
    """Holds a body to its time limits: ``body`` seconds without a byte, and a mean rate of ``body_rate`` bytes a second."""

    __slots__ = ("_received", "_timeouts", "_waited")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._waited = 0.0
        self._received = 0

    def receive(self, source: Input, timeout: float | None) -> None:
        """Receive more into ``source``.

        :raises TimeoutError: after ``timeout`` seconds, where that is shorter than the body's own limits.
        :raises HTTPError: 408 when those are exceeded.
        :raises ClientDisconnected: at the end of the stream.
        """
        timeouts = self._timeouts
        allowed = min(timeouts.body, timeouts.body + self._received / timeouts.body_rate - self._waited)
        patience = allowed if timeout is None or timeout >= allowed else timeout
        before = monotonic()
        unused = len(source.buffer) - source.position
        try:
            if not source.more(patience):
                raise ClientDisconnected
        except TimeoutError:
            if patience == timeout:
                raise
            raise HTTPError(408, "The request body came too slowly.", close=True) from None
        finally:
            self._waited += monotonic() - before
        self._received += len(source.buffer) - unused


class LengthBody:
    """A body of a known length."""

    __slots__ = ("_clock", "_left", "_source")

    def __init__(self, source: Input, length: int, timeouts: Timeouts) -> None:
        self._source = source
        self._left = length
        self._clock = _Clock(timeouts)

    @property
    def complete(self) -> bool:
        return self._left == 0

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Up to ``n`` bytes, ``b""`` at the end; errors as :meth:`_Clock.receive`."""
        if self._left == 0:
            return b""
        if self._source.empty:
            self._clock.receive(self._source, timeout)
        data = self._source.take(min(n, self._left))
        self._left -= len(data)
        return data


# What the decoder waits for; inside a chunk it is the number of bytes still to come instead.
_SIZE_LINE, _CHUNK_END, _TRAILERS = -1, -2, -3


class ChunkedBody:
    """A body in the chunked transfer coding."""

    __slots__ = ("_clock", "_left", "_limits", "_source", "complete")

    def __init__(self, source: Input, limits: Limits, timeouts: Timeouts) -> None:
        self._source = source
        self._limits = limits
        self._clock = _Clock(timeouts)
        self._left = _SIZE_LINE
        self.complete = False

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Up to ``n`` bytes, ``b""`` at the end; errors as :meth:`_Clock.receive`, and 400 or 431 for bad framing."""
        while not self.complete:
            if self._left == _CHUNK_END:
                self._need(2, timeout)
                if self._source.take(2) != b"\r\n":
                    raise bad_request("A chunk is longer than its size.")
                self._left = _SIZE_LINE
            if self._left == _SIZE_LINE:
                self._left = self._size_line(timeout) or _TRAILERS
            if self._left == _TRAILERS:
                self._trailers(timeout)
                self.complete = True
                break
            if self._source.empty:
                self._clock.receive(self._source, timeout)
            data = self._source.take(min(n, self._left))
            self._left = self._left - len(data) or _CHUNK_END
            return data
        return b""

    def _need(self, n: int, timeout: float | None) -> None:
        source = self._source
        while len(source.buffer) - source.position < n:
            self._clock.receive(source, timeout)

    def _size_line(self, timeout: float | None) -> int:
        source = self._source
        while (end := source.buffer.find(b"\r\n", source.position, source.position + CHUNK_LINE_SIZE + 2)) < 0:
            if len(source.buffer) - source.position >= CHUNK_LINE_SIZE + 2 or BARE_LINE_FEED.search(source.buffer, source.position):
                raise bad_request("A chunk size is malformed.")
            self._clock.receive(source, timeout)
        match = _CHUNK_LINE.fullmatch(source.buffer, source.position, end)
        if match is None:
            raise bad_request("A chunk size is malformed.")
        source.take_to(end + 2)
        return int(match[1], 16)

    def _trailers(self, timeout: float | None) -> None:
        source = self._source
        limit = self._limits.request_field_size
        while True:
            end = source.buffer.find(b"\r\n\r\n", source.position, source.position + limit + 4)
            if source.buffer.startswith(b"\r\n", source.position):
                source.take(2)
                return
            if end >= 0:
                check_fields(source.take_to(end + 4)[:-2])
                return
            if len(source.buffer) - source.position > limit:
                raise HTTPError(431, "The trailer section is too long.", close=True)
            if BARE_LINE_FEED.search(source.buffer, source.position):
                raise bad_request("The trailer section is malformed.")
            self._clock.receive(source, timeout)
