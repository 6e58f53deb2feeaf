"""The overload policy: what the server does when memory, disk or descriptors of the process are short.

The rules, in the order in which they apply; ``docs/operations.rst`` has them as a table for operators:

1. Each connection has a share of memory for data that can be stored on disk (``limits.reply_queue``).  Data beyond it goes to disk.
2. When half of the memory is in use, all data that can be stored on disk goes there: waiting replies and arriving request bodies.
3. When memory or disk is used up, the server evicts the connections that hold most for longest: it answers an upload with 503, closes a
   WebSocket with 1013, and closes any other connection.  It continues to serve those that hold least: a connection always gets the memory
   for a request of ordinary size (64 KiB).
4. If nothing can be freed for a request or message, the server refuses it: 503 with ``Retry-After``, or 1013.
5. When all descriptors for connections are in use, the server closes the connection that has been idle for longest for the next client; see
   :meth:`greendaphne.serving.connections.Connections.make_room`.

The log has one line when an overload begins and one when it ends.  The server returns memory that clients have released to the system.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
from collections.abc import Callable
from math import inf
from tempfile import gettempdir
from time import monotonic
from typing import Any, Final

import gevent
from gevent import get_hub

from ..config import KIB, MIB, Limits
from ..core import greenlets
from ..core.accounts import Account, Allowance
from .memory import available, forget_names, resident, trim
from .peak_heap import PeakHeap
from .shortage import Shortage
from .spool import Spool, disk_log

logger = logging.getLogger("daphne.server")

#: The memory of each kind of connection without any content, in bytes: objects, a greenlet and its stack; OpenSSL's state; HTTP/2's tables
#: and buffers; a stream.
PLAIN: Final = 24 * KIB
TLS: Final = 64 * KIB
HTTP2: Final = 64 * KIB

#: The fraction of the machine's or the container's memory for all processes of one server, unless ``limits.memory`` is set.
SHARE: Final = 1 / 2
#: The fraction of the memory that clients share.  The rest is for memory that is not counted: under attack a server with a limit of 160 MiB
#: occupied 20 to 60 MiB more than it counted.  As far as we know that consists of free pages that the allocator had not returned, of
#: messages that workers handle (up to 4 MB each), and of memory that is granted beyond the allowance for a moment
#: (:data:`.shortage.OVERDRAFT`).
COUNTED: Final = 2 / 3
#: The minimum number of bytes for clients, even if the process itself is large.
LEAST: Final = 32 * MIB
#: Bytes that each connection may hold even if no memory is left: a request of ordinary size.
SMALL: Final = 64 * KIB
#: The fraction of the allowance by which it may be exceeded.  Beyond that the grace below ends, and connections that hold little are
#: evicted too.
MARGIN: Final = 1 / 32
#: The maximum fraction of the free disk space that is used.
DISK_SHARE: Final = 0.9
#: Seconds for which a connection keeps its memory or disk before it can be evicted, so that an upload in progress is not given up for the
#: next one.
MEMORY_GRACE: Final = 1.0
DISK_GRACE: Final = 5.0
#: Seconds between looks while clients hold a notable part of the memory.
TICK: Final = 0.25
#: The fractions of the memory for clients above which small objects are allocated on the C library's heap, and below which Python's
#: allocator is used again; see :mod:`.peak_heap`.
PEAK: Final = 1 / 4
PEAK_END: Final = 1 / 8
#: Seconds without shortage after which an overload is over.
CALM: Final = 5.0
#: Bytes that clients may hold before the timer watches the memory.
WATCHED: Final = 4 * MIB
#: The growth of the process in bytes, since clients held little, below which returning memory is not worth its time.
GROWN: Final = 8 * MIB
#: Bytes that clients release before free memory is returned to the system.  All threads that allocate wait meanwhile, 0.05 to 0.2 ms for
#: each MiB.  So it is done in steps of less than 20 ms each.
TRIM_STEP: Final = 32 * MIB
#: The minimum number of seconds between two returns of memory, because the system has to clear returned pages before they are used again.
TRIM_INTERVAL: Final = 1.0
#: Seconds for which clients must hold little before the rest of the memory is returned.
SETTLED: Final = 3.0

#: Descriptors for the server's own files, the application and its databases: a fraction of all, within bounds.
DESCRIPTOR_PART: Final = 8
FEWEST_DESCRIPTORS, MOST_DESCRIPTORS = 32, 1024


def connections_limit(limits: Limits) -> int:
    """The maximum number of connections: ``limits.connections``, or the number that the descriptors allow if it is 0.

    That is the soft limit of RLIMIT_NOFILE without the open descriptors and without a reserve of an eighth (32 to 1024) for listening
    sockets, log files, the spool, and the files and database connections of the application.
    """
    if limits.connections:
        return limits.connections
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return 0
    reserve = min(max(soft // DESCRIPTOR_PART, FEWEST_DESCRIPTORS), MOST_DESCRIPTORS)
    return max(soft - reserve - _open_descriptors(), 1)


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 16


_NONE_COUNTED: Final = (0, 0)


class Overload:
    """The allowances of one server and the measures when they are short.

    :param limits: ``memory``, ``spooled_bodies`` and ``connections`` are used.
    :param processes: the number of servers that share the machine; 0 or 1 for a single one.
    """

    def __init__(self, limits: Limits, processes: int = 0) -> None:
        self._total = limits.memory or int(available() * SHARE / max(processes, 1))
        self._disk_limit = limits.spooled_bodies
        #: Accounts of the open connections.
        self.accounts: set[Account] = set()
        self.memory = Allowance()
        self.disk = Allowance(limits.spooled_bodies)
        #: Stores data that does not fit in memory.
        self.spool = Spool(self.disk)
        self._shortages = (
            Shortage("memory", self.memory, self.accounts, grace=MEMORY_GRACE, small=SMALL, margin=MARGIN, on_short=self._short),
            Shortage("disk", self.disk, self.accounts, grace=DISK_GRACE, small=0, margin=MARGIN, on_short=self._short),
        )
        #: The number of overloads so far, and the start of the present one; 0 without one.
        self.number = 0
        self.since = 0.0
        self._counted = _NONE_COUNTED
        #: How often memory was returned to the system.
        self.trims = 0
        #: The maximum number of connections; 0 for no limit.
        self.connections = connections_limit(limits)
        #: The number of idle connections that were closed for waiting ones.
        self.displaced = 0
        self._timer: Any = None
        self._low = inf
        self._trimmed = -inf
        self._settled = 0.0
        self._dirty = False
        self._trimming = False
        self._heap = PeakHeap()
        # The size of the process at the start, and the number of evicted connections at the last garbage collection.
        self._resident = 0
        self._collected = 0
        self._set_memory(int(self._total * COUNTED))
        self.memory.on_alert = self._alerted
        self.memory.on_returned = self._returned

    # ---- the server's life

    def start(self) -> None:
        """Measure the process and the disk; called in the server's hub after the application has been loaded."""
        self._resident = resident()
        self._set_memory(int((self._total - self._resident) * COUNTED))
        self._measure_disk()

    def stop(self) -> None:
        """Release the timer, and let Python allocate all objects again."""
        self._heap.leave()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _set_memory(self, size: int) -> None:
        memory = self.memory
        memory.resize(max(size, LEAST))
        memory.spill = memory.size // 2
        memory.alert = memory.size - min(WATCHED, memory.size // 4)

    def _measure_disk(self) -> None:
        """Set the size of the disk's allowance from the free space."""
        try:
            state = os.statvfs(gettempdir())
        except OSError as error:
            disk_log.failed(error)
            return
        room = self.disk.held + int(state.f_bavail * state.f_frsize * DISK_SHARE)
        self.disk.resize(min(self._disk_limit, room))

    # ---- connections

    def open(self) -> Account:
        """The account of a new connection."""
        account = Account(self.memory)
        self.accounts.add(account)
        self.memory.left -= PLAIN
        return account

    def closed(self, account: Account, cost: int = 0) -> None:
        """The connection of ``account`` has ended.

        :param cost: the sum of the bytes passed to :meth:`charge`.
        """
        self.accounts.discard(account)
        account.settle()
        self.memory.give(PLAIN + cost)

    def charge(self, cost: int) -> None:
        """Count ``cost`` bytes for a connection besides :data:`PLAIN`."""
        self.memory.note(cost)

    # ---- shortage

    def _short(self, shortage: Shortage) -> None:
        if not self.since:
            self.since = monotonic()
            self.number += 1
            self._counted = (sum(each.evicted for each in self._shortages), sum(each.refused for each in self._shortages))
            allowance = shortage.allowance
            # In a separate greenlet: a log handler may wait, and callers must not, such as a channel layer that holds its lock.
            gevent.spawn(
                logger.warning,
                "Overload: clients hold %d of %d MiB of %s; the connections that hold most are closed, and large requests are refused",
                allowance.held // MIB,
                allowance.size // MIB,
                shortage.name,
            )
        self._watch()

    def _end_overload(self, now: float) -> None:
        evicted, refused = self._counted
        logger.warning(
            "The overload is over after %d seconds: connections were told %d times to release memory or disk, and %d requests or messages "
            "were refused",
            now - self.since,
            sum(each.evicted for each in self._shortages) - evicted,
            sum(each.refused for each in self._shortages) - refused,
        )
        self.since = 0.0

    def shortages(self) -> tuple[Shortage, ...]:
        """Memory and disk."""
        return self._shortages

    # ---- watching, while clients hold much memory

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = get_hub().loop.timer(TICK, TICK, ref=False)
            self._timer.start(self._tick)
        self._settled = 0.0

    def _alerted(self) -> None:
        # The next call of this function is due only when no memory is left.
        self.memory.alert = 0
        self._dirty = True
        self._watch()

    def _tick(self) -> None:
        now = monotonic()
        memory = self.memory
        self._low = min(self._low, memory.left)
        if not self._heap.active:
            if memory.held > memory.size * PEAK:
                self._heap.enter()
        elif memory.held < memory.size * PEAK_END:
            self._heap.leave()
        if now - self._trimmed >= TRIM_INTERVAL:
            memory.returned = self._low + TRIM_STEP
        if self.since:
            if self.disk.left < 0 or self._shortages[1].last > now - CALM:
                self._measure_disk()
            if all(now - each.last >= CALM for each in self._shortages) and not memory.left < 0:
                self._end_overload(now)
                self._measure_disk()
        if memory.held > min(WATCHED, memory.size // 4) or self.since:
            self._settled = 0.0
        elif not self._settled:
            self._settled = now
        elif now - self._settled >= SETTLED and not self._trimming:
            # Not while memory is being returned: the last return would be left out.
            self.stop()
            self._settle()
            self._clean_up()

    def _settle(self) -> None:
        """Forget what was measured during a peak.

        Python's allocator returns 1 MiB to the system when it holds no object any more.  Numbers that were computed during the peak lie
        between the objects of requests, so each one that is kept would keep 1 MiB.
        """
        memory = self.memory
        self._low = inf
        self._settled = 0.0
        self._trimmed = -inf
        self._counted = _NONE_COUNTED
        for shortage in self._shortages:
            shortage.settle()
        memory.returned = inf
        memory.alert = memory.size - min(WATCHED, memory.size // 4)

    def _clean_up(self) -> None:
        """Return the rest of the memory of a peak."""
        if self._dirty and resident() > self._resident + GROWN and not self._trimming:
            self._trimming = True
            greenlets.shrink()
            forget_names()
            gevent.spawn(self._give_back, self._collect)
        self._dirty = False

    def _returned(self) -> None:
        # The next step counts the bytes released from here on.
        self._low = self.memory.left
        self.memory.returned = self._low + TRIM_STEP
        if not self._trimming:
            self._trimming = True
            gevent.spawn(self._give_back)

    def _give_back(self, afterwards: Callable[[], bool] | None = None) -> None:
        """Return free memory to the system, in a native thread, and once more if ``afterwards`` frees objects."""
        try:
            self._trimmed = monotonic()
            while True:
                self.trims += 1
                get_hub().threadpool.apply(trim)
                if afterwards is None or not afterwards():
                    return
                afterwards = None
        finally:
            self._trimming = False

    def _collect(self) -> bool:
        """Collect garbage if evicted connections may have left large cycles.

        Python collects cycles of greenlets and exceptions only after it has created many more objects.  A collection blocks the hub, so it
        is done only for memory that is not released otherwise.
        """
        evicted = sum(each.evicted for each in self._shortages)
        if evicted == self._collected or resident() <= self._resident + GROWN:
            return False
        self._collected = evicted
        return gc.collect() > 0
