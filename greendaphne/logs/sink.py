"""Where lines of a log go: a descriptor that may be slow, full, broken or renamed, written to by a native thread of its own.

A pipe that nobody reads, a terminal that is stopped or a disk that hangs would make whoever writes wait, and with it every greenlet of the
process.  So :class:`Sink` takes a line into a bounded queue and returns; beyond the bound lines are dropped and counted.  Neither the
descriptor's flags are changed, because other processes share them, nor does anything wait for the disk.  What goes wrong is told once when
it begins and once, with the number of lines that are missing, when it is over.

The thread is a real one in a process that gevent has patched too, and uses nothing that was patched.  Lines are taken from any thread and
any greenlet, without a lock that a signal handler or the garbage collector could meet again.
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

#: Bytes of memory for the lines that wait; some ten thousand of them.
QUEUE_LIMIT: Final = 4 * MIB
#: Seconds between two writes, where that is wanted: the first line of several leaves at once, and those that follow are gathered.
GATHER: Final = 0.02
#: Seconds between looks whether a file still has its name.
WATCH_INTERVAL: Final = 1.0
#: Seconds without a failure behind which trouble is over, so that it is not told again and again.
QUIET: Final = 1.0
#: Seconds that the end of the process waits for lines to be taken.
PATIENCE: Final = 1.0
#: And once it has waited in vain.
_GIVEN_UP: Final = 0.05
#: Seconds between attempts at a full descriptor that another process made non-blocking, in case the system does not tell of room in it.
_RETRY: Final = 0.5
#: The most that one write to a pipe is not mixed with those of other processes (POSIX: PIPE_BUF).
_PIPE_WRITE: Final = 4 * KIB
#: Other writes gather up to this.
_WRITE: Final = 64 * KIB
_FILE_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_FILE_MODE: Final = 0o666

#: Told of trouble: what to say, and whether this is its end.  It is called in any thread and must not wait.
Report = Callable[[str, bool], None]


class Sink:
    """Writes whole lines to a descriptor, in their order.

    :param fd: the descriptor; it stays open behind :meth:`close`, unless ``path`` is given.
    :param name: what to call it in reports, such as ``"the access log"``.
    :param report: told when lines begin to be lost and when that is over; without it a line in the log itself tells that it is over.
    :param path: the file's path where it is to be opened anew by :meth:`reopen`, and when another file or none has taken its name.
    :param gather: see :data:`GATHER`.
    """

    def __init__(self, fd: int, name: str, *, report: Report | None = None, path: str | None = None, gather: float = 0.0) -> None:
        self._fd = fd
        self._name = name
        self._report = report
        self._path = path
        self._gather = gather
        # Lines, and locks that are released once everything before them has been dealt with.
        self._queue: deque[Any] = deque()
        self._queued = 0
        # Set while the thread looks at the queue by itself; whoever finds it unset wakes the thread.
        self._awake = False
        self._wake = _allocate_lock()
        self._wake.acquire()
        self._reopening = False
        self._closing = False
        # Closed while lines were left: the descriptor may be anything by the time that it can be written to.
        self._abandoned = False
        self._given_up = False
        # In a child that was forked off, the thread does not exist.
        self._forked = False
        # Lines that found the queue full, and whether that was told.
        self._dropped = 0
        self._full = False
        # The thread's: whether writing works; lines that could not be written, when last and whether that was told; whether half of a line
        # was written.
        self._works = True
        self._lost = 0
        self._failed_at = 0.0
        self._failing = False
        self._torn = False
        # The thread's: the file that is open, when to look whether it still has its name, and whether it could not be opened anew.
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
        # The process may change its directory before the file is opened anew.
        path = os.path.abspath(path)
        return cls(_open(path), name, report=report, path=path, gather=gather)

    # -- any thread

    def write(self, line: str) -> None:
        """Take one line, with its line feed; never waits and never raises."""
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
            self._rouse()

    def reopen(self) -> None:
        """Open the file at the path anew, before the next line is written; nothing happens where there is no path."""
        self._reopening = True
        self._rouse()

    def flush(self, timeout: float = PATIENCE) -> bool:
        """Wait, at most ``timeout`` seconds, until what was taken has been written or is lost; whether it has.

        The whole thread waits, not only a greenlet.
        """
        if self._forked:
            return True
        if self._closing:
            return False
        marker = _allocate_lock()
        marker.acquire()
        self._queue.append(marker)
        self._rouse()
        # Whoever waited in vain need not wait as long again.
        flushed = bool(marker.acquire(timeout=min(timeout, _GIVEN_UP) if self._given_up else timeout))
        self._given_up = not flushed
        return flushed

    def close(self, timeout: float = PATIENCE) -> None:
        """Write what is left, for at most ``timeout`` seconds, tell what was lost, and end the thread; idempotent."""
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
        self._rouse()
        _sinks.discard(self)
        if self._report is not None and (lost or not flushed):
            self._report(f"{lost} lines of {self._name} were lost", True)

    def _rouse(self) -> None:
        self._awake = True
        try:
            self._wake.release()
        except RuntimeError:
            pass  # it is on its way already

    def _drop(self) -> None:
        self._dropped += 1
        _lose(self._name, 1)
        if not self._full:
            self._full = True
            self._tell(f"Lines of {self._name} are lost: what it goes to takes them too slowly, or not at all", False)

    def _tell(self, text: str, over: bool) -> None:
        if self._report is not None:
            self._report(text, over)

    def _write_directly(self, line: str) -> None:
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # the parent process tells of it

    def forget(self) -> None:
        """In a child that was forked off: leave the parent's lines to the parent, and write further ones at once."""
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
                # Who added a line before that did not wake anyone.
                if not self._queue and not self._reopening:
                    break
                self._awake = True
            if self._closing:
                if self._path is not None:
                    os.close(self._fd)
                return

    def _work(self) -> bool:
        """Write what is in the queue; whether there was anything to do."""
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
                # There may be no end to the lines.
                self._follow()
            lines.append(line)
            size += len(line)
        self._write(lines)
        # Several threads may have added and subtracted at once; now it is known.
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
                # What follows half a line would be taken for its other half.
                os.write(self._fd, b"\n")
                self._torn = False
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    if self._closing:
                        return
                    # Who shares the pipe or terminal made it so; it is full, not broken.
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
        """Tell that trouble is over, where it is."""
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
        """Open the file anew where that was asked for, or where another or none has its name by now."""
        reopening, self._reopening = self._reopening, False
        if self._path is None:
            return
        if reopening:
            self._open_anew(self._path)
        elif self._identity is not None and monotonic() >= self._watch_at:
            self._watch(self._path)

    def _look(self) -> None:
        """Find out what the descriptor is."""
        self._identity = None
        try:
            status = os.fstat(self._fd)
        except OSError:
            return  # writing will tell
        # Several processes may write to one pipe.
        self._chunk = _PIPE_WRITE if stat.S_ISFIFO(status.st_mode) else _WRITE
        if self._path is not None and stat.S_ISREG(status.st_mode):
            self._identity = status.st_dev, status.st_ino
            self._watch_at = monotonic() + WATCH_INTERVAL

    def _watch(self, path: str) -> None:
        """Open the file anew where another or none has its name by now."""
        self._watch_at = monotonic() + WATCH_INTERVAL
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == self._identity:
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # the file that is open is still good
        self._open_anew(path)

    def _open_anew(self, path: str) -> None:
        try:
            fd = _open(path)
        except OSError as error:
            if not self._stuck:
                self._stuck = True
                self._tell(f"Cannot open {self._name} anew: {error}; lines go on to where they went before", False)
            return
        os.close(self._fd)
        self._fd = fd
        self._torn = False
        self._look()
        if self._stuck:
            self._stuck = False
            self._tell(f"{self._name} is open anew", True)


def _open(path: str) -> int:
    """Open ``path`` to append to; a FIFO too, whether somebody reads it yet or not.

    :raises OSError: where that is not possible.
    """
    try:
        fd = os.open(path, _FILE_FLAGS | os.O_NONBLOCK, _FILE_MODE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # A FIFO without a reader.  To open it for reading, too, waits for nobody; lines wait in it until somebody comes.
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return fd


_LINE_FEED: Final = 0x0A

#: Lines that were lost since the process began, by the name of the log.
_lost_lines: dict[str, int] = {}


def _lose(name: str, number: int) -> None:
    # Two threads that add at the same moment may count one line too few; a lock could meet itself in a signal handler.
    _lost_lines[name] = _lost_lines.get(name, 0) + number


def lost_lines() -> dict[str, int]:
    """How many lines were lost since the process began, by the name of the log; 0 for logs that lost none."""
    return {sink._name: 0 for sink in list(_sinks)} | _lost_lines


#: All that have not been closed.
_sinks: weakref.WeakSet[Sink] = weakref.WeakSet()


def _after_fork() -> None:
    for sink in list(_sinks):
        sink.forget()


def _at_exit() -> None:
    for sink in list(_sinks):
        sink.flush()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
