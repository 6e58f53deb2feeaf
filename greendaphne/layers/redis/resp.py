"""Redis' replies: a reader for RESP2, fed by whatever receives bytes.

It reads no further than one reply needs, holds at most what one receive brought and never parses the same bytes twice, so that a
reply of megabytes costs no more than its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

#: Bytes asked for at a time; a bulk string that is larger is asked for in larger pieces.
READ_SIZE = 65536
LARGE_READ_SIZE = 1024 * 1024

Reply: TypeAlias = "int | bytes | ErrorReply | list[Reply] | None"


class ErrorReply(Exception):
    """An error that Redis replied with; ``code`` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


#: Stands for an array of which the elements are still to be read.
_OPENED = object()

_BULK, _INTEGER, _ARRAY, _STATUS, _ERROR = b"$:*+-"


class ReplyReader:
    """Reads replies from ``receive``, which is called with a size and a timeout and returns 1 to size bytes, or ``b""`` at the end.

    Everything that it has read of a reply is kept here: a read that an exception of ``receive`` ends is continued by the next one, in
    whatever greenlet.
    """

    __slots__ = ("_arrays", "_buffer", "_missing", "_parts", "_position", "_receive", "_timeout")

    def __init__(self, receive: Callable[[int, float | None], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._position = 0
        self._timeout: float | None = None
        #: The arrays that are being read, the outermost first: how many elements each is to have, and those that are there.
        self._arrays: list[tuple[int, list[Reply]]] = []
        #: The pieces of a bulk string that goes beyond the buffer, and how many bytes are missing, its line end among them.
        self._parts: list[bytes] = []
        self._missing = 0

    def read(self, timeout: float | None = None) -> Reply:
        """Return one reply; errors are returned, not raised.

        :param timeout: seconds for each part of it.
        :raises EOFError: at the end of the connection.
        :raises ValueError: for what is no reply.
        """
        self._timeout = timeout
        arrays = self._arrays
        while True:
            value = self._element() if not self._missing else self._bulk()
            if value is _OPENED:
                value = self._fill()
                if value is None:
                    continue
            while arrays:
                size, elements = arrays[-1]
                elements.append(value)
                if len(elements) < size:
                    break
                arrays.pop()
                value = elements
            else:
                return value

    def _element(self) -> Any:
        """The next reply or element of one; :data:`_OPENED` for an array that has begun."""
        start = self._position
        end = self._buffer.find(b"\r\n", start)
        while end < 0:
            self._buffer = self._buffer[start:] + self._more(READ_SIZE)
            self._position = start = 0
            end = self._buffer.find(b"\r\n")
        buffer = self._buffer
        position = end + 2
        kind = buffer[start]
        if kind == _BULK:
            size = int(buffer[start + 1 : end])
            if size < 0:
                self._position = position
                return None
            stop = position + size
            if stop + 2 > len(buffer):
                self._parts = [buffer[position:]]
                self._missing = stop + 2 - len(buffer)
                self._buffer = b""
                self._position = 0
                return self._bulk()
            self._position = stop + 2
            return buffer[position:stop]
        self._position = position
        if kind == _INTEGER:
            return int(buffer[start + 1 : end])
        if kind == _ARRAY:
            size = int(buffer[start + 1 : end])
            if size > 0:
                self._arrays.append((size, []))
                return _OPENED
            return None if size < 0 else []
        if kind == _STATUS:
            return buffer[start + 1 : end]
        if kind == _ERROR:
            return ErrorReply(buffer[start + 1 : end].decode(errors="replace"))
        raise ValueError(f"no reply of Redis begins with {bytes((kind,))!r}")

    def _fill(self) -> list[Reply] | None:
        """The array that has begun, if it is there in full, and has nothing but bulk strings and integers in it.

        Otherwise what is there of these, and the rest is read element by element.
        """
        size, elements = self._arrays[-1]
        append = elements.append
        buffer = self._buffer
        find = buffer.find
        available = len(buffer)
        position = self._position
        for _ in range(size):
            end = find(b"\r\n", position)
            if end < 0:
                break
            kind = buffer[position]
            if kind == _BULK:
                number = int(buffer[position + 1 : end])
                start = end + 2
                stop = start + number
                if number < 0 or stop + 2 > available:
                    break
                append(buffer[start:stop])
                position = stop + 2
            elif kind == _INTEGER:
                append(int(buffer[position + 1 : end]))
                position = end + 2
            else:
                break
        self._position = position
        if len(elements) < size:
            return None
        self._arrays.pop()
        return elements

    def _bulk(self) -> bytes:
        """The bulk string that is not there in full."""
        parts = self._parts
        while self._missing > 0:
            data = self._more(min(max(self._missing, READ_SIZE), LARGE_READ_SIZE))
            parts.append(data)
            self._missing -= len(data)
        # What came beyond it is the beginning of the next element.
        last = parts.pop()
        cut = len(last) + self._missing
        self._buffer = last
        self._position = cut
        self._missing = 0
        parts.append(last[:cut])
        self._parts = []
        return b"".join(parts)[:-2]

    def _more(self, size: int) -> bytes:
        data = self._receive(size, self._timeout)
        if not data:
            raise EOFError("Connection closed by server")
        return data
