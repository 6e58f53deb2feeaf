"""The bytes of the messages that wait in a layer, for the allowance of a server in the same process."""

from __future__ import annotations

from typing import Any, Final

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists

from ..core.accounts import Allowance, memory_of

#: What a message takes besides its content, in bytes.
OVERHEAD: Final = 512
#: Messages up to this weight are counted, and never refused for want of memory.
SMALL: Final = 64 * 1024
#: Bytes by which the allowance may be behind: it is told of more only, so that small messages cost one comparison.
_STEP: Final = 64 * 1024


def message_weight(message: Any) -> int:
    """The bytes of memory that ``message`` is taken to hold.  The specification's messages have no more than one of these values.

    :param message: of any type, since :meth:`~greendaphne.layers.memory.MemoryChannelLayer.send_owned` does not check it.
    """
    if not isinstance(message, dict):
        return OVERHEAD
    get = message.get
    # Also beside an empty body: what a message holds counts, whatever its keys.
    content = get("body") or get("content") or get("text") or get("bytes")
    if not content:
        return OVERHEAD
    if content.__class__ is bytes or (content.__class__ is str and content.isascii()):
        # As memory_of(), for most messages.
        return OVERHEAD + len(content)
    return OVERHEAD + memory_of(content) if isinstance(content, (bytes, str)) else OVERHEAD


class Ledger:
    """Counts what waits in a layer, and passes the number on to an allowance.

    A layer is used from any thread and an allowance from one hub alone.  So the layer's own number is kept under its lock, and the
    allowance is told of the difference by the calls that come from its hub.
    """

    __slots__ = ("_allowance", "_hub", "_told", "held", "high", "low")

    def __init__(self) -> None:
        #: Bytes that wait.
        self.held = 0
        self._allowance: Allowance | None = None
        self._hub: Any = None
        #: The allowance is told once :attr:`held` leaves this range.  The first number is never told to any.
        self.low = float("-inf")
        self.high = float("inf")
        self._told = 0

    def count_in(self, allowance: Allowance | None) -> None:
        """Tell ``allowance`` from here on, in the calling thread's hub, and no other one; with the layer's lock."""
        if self._allowance is not None:
            self._allowance.give(self._told)
        self._allowance = allowance
        self._told = 0
        if allowance is None:
            self._hub = None
            self.low, self.high = float("-inf"), float("inf")
        else:
            self._hub = get_hub()
            self._tell()

    def add(self, n: int) -> None:
        """``n`` bytes more wait, or fewer; with the layer's lock."""
        self.held = held = self.held + n
        if not self.low <= held <= self.high:
            self.out_of_range()

    def out_of_range(self) -> None:
        """:attr:`held` is below :attr:`low` or above :attr:`high`; for callers that change it themselves, with the layer's lock."""
        if get_hub_if_exists() is self._hub:
            self._tell()

    def _tell(self) -> None:
        allowance = self._allowance
        assert allowance is not None
        held = self.held
        change = held - self._told
        self._told = held
        self.low, self.high = held - _STEP, held + _STEP
        if change < 0:
            allowance.give(-change)
        else:
            # Whether it is short then is found out by the next that asks.
            allowance.note(change)

    def has_room(self, n: int) -> bool:
        """Whether ``n`` bytes are left, or nothing is known of that: an allowance belongs to one hub, and others are not refused."""
        allowance = self._allowance
        return allowance is None or n <= allowance.left or get_hub_if_exists() is not self._hub

    def ask(self, n: int) -> bool:
        """Whether ``n`` bytes may be added all the same; in the hub of the allowance.  The policy that is asked does not wait."""
        allowance = self._allowance
        return allowance is None or allowance.on_short(None, n)
