"""The commands that store messages in the lists of one shard: one message alone, or all of a pipeline that go to the same list.

A server's requests and notices are for a few lists.  Where many travel in one pipeline, one command with many bodies costs both ends a part
of as many commands: the names of keys and the reply are there once.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from . import wire
from .scripts import SEND, SEND_ALL, pack_arguments

#: Hexadecimal digits of the random part of a message's key: of a message that is sent alone, and of several, to which a number is added.
_DIGITS: Final = 32
_DIGITS_TOGETHER: Final = 24


class SendCommands:
    """Packs the commands that store messages in the list of one channel, with one capacity."""

    __slots__ = ("_after", "_alone", "_between", "_fixed", "_random", "_together")

    def __init__(
        self, prefix: str, stats_prefix: str, channel: str, *, capacity: int, expiry: int, random: Random, unclaimed: str | None = None
    ) -> None:
        """
        :param channel: a channel's name up to and including ``!``.
        :param random: makes the keys of messages.
        :param unclaimed: the hash that holds the messages which are not recorded, for those that are to be acknowledged.
        """
        name = "0" * _DIGITS
        keys = [f"{prefix}{channel}", f"{stats_prefix}{channel}:", f"{stats_prefix}{wire.GLOBAL_STATISTICS}:"]
        if unclaimed is not None:
            keys.append(unclaimed)
        arguments = (expiry, capacity, wire.CHANNEL_STATISTICS_EXPIRY, wire.GLOBAL_STATISTICS_EXPIRY)
        before, _, between = pack_arguments(f"{prefix}{name}", *keys).partition(name.encode())
        self._alone = SEND.head(1 + len(keys), 1 + len(arguments)) + before
        self._between = between
        self._after = pack_arguments(*arguments)
        # Without the number of arguments, in front.
        self._fixed = 3 + len(keys) + len(arguments) + 1
        head = SEND_ALL.head(len(keys), 0).partition(b"\r\n")[2]
        self._together = b"%b%b$%d\r\n%b" % (
            head,
            pack_arguments(*keys, *arguments),
            len(prefix.encode()) + _DIGITS_TOGETHER,
            prefix.encode(),
        )
        self._random = random

    def pack(self, body: bytes) -> bytes:
        """The command that stores one message."""
        key = self._random.getrandbits(4 * _DIGITS)
        return b"%b%032x%b$%d\r\n%b\r\n%b" % (self._alone, key, self._between, len(body), body, self._after)

    def pack_all(self, bodies: Sequence[bytes]) -> bytes:
        """The command that stores several."""
        key = self._random.getrandbits(4 * _DIGITS_TOGETHER)
        parts = [b"*%d\r\n%b%024x\r\n" % (self._fixed + len(bodies), self._together, key)]
        parts += [b"$%d\r\n%b\r\n" % (len(body), body) for body in bodies]
        return b"".join(parts)
