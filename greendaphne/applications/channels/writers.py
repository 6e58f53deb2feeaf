"""Runs what writes replies to WebSockets: as few greenlets as there are sockets that cannot take what is sent right now.

A greenlet for every reply would cost more than the reply: CPython maps and unmaps memory for the stack of each.  So one greenlet writes
whatever there is to write, socket after socket.  Where a socket makes it wait, the next one goes on with the rest, and none waits for
another's client.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from gevent import get_hub, getcurrent
from greenlet import GreenletExit, greenlet

logger = logging.getLogger("daphne.ws_protocol")

#: Greenlets kept for later when there is nothing to write.
_KEPT = 16
#: Jobs in a row, before other greenlets of the process get their turn.
_IN_A_ROW = 100
#: Messages written without a job after which the hub is asked for its turn.
HALF_IN_A_ROW = _IN_A_ROW // 2


class Writers:
    """Runs jobs in order of their arrival; each may block.  Used by one hub.

    :param on_failure: called for a job that ended by an error of its own.
    """

    __slots__ = ("_closed", "_idle", "_jobs", "_on_failure", "_scheduled", "left")

    def __init__(self, on_failure: Callable[[], None] = lambda: None) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle: list[greenlet] = []
        self._closed = False
        # Whether the hub will call _go, or is at it.
        self._scheduled = False
        self._on_failure = on_failure
        #: How many jobs' work may be done without one until the hub is back.
        self.left = _IN_A_ROW

    def add(self, job: Callable[[], None]) -> None:
        """Have ``job`` run soon; never switches."""
        self._jobs.append(job)
        if not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._go)

    def may_write(self) -> bool:
        """Whether something short may be written right now, in the caller's greenlet; if not, a job has to be added for it.

        A caller may have thousands of messages to send, and other greenlets want their turn meanwhile.
        """
        self.left = left = self.left - 1
        return left > HALF_IN_A_ROW or self.goes_on(left)

    def goes_on(self, left: int) -> bool:
        """As :meth:`may_write` where :attr:`left`, counted down by the caller, is at most :data:`HALF_IN_A_ROW`."""
        if left == HALF_IN_A_ROW:
            get_hub().loop.run_callback(self._refill)
        return left > 0

    def _refill(self) -> None:
        # Runs in the hub: others have their turn.
        self.left = _IN_A_ROW

    def close(self) -> None:
        """End the greenlets that are kept, and keep none from now on."""
        self._closed = True
        while self._idle:
            worker = self._idle.pop()
            # Where it ends is where this goes on.
            worker.parent = getcurrent()
            worker.switch()

    def _go(self) -> None:
        """Let a greenlet work; called by the hub, to which it comes back when the greenlet has to wait or has done its share."""
        idle = self._idle
        self._refill()
        try:
            if idle:
                idle.pop().switch()
            else:
                greenlet(self._work, get_hub()).switch()
        finally:
            # Also where a greenlet ended by an error: jobs that no call is scheduled for would wait for ever.
            if self._jobs:
                get_hub().loop.run_callback(self._go)
            else:
                self._scheduled = False

    def _work(self) -> None:
        hub = get_hub()
        jobs = self._jobs
        idle = self._idle
        while True:
            for _ in range(_IN_A_ROW):
                if not jobs:
                    break
                try:
                    jobs.popleft()()
                except GreenletExit:
                    # This greenlet was killed; the next job has another.
                    return
                except BaseException:
                    # One that escaped would take the jobs behind it along; a time limit (gevent.Timeout) is no Exception.
                    self._on_failure()
                    logger.exception("Error writing to a WebSocket")
            if self._closed or len(idle) >= _KEPT:
                return
            idle.append(getcurrent())
            hub.switch()
