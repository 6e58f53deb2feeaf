"""Counts the bytes that the server holds for peers: one account for each connection, one allowance for each resource of the process.

Code that holds bytes for a peer reports them to the :class:`Account` of its connection: :meth:`Account.take` for bytes that it already
holds, :meth:`Account.ask` for bytes that can still be refused, :meth:`Account.give` when it releases them.  An account passes the numbers
to the :class:`Allowance` of the process.  Taking and giving cost a few additions.  The policy (:mod:`greendaphne.serving.overload`), which
sets :attr:`Allowance.on_short`, decides what happens when an allowance is short.

Only one hub uses them, and no method switches greenlets.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from sys import getsizeof
from time import monotonic
from typing import Final, Protocol

#: The number of bytes from which on an account records since when its connection holds them.
NOTABLE: Final = 64 * 1024
#: The size of an allowance without a limit.
UNLIMITED: Final = 1 << 62


def memory_of(content: bytes | str) -> int:
    """The bytes of memory of ``content``.  A single character beyond U+FFFF makes a text take four bytes for each of its characters."""
    return len(content) if content.__class__ is bytes or content.isascii() else getsizeof(content)


class Holder(Protocol):
    """An object that holds bytes for a connection and can release them on request."""

    def evict(self) -> None:
        """Release the bytes soon and tell the peer why (503, 1013); must not wait and must not raise."""


def _refuse(account: Account | None, n: int) -> bool:
    return False


def _ignore() -> None:
    pass


class Allowance:
    """Bytes of one resource that all connections of the process share.

    :param size: in bytes.
    :param spill: while fewer bytes than this are left, data that can be stored elsewhere is.
    """

    __slots__ = ("alert", "left", "on_alert", "on_returned", "on_short", "returned", "size", "spill")

    def __init__(self, size: int = UNLIMITED, spill: int = 0) -> None:
        self.size = size
        #: The remaining bytes; below 0 if more was taken than the size.
        self.left = size
        self.spill = spill
        #: ``on_alert`` is called when fewer bytes than ``alert`` are left, ``on_returned`` when more than ``returned`` are; they must not
        #: wait.
        self.alert: float = 0
        self.returned: float = inf
        #: Called with the account and a number of bytes if fewer are left; the number is 0 for bytes that are already taken.  Returns
        #: whether they are granted.
        self.on_short: Callable[[Account | None, int], bool] = _refuse
        self.on_alert: Callable[[], None] = _ignore
        self.on_returned: Callable[[], None] = _ignore

    @property
    def held(self) -> int:
        """The number of taken bytes."""
        return self.size - self.left

    def take(self, n: int, account: Account | None = None) -> bool:
        """Take ``n`` bytes; returns whether they were granted."""
        if n > self.left and not self.on_short(account, n):
            return False
        self.left -= n
        return True

    def note(self, n: int) -> None:
        """Take ``n`` bytes even if fewer are left."""
        self.left = left = self.left - n
        if left < self.alert:
            self.on_alert()

    def give(self, n: int) -> None:
        """Give ``n`` bytes back."""
        self.left += n
        if self.left > self.returned:
            self.on_returned()

    def resize(self, size: int) -> None:
        """Change the size; the taken bytes stay the same."""
        self.left += size - self.size
        self.size = size


class Account:
    """The bytes that the server holds for one connection.

    :param memory: the allowance of the process.
    """

    __slots__ = ("_allowance", "connection", "disk", "disk_since", "evicted", "holders", "memory", "since")

    def __init__(self, memory: Allowance | None = None) -> None:
        self._allowance = memory or Allowance()
        #: Bytes of memory and disk.
        self.memory = 0
        self.disk = 0
        #: Since when it holds at least :data:`NOTABLE` bytes of memory, and of disk; on the monotonic clock.
        self.since = 0.0
        self.disk_since = 0.0
        #: The time of the last request to release bytes.
        self.evicted = -inf
        #: The objects that can release their bytes before the connection is closed; ``None`` for none.
        self.holders: tuple[Holder, ...] | None = None
        #: The connection, which ends at once when it is evicted; ``None`` without one that could.
        self.connection: Holder | None = None

    def take(self, n: int) -> None:
        """Take ``n`` bytes of memory even if fewer are left."""
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
        """Release ``n`` bytes of memory."""
        self.memory -= n
        allowance = self._allowance
        allowance.left = left = allowance.left + n
        if left > allowance.returned:
            allowance.on_returned()

    def roomy(self, n: int, share: int) -> bool:
        """Whether ``n`` more bytes belong in memory and not on disk.

        :param share: the number of bytes that one connection may hold in memory although they could be stored on disk.
        """
        allowance = self._allowance
        return self.memory + n <= share and allowance.left - n >= allowance.spill

    @property
    def close(self) -> Callable[[], object] | None:
        """Ends the connection at once; does not wait."""
        return None if self.connection is None else self.connection.evict

    @property
    def allowance(self) -> Allowance:
        """The allowance of the process, for memory that a connection holds all the time and that should not make it the first to be
        evicted."""
        return self._allowance

    @property
    def short(self) -> bool:
        """Whether memory is so short that data which can be stored on disk goes there."""
        allowance = self._allowance
        return allowance.left < allowance.spill

    def enter(self, holder: Holder) -> None:
        """Register ``holder``, which is asked to release its bytes before the connection is closed."""
        self.holders = (*(self.holders or ()), holder)

    def leave(self, holder: Holder) -> None:
        """Remove ``holder``, if it is registered."""
        holders = self.holders
        if holders is not None:
            self.holders = tuple([each for each in holders if each is not holder]) or None

    def settle(self) -> None:
        """Release all bytes at the end of the connection; later calls change nothing."""
        allowance, self._allowance = self._allowance, _NOWHERE
        held, self.memory = self.memory, 0
        if held:
            allowance.give(held)
        self.connection = None
        self.holders = None


_NOWHERE: Final = Allowance()
#: The account of connections outside of a server: it grants everything.
FREE: Final = Account(_NOWHERE)
