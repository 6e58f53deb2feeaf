"""The connections of receivers that block, kept for the next one."""

from __future__ import annotations

from .connection import Link
from .shard import Shard

#: Connections of a lane that stay open for the next blocking receiver.
IDLE_READERS = 4


class Readers:
    """The links of blocking receivers of one lane."""

    def __init__(self, shard: Shard, cooperative: bool) -> None:
        self._shard = shard
        self._cooperative = cooperative
        self.limit = IDLE_READERS
        self._idle: list[Link] = []

    def take(self) -> Link:
        """A link that is the caller's until :meth:`give`.

        :raises LayerUnavailable: when none comes about.
        """
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return self._shard.open(self._cooperative, "receive")
            if not self._shard.is_stale(link):
                return link
            self._shard.close(link)

    def give(self, link: Link, usable: bool) -> None:
        """Take back ``link``: kept for the next receiver where it is ``usable``, which means that no reply is missing, else closed."""
        if usable and len(self._idle) < self.limit:
            self._idle.append(link)
        else:
            self._shard.close(link)

    def close(self) -> None:
        while self._idle:
            self._shard.close(self._idle.pop())

    def abandon(self) -> None:
        while self._idle:
            self._shard.abandon(self._idle.pop())
