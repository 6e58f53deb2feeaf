"""Small sends of several connections, made one after the other at the end of a round of the hub.

A send on a connection whose peer is a process of the same machine, such as a proxy, wakes that process where it waits.  That costs the
sender several times as much as the send.  Where the hub has further events at hand, the sends of their requests are collected, so the peer
wakes once for all of them.  A connection that is alone sends at once.
"""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Any, Final, Protocol

from gevent import get_hub

#: The most bytes of one connection that are put off.
HELD_SIZE: Final = 16 * 1024
#: Seconds for which a batch takes further sends.
HOLD: Final = 0.001
#: Seconds of computing after which a batch was sent too late: what the hub runs takes long, so nothing is put off for :data:`REST` seconds.
LATE: Final = 0.005
REST: Final = 1.0

#: Where each hub has its batch.
_ATTRIBUTE: Final = "_greendaphne_sends"


class Sender(Protocol):
    """A connection with bytes that it has put off."""

    def send_held(self) -> None:
        """Send them; neither waits nor raises."""


class SendBatch:
    """The connections of one hub that have bytes to send at the end of its round.

    :param loop: the hub's event loop.  ``pendingcnt``, the number of events that it has at hand, and ``_callbacks``, the callbacks that it
        will call, are libev's and gevent's own; without them nothing is put off.
    """

    __slots__ = ("_began", "_computed", "_held", "_loop", "_rest_ends")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._held: list[Sender] = []
        # When the batch began, and the computing time of the thread then: other processes may have kept this one waiting since.
        self._began = self._computed = 0.0
        known = hasattr(loop, "pendingcnt") and hasattr(loop, "_callbacks")
        self._rest_ends = 0.0 if known else float("inf")

    def add(self, sender: Sender) -> bool:
        """Have :meth:`Sender.send_held` called at the end of the hub's round; false where ``sender`` has to send at once."""
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
        """Have all connections send what they hold; called in any greenlet of the hub's thread, and in the hub."""
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
