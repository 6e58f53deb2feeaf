"""Replies on their way to one client: put in by the router, which never waits, and taken out at the client's speed.

What waits in memory is bounded in bytes.  A response body that comes faster than its client reads goes on to disk beyond that bound, as
far as the process' allowance reaches, because the channel layer has no way to tell a worker to slow down and dropping a download for it
would break what works today.  Whoever has no such second store is told that the mailbox overflowed.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO, Any

from gevent import get_hub
from gevent.hub import Waiter

from ...config import KIB
from ...core.message import ClientDisconnected
from .disk import disk_log

Message = dict[str, Any]

#: What a message costs besides its content.
_OVERHEAD = 512
#: On disk, pieces of a body are joined up to this size: an application that sends line by line shall not fill the memory with what
#: each line costs besides its content.
_JOINED = 64 * KIB
#: What a further piece of a body consists of.
_PIECE = frozenset(("content", "more_content"))


def _weight(message: Message) -> int:
    """The bytes of memory that a reply is taken to hold."""
    size = _OVERHEAD
    for key in ("content", "text", "bytes"):
        value = message.get(key)
        if isinstance(value, (bytes, str)):
            size += len(value)
    return size


class Overflow(Exception):
    """More replies wait than the client may have."""


class Allowance:
    """A number of bytes that many share; :meth:`take` says whether there is still room."""

    __slots__ = ("left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size

    def take(self, n: int) -> bool:
        if n > self.left:
            return False
        self.left -= n
        return True

    def give(self, n: int) -> None:
        self.left += n


def close_temporary(file: IO[bytes]) -> None:
    """Close a file without a name; a gigabyte takes the file system a tenth of a second to free, which others shall not wait for."""
    get_hub().threadpool.spawn(file.close)


class _Spilled:
    """A message beyond the bound of memory: its content is in ``pieces`` until they are written to the overflow file."""

    __slots__ = ("message", "offset", "pieces", "size")

    def __init__(self, message: Message, content: bytes) -> None:
        self.message = message
        self.pieces: list[bytes] | None = [content]
        self.offset = 0
        self.size = len(content)


class Mailbox:
    """Replies for one client, in order.

    The router, one greenlet, calls :meth:`put`; one other of the same hub calls :meth:`get`, or :meth:`poll` after ``notify`` was called.

    :param limit: bytes that may wait in memory.
    :param disk: where content beyond the limit may go, or ``None``.
    :param notify: called for a message that nobody waits for in :meth:`get`.
    """

    __slots__ = (
        "_bytes",
        "_closed",
        "_disk",
        "_end",
        "_error",
        "_file",
        "_given",
        "_limit",
        "_messages",
        "_stored",
        "_tail",
        "_taken",
        "_waiter",
        "_writing",
        "notify",
        "since",
    )

    def __init__(self, limit: int, disk: Allowance | None = None, notify: Callable[[], None] | None = None) -> None:
        self._limit = limit
        self._disk = disk
        # None while it is empty, which most mailboxes are most of the time.
        self._messages: deque[Message | _Spilled] | None = None
        self._bytes = 0
        self._file: IO[bytes] | None = None
        # Where the file ends, messages that have their content there, and bytes of the disk's allowance.
        self._end = 0
        self._stored = 0
        self._taken = 0
        # The last spilled message, as long as it is in memory; the only one that is.
        self._tail: _Spilled | None = None
        # Whether a thread writes to the file, which has to stay as long.
        self._writing = False
        self._closed = False
        self._waiter: Waiter[bool] | None = None
        self._error: BaseException | None = None
        self.notify = notify
        #: The monotonic time since which a first reply is waited for, 0 where nobody wants to know.
        self.since = 0.0
        #: What the greenlet in :meth:`get` was woken with.
        self._given: Message | None = None

    @property
    def held(self) -> int:
        """Bytes of memory that the replies which wait are taken to hold."""
        return self._bytes if self._tail is None else self._bytes + self._tail.size

    def put(self, message: Message) -> None:
        """Add a reply; never raises, and waits for the disk alone.  After an overflow everything further is dropped."""
        if self._error is not None or self._closed:
            return
        waiter = self._waiter
        if waiter is not None:
            # Handed over at once: it never waits in here, and costs no bookkeeping.
            self._waiter = None
            self._given = message
            get_hub().loop.run_callback(waiter.switch, True)
            return
        size = _weight(message)
        messages = self._messages
        if messages is None:
            messages = self._messages = deque()
        if self._bytes + size > self._limit and messages:
            self._spill(message, messages)
            return
        self._bytes += size
        messages.append(message)
        self._wake()

    def offer(self, message: Message) -> bool:
        """Add a reply where that needs no disk; false where only :meth:`put` can.  Never switches."""
        if self._error is not None or self._closed:
            return True
        if self._waiter is None and self._messages is not None and self._bytes + _weight(message) > self._limit:
            return False
        self.put(message)
        return True

    def abandon(self) -> None:
        """Have :meth:`get` raise :class:`ClientDisconnected`."""
        self.fail(ClientDisconnected())

    def fail(self, error: BaseException) -> None:
        """Have :meth:`get` raise ``error`` behind the replies that are there already; the first error counts."""
        if self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            # A waiter may only be switched to from the hub.
            get_hub().loop.run_callback(waiter.switch, True)
        elif self.notify is not None:
            self.notify()

    def get(self, timeout: float | None) -> Message:
        """The next reply.

        :raises TimeoutError: after ``timeout`` seconds.
        :raises Overflow: when the client was too slow; or what :meth:`fail` was given.
        """
        while self._messages is None:
            if self._error is not None:
                raise self._error
            waiter: Waiter[bool] = Waiter()
            self._waiter = waiter
            # A bare timer: gevent.Timeout costs several times as much, and this is done for every request.
            timer = None if timeout is None else get_hub().loop.timer(timeout)
            if timer is not None:
                timer.start(waiter.switch, False, update=True)
            try:
                woken = waiter.get()
                # A reply may have come between the timer and this greenlet's turn.
                given, self._given = self._given, None
                if given is not None:
                    return given
                if not woken and not self._ready():
                    raise TimeoutError
            finally:
                self._waiter = None
                if timer is not None:
                    timer.stop()
                    timer.close()
        return self._next(self._messages)

    def _ready(self) -> bool:
        return self._messages is not None or self._error is not None

    def poll(self) -> Message | None:
        """The next reply, or ``None``; raises as :meth:`get`."""
        if self._messages is not None:
            return self._next(self._messages)
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._messages = None
        # An error that was raised refers to those who wait here, and they to this.
        self._error = None
        self._stored = 0
        self._tail = None
        self._release()

    def _next(self, messages: deque[Message | _Spilled]) -> Message:
        item = messages.popleft()
        if not messages:
            self._messages = None
        if not isinstance(item, _Spilled):
            self._bytes -= _weight(item)
            return item
        if item is self._tail:
            self._tail = None
        if item.pieces is not None:
            content = b"".join(item.pieces)
        else:
            assert self._file is not None
            # A disk may be slow; other greenlets go on meanwhile.
            content = get_hub().threadpool.apply(os.pread, (self._file.fileno(), item.size, item.offset))
            self._stored -= 1
        self._release()
        return {**item.message, "content": content}

    def _spill(self, message: Message, messages: deque[Message | _Spilled]) -> None:
        """Add ``message`` as the tail, whose content goes to disk when the next one comes that cannot be joined to it."""
        content = message.get("content") or b""
        disk = self._disk
        piece = _PIECE.issuperset(message)
        if disk is None or not isinstance(content, bytes) or not (piece or len(content) > _OVERHEAD):
            self.fail(Overflow())
            return
        tail = self._tail
        joined = False
        if piece and tail is not None and tail is messages[-1]:
            joined = bool(tail.message.get("more_content")) and tail.size + len(content) <= _JOINED
        if tail is not None and not joined:
            if self._write(tail):
                # Anything may have happened meanwhile.
                self.put(message)
            else:
                self.fail(Overflow())
            return
        if not disk.take(len(content)):
            self.fail(Overflow())
            return
        self._taken += len(content)
        if tail is None:
            tail = self._tail = _Spilled({**message, "content": b""}, content)
            messages.append(tail)
        else:
            assert tail.pieces is not None
            tail.pieces.append(content)
            tail.size += len(content)
            tail.message["more_content"] = message.get("more_content", False)
        self._wake()

    def _write(self, tail: _Spilled) -> bool:
        """Write the tail to the file in a native thread, since a disk may be slow; whether that succeeded, or there is no need any more."""
        assert tail.pieces is not None
        content = b"".join(tail.pieces)
        tail.pieces = [content]
        offset = self._end
        self._end += len(content)
        self._writing = True
        try:
            error: Exception | None = get_hub().threadpool.apply(self._write_in_thread, (content, offset))
        finally:
            self._writing = False
            self._release()
        if error is not None and not self._closed:
            disk_log.failed(error)
        if tail is self._tail:
            if error is not None:
                return False
            self._tail = tail.pieces = None
            tail.offset = offset
            self._stored += 1
        return True

    def _write_in_thread(self, content: bytes, offset: int) -> Exception | None:
        try:
            if self._file is None:
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - _release() closes it
            written = os.pwrite(self._file.fileno(), content, offset)
            return None if written == len(content) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (OSError, ValueError) as error:
            return error

    def _release(self) -> None:
        """Give the file and its place on disk back when nothing is in there any more."""
        if self._stored or self._writing or self._tail is not None or not self._taken:
            return
        if self._disk is not None:
            self._disk.give(self._taken)
        self._end = self._taken = 0
        file, self._file = self._file, None
        if file is not None:
            close_temporary(file)
