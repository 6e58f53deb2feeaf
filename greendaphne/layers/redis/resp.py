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


class ReplyReader:
    """Reads replies from ``receive``, which returns 1 to so many bytes, or ``b""`` at the end."""

    __slots__ = ("_buffer", "_position", "_receive")

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._position = 0

    def read(self) -> Reply:
        """Return one reply; errors are returned, not raised.

        :raises EOFError: at the end of the connection.
        :raises ValueError: for what is no reply.
        """
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._bulk(size)
        if kind == b":":
            return int(rest)
        if kind == b"*":
            size = int(rest)
            return None if size < 0 else [self.read() for _ in range(size)]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ErrorReply(rest.decode(errors="replace"))
        raise ValueError(f"no reply of Redis begins with {kind!r}")

    def _line(self) -> bytes:
        while True:
            end = self._buffer.find(b"\r\n", self._position)
            if end >= 0:
                line = self._buffer[self._position : end]
                self._position = end + 2
                return line
            self._buffer = self._buffer[self._position :] + self._more(READ_SIZE)
            self._position = 0

    def _bulk(self, size: int) -> bytes:
        end = self._position + size
        if end + 2 <= len(self._buffer):
            value = self._buffer[self._position : end]
            self._position = end + 2
            return value
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
        data = self._receive(size)
        if not data:
            raise EOFError("Connection closed by server")
        return data
