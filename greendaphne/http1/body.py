"""Reads request bodies to their exact end: by length, or in chunks (RFC 9112 section 7.1).

A body reader takes bytes from the connection's :class:`Input` and never one byte more than belongs to the body, so what follows is the
next request and nothing else.  The chunked decoder is strict: CRLF only, one to sixteen hexadecimal digits, bounded extensions and
trailers, trailers checked and dropped.  Time limits hold for the time spent waiting for the client alone.

Everything here is linear in the bytes received, in whatever segments they come: a line that is not complete is searched on from where
the search stopped.  Every chunk counts for the connection's :class:`~greendaphne.core.turns.Turn`.
"""

from __future__ import annotations

import re
from enum import Enum
from time import monotonic

from ..config import Limits, Timeouts
from ..core.grammar import TOKEN_PATTERN
from ..core.message import ClientDisconnected, HTTPError
from ..core.rates import Patience
from ..core.turns import Turn
from ..net.byte_stream import RECV_SIZE, ByteStream
from .head import bad_request, check_fields

#: A chunk's size line with its extensions, without CRLF.  No client is known to use extensions; the bound only has to be finite.
CHUNK_LINE_SIZE = 256

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t !-~\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*" + TOKEN_PATTERN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN_PATTERN + rb"|" + _QUOTED + rb"))?)*"
)

_LF, _CR = 10, 13


class Input:
    """The bytes that a connection has received and not yet used, with the transport that they come from.

    ``buffer[position:]`` is unused.  A segment that comes when everything before it was used is the buffer itself, and the position moves
    in it without a copy.  One that continues an incomplete line is appended to a ``bytearray``, which copies nothing of what was there.
    """

    __slots__ = ("_turn", "buffer", "position", "scanned", "transport")

    def __init__(self, transport: ByteStream, initial: bytes = b"") -> None:
        self.transport = transport
        self.buffer: bytes | bytearray = initial
        self.position = 0
        #: How many unused bytes :meth:`find_line` has searched already.
        self.scanned = 0
        self._turn: Turn | None = None

    @property
    def turn(self) -> Turn:
        """Counts what is done with the bytes; made when it is first needed."""
        turn = self._turn
        if turn is None:
            turn = self._turn = Turn()
        return turn

    def more(self, timeout: float | None) -> bool:
        """Receive after what is unused; false at the end of the stream."""
        data = self.transport.recv(RECV_SIZE, timeout)
        buffer = self.buffer
        position = self.position
        if position >= len(buffer):
            self.buffer = data
        else:
            if isinstance(buffer, bytearray):
                del buffer[:position]
            else:
                buffer = self.buffer = bytearray(memoryview(buffer)[position:])
            buffer += data
        self.position = 0
        return bool(data)

    def take(self, n: int) -> bytes:
        """Up to ``n`` unused bytes, without waiting."""
        return self.take_to(self.position + n)

    def take_to(self, end: int) -> bytes:
        """The unused bytes up to the index ``end`` of the buffer."""
        buffer = self.buffer
        data = buffer[self.position : end]
        self.scanned = 0
        if end < len(buffer):
            self.position = end
        else:
            # A connection may wait for long now, and need not hold what it has used.
            self.buffer = b""
            self.position = 0
        return data if data.__class__ is bytes else bytes(data)

    def skip(self, n: int) -> None:
        """Use ``n`` of the unused bytes."""
        self.position += n
        self.scanned = 0
        if self.position >= len(self.buffer):
            self.buffer = b""
            self.position = 0

    def find_line(self, start: int, limit: int) -> int:
        """Where the line that begins at the index ``start`` ends: the index of its CRLF; -1 where that has not been received.

        Searches on from where the last search of this line stopped.

        :param limit: the longest line that is found, in bytes without its CRLF.
        :raises HTTPError: 400 for a line that ends in LF alone (RFC 9112 section 2.2 lets a recipient accept it, and this server does not).
        """
        buffer = self.buffer
        found = buffer.find(b"\n", max(start, self.position + self.scanned), start + limit + 2)
        if found < 0:
            self.scanned = min(len(buffer), start + limit + 2) - self.position
            return -1
        if found == start or buffer[found - 1] != _CR:
            raise bad_request("A line ends in LF without CR.")
        return found - 1

    @property
    def unused(self) -> int:
        """The number of unused bytes."""
        return len(self.buffer) - self.position

    @property
    def empty(self) -> bool:
        """Whether the next byte has to be received."""
        return self.position >= len(self.buffer)


class _Clock:
    """Holds a body to its time limit: ``body_rate`` bytes a second over every ``body`` seconds of waiting for the client."""

    __slots__ = ("_patience",)

    def __init__(self, timeouts: Timeouts) -> None:
        self._patience = Patience(timeouts.body, timeouts.body_rate)

    def receive(self, source: Input, timeout: float | None) -> None:
        """Receive more into ``source``.

        :raises TimeoutError: after ``timeout`` seconds, where that is shorter than the body's own limit.
        :raises HTTPError: 408 when that is exceeded.
        :raises ClientDisconnected: at the end of the stream.
        """
        patience = self._patience
        allowed = patience.left
        seconds = allowed if timeout is None or timeout >= allowed else timeout
        before = monotonic()
        unused = source.unused
        try:
            if not source.more(max(seconds, 0.0)):
                raise ClientDisconnected
        except TimeoutError:
            if seconds == timeout:
                raise
            raise HTTPError(408, "The request body came too slowly.", close=True) from None
        finally:
            patience.waited(monotonic() - before)
        patience.moved(source.unused - unused)


