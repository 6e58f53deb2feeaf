"""Turns of the event loop: how long one peer's input may be processed before the other connections are served.

A peer chooses how many units its bytes make: one read of 64 KiB holds eleven thousand chunks of one byte, and nothing in such a loop
waits for anything.  So every loop over a peer's units (chunks, frames, header sections, messages, pipelined requests) has a
:class:`Turn`, counts what it does with :meth:`Turn.spend`, and gives way when the turn is over.

A turn ends after :data:`TURN_SECONDS`.  That is the time of the event loop, not of one connection: greenlets that gave way wait in one
queue for each hub, and each iteration of the loop continues them, in order, for :data:`TURN_SECONDS` together.  In between, the loop
polls the sockets and runs everything else.  ``gevent.sleep(0)`` does not do this: gevent runs up to fifty callbacks before it looks at
the time, so one greenlet that calls it every 5 ms keeps the loop from its sockets for a quarter of a second.

The clock is read once for :data:`LOOK_EVERY` units of work; below that a turn costs one subtraction.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from gevent import get_hub
from gevent.hub import Waiter

#: Seconds of an iteration of the event loop that peers' units may take, all connections together.  A request of another client crosses
#: the loop two or three times, so this is a quarter of the delay that it may see.
TURN_SECONDS: Final = 0.002
#: Units of work between two looks at the clock.  One unit is about 10 µs at most: a frame, a chunk.
LOOK_EVERY: Final = 16
#: A read of fewer bytes has emptied the socket, in bytes.
SHORT_READ: Final = 4096


class _Queue:
    """The greenlets of one hub that gave way.

    :param loop: the hub's event loop.
    """

    __slots__ = ("_armed", "_timer", "_waiting", "ends")

    def __init__(self, loop: Any) -> None:
        self._waiting: deque[Waiter[None]] = deque()
        # A timer of 0 seconds rings in the next iteration, after the sockets were polled; with the least priority, so after all else.
        self._timer = loop.timer(0, priority=loop.MINPRI)
        self._armed = False
        #: When the turn of this iteration ends, on the monotonic clock; in the past where no greenlet waits.
        self.ends = 0.0

    def wait(self) -> None:
        """Wait for the next iteration in which there is time."""
        waiter: Waiter[None] = Waiter()
        self._waiting.append(waiter)
        if not self._armed:
            self._armed = True
            self._timer.start(self._continue)
        waiter.get()

    def _continue(self) -> None:
        # Runs in the hub; each switch returns when the greenlet waits for something or gives way again.
        waiting = self._waiting
        self.ends = monotonic() + TURN_SECONDS
        # The number is fixed before: what gives way again waits for the next iteration.
        for _ in range(len(waiting)):
            waiting.popleft().switch(None)
            if monotonic() >= self.ends:
                break
        self._timer.stop()
        if waiting:
            self._timer.start(self._continue)
        else:
            self._armed = False


_queues: WeakKeyDictionary[Any, _Queue] = WeakKeyDictionary()


def _queue() -> _Queue:
    hub = get_hub()
    queue = _queues.get(hub)
    if queue is None:
        queue = _queues[hub] = _Queue(hub.loop)
    return queue


class Turn:
    """Counts the work that one greenlet does for its peer.  Belongs to the hub that it was made in."""

    __slots__ = ("_queue", "left")

    def __init__(self) -> None:
        self._queue = _queue()
        #: Units until the next look at the clock; a loop of many small units may subtract from it itself, and call :meth:`look` at 0.
        self.left = LOOK_EVERY

    def received(self, n: int) -> None:
        """``n`` bytes came in one read: a short one was waited for, so the units counted before belong to an earlier turn.

        Without this, connections with little to do would look at the clock, and give way for nothing, now and then.
        """
        if n < SHORT_READ:
            self.left = LOOK_EVERY

    def spend(self, work: int = 1) -> None:
        """Count ``work`` units, and give way where the turn is over.

        :param work: in units of about 10 µs.
        """
        self.left -= work
        if self.left <= 0:
            self.look()

    def look(self) -> None:
        """Give way where the turn is over."""
        if self.over():
            self._queue.wait()

    def over(self, work: int = 0) -> bool:
        """Count ``work`` units; returns whether the turn is over, for callers that cannot give way themselves."""
        self.left -= work
        if self.left > 0:
            return False
        self.left = LOOK_EVERY
        return monotonic() >= self._queue.ends

    def give_way(self) -> None:
        """Wait for the next turn."""
        self.left = LOOK_EVERY
        self._queue.wait()
