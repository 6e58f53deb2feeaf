"""``wsgi.input``, ``wsgi.errors`` and ``wsgi.file_wrapper``: the sections of PEP 3333 on input, errors and file handling."""

from __future__ import annotations

import io
import logging
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from os import fstat
from typing import Any, Final, NamedTuple

from gevent import get_hub

from ...core.message import ClientDisconnected, HTTPError

logger = logging.getLogger("greendaphne.wsgi.errors")

#: Bytes that are asked of the stream at once, and bytes of a file that are read at once.
PIECE: Final = 64 * 1024


class BodyError(OSError):
    """The request body cannot be read to its end: the client left, sent it too slowly, or broke the protocol.

    ``cause`` is what the server answers where the application does not.
    """

    def __init__(self, cause: HTTPError | ClientDisconnected) -> None:
        super().__init__(cause.detail if isinstance(cause, HTTPError) else "the client left in the middle of the request body")
        self.cause = cause


class Input:
    """``wsgi.input``: the request body as a binary file that ends where the body ends.

    Bytes are read from the connection when the application asks for them.

    :param read: returns 1 to ``n`` bytes of the body, ``b""`` at its end, as :meth:`greendaphne.core.message.Stream.read`.
    """

    __slots__ = ("_buffer", "_ended", "_read", "failure")

    #: As files have it; the server alone closes a body.
    closed = False

    def __init__(self, read: Callable[[int], bytes], *, empty: bool = False) -> None:
        self._read = read
        # Bytes that readline() and peeking readers have received and not returned.
        self._buffer = b""
        self._ended = empty
        #: Why the body cannot be read.
        self.failure: BodyError | None = None

    def _more(self, n: int) -> bytes:
        if self._ended:
            return b""
        if self.failure is not None:
            raise BodyError(self.failure.cause)
        try:
            data = self._read(n)
        except (HTTPError, ClientDisconnected) as error:
            self.failure = BodyError(error)
            raise self.failure from None
        if not data:
            self._ended = True
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all where ``size`` is negative or ``None``."""
        buffer = self._buffer
        if size is None or size < 0:
            parts = [buffer] if buffer else []
            self._buffer = b""
            while data := self._more(PIECE):
                parts.append(data)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if buffer:
            if len(buffer) >= size:
                self._buffer = buffer[size:]
                return buffer[:size]
            self._buffer = b""
        elif size:
            buffer = self._more(min(size, PIECE))
        left = size - len(buffer)
        if not left or not buffer:
            return buffer
        parts = [buffer]
        while left and (data := self._more(min(left, PIECE))):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, as soon as there is one."""
        if size == 0:
            return b""
        size = PIECE if size < 0 else size
        buffer = self._buffer
        if buffer:
            self._buffer = buffer[size:]
            return buffer[:size]
        return self._more(min(size, PIECE))

    def readinto(self, target: Any, /) -> int:
        """Fill the beginning of ``target``, as soon as there is one byte; return how many bytes there are."""
        view = memoryview(target).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line with its line feed, at most ``size`` bytes where that is not negative."""
        limit = -1 if size is None or size < 0 else size
        if limit == 0:
            return b""
        parts: list[bytes] = []
        length = 0
        data, self._buffer = self._buffer or self._more(PIECE), b""
        while data:
            end = data.find(b"\n") + 1
            if 0 <= limit <= length + (end or len(data)):
                end = limit - length
            if end:
                parts.append(data[:end])
                self._buffer = data[end:]
                break
            parts.append(data)
            length += len(data)
            data = self._more(PIECE)
        return b"".join(parts)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return all lines, or as many as have ``hint`` bytes together."""
        lines = []
        length = 0
        while line := self.readline():
            lines.append(line)
            length += len(line)
            if hint is not None and 0 < hint <= length:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def readable(self) -> bool:
        """A body can be read."""
        return True

    def writable(self) -> bool:
        """A body cannot be written."""
        return False

    def seekable(self) -> bool:
        """A body comes once."""
        return False

    def flush(self) -> None:
        """Do nothing.  :class:`io.BufferedReader` calls this when it is closed, and since Python 3.13 reports that it is missing."""

    def close(self) -> None:
        """Do nothing: the server deals with what the application leaves."""


