"""Whether the peer is still there: when a ping is due, and how long its answer may take."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final

from ..config import Timeouts
from ..core.message import Stream

#: Seconds between looks whether a peer has come to a ping that waits behind other data.
_DELIVERY_LOOK: Final = 1.0


class Keepalive:
    """The time limit of a WebSocket's silence.

    :param timeouts: ``ping_interval`` and ``ping_timeout`` are used.
    """

    __slots__ = ("_delivery", "_timeouts", "deadline", "fresh", "interval", "pinged")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        #: Seconds of silence after which a ping is due; ``inf`` for never.
        self.interval = timeouts.ping_interval if timeouts.ping_interval > 0 else inf
        #: When something is to be done if nothing comes in, on the monotonic clock; ``inf`` for never.
        self.deadline = inf
        #: Whether something has come in since :meth:`heard` was called, which the next wait for the peer does.
        self.fresh = False
        #: Whether a ping was sent and nothing has come in since.
        self.pinged = False
        # Where the ping may wait in the system's buffer: the byte of the connection at its end, the bytes that the peer has taken of it,
        # and when it last took some.
        self._delivery: tuple[int, int, float] | None = None

    def heard(self, now: float) -> None:
        """Something came in: the next ping is due when nothing more does."""
        self.fresh = False
        self.deadline = now + self.interval
        self.pinged = False
        self._delivery = None

    def sent(self, stream: Stream, before: tuple[int, int] | None) -> None:
        """A ping was sent.

        :param before: what :meth:`~greendaphne.core.message.Stream.delivery` of ``stream`` has said before.
        """
        timeouts = self._timeouts
        # From here on, since it may have waited for a frame that the peer takes slowly.
        now = monotonic()
        self.deadline = now + (timeouts.ping_timeout if timeouts.ping_timeout > 0 else timeouts.ping_interval)
        if before is not None and before[1] and timeouts.ping_timeout > 0 and (after := stream.delivery()) is not None:
            # The peer sees the ping after what stands before it.
            self._delivery = sum(after), after[0], now
            self.deadline = now + min(timeouts.ping_timeout, _DELIVERY_LOOK)

    def is_taking(self, stream: Stream) -> bool:
        """Whether the peer, which has not seen the ping yet, takes what was sent before it, or has just come to it: it has more time."""
        delivery = self._delivery
        state = None if delivery is None else stream.delivery()
        if delivery is None or state is None:
            return False
        end, taken, at = delivery
        now = monotonic()
        patience = self._timeouts.ping_timeout
        if state[0] >= end:
            self._delivery = None
            self.deadline = now + patience
            return True
        if state[0] > taken:
            self._delivery = end, state[0], now
        elif now - at >= patience:
            return False
        self.deadline = now + min(patience, _DELIVERY_LOOK)
        return True
