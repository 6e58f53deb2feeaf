"""What peers make the server hold: one account for each connection, one allowance for each resource of the process.

Everything that holds bytes for a peer tells the :class:`Account` of its connection: :meth:`Account.take` for what is there already,
:meth:`Account.ask` for what can still be refused, :meth:`Account.give` when it is released.  An account passes the numbers on to the
:class:`Allowance` of the process.  Taking and giving are a few additions; what happens when an allowance is short is the business of the
policy (:mod:`greendaphne.serving.overload`), which sets :attr:`Allowance.on_short`.

One hub uses them, and nothing here switches greenlets.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, Protocol

#: Bytes from which on it is noted how long a connection holds them.
NOTABLE: Final = 64 * 1024
#: Stands for an allowance without a bound.
UNLIMITED: Final = 1 << 62


class Holder(Protocol):
    """What holds bytes of a connection and can be told to let go of them."""

    def evict(self) -> None:
        """Release the bytes soon and tell the peer why (503, 1013); must not wait and not raise."""


def _refuse(account: Account | None, n: int) -> bool:
    return False


def _ignore() -> None:
    pass


class Allowance:
    """Bytes of one resource that all connections of the process share.

    :param size: in bytes.
    :param spill: what can be stored elsewhere is, as long as fewer bytes than this are left.
    """

    __slots__ = ("alert", "left", "on_alert", "on_returned", "on_short", "returned", "size", "spill")

    def __init__(self, size: int = UNLIMITED, spill: int = 0) -> None:
        self.size = size
        #: Bytes left; below 0 where more was taken than there is.
        self.left = size
        self.spill = spill
        #: ``on_alert`` is called when fewer bytes than this are left, ``on_returned`` when more than this are; without waiting.
        self.alert: float = 0
        self.returned: float = inf
        #: Called when bytes are asked for that are not left, with the account and their number, 0 where they are taken already.  Returns
        #: whether they are granted.
        self.on_short: Callable[[Account | None, int], bool] = _refuse
        self.on_alert: Callable[[], None] = _ignore
        self.on_returned: Callable[[], None] = _ignore

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return self.size - self.left

    def take(self, n: int, account: Account | None = None) -> bool:
        """Take ``n`` bytes; returns whether they were granted."""
        if n > self.left and not self.on_short(account, n):
            return False
        self.left -= n
        return True

    def note(self, n: int) -> None:
        """``n`` bytes are held, whatever is left."""
        self.left = left = self.left - n
        if left < self.alert:
            self.on_alert()

    def give(self, n: int) -> None:
        """Give ``n`` bytes back."""
        self.left += n
        if self.left > self.returned:
            self.on_returned()

    def resize(self, size: int) -> None:
        """Change the size; what is taken stays so."""
        self.left += size - self.size
        self.size = size


class Account:
    """What one connection holds.

    :param memory: the process' memory for all connections.
    """

    __slots__ = ("_allowance", "close", "disk", "disk_since", "evicted", "holders", "memory", "since")

    def __init__(self, memory: Allowance | None = None) -> None:
        self._allowance = memory or Allowance()
        #: Bytes of memory and disk.
        self.memory = 0
        self.disk = 0
        #: When it came to hold a notable number of bytes of memory, and of disk; on the monotonic clock.
        self.since = 0.0
        self.disk_since = 0.0
        #: When it was told last to let go of what it holds.
        self.evicted = -inf
        #: What can be released alone, before the connection is closed as a whole; ``None`` for nothing.
        self.holders: list[Holder] | None = None
        #: Ends the connection at once; must not wait.
        self.close: Callable[[], object] | None = None

    def take(self, n: int) -> None:
        """``n`` bytes are held in memory, whatever is left."""
        before = self.memory
        self.memory = after = before + n
        if after >= NOTABLE > before:
            self.since = monotonic()
        allowance = self._allowance
        allowance.left = left = allowance.left - n
        if left < allowance.alert:
            allowance.on_alert()
            if left < 0:
                allowance.on_short(self, 0)

    def ask(self, n: int) -> bool:
        """Take ``n`` bytes of memory, unless they are refused; returns whether they were taken."""
        allowance = self._allowance
        if n > allowance.left and not allowance.on_short(self, n):
            return False
        before = self.memory
        self.memory = after = before + n
        if after >= NOTABLE > before:
            self.since = monotonic()
        allowance.left = left = allowance.left - n
        if left < allowance.alert:
            allowance.on_alert()
        return True

    def give(self, n: int) -> None:
        """``n`` bytes of memory are released."""
        self.memory -= n
        allowance = self._allowance
        allowance.left = left = allowance.left + n
        if left > allowance.returned:
            allowance.on_returned()

    def roomy(self, n: int, share: int) -> bool:
        """Whether ``n`` bytes more belong in memory and not on disk.

        :param share: bytes of memory that one connection may hold of what can be stored on disk.
        """
        allowance = self._allowance
        return self.memory + n <= share and allowance.left - n >= allowance.spill

    @property
    def allowance(self) -> Allowance:
        """The process' memory: for what a connection has as long as it lives, and should not be the first to end for."""
        return self._allowance

    @property
    def short(self) -> bool:
        """Whether the memory of the process is so short that what can be stored on disk is."""
        allowance = self._allowance
        return allowance.left < allowance.spill

    def enter(self, holder: Holder) -> None:
        """Have ``holder`` asked before the connection is closed."""
        if self.holders is None:
            self.holders = []
        self.holders.append(holder)

    def leave(self, holder: Holder) -> None:
        """``holder`` holds nothing any more; it may have left before."""
        holders = self.holders
        if holders is not None and holder in holders:
            holders.remove(holder)
            if not holders:
                self.holders = None

    def settle(self) -> None:
        """The connection has ended: give back what is held, and let later calls change nothing."""
        allowance, self._allowance = self._allowance, _NOWHERE
        held, self.memory = self.memory, 0
        if held:
            allowance.give(held)
        self.close = None
        self.holders = None


_NOWHERE: Final = Allowance()
#: The account of connections outside of a server: it grants everything.
FREE: Final = Account(_NOWHERE)
