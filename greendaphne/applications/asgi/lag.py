"""The event loop's lag: how late a timer of asyncio rings, and with it how long a callback that is ready waits for its turn.

The hub's lag (:mod:`greendaphne.monitoring.lag`) is another figure: greenlets have turns between two rounds of the event loop, and within
one round a callback waits for those before it.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Iterable
from time import monotonic

from ...monitoring.families import Family, gauge, histogram
from ...monitoring.lag import PERIOD, Lag


class LoopLag(Lag):
    """Samples the lag of an event loop.

    :param loop: the event loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._handle: TimerHandle | None = None

    def start(self) -> None:
        """Start to sample."""
        self._due = monotonic() + PERIOD
        self._handle = self._loop.call_later(PERIOD, self._ring)

    def stop(self) -> None:
        """Stop."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    @property
    def running(self) -> bool:
        return self._handle is not None

    def _ring(self) -> None:
        now = monotonic()
        self.sample(now, max(now - self._due, 0.0))
        self.start()

    def families(self) -> Iterable[Family]:
        """The metrics of the lag."""
        return (
            histogram("greendaphne_asgi_lag_seconds", f"How late the event loop is, sampled every {PERIOD:g} seconds.", self.seconds),
            gauge("greendaphne_asgi_lag_max_seconds", "The longest such lag of the last minute.", self.longest),
        )
