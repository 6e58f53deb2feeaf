"""How commands get to a shard: one lane per shard for each hub, and one for all plain threads together.

In a hub the commands of all greenlets share one connection (:mod:`.hub_lane`).  Plain threads share a small pool (:mod:`.thread_lane`).
Receivers that block have connections of their own (:mod:`.readers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .calls import Call
from .readers import Readers
from .resp import Reply
from .shard import Shard


class Lane(Protocol):
    """The way to one shard."""

    shard: Shard
    #: The gevent hub that it belongs to, ``None`` for plain threads.
    hub: Any
    #: The links of its blocking receivers.
    readers: Readers

    def run(self, calls: Sequence[Call]) -> list[list[Reply]]:
        """Run ``calls`` in order and return their replies, none of which is an error.

        :raises LayerUnavailable: when one of them failed.
        """

    def post(self, call: Call) -> None:
        """Run ``call`` soon, along with others; its outcome is dropped."""

    def close(self) -> None:
        """Send what was posted and close the connections."""
