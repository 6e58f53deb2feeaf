"""The one overload policy: what happens when memory, disk or descriptors of the process are short.

The rules, in the order in which they apply; ``docs/operations.rst`` has them as a table for operators:

1. Each connection has a share of memory for what can be stored on disk (``limits.reply_queue``).  What is beyond goes to disk.
2. When half of the memory is taken, everything that can be stored on disk is: replies that wait, request bodies that are coming in.
3. When memory or disk is used up, the connections that hold most for longest are told to let go of it: an upload is answered with 503, a
   WebSocket closed with 1013, any other connection closed.  Those that hold least are served on: what a connection needs for a request
   of ordinary size (64 KiB) is always granted.
4. What can still be refused, and for which nothing can be freed, is: 503 with ``Retry-After``, 1013.
5. When all descriptors for connections are taken, the connection that has been idle for longest is closed for the next client; see
   :meth:`greendaphne.serving.connections.Connections.make_room`.

The log has one line when an overload begins and one when it is over.  Memory that came back from clients is given back to the system.
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
from ..core.accounts import NOTABLE, Account, Allowance
from .memory import available, resident, trim
from .spool import Spool, disk_log

logger = logging.getLogger("daphne.server")

#: What each kind of connection takes without any content, in bytes: objects, a greenlet and its stack; what OpenSSL has; HTTP/2's tables
#: and buffers; a stream.
PLAIN: Final = 24 * KIB
TLS: Final = 64 * KIB
HTTP2: Final = 64 * KIB

#: Part of the machine's or the container's memory that all processes of one server may have, unless ``limits.memory`` says it.
SHARE: Final = 1 / 2
#: Part of the memory that is shared out.  The rest is for what is not counted: under attack a server of 160 MiB has 20 to 60 MiB more than
#: it counts.  These are pages that the allocator has free and has not returned yet, up to 45 MiB between pieces of 4 KiB to 4 MB; the one
#: message that each worker of the application has, 4 MB each; what is granted beyond the allowance for a moment, see :data:`OVERDRAFT`.
COUNTED: Final = 2 / 3
#: Bytes for clients at least, however large the process is without them.
LEAST: Final = 32 * MIB
#: Bytes that each connection may hold whatever is left: a request of ordinary size.
SMALL: Final = 64 * KIB
#: Part of the allowance by which it may be exceeded before the grace below ends, and connections that hold little have to let go too.
MARGIN: Final = 1 / 32
#: Part of the allowance that is granted beyond it because others were told to let go: they may take a while, and get more meanwhile.
OVERDRAFT: Final = 1 / 8
#: What these hold at least, in bytes.
LEAST_HELD: Final = 4 * KIB
#: Seconds between two looks for connections that have to let go.
LOOK: Final = 0.005
#: Part of the free room on the disk that is used at most.
DISK_SHARE: Final = 0.9
#: Seconds for which a connection may hold as much as it got, memory and disk, before others come first: an upload in progress is not to be
#: given up for the next one.
MEMORY_GRACE: Final = 1.0
DISK_GRACE: Final = 5.0
#: Seconds for a connection to let go before it is closed, and before another one has to.
PATIENCE: Final = 0.5
#: Seconds within which a connection that has to let go for the second time is closed.
STRIKE: Final = 30.0
#: Seconds between looks while clients hold a notable part of the memory.
TICK: Final = 0.25
#: Seconds without shortage after which an overload is over.
CALM: Final = 5.0
#: Bytes that clients may hold before that is watched.
WATCHED: Final = 4 * MIB
#: Bytes by which the process must have grown since it held little for clients, for that to be worth the time.
GROWN: Final = 8 * MIB
#: Bytes that come back before the system is given what is free.  Everything that allocates waits meanwhile, 0.05 to 0.2 ms for each MiB.
#: So it is done in steps, which take less than 20 ms also while much comes back at once.
TRIM_STEP: Final = 32 * MIB
#: Seconds between two such times where memory is taken again in between: pages that were given back have to be cleared anew.
TRIM_INTERVAL: Final = 1.0
#: Seconds after which the rest follows once clients hold little again.
SETTLED: Final = 3.0

#: Descriptors for the server's own files, the application and its databases: a part of all, within bounds.
DESCRIPTOR_PART: Final = 8
FEWEST_DESCRIPTORS, MOST_DESCRIPTORS = 32, 1024


def connections_limit(limits: Limits) -> int:
    """The greatest number of connections: ``limits.connections``, or what the descriptors allow where it is 0.

    The soft limit of RLIMIT_NOFILE, without what is open already and a reserve of an eighth (32 to 1024): for listening sockets, log files,
    the spool, and the files and database connections of the application.
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


