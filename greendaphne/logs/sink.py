"""Writes log lines in a native thread, to a descriptor that may be slow, full, broken or renamed.

A pipe without a reader, a stopped terminal or a hanging disk blocks its writer, and with it every greenlet of the process.  So
:class:`Sink` takes a line into a bounded queue and returns; above the bound it drops and counts lines.  It does not change the
descriptor's flags, because other processes share them.  It reports a failure twice: when the failure begins, and when it ends, with the
number of lost lines.

The thread is a native one even in a process that gevent has patched, and uses nothing that gevent has patched.  Any thread and any greenlet
may add lines.  No lock is taken, because a signal handler or the garbage collector could run into it a second time.
"""

from __future__ import annotations

import atexit
import errno
import os
import stat
import weakref
from collections import deque
from collections.abc import Callable
from select import POLLOUT
from sys import getsizeof
from time import monotonic
from typing import Any, Final

from gevent.monkey import get_original

from ..config import KIB, MIB

_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_start_thread: Callable[..., Any] = get_original("_thread", "start_new_thread")
_sleep: Callable[[float], None] = get_original("time", "sleep")
_poll: Callable[[], Any] = get_original("select", "poll")

#: Bytes of memory for queued lines, about ten thousand lines.
QUEUE_LIMIT: Final = 4 * MIB
#: Seconds between two writes for logs that gather lines: the first line is written at once, the following ones are gathered.
GATHER: Final = 0.02
#: Seconds between two checks whether the file still has its name.
WATCH_INTERVAL: Final = 1.0
#: Seconds without a failure after which a failure is over, so that it is not reported again and again.
QUIET: Final = 1.0
#: Seconds that flush() waits for lines to be written.
PATIENCE: Final = 1.0
#: The same after a flush() that timed out.
_GIVEN_UP: Final = 0.05
#: Seconds between attempts at a full non-blocking descriptor, in case poll() does not report room in it.
_RETRY: Final = 0.5
#: The largest write to a pipe that is not mixed with writes of other processes, in bytes (POSIX: PIPE_BUF).
_PIPE_WRITE: Final = 4 * KIB
#: The largest write to other descriptors, in bytes.
_WRITE: Final = 64 * KIB
_FILE_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_FILE_MODE: Final = 0o666

#: Called with a report's text and whether it is about the end of a failure.  Called in any thread; must not wait.
Report = Callable[[str, bool], None]


