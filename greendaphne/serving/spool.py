"""What does not fit in memory, on disk: one temporary file of the process for all connections.

Bodies and replies are :class:`Spooled` items of one :class:`Spool`.  One file serves them all, because each file would cost a descriptor,
of which connections need one too: thousands of stopped uploads would leave none.  An item has blocks of the file; blocks of items that are
closed are used again, the first ones first.  The file has no name, so nothing is left when the process ends.  It is closed, which frees
its room on the disk, when nothing is in it any more; where it has become much larger than what is in it, new items go to a new one.

Native threads read and write, for a disk may be slow.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from math import inf
from tempfile import TemporaryFile, gettempdir
from time import monotonic
from typing import IO, Final

import gevent
from gevent import get_hub
from gevent.lock import BoundedSemaphore

from ..core.accounts import FREE, NOTABLE, Account, Allowance

logger = logging.getLogger("daphne.server")

BODIES: Final = "bodies"
REPLIES: Final = "replies"
#: Bytes of the file that one item gets at a time.  The system allots room to what was written alone.
BLOCK: Final = 64 * 1024
#: A file of at least this many blocks of which most are free is not used for new items.
_LARGE: Final = 4096
_MOSTLY_FREE: Final = 4
#: Jobs of native threads that write at a time.  A job keeps the whole object that it writes from in memory, also after the end of the
#: connection that it is for; one that waits for its turn here does not.
_WRITERS: Final = 4
#: Bytes that one job of a native thread writes at most.
_JOB: Final = 1024 * 1024
#: Times that a write to a full disk is tried while others let go of their room, and seconds in between.
_ATTEMPTS: Final = 20
_PAUSE: Final = 0.05
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
#: Parts of an object by their offsets in the file.
_Parts = list[tuple[int, memoryview]]
#: Seconds between two log lines about a disk that fails.
INTERVAL: Final = 60.0


class NoRoom(Exception):
    """The allowance of disk is used up."""


class DiskLog:
    """Hears of every failure to store something, and writes a line now and then.

    Requests fail one by one meanwhile, each with its own answer; the operator has to know why.  On a disk that is nearly full some things
    fit and some do not, so there is no line for each turn of that.
    """

    def __init__(self) -> None:
        self._next = -inf

    def failed(self, error: Exception) -> None:
        """Something could not be stored."""
        now = monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            logger.error("Cannot store a large body or reply (TMPDIR is %s): %s", _directory(), error)


#: All servers of the process share the disk.
disk_log: Final = DiskLog()


def _directory() -> str:
    try:
        return gettempdir()
    except OSError:
        return "nowhere"


class _File:
    """A temporary file and its blocks."""

    __slots__ = ("_free", "_lock", "end", "file", "used")

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._free: list[int] = []
        #: Blocks that the file has, and how many of them have an owner.
        self.end = 0
        self.used = 0

    def allot(self, n: int) -> list[int]:
        """``n`` blocks."""
        free = self._free
        blocks = [heappop(free) for _ in range(min(n, len(free)))]
        fresh = n - len(blocks)
        blocks.extend(range(self.end, self.end + fresh))
        self.end += fresh
        self.used += n
        return blocks

    def release(self, blocks: list[int]) -> None:
        """Blocks that their owner needs no more."""
        for block in blocks:
            heappush(self._free, block)
        self.used -= len(blocks)

    # ---- in native threads; what is raised there would be printed by gevent

    def write(self, parts: _Parts) -> Exception | None:
        """Write ``parts`` at their offsets or return why not."""
        try:
            with self._lock:
                if self.file is None:
                    self.file = TemporaryFile(buffering=0)  # noqa: SIM115 - the spool closes it
            descriptor = self.file.fileno()
            for offset, data in parts:
                written = os.pwrite(descriptor, data, offset)
                if written != len(data):
                    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except (OSError, ValueError) as error:
            return error
        finally:
            # A thread that waits for its next job still refers to the arguments of the last one.
            parts.clear()
        return None

    def read(self, parts: _Parts) -> Exception | None:
        """Fill ``parts`` from their offsets or return why not.

        What they are of belongs to the caller's thread: each native thread would keep megabytes of an arena of its own, of which the
        allocator never gives the end back.
        """
        try:
            assert self.file is not None
            descriptor = self.file.fileno()
            for offset, data in parts:
                if os.preadv(descriptor, [data], offset) != len(data):
                    return OSError(errno.EIO, os.strerror(errno.EIO))
        except (OSError, ValueError) as error:
            return error
        finally:
            parts.clear()
        return None

    def close(self) -> None:
        """Close the file; a gigabyte takes the file system a tenth of a second to free."""
        if self.file is not None:
            self.file.close()


def _close(file: _File) -> None:
    get_hub().threadpool.apply(file.close)


class Spool:
    """The temporary file of one process.

    :param allowance: bytes of disk that all items together may have.
    """

    __slots__ = ("_current", "_writing", "allowance", "held")

    def __init__(self, allowance: Allowance | None = None) -> None:
        self.allowance = allowance or Allowance()
        #: Bytes by what they are: ``bodies`` and ``replies``.
        self.held = {BODIES: 0, REPLIES: 0}
        self._current: _File | None = None
        self._writing = BoundedSemaphore(_WRITERS)

    def item(self, kind: str, account: Account = FREE) -> Spooled:
        """A new item, which is empty.

        :param kind: what it is, for metrics; see :attr:`held`.
        :param account: the account of the connection that it is for.
        """
        return Spooled(self, kind, account)

    def _file(self) -> _File:
        """The file for an item that begins."""
        current = self._current
        if current is None or (current.end >= _LARGE and current.used * _MOSTLY_FREE < current.end):
            current = self._current = _File()
        return current

    def _released(self, file: _File) -> None:
        """Blocks of ``file`` were released."""
        if not file.used:
            if file is self._current:
                self._current = None
            # Others shall not wait until the file system has freed its room.
            gevent.spawn(_close, file)


class Spooled:
    """A sequence of bytes on disk; append, then read, then close."""

    __slots__ = ("_account", "_blocks", "_busy", "_closed", "_file", "_kind", "_spool", "size")

    def __init__(self, spool: Spool, kind: str, account: Account) -> None:
        self._spool = spool
        self._kind = kind
        self._account = account
        self._file: _File | None = None
        self._blocks: list[int] = []
        # Reads and writes that native threads are at; as long the blocks stay the item's.
        self._busy = 0
        self._closed = False
        #: Bytes in it.
        self.size = 0

    def append(self, data: bytes | bytearray) -> None:
        """Add ``data``, which must not change until this returns.

        :raises NoRoom: where the allowance does not reach.
        :raises OSError: where the disk fails, or has no room.
        """
        if len(data) <= _JOB:
            self._append(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _JOB):
            self._append(view[start : start + _JOB])

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        n = len(data)
        account = self._account
        if not self._spool.allowance.take(n, account):
            raise NoRoom
        if account.disk + n >= NOTABLE > account.disk:
            account.disk_since = monotonic()
        account.disk += n
        self._spool.held[self._kind] += n
        file = self._file
        if file is None:
            file = self._file = self._spool._file()
        start = self.size
        self.size += n
        missing = max(-(-self.size // BLOCK) - len(self._blocks), 0)
        error: Exception | None = None
        for attempt in range(_ATTEMPTS):
            fresh = file.allot(missing)
            self._blocks.extend(fresh)
            parts = self._parts(memoryview(data), start)
            try:
                with self._spool._writing:
                    error = self._in_thread(file.write, parts)
            except BaseException:
                # Killed: the thread need not write what it has not begun, nor hold it.
                parts.clear()
                raise
            if error is None:
                return
            if getattr(error, "errno", None) not in _FULL or attempt + 1 == _ATTEMPTS or not self._make_room(n):
                break
            # The blocks that others let go of have room; the fresh ones at the end of the file have none.
            del self._blocks[len(self._blocks) - missing :]
            file.release(fresh)
            gevent.sleep(_PAUSE)
            if self._closed:
                break
        assert error is not None
        disk_log.failed(error)
        raise error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _parts(self, view: memoryview, start: int) -> _Parts:
        """``view``, which belongs at the position ``start``, by offsets in the file."""
        parts = []
        position = 0
        for offset, length in self._runs(start, len(view)):
            parts.append((offset, view[position : position + length]))
            position += length
        return parts

    def _make_room(self, n: int) -> bool:
        """The disk has no room for ``n`` bytes: that is all that there is, and others have to let go."""
        allowance = self._spool.allowance
        allowance.resize(max(allowance.held - n, 0))
        return allowance.on_short(self._account, 0)

    def read(self, start: int, n: int) -> bytes:
        """Up to ``n`` bytes from the position ``start`` on.

        :raises OSError: where the disk fails.
        """
        n = min(n, self.size - start)
        if n <= 0 or self._file is None:
            return b""
        data = bytearray(n)
        error = self._in_thread(self._file.read, self._parts(memoryview(data), start))
        if error is not None:
            raise error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF))
        return bytes(data)

    def pieces(self, n: int) -> Iterator[bytes]:
        """All of it in pieces of at most ``n`` bytes; errors as :meth:`read`."""
        for start in range(0, self.size, n):
            yield self.read(start, n)

    def close(self) -> None:
        """Release it; again does nothing."""
        if not self._closed:
            self._closed = True
            self._account.disk -= self.size
            self._spool.held[self._kind] -= self.size
            self._spool.allowance.give(self.size)
            self._release()

    def _runs(self, start: int, n: int) -> Iterator[tuple[int, int]]:
        """Where ``n`` bytes from the position ``start`` on are in the file: offsets and lengths of consecutive bytes."""
        blocks = self._blocks
        end = start + n
        while start < end:
            number = start // BLOCK
            first = last = blocks[number]
            stop = (number + 1) * BLOCK
            while stop < end and blocks[stop // BLOCK] == last + 1:
                last += 1
                stop += BLOCK
            stop = min(stop, end)
            yield first * BLOCK + start % BLOCK, stop - start
            start = stop

    def _in_thread(self, call: Callable[[_Parts], Exception | None], argument: _Parts) -> Exception | None:
        self._busy += 1
        try:
            result = get_hub().threadpool.spawn(call, argument)
        except BaseException:
            # Killed while it waited for a thread.
            self._done(None)
            raise
        # The thread goes on where the greenlet is killed meanwhile.
        result.rawlink(self._done)
        error: Exception | None = result.get()
        return error

    def _done(self, result: object) -> None:
        self._busy -= 1
        self._release()

    def _release(self) -> None:
        file = self._file
        if self._closed and not self._busy and file is not None:
            self._file = None
            file.release(self._blocks)
            self._blocks = []
            self._spool._released(file)
