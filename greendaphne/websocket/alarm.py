"""Wakes the greenlet that waits for a WebSocket's bytes: at a time, or because the WebSocket's state has changed."""

from __future__ import annotations

from math import inf
from typing import Any

from gevent import get_hub


class Woken(BaseException):
    """Thrown into the owner where it waits for bytes: it has to look at the state and at the time."""


class Alarm:
    """Throws :class:`Woken` into a greenlet that waits.  Used by one hub."""

    __slots__ = ("_timer", "at", "waiting")

    def __init__(self) -> None:
        #: The greenlet that waits; it sets and clears this.
        self.waiting: Any = None
        #: When the timer rings.  It is not set anew with every wait but rings for nothing where the limit has moved on: setting it is what
        #: costs.
        self.at = inf
        self._timer: Any = None

    def set(self, at: float, now: float) -> None:
        """Ring at ``at``, on the monotonic clock, and at no other time."""
        self.stop()
        self.at = at
        self._timer = get_hub().loop.timer(at - now)
        self._timer.start(self._ring)

    def stop(self) -> None:
        """Do not ring."""
        timer, self._timer = self._timer, None
        self.at = inf
        if timer is not None:
            timer.stop()
            timer.close()

    def wake(self) -> None:
        """Have the greenlet look again soon, if it waits."""
        if self.waiting is not None:
            get_hub().loop.run_callback(self._throw)

    def _ring(self) -> None:
        # Runs in the hub, like the next method.
        self.stop()
        self._throw()

    def _throw(self) -> None:
        # The greenlet may have stopped waiting meanwhile, and must not be disturbed anywhere else.
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.throw(Woken)