class Sink:
    """Writes whole lines to a descriptor, in order.

    :param fd: the descriptor; it stays open after :meth:`close`, unless ``path`` is given.
    :param name: the log's name in reports, such as ``"the access log"``.
    :param report: called when lines begin to be lost and when that ends; without it a line in the log itself reports the end.
    :param path: the path of a file that is to be reopened by :meth:`reopen`, and when another file or none has its name.
    :param gather: see :data:`GATHER`.
    """

    def __init__(self, fd: int, name: str, *, report: Report | None = None, path: str | None = None, gather: float = 0.0) -> None:
        self._fd = fd
        self._name = name
        self._report = report
        self._path = path
        self._gather = gather
        # Lines, and locks that are released after everything before them has been processed.
        self._queue: deque[Any] = deque()
        self._queued = 0
        # True while the thread reads the queue; a writer that finds it false wakes the thread.
        self._awake = False
        self._wake = _allocate_lock()
        self._wake.acquire()
        self._reopening = False
        self._closing = False
        # Closed while lines were queued; the descriptor may be reused by the time it becomes writable.
        self._abandoned = False
        self._given_up = False
        # True in a forked child, which does not have the thread.
        self._forked = False
        # Lines dropped because the queue was full, and whether that was reported.
        self._dropped = 0
        self._full = False
        # Used by the thread only: whether writing works; lines that could not be written, the time of the last one and whether that was
        # reported; whether a part of a line was written.
        self._works = True
        self._lost = 0
        self._failed_at = 0.0
        self._failing = False
        self._torn = False
        # Used by the thread only: the open file, the time of the next check of its name, and whether reopening it failed.
        self._identity: tuple[int, int] | None = None
        self._watch_at = 0.0
        self._stuck = False
        self._chunk = _WRITE
        self._look()
        _sinks.add(self)
        _start_thread(self._run, ())

    @classmethod
    def open(cls, path: str, name: str, *, report: Report | None = None, gather: float = 0.0) -> Sink:
        """A sink that appends to the file at ``path``.

        :raises OSError: where it cannot be opened.
        """
        # Absolute, because the process may change its directory before the file is reopened.
        path = os.path.abspath(path)
        return cls(_open(path), name, report=report, path=path, gather=gather)

    # -- any thread

    def write(self, line: str) -> None:
        """Queue one line, with its line feed; never waits and never raises."""
        if self._forked:
            self._write_directly(line)
            return
        size = getsizeof(line)
        if self._queued + size > QUEUE_LIMIT:
            self._drop()
            return
        self._queued += size
        self._queue.append(line)
        if not self._awake:
            self._wake_thread()

    def reopen(self) -> None:
        """Reopen the file at the path before the next line is written; does nothing without a path."""
        self._reopening = True
        self._wake_thread()

    def flush(self, timeout: float = PATIENCE) -> bool:
        """Wait, at most ``timeout`` seconds, until all queued lines are written or lost; returns whether they are.

        Blocks the whole thread, not only the greenlet.
        """
        if self._forked:
            return True
        if self._closing:
            return False
        marker = _allocate_lock()
        marker.acquire()
        self._queue.append(marker)
        self._wake_thread()
        # After a timeout, later calls wait a shorter time.
        flushed = bool(marker.acquire(timeout=min(timeout, _GIVEN_UP) if self._given_up else timeout))
        self._given_up = not flushed
        return flushed

    def close(self, timeout: float = PATIENCE) -> None:
        """Write the queued lines within ``timeout`` seconds, report lost lines, and end the thread; idempotent."""
        if self._closing:
            return
        flushed = self.flush(timeout)
        self._closing = True
        lost = self._lost + self._dropped
        if not flushed:
            self._abandoned = True
            left = sum(isinstance(item, str) for item in list(self._queue))
            lost += left
            _lose(self._name, left)
            self._queue.clear()
        self._wake_thread()
        _sinks.discard(self)
        if self._report is not None and (lost or not flushed):
            self._report(f"{lost} lines of {self._name} were lost", True)

    def _wake_thread(self) -> None:
        self._awake = True
        try:
            self._wake.release()
        except RuntimeError:
            pass  # the thread is being woken already

    def _drop(self) -> None:
        self._dropped += 1
        _lose(self._name, 1)
        if not self._full:
            self._full = True
            self._tell(f"Lines of {self._name} are lost: its destination takes them too slowly, or not at all", False)

    def _tell(self, text: str, over: bool) -> None:
        if self._report is not None:
            self._report(text, over)

    def _write_directly(self, line: str) -> None:
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # the parent process reports it

    def forget(self) -> None:
        """In a forked child: leave the queued lines to the parent, and write further lines directly."""
        self._forked = True
        self._queue.clear()

    # -- the thread

    def _run(self) -> None:
        wake = self._wake
        gather = self._gather
        while True:
            wake.acquire()
            while True:
                if self._work():
                    if gather and not self._closing:
                        _sleep(gather)
                    continue
                self._awake = False
                # A writer that added a line before this point did not wake the thread.
                if not self._queue and not self._reopening:
                    break
                self._awake = True
            if self._closing:
                if self._path is not None:
                    os.close(self._fd)
                return

    def _work(self) -> bool:
        """Write the queued lines; returns whether there was anything to do."""
        self._follow()
        queue = self._queue
        if not queue:
            return False
        lines: list[bytes] = []
        size = 0
        while queue:
            item = queue.popleft()
            if not isinstance(item, str):
                self._write(lines)
                lines, size = [], 0
                item.release()
                continue
            self._queued -= getsizeof(item)
            line = item.encode("utf-8", "backslashreplace")
            if size + len(line) > self._chunk:
                self._write(lines)
                lines, size = [], 0
                # Checked here too, because the queue may never become empty.
                self._follow()
            lines.append(line)
            size += len(line)
        self._write(lines)
        # Concurrent threads may have corrupted the sum; correct it.
        self._queued = sum(getsizeof(item) for item in list(queue) if isinstance(item, str)) if queue else 0
        if (self._failing or self._full) and not queue:
            self._settle()
        return True

    def _write(self, lines: list[bytes]) -> None:
        """Write ``lines``, or count them as lost."""
        if not lines or self._abandoned:
            return
        data = b"".join(lines)
        view = memoryview(data)
        try:
            if self._torn:
                # Otherwise the next line would look like the rest of the partial line.
                os.write(self._fd, b"\n")
                self._torn = False
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    if self._closing:
                        return
                    # Another process that shares the pipe or terminal made it non-blocking; it is full, not broken.
                    self._await_room()
            self._works = True
            self._given_up = False
        except OSError as error:
            self._works = False
            written = len(data) - len(view)
            self._torn = self._torn or (written > 0 and data[written - 1] != _LINE_FEED)
            lost = data.count(b"\n", written)
            self._lost += lost
            _lose(self._name, lost)
            self._failed_at = monotonic()
            if not self._failing:
                self._failing = True
                self._tell(f"Cannot write to {self._name}: {error}; lines are lost until that is possible", False)

    def _await_room(self) -> None:
        poll = _poll()
        poll.register(self._fd, POLLOUT)
        poll.poll(_RETRY * 1000)

    def _settle(self) -> None:
        """Report the end of a failure, if it has ended."""
        if not self._works or (self._failing and monotonic() - self._failed_at < QUIET):
            return
        lost = self._lost + self._dropped
        self._lost = self._dropped = 0
        self._failing = self._full = False
        text = f"{lost} lines of {self._name} were lost; further ones are written again"
        if self._report is None:
            self._write([f"{text}\n".encode()])
        else:
            self._report(text, True)

    def _follow(self) -> None:
        """Reopen the file if requested, or if another file or none has its name."""
        reopening, self._reopening = self._reopening, False
        if self._path is None or self._closing:
            return
        if reopening:
            self._open_anew(self._path)
        elif self._identity is not None and monotonic() >= self._watch_at:
            self._watch(self._path)

    def _look(self) -> None:
        """Read the type and the identity of the descriptor's file."""
        self._identity = None
        try:
            status = os.fstat(self._fd)
        except OSError:
            return  # the next write reports the error
        # Several processes may write to the same pipe.
        self._chunk = _PIPE_WRITE if stat.S_ISFIFO(status.st_mode) else _WRITE
        if self._path is not None and stat.S_ISREG(status.st_mode):
            self._identity = status.st_dev, status.st_ino
            self._watch_at = monotonic() + WATCH_INTERVAL

    def _watch(self, path: str) -> None:
        """Reopen the file if another file or none has its name."""
        self._watch_at = monotonic() + WATCH_INTERVAL
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == self._identity:
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # the open file still works
        self._open_anew(path)

    def _open_anew(self, path: str) -> None:
        try:
            fd = _open(path)
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                self._tell(f"Cannot reopen {self._name}: {error}; lines still go to the previous file", False)
            return
        os.close(self._fd)
        self._fd = fd
        self._torn = False
        self._look()
        if self._stuck:
            self._stuck = False
            self._tell(f"{self._name} is reopened", True)


def _open(path: str) -> int:
    """Open ``path`` for appending; a FIFO too, with or without a reader.

    :raises OSError: on failure.
    """
    try:
        fd = os.open(path, _FILE_FLAGS | os.O_NONBLOCK, _FILE_MODE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # A FIFO without a reader.  Opening it for reading and writing succeeds without one; lines wait in it for a reader.
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return fd


_LINE_FEED: Final = 0x0A

#: Lines lost since the process began, by the name of the log.
_lost_lines: dict[str, int] = {}


def _lose(name: str, number: int) -> None:
    # Two concurrent threads may count one line too few; a lock could deadlock in a signal handler.
    _lost_lines[name] = _lost_lines.get(name, 0) + number


def lost_lines() -> dict[str, int]:
    """The numbers of lines lost since the process began, by the name of the log; 0 for logs that lost none."""
    return {sink._name: 0 for sink in list(_sinks)} | _lost_lines


#: All open sinks.
_sinks: weakref.WeakSet[Sink] = weakref.WeakSet()


def _after_fork() -> None:
    for sink in list(_sinks):
        sink.forget()


def _at_exit() -> None:
    for sink in list(_sinks):
        sink.flush()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
