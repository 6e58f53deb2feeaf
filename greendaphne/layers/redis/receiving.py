"""Taking messages off a ring of shards, waiting for them where asked to.

Works on lists and bodies; channels and messages are the layer's.  A server's reader has one list: it waits on it without taking and
takes a batch in the same exchange.  A worker's reader has many lists that others read too: it waits with ``BLPOP`` and fetches the
body with a second exchange, as asgi_redis does, and looks for a waiting message first while there are any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache

from .. import LayerUnavailable
from .connection import Link, LinkError
from .hubs import sleep, wait_readable
from .lanes import Call, Lane, outcome, perform, settle
from .resp import ErrorReply, Reply
from .scripts import RETURN, TAKE, pack
from .shard import BACKOFF_FIRST, BACKOFF_LAST, FATAL_CODES

#: Bytes of bodies after which a batch ends.
BATCH_BYTES = 8 * 1024 * 1024
#: Life of the marker in seconds; each look at it renews it.
MARKER_LIFE = 86400
#: Seconds of one wait while some shard is out of reach, so that its return is noticed.
WAIT_WITH_OUTAGE = 0.5
#: Seconds of one wait on one of several shards of a Redis that cannot end waits (before version 5).
WAIT_IN_TURN = 1
#: The first versions that can wait on a list without taking, wait for fractions of a second, and end another connection's wait.
WATCH_VERSION = (6, 2)
FRACTION_VERSION = (6,)
UNBLOCK_VERSION = (5,)

#: A list's key and a message's body; ``None`` where the key held something else than a list.
Body = tuple[str, bytes | None]
#: Where to look: a lane and lists on its shard.
Source = tuple[Lane, list[str]]


def take(source: Source, limit: int) -> list[Body]:
    """Return up to ``limit`` messages that are there now.

    :raises LayerUnavailable: when the shard does not answer.
    """
    lane, lists = source
    [[reply]] = lane.run([_take_call(source, limit, watch=False)])
    return _bodies(lists, reply)


def wait(sources: Sequence[Source], limit: int, timeout: float, *, shared: bool, busy: bool) -> list[Body]:
    """Return up to ``limit`` messages as soon as there is one, or nothing after ``timeout`` seconds, or earlier in an outage.

    :param shared: whether there may be other readers of the lists.
    :param busy: whether a message is probably there already.
    """
    try:
        if len(sources) > 1:
            return _wait_any(sources, limit, timeout)
        [(lane, _)] = sources
        if busy and shared:
            found = take(sources[0], limit)
            if found:
                return found
        with lane.reader() as link:
            return _wait_one(sources[0], link, limit, timeout, shared)
    except LayerUnavailable:
        _wait_for_return(sources, timeout)
        return []


def _wait_for_return(sources: Sequence[Source], timeout: float) -> None:
    """Wait until some shard may be tried again; a little in any case, so that a loop around this cannot spin."""
    seconds = min(BACKOFF_LAST if lane.shard.refusing else lane.shard.wait_time() for lane, _ in sources)
    sleep(max(BACKOFF_FIRST / 5, min(timeout, seconds)))


def _take_call(source: Source, limit: int, popped: bytes = b"", position: int = 0, *, watch: bool = True) -> Call:
    lane, lists = source
    shard = lane.shard
    marker = shard.marker if watch and shard.watched else ""
    return Call(_packed_take(tuple(lists), limit, marker, shard.new_marker if marker else "", popped, position), script=TAKE)


def _packed_take(lists: tuple[str, ...], limit: int, marker: str, new_marker: str, popped: bytes = b"", position: int = 0) -> bytes:
    return TAKE.call(lists, limit, BATCH_BYTES, marker, new_marker, MARKER_LIFE, popped, position)


@lru_cache(maxsize=64)
def _packed_watch(name: str, seconds: float, limit: int, marker: str, new_marker: str) -> bytes:
    """Wait for the list ``name`` to have an element, then take.

    Moving the first element to where it is makes a wait that takes nothing, so that nothing is lost if the reader goes away meanwhile.
    """
    return pack("BLMOVE", name, name, "LEFT", "LEFT", seconds) + _packed_take((name,), limit, marker, new_marker)


def _bodies(lists: list[str], reply: Reply) -> list[Body]:
    """The answer of :data:`scripts.TAKE` without its marker."""
    assert isinstance(reply, list)
    return [(lists[position - 1], body) for position, body in zip(reply[1::2], reply[2::2], strict=True)]  # type: ignore[operator, misc]


def _observed(source: Source, link: Link, reply: Reply) -> list[Body]:
    """Like :func:`_bodies`, after a look at the marker."""
    lane, lists = source
    if isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0]:
        lane.shard.observe(link.identity, reply[0])
    return _bodies(lists, reply)


def _perform(source: Source, link: Link, call: Call) -> Reply:
    """Run ``call`` on the reader's own link."""
    shard = source[0].shard
    try:
        perform(shard, link, [call])
    except LinkError as error:
        raise shard.broken(error) from None
    settle(shard, [call])
    return outcome(call)[0]


