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
#: Names made at a time; a system call for each name would cost more than everything else about it.
_BATCH = 128


class ReplyChannels:
    """Makes reply-channel names: a prefix of the process, and a local part for each client.

    :param lists: number of prefixes, each of which is a list in the channel layer; clients take them in turn.
    """

    __slots__ = ("_names", "_turn", "prefixes")

    def __init__(self, lists: int = 1) -> None:
        #: What the process receives on; everything sent to a name made here arrives there.
        self.prefixes = [f"daphne.response.{letters}!" for letters in _letters(lists)]
        self._turn = cycle(self.prefixes)
        # Those that have been made and not been given away.
        self._names: list[str] = []

    def new(self) -> str:
        """A name that was never used before."""
        names = self._names
        if not names:
            # The list is filled backwards, as it is emptied.
            names += [next(self._turn) + letters for letters in _letters(_BATCH)][::-1]
        return names.pop()


def _letters(number: int) -> list[str]:
    """``number`` times ten letters."""
    pool = ""
    size = number * _LENGTH
    while len(pool) < size:
        pool += token_bytes(2 * size).translate(_TABLE, _REJECTED).decode("ascii")
    return [pool[start : start + _LENGTH] for start in range(0, size, _LENGTH)]
