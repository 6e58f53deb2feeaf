"""A minimum rate over a sliding window: how long the server waits for a slow peer."""

from __future__ import annotations


class Patience:
    """The seconds that the server still waits for a peer.

    The budget starts at ``window`` seconds.  Waiting reduces it, every byte transferred adds ``1 / rate`` seconds, and it never exceeds
    the window.  So a peer that stops is given up after ``window`` seconds, however much it sent before, and a slow peer is given up unless
    it keeps ``rate`` bytes a second over every window.  Only time spent waiting counts; the server's own work and a slow application do
    not reduce the budget.

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
        """Record ``seconds`` of waiting for the peer."""
        self.left -= seconds

    def moved(self, n: int) -> None:
        """Record ``n`` bytes received from the peer, or taken by it."""
        self.left = min(self._window, self.left + n / self._rate)
