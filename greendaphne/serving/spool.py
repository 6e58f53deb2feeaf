"""Stores bodies and replies that do not fit in memory: one temporary file of the process for all connections.

Bodies and replies are :class:`Spooled` items of one :class:`Spool`.  All items share one file, because each file needs a descriptor, as
each connection does: thousands of stopped uploads would otherwise use all descriptors.  An item has blocks of the file.  Blocks of closed
items are used again, those at the start of the file first.  The file has no name, so it vanishes when the process ends.  The spool closes
the file when it is empty, which frees the disk space.  If the file has become much larger than its content, new items go to a new file.

Native threads read and write, because a disk may be slow.
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
#: Bytes of the file that one item gets at a time.  The file system allocates space only for written bytes.
BLOCK: Final = 64 * 1024
#: A file with at least this number of blocks, most of them free, is not used for new items.
_LARGE: Final = 4096
_MOSTLY_FREE: Final = 4
#: The maximum number of native threads that write at the same time.  A write in a thread keeps its whole source object in memory, also
#: after the end of its connection; a write that waits here does not.
_WRITERS: Final = 4
#: The maximum number of bytes that a native thread writes in one job.
_JOB: Final = 1024 * 1024
#: The number of attempts to write to a full disk while other connections release space, and the seconds between two attempts.
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
    """Logs failures to store data, at most one line per interval.

    Each failed request has its own answer, but the operator needs the reason.  On a disk that is nearly full, writes fail and succeed in
    turn, so there is no line for each change.
    """

    def __init__(self) -> None:
        self._next = -inf

    def failed(self, error: Exception) -> None:
        """Data could not be stored."""
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
        #: The number of blocks of the file, and the number of those in use.
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
        """Release blocks."""
        for block in blocks:
            heappush(self._free, block)
        self.used -= len(blocks)

    # ---- in native threads; they return errors, because gevent prints exceptions of its threads

    def write(self, parts: _Parts) -> Exception | None:
        """Write ``parts`` at their offsets; returns the error, if any."""
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
        """Fill ``parts`` from their offsets; returns the error, if any.

        The caller's thread allocates the buffers.  Otherwise each native thread would keep megabytes in its own arena, whose end the
        allocator does not return.
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
        """Close the file; the file system needs a tenth of a second to free a gigabyte."""
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
        #: Bytes by kind: ``bodies`` and ``replies``.
        self.held = {BODIES: 0, REPLIES: 0}
        self._current: _File | None = None
        self._writing = BoundedSemaphore(_WRITERS)

    def item(self, kind: str, account: Account = FREE) -> Spooled:
        """A new, empty item.

        :param kind: its kind, for metrics; see :attr:`held`.
        :param account: the account of its connection.
        """
        return Spooled(self, kind, account)

    def _file(self) -> _File:
        """The file for a new item."""
        current = self._current
        if current is None or (current.end >= _LARGE and current.used * _MOSTLY_FREE < current.end):
            current = self._current = _File()
        return current

    def _released(self, file: _File) -> None:
        """Blocks of ``file`` were released."""
        if not file.used:
            if file is self._current:
                self._current = None
            # In a thread, because other connections must not wait until the file system has freed the space.
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
        # The number of reads and writes in native threads; until they end the item keeps its blocks.
        self._busy = 0
        self._closed = False
        #: Bytes in it.
        self.size = 0

    def append(self, data: bytes | bytearray) -> None:
        """Add ``data``, which must not change until this returns.

        :raises NoRoom: if the allowance is too small.
        :raises OSError: if the disk fails or is full.
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
                # The greenlet was killed: the thread must not start a write that it has not begun, nor keep its data.
                parts.clear()
                raise
            if error is None:
                return
            if getattr(error, "errno", None) not in _FULL or attempt + 1 == _ATTEMPTS or not self._make_room(n):
                break
            # Blocks that other items have released have space on the disk; new ones at the end of the file have none.
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
        """The disk has no space for ``n`` bytes: set the allowance to the present use, and make other connections release theirs."""
        allowance = self._spool.allowance
        allowance.resize(max(allowance.held - n, 0))
        return allowance.on_short(self._account, 0)

    def read(self, start: int, n: int) -> bytes:
        """At most ``n`` bytes from the position ``start`` on.

        :raises OSError: if the disk fails.
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
        """The whole content in pieces of at most ``n`` bytes; errors as :meth:`read`."""
        for start in range(0, self.size, n):
            yield self.read(start, n)

    def close(self) -> None:
        """Release the item; further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._account.disk -= self.size
            self._spool.held[self._kind] -= self.size
            self._spool.allowance.give(self.size)
            self._release()

    def _runs(self, start: int, n: int) -> Iterator[tuple[int, int]]:
        """The places of ``n`` bytes from the position ``start`` on in the file: offsets and lengths of consecutive bytes."""
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
            # The greenlet was killed while it waited for a thread.
            self._done(None)
            raise
        # The thread continues even if the greenlet is killed meanwhile.
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
