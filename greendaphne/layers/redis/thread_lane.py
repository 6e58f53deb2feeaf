"""How the commands of plain threads get to a shard: through a small pool of connections that all threads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from .. import LayerUnavailable
from .calls import Call, combine, outcome, perform, settle, share
from .connection import Link, LinkError
from .readers import Readers
from .resp import Reply
from .shard import Shard

#: Connections that plain threads share per shard.
THREAD_CONNECTIONS = 8


class ThreadLane:
    """The lane of all plain threads: a bounded pool of connections."""

    def __init__(self, shard: Shard, connections: int = THREAD_CONNECTIONS) -> None:
        self.shard = shard
        self.hub = None
        self._free: list[Link] = []
        self._unopened = connections
        self._available = threading.Condition()
        # How often close() was called: a link that another thread uses meanwhile is closed when it comes back.
        self._closed = 0
        self.readers = Readers(shard, False)

    def run(self, calls: Sequence[Call]) -> list[list[Reply]]:
        closed = self._closed
        link = self._acquire()
        usable = False
        combined = combine(calls)
        try:
            perform(self.shard, link, combined)
            usable = settle(self.shard, combined)
        except LinkError as error:
            raise self.shard.broken(error) from None
        finally:
            self._release(link, usable, closed)
        share(combined)
        return [outcome(call) for call in calls]

    def post(self, call: Call) -> None:
        try:
            self.run([call])
        except LayerUnavailable:
            pass

    def close(self) -> None:
        with self._available:
            links, self._free = self._free, []
            self._unopened += len(links)
            self._closed += 1
        for link in links:
            self.shard.close(link)
        self.readers.close()

    def _acquire(self) -> Link:
        deadline = time.monotonic() + self.shard.timeout
        while True:
            with self._available:
                while not self._free and self._unopened == 0:
                    if not self._available.wait(deadline - time.monotonic()):
                        text = f"Redis {self.shard.name}: no connection came free in {self.shard.timeout} s"
                        raise LayerUnavailable(text, maybe_stored=False)
                link = self._free.pop() if self._free else None
                if link is None:
                    self._unopened -= 1
            try:
                if link is None:
                    return self.shard.open(False, "send")
                if not self.shard.is_stale(link):
                    return link
            except BaseException:
                self._vacate()
                raise
            self.shard.close(link)
            self._vacate()

    def _vacate(self) -> None:
        with self._available:
            self._unopened += 1
            self._available.notify()

    def _release(self, link: Link, usable: bool, closed: int) -> None:
        with self._available:
            if usable and closed == self._closed:
                self._free.append(link)
                self._available.notify()
                return
        self.shard.close(link)
        self._vacate()
