"""How long the commands of a server may wait for others: a part of the time that its clients wait in any case.

Where many clients are served at a time, a round trip to Redis for each message is what a server spends most of its time with.  Messages
that gather for a moment share a round trip.  The moment must not tell, so it depends on the time from a message to the first reply to
it, which is measured with a few messages at a time.

A reply list holds a bounded number of messages, and replies to many clients may come in a burst.  So the moment shrinks while pipelines
bring many replies.

A message that reaches Redis later than it could costs its client nothing while all workers have work: it would wait there.  So the moment
grows where messages find others waiting for workers, and shrinks where they find none.  Where nearly all find others, commands wait even
if none has shared a round trip yet: with workers that take a message every half millisecond, the next one rarely comes within a round trip.

Workers in the same process share its pipelines: each of their takes and replies would wait too, and the time of a reply, which says how
long, would grow with that.  There nothing waits longer than a round trip takes.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

#: Messages whose replies are waited for at a time, and the seconds after which they are given up for others.
PROBES: Final = 16
PROBE_LIFE: Final = 1.0
#: The part of the usual time to a first reply, and the most seconds: for most clients, and for those that wait long in any case.
PART, LIMIT = 1 / 5, 0.004
LONG_PART, LONG_LIMIT = 1 / 12, 0.01
#: What a longer or shorter time to a first reply makes of the usual one: three in four are longer, and slow views do not count for others.
LONGER, SHORTER = 1.03, 0.915
#: What a longer one makes of it after this many longer ones in a row, which chance brings about once in a hundred times.
MUCH_LONGER, IN_A_ROW = 1.15, 16
#: Replies of one pipeline, a quarter of what a list holds by default, beyond which the part of the moment that is waited halves, down to
#: the least; and what any other pipeline makes of it.
MANY_REPLIES, LEAST_PART, LARGER_PART = 25, 1 / 16, 1.1
#: What a message that finds others waiting for workers, or none, makes of the multiple of these times, and the largest multiple.  The
#: product is at most the second limit.
LATER, SOONER, MULTIPLE = 1.05, 0.8, 2.0
#: The multiple from which on workers count as having work all the time: five messages in six find others waiting.
SATURATED: Final = 1.5
#: The usual time at first, and the least one, in seconds.
LEAST: Final = 0.0002


class Pace:
    """Measures the time from messages to their replies."""

    __slots__ = ("_fixed", "_in_a_row", "_multiple", "_part", "_probes", "_usual", "patience")

    def __init__(self) -> None:
        # The time of sending by reply channel.
        self._probes: dict[str, float] = {}
        self._usual = LEAST
        self._in_a_row = 0
        self._multiple = 1.0
        self._part = 1.0
        #: Seconds that commands may wait for others.
        self.patience = 0.0
        self._fixed = False

    def fix(self, seconds: float) -> None:
        """Have commands wait for ``seconds``, whatever is measured."""
        self._fixed = True
        self.patience = seconds

    def has_workers(self) -> None:
        """Take note that this process takes messages of normal channels: its workers would wait as well, and clients for them."""
        if not self._fixed:
            self.fix(0.0)

    def sent(self, reply_channel: str) -> None:
        """Take note of a message to which a reply on ``reply_channel`` is expected."""
        probes = self._probes
        now = monotonic()
        if len(probes) >= PROBES:
            if now - next(iter(probes.values()), now) < PROBE_LIFE:
                return
            probes.clear()
        probes.setdefault(reply_channel, now)

    def received(self, reply_channel: str) -> None:
        """Take note of a message on ``reply_channel``."""
        since = self._probes.pop(reply_channel, None)
        if since is not None:
            if monotonic() - since > self._usual:
                self._in_a_row += 1
                self._usual *= LONGER if self._in_a_row <= IN_A_ROW else MUCH_LONGER
            else:
                self._in_a_row = 0
                self._usual = max(self._usual * SHORTER, LEAST)
            if not self._fixed:
                usual = self._usual
                moment = self._multiple * max(min(usual * PART, LIMIT), min(usual * LONG_PART, LONG_LIMIT))
                self.patience = self._part * min(moment, LONG_LIMIT)

    def took(self, replies: int) -> None:
        """Take note that a pipeline brought ``replies``."""
        if replies > MANY_REPLIES:
            self._part = max(self._part / 2, LEAST_PART)
            if not self._fixed:
                self.patience /= 2
        elif self._part < 1:
            self._part = min(self._part * LARGER_PART, 1.0)

    @property
    def is_saturated(self) -> bool:
        """Whether nearly all messages find others waiting for workers, so that a later pipeline makes no reply later."""
        return self._multiple >= SATURATED and not self._fixed

    def queued(self, length: int) -> None:
        """Take note that the first message of a pipeline was the last of ``length`` that wait for workers then.

        :param length: 0 for a pipeline without messages.
        """
        if length > 1:
            self._multiple = min(self._multiple * LATER, MULTIPLE)
        else:
            self._multiple = max(self._multiple * SOONER, 1.0)
