"""Turns of the event loop: how long the server processes one peer's input before it serves the other connections.

A peer chooses how many units its bytes make: one read of 64 KiB holds eleven thousand chunks of one byte, and a loop over them never
waits.  So every loop over a peer's units (chunks, frames, header sections, messages, pipelined requests) has a :class:`Turn`, counts its
work with :meth:`Turn.spend`, and gives way when the turn is over.

A turn ends after :data:`TURN_SECONDS`.  The limit is for the event loop, not for one connection: greenlets that gave way wait in one queue
per hub, and each iteration of the loop continues them, in order, for :data:`TURN_SECONDS` in total.  Between two such periods the loop
polls the sockets and runs everything else.  ``gevent.sleep(0)`` does not suffice: gevent runs up to fifty callbacks before it checks the
time, so a greenlet that calls it every 5 ms keeps the loop from its sockets for a quarter of a second.

The clock is read once per :data:`LOOK_EVERY` units of work; otherwise a turn costs one subtraction.

What precedes the first check of the clock is small, but every connection may do it in the same iteration: 300 requests that come at once,
300 time limits that pass at once.  So the hub's callbacks for such events go through :class:`Events`: each iteration continues connections
for :data:`EVENT_SECONDS` in total, and the others in the next ones, in the order of their events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from gevent import get_hub
from gevent.hub import Waiter

#: Seconds per iteration of the event loop for peers' units, all connections together.  A request of another client crosses the loop
#: two or three times, so its delay is at most about four times this value.
TURN_SECONDS: Final = 0.002
#: Units of work between two checks of the clock.  One unit, such as a frame or a chunk, takes at most about 10 µs.
LOOK_EVERY: Final = 16
#: A read of fewer bytes is taken to have emptied the socket.
SHORT_READ: Final = 4096
#: Seconds per iteration of the event loop for connections that an event wakes, such as input; later ones wait for the next iteration.
EVENT_SECONDS: Final = 0.005
#: Events between two checks of the clock.
EVENTS_EVERY: Final = 8


class _Queue:
    """The greenlets of one hub that have given way.

    :param loop: the hub's event loop.
    """

    __slots__ = ("_armed", "_timer", "_waiting", "ends", "events")

    def __init__(self, loop: Any, events: Events) -> None:
        #: The events of the same hub.
        self.events = events
        self._waiting: deque[Waiter[None]] = deque()
        # A timer of 0 seconds fires in the next iteration, after the poll of the sockets; with the lowest priority, after all else.
        self._timer = loop.timer(0, priority=loop.MINPRI)
        self._armed = False
        #: The end of this iteration's turn, on the monotonic clock; a time in the past when no greenlet waits.
        self.ends = 0.0

    def wait(self) -> None:
        """Wait for the next iteration that has time left."""
        waiter: Waiter[None] = Waiter()
        self._waiting.append(waiter)
        if not self._armed:
            self._armed = True
            self._timer.start(self._continue)
        waiter.get()

    def _continue(self) -> None:
        # Runs in the hub; each switch returns when the greenlet waits or gives way again.
        waiting = self._waiting
        self.ends = monotonic() + TURN_SECONDS
        # The number is fixed before the loop: a greenlet that gives way again waits for the next iteration.
        for _ in range(len(waiting)):
            waiting.popleft().switch(None)
            if monotonic() >= self.ends:
                break
        self._timer.stop()
        if waiting:
            self._timer.start(self._continue)
        else:
            self._armed = False


class Events:
    """The connections of one hub for which an event has come: input, room for output, a time limit.

    A callback of the hub that continues a connection's greenlet counts down :attr:`left`, and where that gives 0 or less it asks
    :meth:`late`.  If so, it calls :meth:`add` instead of continuing the greenlet.

    :param loop: the hub's event loop.
    """

    __slots__ = ("_armed", "_began", "_iteration", "_loop", "_timer", "_waiting", "left")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        # With the highest priority: connections that wait come before the events of the next iteration.
        self._timer = loop.timer(0, priority=loop.MAXPRI)
        self._armed = False
        # The iteration that checked the clock last, and the time of its first check.
        self._iteration = -1
        self._began = 0.0
        #: Events until the next check of the clock.
        self.left = EVENTS_EVERY

    def late(self) -> bool:
        """Whether this iteration has continued connections for :data:`EVENT_SECONDS`; false where the loop does not count iterations."""
        iteration = self._loop.iteration
        now = monotonic()
        if iteration != self._iteration or iteration < 0:
            self._iteration = iteration
            self._began = now
        elif now - self._began >= EVENT_SECONDS:
            # The next event asks again.
            return True
        self.left = EVENTS_EVERY
        return False

    def add(self, resume: Callable[[], object]) -> None:
        """Call ``resume`` in the hub, in the next iteration that has time left."""
        self._waiting.append(resume)
        if not self._armed:
            self._armed = True
            self._timer.start(self._continue)

    def wait(self) -> None:
        """Count an event of the calling greenlet, and wait for an iteration that has time left."""
        self.left -= 1
        if self.left <= 0 and self.late():
            self.give_way()

    def give_way(self) -> None:
        """Wait for an iteration that has time left."""
        waiter: Waiter[None] = Waiter()
        self.add(partial(waiter.switch, None))
        waiter.get()

    def _continue(self) -> None:
        # Runs in the hub; each call returns when the greenlet waits or gives way.
        waiting = self._waiting
        self._iteration = self._loop.iteration
        self._began = began = monotonic()
        self.left = EVENTS_EVERY
        try:
            for _ in range(len(waiting)):
                waiting.popleft()()
                if monotonic() - began >= EVENT_SECONDS:
                    break
        finally:
            self._timer.stop()
            if waiting:
                self._timer.start(self._continue)
            else:
                self._armed = False


_queues: WeakKeyDictionary[Any, _Queue] = WeakKeyDictionary()
_events: WeakKeyDictionary[Any, Events] = WeakKeyDictionary()


def _queue() -> _Queue:
    hub = get_hub()
    queue = _queues.get(hub)
    if queue is None:
        queue = _queues[hub] = _Queue(hub.loop, events())
    return queue


def events() -> Events:
    """Return the events of this thread's hub."""
    hub = get_hub()
    found = _events.get(hub)
    if found is None:
        found = _events[hub] = Events(hub.loop)
    return found