class Shortage:
    """One resource and the connections that hold it."""

    __slots__ = (
        "_accounts",
        "_coming",
        "_grace",
        "_look",
        "_margin",
        "_on_short",
        "_small",
        "allowance",
        "evicted",
        "last",
        "name",
        "refused",
    )

    def __init__(
        self,
        name: str,
        allowance: Allowance,
        accounts: set[Account],
        *,
        grace: float,
        small: int,
        margin: float,
        on_short: Callable[[Shortage], None],
    ) -> None:
        self.name = name
        self.allowance = allowance
        self._accounts = accounts
        self._grace = grace
        self._small = small
        self._margin = margin
        self._on_short = on_short
        # Bytes that those who were told to let go still hold, until when they have time for it, and when to look for others.
        self._coming = 0
        self._look = 0.0
        #: When it was short last.
        self.last = -inf
        #: Connections that were told to let go, and requests and messages that were refused, since the start.
        self.evicted = 0
        self.refused = 0
        allowance.on_short = self.short

    def _held(self, account: Account) -> tuple[int, float]:
        return (account.memory, account.since) if self.name == "memory" else (account.disk, account.disk_since)

    def short(self, account: Account | None, n: int) -> bool:
        """Make room for ``n`` bytes more for ``account``, or for what was taken already where ``n`` is 0; returns whether it gets them."""
        now = monotonic()
        self.last = now
        self._on_short(self)
        own = 0 if account is None else self._held(account)[0]
        if n and own + n <= self._small:
            self._make_room(n, now)
            return True
        allowance = self.allowance
        if (
            self._make_room(n, now)
            and (account is None or now - account.evicted >= PATIENCE)
            and (not n or n - allowance.left <= int(allowance.size * OVERDRAFT))
        ):
            return True
        if n:
            self.refused += 1
        return False

    def _make_room(self, n: int, now: float) -> bool:
        """Have the connections that hold most for longest let go; returns whether there will be room."""
        allowance = self.allowance
        missing = n - allowance.left
        if now < self._look:
            return self._coming >= missing
        # More than is missing, so that not each request has to look again.
        wanted = missing + allowance.size // 16
        deep = allowance.left < -int(allowance.size * self._margin)
        grace = 0.0 if deep and self._small else self._grace
        least = LEAST_HELD if deep else NOTABLE
        candidates = []
        coming = 0
        for each in self._accounts:
            held, since = self._held(each)
            if held < least:
                continue
            age = now - since
            if now - each.evicted < PATIENCE:
                coming += held
            elif age >= grace:
                candidates.append((held * age, held, each))
        candidates.sort(key=_score, reverse=True)
        for _, held, each in candidates:
            if coming >= wanted:
                break
            coming += held
            self.evicted += 1
            _evict(each, now)
        self._coming = coming
        # A look must not cost more than a part of the time; where it found too little, others will not find more at once.
        self._look = monotonic() + max((monotonic() - now) * 10, LOOK if coming >= missing else PATIENCE / 10)
        return coming >= missing


def _score(candidate: tuple[float, int, Account]) -> float:
    return candidate[0]


def _evict(account: Account, now: float) -> None:
    """Have a connection let go of what it holds, at first in good order."""
    holders = None if now - account.evicted < STRIKE else account.holders
    account.evicted = now
    if holders:
        for holder in list(holders):
            holder.evict()
    elif account.close is not None:
        # Not from within whatever it is that asks.
        get_hub().loop.run_callback(account.close)