class LengthBody:
    """A body of a known length."""

    __slots__ = ("_clock", "_left", "_source")

    def __init__(self, source: Input, length: int, timeouts: Timeouts) -> None:
        self._source = source
        self._left = length
        self._clock = _Clock(timeouts)

    @property
    def complete(self) -> bool:
        """Whether the body has been read to its end."""
        return self._left == 0

    @property
    def left(self) -> int:
        """The number of bytes that have not been read."""
        return self._left

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Up to ``n`` bytes, ``b""`` at the end; errors as :meth:`_Clock.receive`."""
        if self._left == 0:
            return b""
        if self._source.empty:
            self._clock.receive(self._source, timeout)
        data = self._source.take(min(n, self._left))
        self._left -= len(data)
        return data


class _State(Enum):
    """What the chunked decoder reads next; :meth:`ChunkedBody._gather` has all transitions."""

    SIZE_LINE = 0
    DATA = 1
    CHUNK_END = 2
    TRAILERS = 3
    COMPLETE = 4


_SIZE_LINE, _DATA, _CHUNK_END, _TRAILERS, _COMPLETE = _State


class ChunkedBody:
    """A body in the chunked transfer coding."""

    __slots__ = ("_clock", "_fields", "_left", "_limits", "_lines", "_source", "_state")

    def __init__(self, source: Input, limits: Limits, timeouts: Timeouts) -> None:
        self._source = source
        self._limits = limits
        self._clock = _Clock(timeouts)
        self._state = _SIZE_LINE
        # Bytes missing of the chunk at hand.
        self._left = 0
        # Whole trailer lines that have been found among the unused bytes: their number and their bytes.
        self._fields = 0
        self._lines = 0

    @property
    def complete(self) -> bool:
        """Whether the body has been read to its end."""
        return self._state is _COMPLETE

    def may_be_whole(self, limit: int) -> bool:
        """Whether the last chunk seems to be within the next ``limit`` bytes that were received; it may be data that looks like one."""
        source = self._source
        start = source.position
        if self._state is _SIZE_LINE and source.buffer.startswith(b"0\r\n\r\n", start):
            return True
        return source.buffer.find(b"\r\n0\r\n\r\n", start, start + limit) >= 0

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Up to ``n`` bytes, from as many chunks as have been received; ``b""`` at the end.

        Errors as :meth:`_Clock.receive`, and 400 or 431 for bad framing.
        """
        parts: list[bytes] = []
        try:
            self._gather(n, timeout, parts)
        except HTTPError:
            # What came before it was in good order; the next call finds the error again.
            if not parts:
                raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _gather(self, n: int, timeout: float | None, parts: list[bytes]) -> None:
        """Append what has been received to ``parts``, ``n`` bytes at most; waits only where it finds nothing."""
        source = self._source
        turn = source.turn
        size = 0
        while True:
            state = self._state
            if state is _DATA:
                if size >= n:
                    break
                if source.empty:
                    if parts:
                        break
                    self._clock.receive(source, timeout)
                data = source.take(min(n - size, self._left))
                parts.append(data)
                size += len(data)
                self._left -= len(data)
                if self._left:
                    # The chunk is longer than what has been received, or than the caller wants.
                    break
                self._state = _CHUNK_END
            elif state is _SIZE_LINE:
                turn.left -= 1
                if turn.left <= 0:
                    turn.look()
                length = self._size_line()
                if length < 0:
                    if parts:
                        break
                    self._clock.receive(source, timeout)
                elif length:
                    self._left = length
                    self._state = _DATA
                else:
                    self._state = _TRAILERS
            elif state is _CHUNK_END:
                if source.unused < 2:
                    if parts:
                        break
                    self._clock.receive(source, timeout)
                elif source.buffer.startswith(b"\r\n", source.position):
                    source.skip(2)
                    self._state = _SIZE_LINE
                else:
                    raise bad_request("A chunk is longer than its size.")
            elif state is _TRAILERS:
                if parts:
                    break
                if self._trailers():
                    self._state = _COMPLETE
                else:
                    self._clock.receive(source, timeout)
            else:
                break

    def _size_line(self) -> int:
        """Take a chunk's size; -1 where its line is not complete."""
        source = self._source
        start = source.position
        end = source.find_line(start, CHUNK_LINE_SIZE)
        if end < 0:
            if source.unused >= CHUNK_LINE_SIZE + 2:
                raise bad_request("A chunk size is malformed.")
            return -1
        match = _CHUNK_LINE.fullmatch(source.buffer, start, end)
        if match is None:
            raise bad_request("A chunk size is malformed.")
        length = int(match[1], 16)
        source.skip(end + 2 - start)
        return length

    def _trailers(self) -> bool:
        """Take the trailer section, whose lines are checked when all are there; false where it is not complete."""
        source = self._source
        turn = source.turn
        limit = self._limits.request_field_size
        while True:
            start = source.position + self._lines
            end = source.find_line(start, limit - self._lines)
            if end < 0:
                if source.unused > limit + 2:
                    raise HTTPError(431, "The trailer section is too long.", close=True)
                return False
            if end == start:
                if self._lines:
                    check_fields(source.take(self._lines))
                    self._lines = 0
                source.skip(2)
                return True
            self._lines = end + 2 - source.position
            self._fields += 1
            if self._lines > limit or self._fields > self._limits.request_fields:
                raise HTTPError(431, "The trailer section is too long.", close=True)
            turn.spend()
