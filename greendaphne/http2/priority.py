"""Extensible priorities (RFC 9218): the value of the ``priority`` field, and the order in which streams send.

A :class:`Scheduler` holds the streams that have something to send.  The most urgent go first; of one urgency those that are not
incremental are served one after the other, incremental ones in turns.  A stream that has sent all it had leaves and joins at the end
when it has more, so a long response that is produced piece by piece never shuts out others of its urgency.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

#: RFC 9218 section 4.1.
DEFAULT_URGENCY = 3
LEAST_URGENT = 7
#: Field values remembered, and the longest; browsers use about ten of eight bytes at most.
_REMEMBERED_VALUES = 256
_REMEMBERED_LENGTH = 32


def parse_priority(value: bytes) -> tuple[int | None, bool | None]:
    """Urgency and the incremental flag of a ``priority`` field's value, ``None`` for each that it does not give.

    Unknown members and values out of range are ignored (RFC 9218 section 4), and so is what is no dictionary at all.
    """
    return _remembered(value) if len(value) <= _REMEMBERED_LENGTH else _parse(value)


def _parse(value: bytes) -> tuple[int | None, bool | None]:
    urgency: int | None = None
    incremental: bool | None = None
    for member in value.split(b","):
        key, _, item = member.partition(b";")[0].strip(b" \t").partition(b"=")
        if key == b"u" and len(item) == 1 and b"0" <= item <= b"7":
            urgency = int(item)
        elif key == b"i" and item in (b"", b"?1", b"?0"):
            incremental = item != b"?0"
    return urgency, incremental


_remembered = lru_cache(_REMEMBERED_VALUES)(_parse)


class Prioritized(Protocol):
    """What a scheduler needs to know of a stream."""

    urgency: int
    incremental: bool
    scheduled: bool


S = TypeVar("S", bound=Prioritized)


class Scheduler(Generic[S]):
    """The streams of one connection that could send, in the order in which they may."""

    __slots__ = ("_levels", "_size")

    def __init__(self) -> None:
        # By urgency, each made with its first stream.
        self._levels: list[deque[S] | None] = [None] * (LEAST_URGENT + 1)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, stream: S) -> None:
        """Let ``stream`` take part, behind the others of its urgency."""
        if not stream.scheduled:
            stream.scheduled = True
            level = self._levels[stream.urgency]
            if level is None:
                level = self._levels[stream.urgency] = deque()
            level.append(stream)
            self._size += 1

    def remove(self, stream: S) -> None:
        """The stream has nothing to send, or must not."""
        if stream.scheduled:
            stream.scheduled = False
            self._level(stream).remove(stream)
            self._size -= 1

    def _level(self, stream: S) -> deque[S]:
        level = self._levels[stream.urgency]
        assert level is not None
        return level

    def first(self) -> S | None:
        """Whose turn it is."""
        if self._size:
            for level in self._levels:
                if level:
                    return level[0]
        return None

    def served(self, stream: S) -> None:
        """The first stream has sent a frame: an incremental one lets the others of its urgency go first now."""
        if stream.incremental:
            self._level(stream).rotate(-1)

    def change(self, stream: S, urgency: int, incremental: bool) -> None:
        """Give ``stream`` another priority."""
        scheduled = stream.scheduled
        self.remove(stream)
        stream.urgency = urgency
        stream.incremental = incremental
        if scheduled:
            self.add(stream)