class Overload:
    """The allowances of one server and what is done when they are short.

    :param limits: ``memory``, ``spooled_bodies`` and ``connections`` are used.
    :param processes: servers that share the machine, 0 or 1 for this one alone.
    """

    def __init__(self, limits: Limits, processes: int = 0) -> None:
        self._total = limits.memory or int(available() * SHARE / max(processes, 1))
        self._disk_limit = limits.spooled_bodies
        #: Accounts of the open connections.
        self.accounts: set[Account] = set()
        self.memory = Allowance()
        self.disk = Allowance(limits.spooled_bodies)
        #: Where to store what does not fit in memory.
        self.spool = Spool(self.disk)
        self._shortages = (
            Shortage("memory", self.memory, self.accounts, grace=MEMORY_GRACE, small=SMALL, margin=MARGIN, on_short=self._short),
            Shortage("disk", self.disk, self.accounts, grace=DISK_GRACE, small=0, margin=MARGIN, on_short=self._short),
        )
        #: How often an overload has begun, and since when there is one; 0 where there is none.
        self.number = 0
        self.since = 0.0
        self._counted = (0, 0)
        #: Times that memory was given back to the system.
        self.trims = 0
        #: The greatest number of connections, 0 for no bound.
        self.connections = connections_limit(limits)
        #: Connections that were closed because they were idle and others waited.
        self.displaced = 0
        self._timer: Any = None
        self._low = inf
        self._trimmed = -inf
        self._settled = 0.0
        self._dirty = False
        self._trimming = False
        # What the process occupied at the start, and how many connections had been evicted when Python collected cycles last.
        self._resident = 0
        self._collected = 0
        self._set_memory(int(self._total * COUNTED))
        self.memory.on_alert = self._alerted
        self.memory.on_returned = self._returned

    # ---- the server's life

    def start(self) -> None:
        """Measure what there is; called once the application has been loaded, in the server's hub."""
        self._resident = resident()
        self._set_memory(int((self._total - self._resident) * COUNTED))
        self._measure_disk()

    def stop(self) -> None:
        """Release the timer."""
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
        """Set the size of the disk's allowance by the free room."""
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

        :param cost: bytes that :meth:`charge` was told.
        """
        self.accounts.discard(account)
        account.settle()
        self.memory.give(PLAIN + cost)

    def charge(self, cost: int) -> None:
        """A connection takes ``cost`` bytes besides :data:`PLAIN`."""
        self.memory.note(cost)

    # ---- shortage

    def _short(self, shortage: Shortage) -> None:
        if not self.since:
            self.since = monotonic()
            self.number += 1
            self._counted = (sum(each.evicted for each in self._shortages), sum(each.refused for each in self._shortages))
            allowance = shortage.allowance
            # In a greenlet of its own: a log handler may wait, and what asks for memory must not, a channel layer with its lock for one.
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
            "The overload is over after %d seconds: %d times connections had to let go of what they held, and %d requests or messages were "
            "refused",
            now - self.since,
            sum(each.evicted for each in self._shortages) - evicted,
            sum(each.refused for each in self._shortages) - refused,
        )
        self.since = 0.0

    def shortages(self) -> tuple[Shortage, ...]:
        """Memory and disk."""
        return self._shortages

    # ---- watching, while there is something to watch

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = get_hub().loop.timer(TICK, TICK, ref=False)
            self._timer.start(self._tick)
        self._settled = 0.0

    def _alerted(self) -> None:
        # From here on only what is not left any more is of interest.
        self.memory.alert = 0
        self._dirty = True
        self._watch()

    def _tick(self) -> None:
        now = monotonic()
        memory = self.memory
        self._low = min(self._low, memory.left)
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
        elif now - self._settled >= SETTLED:
            self._clean_up()
            self.stop()
            self._low = inf
            memory.returned = inf
            memory.alert = memory.size - min(WATCHED, memory.size // 4)

    def _clean_up(self) -> None:
        """Give back what is left of a peak."""
        if self._dirty and resident() > self._resident + GROWN and not self._trimming:
            self._trimming = True
            gevent.spawn(self._give_back, self._collect)
        self._dirty = False

    def _returned(self) -> None:
        # What comes back from here on is the next step.
        self._low = self.memory.left
        self.memory.returned = self._low + TRIM_STEP
        if not self._trimming:
            self._trimming = True
            gevent.spawn(self._give_back)

    def _give_back(self, afterwards: Callable[[], bool] | None = None) -> None:
        """Give the system what is free, in a native thread, and once more where ``afterwards`` frees something."""
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
        """Collect cycles where connections that were cut short seem to have left large ones.

        Cycles of greenlets and exceptions wait for Python to have made many more objects.  The hub stands still meanwhile, so this is for
        memory that does not come back otherwise.
        """
        evicted = sum(each.evicted for each in self._shortages)
        if evicted == self._collected or resident() <= self._resident + GROWN:
            return False
        self._collected = evicted
        return gc.collect() > 0
