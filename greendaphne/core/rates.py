"""A minimum rate over a sliding window: how long a peer that sends or takes too little is waited for."""

from __future__ import annotations


class Patience:
    """The seconds that a peer may still be waited for.

    A full window at first.  Waiting uses it up second by second, every byte that moves adds ``1 / rate`` seconds, and it never holds
    more than the window.  So a peer that stops is given up after ``window`` seconds however much it sent before, and one that drips is
    given up as well unless it keeps ``rate`` bytes a second over every window.  Only time spent in waiting counts: the server's own work
    and a slow application are not held against the peer.

    :param window: in seconds.
    :param rate: in bytes a second.
    """

    __slots__ = ("_rate", "_window", "left")

    def __init__(self, window: float, rate: float) -> None:
        self._window = window
        self._rate = rate
        #: Seconds left; 0 or less means that the peer is too slow.
        self.left = window

    def waited(self, seconds: float) -> None:
        """The peer was waited for."""
        self.left -= seconds

    def moved(self, n: int) -> None:
        """``n`` bytes came in, or were taken by the peer."""
        self.left = min(self._window, self.left + n / self._rate)
