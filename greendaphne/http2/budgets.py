"""Counts what HTTP/2 lets a peer do for nothing, and ends the connection of one that does too much of it.

RFC 9113 section 10.5 leaves these judgements to the implementation.  A :class:`Budget` allows a number of events in a period; the
window is fixed, so a burst across its boundary may reach twice the number, which costs nothing and keeps a count at two comparisons.
"""

from __future__ import annotations

from time import monotonic

from h2.exceptions import DenialOfServiceError


class EnhanceYourCalm(DenialOfServiceError):
    """The peer used up a budget; ends the connection with GOAWAY(ENHANCE_YOUR_CALM).  Its text names the budget."""


class Budget:
    """At most ``limit`` events in ``period`` seconds.

    :param what: names the events in the error's text.
    """

    __slots__ = ("_count", "_limit", "_period", "_start", "_what")

    def __init__(self, what: str, limit: int, period: float) -> None:
        self._what = what
        self._limit = limit
        self._period = period
        self._start = monotonic()
        self._count = 0

    def spend(self, n: int = 1) -> None:
        """Count ``n`` events.

        :raises EnhanceYourCalm: for one too many.
        """
        self._count += n
        if self._count > self._limit:
            now = monotonic()
            if now - self._start <= self._period:
                raise EnhanceYourCalm(f"too many {self._what}")
            self._start = now
            self._count = n
