"""Redis' replies: a reader for RESP2, fed by whatever receives bytes.

It reads no further than one reply needs, holds at most what one receive brought and never parses the same bytes twice, so that a
reply of megabytes costs no more than its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Bytes asked for at a time; a bulk string that is larger is asked for in larger pieces.
READ_SIZE = 65536
LARGE_READ_SIZE = 1024 * 1024

Reply: TypeAlias = "int | bytes | ErrorReply | list[Reply] | None"


class ErrorReply(Exception):
    """An error that Redis replied with; ``code`` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


_BULK, _INTEGER, _ARRAY, _STATUS, _ERROR = b"$:*+-"


class ReplyReader:
    """Reads replies from ``receive``, which is called with a size and a timeout and returns 1 to so many bytes, or ``b""`` at the end."""

    __slots__ = ("_buffer", "_position", "_receive", "_timeout")

    def __init__(self, receive: Callable[[int, float | None], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._position = 0
        self._timeout: float | None = None

    def read(self, timeout: float | None = None) -> Reply:
        """Return one reply; errors are returned, not raised.

        :param timeout: seconds for each part of it.
        :raises EOFError: at the end of the connection.
        :raises ValueError: for what is no reply.
        """
        self._timeout = timeout
        return self._read()

    def _read(self) -> Reply:
        start = self._position
        end = self._buffer.find(b"\r\n", start)
        while end < 0:
            self._buffer = self._buffer[start:] + self._more(READ_SIZE)
            self._position = start = 0
            end = self._buffer.find(b"\r\n")
        buffer = self._buffer
        self._position = position = end + 2
        kind = buffer[start]
        if kind == _BULK:
            size = int(buffer[start + 1 : end])
            if size < 0:
                return None
            stop = position + size
            if stop + 2 > len(buffer):
                return self._bulk(size)
            self._position = stop + 2
            return buffer[position:stop]
        if kind == _INTEGER:
            return int(buffer[start + 1 : end])
        if kind == _ARRAY:
            size = int(buffer[start + 1 : end])
            return None if size < 0 else [self._read() for _ in range(size)]
        if kind == _STATUS:
            return buffer[start + 1 : end]
        if kind == _ERROR:
            return ErrorReply(buffer[start + 1 : end].decode(errors="replace"))
        raise ValueError(f"no reply of Redis begins with {bytes((kind,))!r}")

    def _bulk(self, size: int) -> bytes:
        """The bulk string that begins at the position and is not there in full."""
        parts = [self._buffer[self._position :]]
        missing = size + 2 - len(parts[0])
        while missing > 0:
            data = self._more(min(max(missing, READ_SIZE), LARGE_READ_SIZE))
            parts.append(data)
            missing -= len(data)
        self._buffer = b"".join(parts)
        self._position = size + 2
        return self._buffer[:size]

    def _more(self, size: int) -> bytes:
        data = self._receive(size, self._timeout)
        if not data:
            raise EOFError("Connection closed by server")
        return data