def _seconds(link: Link, timeout: float) -> float:
    """``timeout`` as the server takes it; 0 would mean for ever."""
    if link.identity.version >= FRACTION_VERSION:
        # As round() would, which takes ten times as long.
        return max(0.01, int(timeout * 1000 + 0.5) / 1000)
    return max(1, math.ceil(timeout))


def _wait_one(source: Source, link: Link, limit: int, timeout: float, shared: bool) -> list[Body]:
    lane, lists = source
    shard = lane.shard
    seconds = _seconds(link, timeout)
    if len(lists) == 1 and not shared and shard.can_watch and link.identity.version >= WATCH_VERSION:
        marker, new_marker = (shard.marker, shard.new_marker) if shard.watched else ("", "")
        try:
            link.send(_packed_watch(lists[0], seconds, limit, marker, new_marker))
            woken = link.read(seconds + shard.timeout)
            reply = link.read()
        except LinkError as error:
            raise shard.broken(error) from None
        if isinstance(reply, ErrorReply):
            if reply.code != "NOSCRIPT":
                raise shard.refused(reply)
            reply = _perform(source, link, _take_call(source, limit))
        found = _observed(source, link, reply)
        if found or not isinstance(woken, ErrorReply):
            return found
        # Out of memory it is refused, since it might store something; BLPOP is not.
        if woken.code in FATAL_CODES:
            raise shard.refused(woken)
        if woken.code == "WRONGTYPE":
            # The key came between the wait and the look; the next look deletes it.
            return found
        if woken.code != "OOM":
            shard.cannot_watch(woken)
    try:
        link.send(pack("BLPOP", *lists, seconds))
        popped = link.read(seconds + shard.timeout)
    except LinkError as error:
        raise shard.broken(error) from None
    if isinstance(popped, ErrorReply):
        if popped.code == "WRONGTYPE":
            # One of the keys is no list; the look deletes it.
            return _observed(source, link, _perform(source, link, _take_call(source, limit)))
        raise shard.refused(popped)
    return _fetch(source, link, limit, popped)


def _fetch(source: Source, link: Link, limit: int, popped: Reply) -> list[Body]:
    """The message that ``BLPOP`` answered with, and others."""
    if not isinstance(popped, list):
        return []
    name, key = popped
    assert isinstance(key, bytes)
    call = _take_call(source, limit, key, source[1].index(_text(name)) + 1)
    return _observed(source, link, _perform(source, link, call))


def _wait_any(sources: Sequence[Source], limit: int, timeout: float) -> list[Body]:
    """Wait on several shards at once."""
    reachable = 0
    for source in sources:
        try:
            found = take(source, limit)
        except LayerUnavailable:
            continue
        reachable += 1
        if found:
            return found
    if not reachable:
        raise LayerUnavailable("no Redis can be reached")
    if reachable < len(sources):
        timeout = min(timeout, WAIT_WITH_OUTAGE)
    with ExitStack() as stack:
        waiting: list[tuple[Source, Link, float]] = []
        for source in sources:
            try:
                link = stack.enter_context(source[0].reader())
            except LayerUnavailable:
                continue
            if link.identity.version < UNBLOCK_VERSION or not link.identity.client_id:
                return _wait_one(source, link, limit, min(timeout, WAIT_IN_TURN), True)
            seconds = _seconds(link, timeout)
            try:
                link.send(pack("BLPOP", *source[1], seconds))
            except LinkError as error:
                _give_up(source, link, error)
                continue
            waiting.append((source, link, seconds))
        return _gather(waiting, limit, timeout)


def _gather(waiting: list[tuple[Source, Link, float]], limit: int, timeout: float) -> list[Body]:
    """Wait until one of the links has its answer, end the wait of the others and collect what came."""
    grace = max((link.timeout for _, link, _ in waiting), default=0)
    ready = set(wait_readable([link.fileno() for _, link, _ in waiting], timeout + grace))
    bodies: list[Body] = []
    for (lane, lists), link, seconds in waiting:
        source = (lane, lists)
        shard = lane.shard
        try:
            if link.fileno() not in ready:
                try:
                    lane.run([Call(pack("CLIENT", "UNBLOCK", link.identity.client_id))])
                except LayerUnavailable:
                    # Not allowed, or out of reach: the wait ends by itself.
                    pass
            popped = link.read(seconds + shard.timeout)
            if isinstance(popped, ErrorReply):
                shard.refused(popped)
            elif isinstance(popped, list) and len(bodies) >= limit:
                name, key = popped
                _perform(source, link, Call(RETURN.call([_text(name)], _text(key), shard.expiry), script=RETURN))
            else:
                bodies += _fetch(source, link, limit - len(bodies), popped)
        except LinkError as error:
            _give_up(source, link, error)
        except LayerUnavailable:
            shard.close(link)
    return bodies


def _give_up(source: Source, link: Link, error: LinkError) -> None:
    """Close a link among several; a closed one is never used again."""
    shard = source[0].shard
    shard.broken(error)
    shard.close(link)


def _text(value: Reply) -> str:
    assert isinstance(value, bytes)
    return value.decode()