def _nothing(size: int) -> bytes:
    return b""


#: ``wsgi.input`` of all requests without a body; it has no state.
EMPTY: Final = Input(_nothing, empty=True)


class Errors:
    """``wsgi.errors``: a text stream whose lines go to the log, by the logger ``greendaphne.wsgi.errors`` at level ERROR.

    Text without a line feed waits for the rest of its line, at most :data:`LONGEST` characters, or for :meth:`flush`.
    """

    LONGEST: Final = 8192

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str, /) -> int:
        """Write ``text``."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes str, not {type(text).__name__}")
        *lines, self._line = (self._line + text).split("\n")
        if len(self._line) > self.LONGEST:
            lines.append(self._line)
            self._line = ""
        if lines:
            # One record for what belongs together, such as a traceback.
            self._log("\n".join(lines))
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:
        """Write all of ``lines``."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what waits for the rest of its line."""
        line, self._line = self._line, ""
        self._log(line)

    def _log(self, text: str) -> None:
        text = text.rstrip("\n")
        if text:
            logger.error("%s", text.encode("utf-8", "backslashreplace").decode("utf-8"))


class FileWrapper:
    """``wsgi.file_wrapper``: an iterable of the rest of a file.

    The server sends a file on disk by the kernel where the connection is plain HTTP/1; middleware that iterates over the wrapper gets
    pieces that were read in gevent's thread pool, so that no other greenlet waits for the disk.

    :param filelike: has ``read(size)``; its ``close`` is called at the end where it has one.
    :param block_size: bytes of a piece.
    """

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces(self.block_size)

    def pieces(self, size: int) -> Iterator[bytes]:
        """The rest of the file in pieces of ``size`` bytes."""
        read = self.filelike.read
        if disk_file(self.filelike) is None:
            while data := read(size):
                yield data
            return
        pool = get_hub().threadpool
        while True:
            data, error = pool.apply(_read, (read, size))
            if error is not None:
                raise error
            if not data:
                return
            yield data


def _read(read: Callable[[int], bytes], size: int) -> tuple[bytes, OSError | None]:
    # gevent's thread pool would print a traceback for what is raised.
    try:
        return read(size), None
    except OSError as error:
        return b"", error


class DiskFile(NamedTuple):
    """The rest of a regular file."""

    descriptor: int
    offset: int
    size: int


_FILES: Final = (io.BufferedReader, io.BufferedRandom)
_TEMPORARY: Final[type] = tempfile._TemporaryFileWrapper


def disk_file(filelike: Any) -> DiskFile | None:
    """The rest of the regular file that ``filelike`` reads unchanged; ``None`` where it is something else.

    ``fileno`` alone does not tell: ``gzip.GzipFile`` has the descriptor of what it decompresses.
    """
    for _ in range(4):
        kind = type(filelike)
        if kind in _FILES and type(filelike.raw) is io.FileIO:
            break
        if kind is io.FileIO:
            break
        # Wrappers that read what their file reads: those of tempfile, Django's File.
        inner = getattr(filelike, "file", None)
        if inner is None or (kind is not _TEMPORARY and getattr(filelike, "read", None) != getattr(inner, "read", 0)):
            return None
        filelike = inner
    else:
        return None
    try:
        if kind is io.BufferedRandom:
            filelike.flush()
        descriptor = filelike.fileno()
        status = fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        offset = filelike.tell()
    except (OSError, ValueError):
        return None
    # Files of /proc say that they are empty.
    return DiskFile(descriptor, offset, max(status.st_size - offset, 0)) if status.st_size else None
