"""Request bodies on their way to the application: inside the message up to a threshold, in pieces through ``body_channel`` above it.

A worker gives a body 60 seconds from the moment it starts, so a large one is spooled to disk first and passed on when it is complete;
``--stream-request-body`` passes it on while the client still sends.  Memory is bounded: for each request by the threshold, for the
process by an allowance; so is the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryFile, gettempdir
from typing import IO

from gevent import get_hub

from ...config import Limits
from ...core import causes
from ...core.message import HTTPError, Stream
from .disk import disk_log
from .mailbox import Allowance, close_temporary


class Body:
    """A request body, or its beginning and the way to the rest; :meth:`close` gives back what it holds."""

    __slots__ = ("_bodies", "_file", "_in_memory", "_on_disk", "first", "rest")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._in_memory = 0
        self._on_disk = 0
        self._file: IO[bytes] | None = None
        #: What travels inside the message.
        self.first = b""
        #: Iterator over the remaining pieces, each with whether more follow; ``None`` where there are none.
        self.rest: Iterator[tuple[bytes, bool]] | None = None

    def close(self) -> None:
        bodies = self._bodies
        bodies.memory.give(self._in_memory)
        bodies.disk.give(self._on_disk)
        self._in_memory = self._on_disk = 0
        # The iterator refers to this body; without it nothing is left for the garbage collector.
        self.rest = None
        file, self._file = self._file, None
        if file is not None:
            close_temporary(file)

    def hold_memory(self, n: int) -> None:
        if not self._bodies.memory.take(n):
            raise _no_room()
        self._in_memory += n

    def release_memory(self) -> None:
        self._bodies.memory.give(self._in_memory)
        self._in_memory = 0

    def spool(self, data: bytes) -> None:
        """Append ``data`` to the body's file."""
        if not self._bodies.disk.take(len(data)):
            raise _no_room()
        self._on_disk += len(data)
        try:
            if self._file is None:
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - close() closes it
            # A disk may be slow; other greenlets go on meanwhile.
            failure: OSError | None = get_hub().threadpool.apply(_write_all, (self._file, data))
            if failure is not None:
                raise failure
        except OSError as error:
            disk_log.failed(error)
            raise _no_room() from error

    def spooled(self, size: int) -> Iterator[tuple[bytes, bool]]:
        """The file's content in pieces of ``size`` bytes."""
        file, left = self._file, self._on_disk
        assert file is not None
        pool = get_hub().threadpool
        file.seek(0)
        while left > 0:
            data = pool.apply(file.read, (min(size, left),))
            left -= len(data)
            yield data, left > 0


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


class Bodies:
    """Collects the bodies of one process.

    :param streaming: pass large bodies on while they come instead of spooling them first.
    """

    def __init__(self, limits: Limits, streaming: bool = False) -> None:
        self._limits = limits
        self._streaming = streaming
        self.memory = Allowance(limits.buffered_bodies)
        try:
            # Tries where files can be made, which would fail for another reason once there are no descriptors left.
            gettempdir()
        except OSError as error:
            disk_log.failed(error)
        self.disk = Allowance(limits.spooled_bodies)

    def collect(self, stream: Stream) -> Body:
        """Read the body of ``stream``, as far as it has to be read before the application is told of the request.

        :raises HTTPError: 413 (before anything is read where the length is known), 503, and as :meth:`Stream.read`.
        """
        limits = self._limits
        length = stream.request.content_length
        if length and limits.request_body and length > limits.request_body:
            raise _too_large()
        body = Body(self)
        try:
            self._collect(stream, body, length)
        except BaseException:
            body.close()
            raise
        return body

    def _collect(self, stream: Stream, body: Body, length: int | None) -> None:
        if length == 0:
            return
        limits = self._limits
        chunk = limits.body_chunk
        inline = limits.inline_body
        data = stream.read(chunk)
        body.hold_memory(len(data))
        self._check_size(len(data))
        if len(data) == length and (not inline or length <= inline):
            body.first = data
            return
        if not inline and length is not None and length > limits.buffered_bodies:
            # It would have to be held whole, and there never will be room for it.
            raise _too_large()
        if inline and self._streaming and (length is None or length > inline):
            body.first = data
            body.rest = self._live(stream, len(data))
            return
        buffer = bytearray(data)
        while not inline or (len(buffer) <= inline and (length or 0) <= inline):
            data = stream.read(chunk)
            if not data:
                body.first = bytes(buffer)
                return
            body.hold_memory(len(data))
            buffer += data
            self._check_size(len(buffer))
        self._spool(stream, body, buffer)
        # Never all of it at once: it was too large to travel inside the message.
        body.rest = body.spooled(min(chunk, inline))
        body.first, _ = next(body.rest)

    def _check_size(self, size: int) -> None:
        limit = self._limits.request_body
        if limit and size > limit:
            raise _too_large()

    def _live(self, stream: Stream, size: int) -> Iterator[tuple[bytes, bool]]:
        """The rest of a body as it comes; whether a piece is the last is known only behind it."""
        while data := stream.read(self._limits.body_chunk):
            size += len(data)
            self._check_size(size)
            yield data, True
        yield b"", False

    def _spool(self, stream: Stream, body: Body, buffer: bytearray) -> None:
        """Read the body to its end into its file, ``buffer`` first, in pieces large enough to be worth a write."""
        chunk = self._limits.body_chunk
        size = len(buffer)
        while True:
            if len(buffer) >= chunk:
                body.spool(bytes(buffer))
                body.release_memory()
                buffer.clear()
            data = stream.read(chunk)
            if not data:
                break
            size += len(data)
            self._check_size(size)
            buffer += data
        if buffer:
            body.spool(bytes(buffer))


def _too_large() -> HTTPError:
    return HTTPError(413, "The request body is larger than this server accepts.", close=True)
