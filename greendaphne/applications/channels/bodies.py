"""Request bodies on their way to the application: inside the message up to a threshold, in pieces through ``body_channel`` above it.

A worker gives a body 60 seconds from the moment it starts, so a large one is spooled to disk first and passed on when it is complete;
``--stream-request-body`` passes it on while the client still sends.  A body that travels inside the message waits in memory while it comes
in, as long as there is room: in the share of its connection, in that of all bodies, in the memory of the process.  Otherwise it waits on
disk too, so clients that stop in mid-body take nothing that others need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gevent import get_hub, getcurrent

from ...config import KIB, Limits
from ...core import causes
from ...core.accounts import Account, Allowance
from ...core.message import HTTPError, Stream, body_too_large
from ...serving.spool import BODIES, NoRoom, Spool, Spooled

#: Bytes that are worth a write to disk where memory is short.
_LEAST_WRITE: Final = 64 * KIB


class Body:
    """A request body, or its beginning and the way to the rest; :meth:`close` gives back what it holds."""

    __slots__ = ("_account", "_bodies", "_in_memory", "_item", "_reading", "_refused", "first", "rest")

    def __init__(self, bodies: Bodies, account: Account) -> None:
        self._bodies = bodies
        self._account = account
        self._in_memory = 0
        self._item: Spooled | None = None
        # The greenlet that waits for the client, and whether the body has to go.
        self._reading: Any = None
        self._refused = False
        #: What travels inside the message.
        self.first = b""
        #: Iterator over the remaining pieces, each with whether more follow; ``None`` where there are none.
        self.rest: Iterator[tuple[bytes, bool]] | None = None

    def close(self) -> None:
        """Give everything back."""
        self._account.leave(self)
        self.release_memory()
        # The iterator refers to this body; without it nothing is left for the garbage collector.
        self.rest = None
        item, self._item = self._item, None
        if item is not None:
            item.close()

    def hold_memory(self, n: int) -> None:
        """``n`` bytes more are in memory.

        :raises HTTPError: 503 where there is no room.
        """
        if not self._account.ask(n):
            raise no_room()
        self._bodies.memory.left -= n
        self._in_memory += n

    def release_memory(self) -> None:
        """Nothing is in memory any more."""
        n, self._in_memory = self._in_memory, 0
        self._account.give(n)
        self._bodies.memory.give(n)

    def roomy(self, n: int) -> bool:
        """Whether ``n`` bytes more may wait in memory."""
        return self._bodies.memory.left >= n and self._account.roomy(n, self._bodies.limits.reply_queue)

    @property
    def spooling(self) -> bool:
        """Whether some of it is on disk."""
        return self._item is not None

    @property
    def stored(self) -> int:
        """Bytes on disk."""
        return 0 if self._item is None else self._item.size

    def spool(self, data: bytes | bytearray) -> None:
        """Append ``data`` to what is on disk.

        :raises HTTPError: 503 where there is no room.
        """
        if self._refused:
            raise no_room()
        if self._item is None:
            self._item = self._bodies.spool.item(BODIES, self._account)
        try:
            self._item.append(data)
        except (NoRoom, OSError) as error:
            raise no_room() from error

    def whole(self) -> bytes:
        """What is on disk, which then only is in memory.

        :raises HTTPError: 503 where there is no room.
        """
        item = self._item
        assert item is not None
        self.hold_memory(item.size)
        try:
            data = item.read(0, item.size)
        except OSError as error:
            raise no_room() from error
        item.close()
        self._item = None
        return data

    def spooled(self, size: int) -> Iterator[tuple[bytes, bool]]:
        """What is on disk in pieces of ``size`` bytes, each with whether more follow."""
        item = self._item
        assert item is not None
        for start in range(0, item.size, size):
            yield item.read(start, size), start + size < item.size

    # ---- while it comes in

    def read(self, stream: Stream, n: int) -> bytes:
        """The next bytes from the client.

        :raises HTTPError: 503 where the body has to go meanwhile, and as :meth:`Stream.read`.
        """
        if self._refused:
            raise no_room()
        self._reading = getcurrent()
        try:
            return stream.read(n)
        finally:
            self._reading = None

    def evict(self) -> None:
        """Have the request answered with 503: others need the room."""
        self._refused = True
        if self._reading is not None:
            get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        reading = self._reading
        if reading is not None:
            reading.throw(no_room())


def no_room() -> HTTPError:
    """The answer to a request whose body cannot be held."""
    return HTTPError(503, "The server has no room for the request body.", [(b"Retry-After", b"10")], close=True, cause=causes.NO_ROOM)


class Bodies:
    """Collects the bodies of one process.

    :param spool: where bodies go that are large, or for which there is no room in memory.
    :param streaming: pass large bodies on while they come instead of spooling them first.
    """

    def __init__(self, limits: Limits, spool: Spool, streaming: bool) -> None:
        self.limits = limits
        self._streaming = streaming
        #: Their part of the memory of the process.
        self.memory = Allowance(limits.buffered_bodies)
        self.spool = spool

    def collect(self, stream: Stream) -> Body:
        """Read the body of ``stream``, as far as it has to be read before the application is told of the request.

        :raises HTTPError: 413 for a body that can never be held, 503, and as :meth:`Stream.read`.
        """
        body = Body(self, stream.request.connection.account)
        try:
            self._collect(stream, body, stream.request.content_length)
        except BaseException:
            body.close()
            raise
        return body

    def _collect(self, stream: Stream, body: Body, length: int | None) -> None:
        if length == 0:
            return
        limits = self.limits
        chunk = limits.body_chunk
        inline = limits.inline_body
        data = stream.read(chunk)
        if len(data) == length and (not inline or length <= inline):
            # All of a small one; the segment that it came in is there whatever the allowances say.
            body.hold_memory(length)
            body.first = data
            return
        if not inline and length is not None and length > limits.buffered_bodies:
            # It would have to be held whole, and there never will be room for it.
            raise body_too_large()
        if inline and self._streaming and (length is None or length > inline):
            body.hold_memory(len(data))
            body.first = data
            body.rest = self._live(stream)
            return
        body._account.enter(body)
        body.first = data
        # This frame must not hold it for as long as the client takes for the rest.
        del data
        self._receive(stream, body, length)
        body._account.leave(body)
        if not body.spooling:
            return
        if not inline or body.stored <= inline:
            if not inline and body.stored > limits.buffered_bodies:
                raise body_too_large()
            body.first = body.whole()
            return
        # Never all of it at once: it was too large to travel inside the message.
        body.rest = body.spooled(min(chunk, inline))
        body.first, _ = next(body.rest)

    def _live(self, stream: Stream) -> Iterator[tuple[bytes, bool]]:
        """The rest of a body as it comes; whether a piece is the last is known only after it."""
        while data := stream.read(self.limits.body_chunk):
            yield data, True
        yield b"", False

    def _receive(self, stream: Stream, body: Body, length: int | None) -> None:
        """Read the body to its end, after what is in ``body.first``: into ``body.first``, or onto disk."""
        chunk = self.limits.body_chunk
        inline = self.limits.inline_body
        # Whether it is too large for the message, which is known from the beginning where its length is.
        large = bool(inline and length and length > inline)
        buffer = bytearray()
        data, body.first = body.first, b""
        while data:
            large = large or bool(inline and len(buffer) + len(data) > inline)
            roomy = body.roomy(len(data))
            body.hold_memory(len(data))
            buffer += data
            # In pieces that are worth a write.
            if (large or body.spooling or not roomy) and len(buffer) >= (chunk if roomy else min(chunk, _LEAST_WRITE)):
                body.spool(buffer)
                body.release_memory()
                buffer = bytearray()
            # Not a second time, beside the buffer, while the client is waited for.
            data = b""
            data = body.read(stream, chunk)
        if large or body.spooling:
            if buffer:
                body.spool(buffer)
                body.release_memory()
        else:
            body.first = bytes(buffer)
