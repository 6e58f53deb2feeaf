"""Wakes the greenlet that waits for a WebSocket's bytes: at a time, or because the WebSocket's state has changed.

A timer of the event loop for each WebSocket would cost an idle one 200 bytes.  So all WebSockets of a hub share one timer.  Each alarm
rounds its time up to a multiple of :data:`GRAIN`, so that alarms with nearly the same time share an entry.  The timer fires at the
earliest of these times.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary

from gevent import get_hub

from ..core.turns import TURN_SECONDS

#: Seconds by which an alarm rings later at most, apart from what the hub is late.
GRAIN: Final = 1 / 64
#: Seconds after which an alarm rings at the latest, which is early for a later one: alarms that were stopped stay in memory until then.
LONGEST: Final = 60.0


class Woken(BaseException):
    """Thrown into the owner where it waits for bytes: it has to look at the state and at the time."""


class Alarm:
    """Throws :class:`Woken` into a greenlet that waits.  Used by one hub."""

    __slots__ = ("at", "waiting")

    def __init__(self) -> None:
        #: The greenlet that waits; it sets and clears this.
        self.waiting: Any = None
        #: When it rings, on the monotonic clock.  It is not set anew with every wait but rings for nothing where the limit has moved on:
        #: setting it is what costs.
        self.at = inf

    def set(self, at: float, now: float) -> None:
        """Ring at ``at``, on the monotonic clock, or after :data:`LONGEST` seconds, and at no other time."""
        hub = get_hub()
        clock = _clocks.get(hub)
        if clock is None:
            clock = _clocks[hub] = _Clock()
        self.at = clock.add(self, min(max(at, now), now + LONGEST))

    def stop(self) -> None:
        """Do not ring."""
        self.at = inf

    def wake(self) -> None:
        """Have the greenlet look again soon, if it waits."""
        if self.waiting is not None:
            get_hub().loop.run_callback(self.ring)

    def ring(self) -> None:
        """Have the greenlet look again; called in the hub."""
        # It may have stopped waiting meanwhile, and must not be disturbed anywhere else.
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.throw(Woken)


class _Clock:
    """Rings the alarms of one hub."""

    __slots__ = ("__weakref__", "_alarms", "_timer", "_times")

    def __init__(self) -> None:
        # The alarms by their times, which are the keys; and these as a heap.
        self._alarms: dict[float, list[Alarm]] = {}
        self._times: list[float] = []
        self._timer: Any = None

    def add(self, alarm: Alarm, at: float) -> float:
        """Have ``alarm`` ring; returns when it will."""
        at = (at // GRAIN + 1) * GRAIN
        if alarm.at == at:
            # It is among them: a peer that sends byte by byte has it set with each.
            return at
        alarms = self._alarms.get(at)
        if alarms is not None:
            alarms.append(alarm)
            return at
        self._alarms[at] = [alarm]
        heappush(self._times, at)
        if self._times[0] == at:
            self._start(at - monotonic())
        return at

    def _start(self, seconds: float) -> None:
        self._stop()
        self._timer = get_hub().loop.timer(max(seconds, 0.0))
        self._timer.start(self._on_timer, update=True)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _on_timer(self) -> None:
        # Runs in the hub.
        try:
            self._ring()
        finally:
            if self._times:
                self._start(self._times[0] - monotonic())
            else:
                self._stop()

    def _ring(self) -> None:
        """Ring those whose time has come, up to the end of a turn."""
        now = monotonic()
        while self._times and (at := self._times[0]) <= now:
            alarms = self._alarms[at]
            while alarms:
                alarm = alarms.pop()
                # It may have been stopped, or set to another time.
                if alarm.at == at:
                    alarm.at = inf
                    # Returns when the greenlet waits again.
                    alarm.ring()
                    if monotonic() - now > TURN_SECONDS:
                        return
            heappop(self._times)
            del self._alarms[at]


_clocks: WeakKeyDictionary[Any, _Clock] = WeakKeyDictionary()
