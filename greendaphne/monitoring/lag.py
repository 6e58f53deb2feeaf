"""The hub's lag: the time between an event and the moment when the hub runs its greenlet or callback.

A timer in the hub measures its own delay.  That is a sample of the delay of every request, and costs only a timer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final

from gevent import get_hub

from .families import LATENCY_BUCKETS, Family, Histogram, gauge, histogram

#: Seconds between two samples.
PERIOD: Final = 0.5
#: Seconds for which the maximum is kept, at least: longer than the usual time between two scrapes.
MEMORY: Final = 60.0
_SLOTS: Final = 6


class Lag:
    """Samples of how late a timer rings."""

    def __init__(self) -> None:
        #: All samples.
        self.seconds = Histogram(LATENCY_BUCKETS)
        # When the timer is to ring, on the monotonic clock.
        self._due = 0.0
        # The maxima of the last parts of MEMORY, each with the start of its part.
        self._maxima: deque[tuple[float, float]] = deque(maxlen=_SLOTS + 1)

    def sample(self, now: float, lag: float) -> None:
        """Count a sample."""
        self.seconds.observe(lag)
        maxima = self._maxima
        if not maxima or now - maxima[-1][0] >= MEMORY / _SLOTS:
            maxima.append((now, lag))
        elif lag > maxima[-1][1]:
            maxima[-1] = (maxima[-1][0], lag)

    @property
    def running(self) -> bool:
        """Whether there is a timer."""
        raise NotImplementedError

    @property
    def longest(self) -> float:
        """The longest lag of the last :data:`MEMORY` seconds."""
        since = monotonic() - MEMORY - MEMORY / _SLOTS
        lag = max((lag for begun, lag in self._maxima if begun >= since), default=0.0)
        # Include the current delay of the timer.
        return max(lag, monotonic() - self._due) if self.running else lag


class HubLag(Lag):
    """Samples the lag of the hub of the thread that calls :meth:`start`."""

    def __init__(self) -> None:
        super().__init__()
        self._timer: Any = None

    def start(self) -> None:
        """Start to sample."""
        self._timer = get_hub().loop.timer(PERIOD, PERIOD, ref=False)
        self._due = monotonic() + PERIOD
        # The loop's clock does not advance while greenlets run, so it has to be updated first.
        self._timer.start(self._sample, update=True)

    def stop(self) -> None:
        """Stop."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _sample(self) -> None:
        # Runs in the hub.
        now = monotonic()
        self.sample(now, max(now - self._due, 0.0))
        # The loop skips periods that it has missed.
        self._due = max(self._due + PERIOD, now)

    @property
    def running(self) -> bool:
        return self._timer is not None

    def families(self) -> Iterable[Family]:
        """The metrics of the lag."""
        return (
            histogram("greendaphne_hub_lag_seconds", f"How late the hub is, sampled every {PERIOD:g} seconds.", self.seconds),
            gauge("greendaphne_hub_lag_max_seconds", "The longest such lag of the last minute.", self.longest),
        )
