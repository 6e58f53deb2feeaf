"""Reply-channel names in daphne's form, from the operating system's random numbers.

A name is all that a sender needs to write to a client, so it must not be guessed: ten letters are 57 bits.
"""

from __future__ import annotations

from itertools import cycle
from secrets import token_bytes

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 10
# Each letter stands for four byte values; those above 208 are thrown away, so that all letters are equally likely.
_USED = 256 // len(_LETTERS) * len(_LETTERS)
_TABLE = bytes(_LETTERS[value % len(_LETTERS)] for value in range(256))
_REJECTED = bytes(range(_USED, 256))
#: Random bytes asked for at a time; a system call for each name would cost more than everything else about it.
_POOL = 4096


class ReplyChannels:
    """Makes reply-channel names: a prefix of the process, and a local part for each client.

    :param lists: number of prefixes, each of which is a list in the channel layer; clients take them in turn.
    """

    __slots__ = ("_pool", "_position", "_turn", "prefixes")

    def __init__(self, lists: int = 1) -> None:
        self._pool = ""
        self._position = 0
        #: What the process receives on; everything sent to a name made here arrives there.
        self.prefixes = [f"daphne.response.{self._letters()}!" for _ in range(lists)]
        self._turn = cycle(self.prefixes)

    def new(self) -> str:
        """A name that was never used before."""
        return next(self._turn) + self._letters()

    def _letters(self) -> str:
        start = self._position
        end = self._position = start + _LENGTH
        if end > len(self._pool):
            self._pool = token_bytes(_POOL).translate(_TABLE, _REJECTED).decode("ascii")
            start, self._position = 0, _LENGTH
        return self._pool[start : self._position]
