"""``--buffer-request-body``: request bodies are read before the application is called, so that a slow client does not occupy it.

A body of at most the configured size is read to its end; of a larger one this much, and the application reads the rest at its own pace.
Small bodies stay in memory, larger ones go to a temporary file.  What all of them hold is bounded by the limits of the process.
"""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import IO, Final

from gevent import get_hub

from ...config import KIB, Limits
from ...core import causes
from ...core.message import HTTPError, Stream
from .input import PIECE, Input

#: Bytes of one body that stay in memory.
_IN_MEMORY: Final = 256 * KIB


class Buffered:
    """One body, or its beginning; a context manager that gives back what it holds."""

    __slots__ = ("_buffers", "_file", "_held", "_offset", "_parts", "_stored", "_stream", "input", "length")

    def __init__(self, buffers: Buffers, stream: Stream) -> None:
        self._buffers = buffers
        self._stream = stream
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None
        # Bytes in memory and in the file, and how far the file has been read.
        self._held = 0
        self._stored = 0
        self._offset = 0
        #: The size of the body, ``None`` where only a part of it was read.
        self.length: int | None = None
        self.input = Input(self._read)

    def fill(self, size: int) -> None:
        """Read up to ``size`` bytes."""
        total = 0
        while total < size:
            data = self._stream.read(min(PIECE, size - total))
            if not data:
                self.length = total
                break
            total += len(data)
            self._hold(data)
        else:
            if total == self._stream.request.content_length:
                self.length = total
        self._parts.reverse()

    def _hold(self, data: bytes) -> None:
        buffers = self._buffers
        if self._file is None and self._held + len(data) <= _IN_MEMORY:
            buffers.take_memory(len(data))
            self._held += len(data)
            self._parts.append(data)
            return
        waiting, self._parts = b"".join(self._parts) + data, []
        buffers.take_disk(len(waiting))
        self._stored += len(waiting)
        buffers.give_memory(self._held)
        self._held = 0
        if self._file is None:
            self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - __exit__ closes it
        failure = get_hub().threadpool.apply(_write_all, (self._file, waiting))
        if failure is not None:
            raise _no_room() from failure

    def _read(self, n: int) -> bytes:
        parts = self._parts
        if parts:
            data = parts.pop()
            if len(data) > n:
                parts.append(data[n:])
                data = data[:n]
            return data
        if self._file is not None and self._offset < self._stored:
            if not self._offset:
                self._file.seek(0)
            data, failure = get_hub().threadpool.apply(_read_some, (self._file, min(n, self._stored - self._offset)))
            if failure is not None or not data:
                raise _no_room() from failure
            self._offset += len(data)
            return data
        return b"" if self.length is not None else self._stream.read(n)

    def __enter__(self) -> Buffered:
        return self

    def __exit__(self, *details: object) -> None:
        self._buffers.give_memory(self._held)
        self._buffers.give_disk(self._stored)
        self._held = self._stored = 0
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Buffers:
    """Reads the bodies of one process.

    :param size: bytes of a body to read before the application is called.
    :param limits: ``buffered_bodies`` and ``spooled_bodies`` bound what all bodies hold together.
    """

    def __init__(self, size: int, limits: Limits) -> None:
        self._size = size
        self._memory = limits.buffered_bodies
        self._disk = limits.spooled_bodies

    def read(self, stream: Stream) -> Buffered:
        """Read the body of ``stream``.

        :raises HTTPError: as :meth:`Stream.read`, and 503 where there is no room for it.
        :raises ClientDisconnected: where the client leaves.
        """
        buffered = Buffered(self, stream)
        try:
            buffered.fill(self._size)
        except BaseException:
            buffered.__exit__()
            raise
        return buffered

    def take_memory(self, n: int) -> None:
        """Count bytes in memory."""
        if n > self._memory:
            raise _no_room()
        self._memory -= n

    def give_memory(self, n: int) -> None:
        """Give them back."""
        self._memory += n

    def take_disk(self, n: int) -> None:
        """Count bytes on disk."""
        if n > self._disk:
            raise _no_room()
        self._disk -= n

    def give_disk(self, n: int) -> None:
        """Give them back."""
        self._disk += n


def _no_room() -> HTTPError:
    return HTTPError(503, "The server has no room for the request body.", [(b"Retry-After", b"10")], close=True, cause=causes.NO_ROOM)


def _write_all(file: IO[bytes], data: bytes) -> OSError | None:
    """Write ``data`` or return why not: gevent's thread pool would print a traceback for what is raised."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        return error
    return None


def _read_some(file: IO[bytes], size: int) -> tuple[bytes, OSError | None]:
    try:
        return file.read(size), None
    except OSError as error:
        return b"", error
