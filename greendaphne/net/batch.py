"""Sends small data of several connections together, at the end of a round of the hub.

A send to a waiting process of the same machine, such as a proxy, wakes that process.  That costs the sender several times as much as the
send.  If the hub has further events, the sends of their requests are collected, so the peer wakes once for all of them.  A connection that
is alone sends at once.
"""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Any, Final, Protocol

from gevent import get_hub

#: The maximum number of bytes of one connection that are held.  Pieces of a stream are usually larger: they leave at once, because the
#: peer needs longer to read them than a wake-up takes.
HELD_SIZE: Final = 8 * 1024
#: The maximum number of bytes that are sent together with held ones: a copy costs less than a further system call.
JOINED_SIZE: Final = 64 * 1024
#: Seconds for which a batch takes further sends.
HOLD: Final = 0.001
#: Seconds of CPU time after which a batch was sent too late, because code in the hub computes for long; then no data is held for
#: :data:`REST` seconds.
LATE: Final = 0.005
REST: Final = 1.0

#: The attribute of each hub with its batch.
_ATTRIBUTE: Final = "_greendaphne_sends"


class Sender(Protocol):
    """A connection with held bytes."""

    def send_held(self) -> None:
        """Send the held bytes; does not wait and does not raise."""


class SendBatch:
    """The connections of one hub that have bytes to send at the end of its round.

    :param loop: the hub's event loop.  ``pendingcnt``, the number of its pending events, and ``_callbacks``, its pending callbacks, are
        internals of libev and gevent; without them no data is held.
    """

    __slots__ = ("_began", "_computed", "_held", "_loop", "_rest_ends")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._held: list[Sender] = []
        # The start of the batch, and the CPU time of the thread then.  Both, because other processes may have delayed this one.
        self._began = self._computed = 0.0
        known = hasattr(loop, "pendingcnt") and hasattr(loop, "_callbacks")
        self._rest_ends = 0.0 if known else float("inf")

    def add(self, sender: Sender) -> bool:
        """Call :meth:`Sender.send_held` at the end of the hub's round; false if ``sender`` has to send at once."""
        if self._held:
            if monotonic() - self._began < HOLD:
                self._held.append(sender)
                return True
            self.flush()
            return False
        began = monotonic()
        if began < self._rest_ends:
            return False
        loop = self._loop
        if not loop.pendingcnt and not loop._callbacks:
            return False
        self._began = began
        self._computed = thread_time()
        self._held.append(sender)
        loop.run_callback(self.flush)
        return True

    def flush(self) -> None:
        """Make all connections send their held bytes; called in any greenlet of the hub's thread, and in the hub."""
        held = self._held
        if not held:
            return
        self._held = []
        now = monotonic()
        if now - self._began > LATE and thread_time() - self._computed > LATE:
            self._rest_ends = now + REST
        for sender in held:
            sender.send_held()


def current() -> SendBatch:
    """Return the batch of this thread's hub."""
    hub = get_hub()
    batch: SendBatch | None = getattr(hub, _ATTRIBUTE, None)
    if batch is None:
        batch = SendBatch(hub.loop)
        setattr(hub, _ATTRIBUTE, batch)
    return batch
