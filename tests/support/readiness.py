"""Waiting for a descriptor of any number; ``select()`` takes none above 1023."""

from __future__ import annotations

import select


def readable(descriptor: int, seconds: float, *, or_writable: bool = False) -> bool:
    """Whether ``descriptor`` can be read from, or has ended, within ``seconds``.

    :param or_writable: whether room to write is enough.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | (select.POLLOUT if or_writable else 0))
    return bool(poll.poll(max(seconds, 0) * 1000))
