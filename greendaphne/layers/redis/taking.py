"""What takes messages off the lists of one shard, and puts them back: the commands, and the meaning of their replies."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

from .calls import Call
from .connection import Identity
from .lanes import Lane
from .reliable import Taker
from .resp import Reply
from .scripts import PUT_BACK, TAKE, pack
from .shard import Shard

#: Bytes of bodies after which a batch ends.
BATCH_BYTES = 8 * 1024 * 1024
#: Life of the marker in seconds; each look at it renews it.
MARKER_LIFE = 86400

#: A list's key and a message's body; ``None`` where the key held something else than a list.
Body = tuple[str, bytes | None]


class Source(NamedTuple):
    """Where to look: a lane, lists on its shard, and what keeps the messages of some of them until they are acknowledged."""

    lane: Lane
    lists: list[str]
    taker: Taker | None = None


def take_call(source: Source, limit: int, popped: bytes = b"", position: int = 0, *, watch: bool = True) -> Call:
    """The call that takes at most ``limit`` messages.

    :param popped: the key of a message that was popped already, from the list at ``position``, counted from 1.
    :param watch: look at the marker that shows a loss of data, if a listener wants to know.
    """
    lane, lists, taker = source
    if taker is not None:
        return taker.take_call(lists, limit, BATCH_BYTES, popped, position)
    shard = lane.shard
    marker = shard.marker if watch and shard.watched else ""
    new_marker = shard.new_marker if marker else ""
    if popped:
        return Call(_packed_take(tuple(lists), limit, marker, new_marker, popped, position), script=TAKE)
    return Call(_packed_look(tuple(lists), limit, marker, new_marker), script=TAKE)


def _packed_take(lists: tuple[str, ...], limit: int, marker: str, new_marker: str, popped: bytes = b"", position: int = 0) -> bytes:
    return TAKE.call(lists, limit, BATCH_BYTES, marker, new_marker, MARKER_LIFE, popped, position)


_packed_look = lru_cache(maxsize=64)(_packed_take)


@lru_cache(maxsize=64)
def packed_watch(name: str, seconds: float, limit: int, marker: str, new_marker: str) -> bytes:
    """Wait for the list ``name`` to have an element, then take.

    Moving the first element to where it is makes a wait that takes nothing, so that nothing is lost if the reader goes away meanwhile.
    """
    return pack("BLMOVE", name, name, "LEFT", "LEFT", seconds) + _packed_take((name,), limit, marker, new_marker)


def bodies_of(source: Source, reply: Reply) -> list[Body]:
    """The answer of :data:`scripts.TAKE` without its marker."""
    assert isinstance(reply, list)
    lists = source.lists
    return [(lists[position - 1], body) for position, body in zip(reply[1::3], reply[2::3], strict=True)]  # type: ignore[operator, misc]


def observe(shard: Shard, identity: Identity | None, reply: Reply) -> None:
    """Look at the marker in an answer of :data:`scripts.TAKE`, where it has one."""
    if identity is not None and isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0]:
        shard.observe(identity, reply[0])


def keep(source: Source, reply: Reply) -> None:
    """Have the calling greenlet hold those messages of the reply that are to be acknowledged."""
    if source.taker is not None and isinstance(reply, list):
        source.taker.hold([key for key in reply[3::3] if isinstance(key, bytes)])


def put_back(source: Source, reply: Reply) -> None:
    """Put the messages of an answer of :data:`scripts.TAKE` back at the head of their lists, each for the time that it had left.

    :raises LayerUnavailable: when that fails.
    """
    if not isinstance(reply, list) or len(reply) == 1:
        return
    lane, lists, taker = source
    if taker is not None:
        taker.release(key for key in reply[3::3] if isinstance(key, bytes))
        taker.settle(lane)
    found: dict[str, list[bytes | str | int]] = {}
    for position, body, life in zip(reply[1::3], reply[2::3], reply[3::3], strict=True):
        assert isinstance(position, int)
        if isinstance(body, bytes) and isinstance(life, int):
            found.setdefault(lists[position - 1], []).extend((lane.shard.prefix + os.urandom(16).hex(), body, life))
    calls = [Call(PUT_BACK.call([name], lane.shard.expiry, *entries), script=PUT_BACK) for name, entries in found.items()]
    if calls:
        lane.run(calls)


def text_of(value: Reply) -> str:
    """The name in a reply."""
    assert isinstance(value, bytes)
    return value.decode()