class Turn:
    """Counts the work that one greenlet does for its peer.  An instance belongs to the hub that created it."""

    __slots__ = ("_queue", "left")

    def __init__(self) -> None:
        self._queue = _queue()
        #: Units until the next check of the clock; a loop of many small units may subtract from it and call :meth:`look` at 0.
        self.left = LOOK_EVERY

    def received(self, n: int) -> None:
        """Record a read of ``n`` bytes.  A short read follows a wait, so the units counted before it belong to an earlier turn.

        Without this, connections with little work would sometimes check the clock and give way without need.
        """
        if n < SHORT_READ:
            self.left = LOOK_EVERY

    def spend(self, work: int = 1) -> None:
        """Count ``work`` units, and give way if the turn is over.

        :param work: in units of about 10 µs.
        """
        self.left -= work
        if self.left <= 0:
            self.look()

    def look(self) -> None:
        """Give way if the turn is over."""
        if self.over():
            self._queue.wait()

    def over(self, work: int = 0) -> bool:
        """Count ``work`` units and return whether the turn is over, for callers that cannot give way themselves."""
        self.left -= work
        if self.left > 0:
            return False
        self.left = LOOK_EVERY
        queue = self._queue
        # So much work may be an event's: without this check, seven more connections could do as much in the same iteration.
        queue.events.left = 0
        return monotonic() >= queue.ends

    def give_way(self) -> None:
        """Wait for the next turn."""
        self.left = LOOK_EVERY
        self._queue.wait()
