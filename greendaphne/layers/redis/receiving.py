"""Taking messages off a ring of shards, waiting for them where asked to.

Works on lists and bodies; channels and messages are the layer's.  A server's reader has one list: it waits on it without taking and
takes a batch in the same exchange.  A worker's reader has many lists that others read too: it waits with ``BLPOP`` and fetches the
body with a second exchange, as asgi_redis does, and looks for a waiting message first while there are any.

No message that Redis has handed over is dropped here.  A :class:`~greendaphne.layers.wake.Wake` ends a wait by ``CLIENT UNBLOCK`` over
another connection, so that its reply tells what came.  An exception that is thrown into a wait (a killed greenlet, a time limit, a signal
handler that raises) leaves its :class:`~.exchange.Exchange` to another greenlet, which reads the replies to their end and puts the messages
back at the head of their lists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic

from .. import LayerUnavailable
from ..wake import Wake
from .calls import Call
from .exchange import WAIT_IN_TURN, Exchange, can_unblock
from .hub_lane import HubLane
from .hubs import sleep, wait_readable
from .shard import BACKOFF_FIRST, BACKOFF_LAST
from .taking import Body, Source, bodies_of, keep, observe, put_back, take_call

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds of one wait while some shard is out of reach, so that its return is noticed.
WAIT_WITH_OUTAGE = 0.5


def take(source: Source, limit: int, *, watch: bool = False) -> list[Body]:
    """Return up to ``limit`` messages that are there now.

    :param watch: look at the marker that shows a loss of data.
    :raises LayerUnavailable: when the shard does not answer.
    """
    lane = source.lane
    if not isinstance(lane, HubLane) or not lane.is_busy:
        exchange = Exchange(source)
        return exchange.complete(lambda: exchange.take(limit, watch=watch))
    call = take_call(source, limit, watch=watch)
    try:
        # The greenlets of a hub share the exchange, which must not end with one of them.
        reply = lane.run_apart(call)
    except LayerUnavailable:
        if source.taker is not None:
            source.taker.lose(call)
        raise
    except BaseException:
        from gevent import spawn

        spawn(_put_back_later, source, lane, call).join(lane.shard.timeout)
        raise
    observe(lane.shard, lane.identity, reply)
    keep(source, reply)
    bodies = bodies_of(source, reply)
    lane.shard.pace.took(len(bodies))
    return bodies


def wait(sources: Sequence[Source], limit: int, timeout: float, *, shared: bool, busy: bool, wake: Wake | None = None) -> list[Body]:
    """Return up to ``limit`` messages as soon as there is one, or nothing after ``timeout`` seconds, or earlier in an outage.

    :param shared: whether there may be other readers of the lists.
    :param busy: whether a message is probably there already.
    :param wake: ends the wait earlier, with the messages that Redis has handed over by then.
    """
    try:
        if len(sources) > 1:
            return _wait_any(sources, limit, timeout, wake)
        [source] = sources
        lane = source.lane
        if busy and isinstance(lane, HubLane):
            if shared and lane.is_busy:
                found = take(source, limit)
                if found:
                    return found
                busy = False
            elif not shared and lane.gathers:
                found, timeout = _take_along(source, lane, limit, timeout, wake)
                if found or timeout <= 0:
                    return found
        exchange = Exchange(source)
        return exchange.complete(lambda: exchange.wait(limit, timeout, shared, busy, wake))
    except LayerUnavailable:
        _wait_for_return(sources, timeout)
        return []


def _take_along(source: Source, lane: HubLane, limit: int, timeout: float, wake: Wake | None) -> tuple[list[Body], float]:
    """Take with the pipelines of those who send, as long as many do: a round trip serves both, and nothing has to wait in Redis.

    Returns the messages, and the seconds that are left of ``timeout``.
    """
    deadline = monotonic() + timeout
    while True:
        found = take(source, limit, watch=True)
        timeout = deadline - monotonic()
        if found or timeout <= 0 or not lane.gathers or (wake is not None and wake.is_set):
            return found, timeout


def _wait_for_return(sources: Sequence[Source], timeout: float) -> None:
    """Wait until some shard may be tried again; a little in any case, so that a loop around this cannot spin."""
    shards = [source.lane.shard for source in sources]
    seconds = min(BACKOFF_LAST if shard.refusing else shard.wait_time() for shard in shards)
    sleep(max(BACKOFF_FIRST / 5, min(timeout, seconds)))


def _put_back_later(source: Source, lane: HubLane, call: Call) -> None:
    """Wait for the reply to ``call``, which its caller has given up, and put its messages back."""
    try:
        put_back(source, lane.outcome_of(call))
    except LayerUnavailable as error:
        if source.taker is not None:
            source.taker.lose(call)
        logger.error("Redis %s: a reader was ended, and what it had taken could not be put back: %s", lane.shard.name, error)


def _wait_any(sources: Sequence[Source], limit: int, timeout: float, wake: Wake | None) -> list[Body]:
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
    waiting: list[Exchange] = []
    try:
        for source in sources:
            try:
                exchange = Exchange(source)
            except LayerUnavailable:
                continue
            waiting.append(exchange)
            assert exchange.link is not None
            if not can_unblock(exchange.link):
                # The others' waits could not be ended.
                return exchange.complete(lambda: exchange.wait(limit, min(timeout, WAIT_IN_TURN), True, False, None))  # noqa: B023 - called here
            try:
                exchange.begin(timeout)
            except LayerUnavailable:
                exchange.close(False)
                waiting.remove(exchange)
        return _gather(waiting, limit, timeout, wake)
    except BaseException as error:
        for exchange in waiting:
            if isinstance(error, LayerUnavailable):
                exchange.close(False)
            else:
                exchange.rescue()
        raise


def _gather(waiting: list[Exchange], limit: int, timeout: float, wake: Wake | None) -> list[Body]:
    """Wait until one of the links has its answer, end the wait of the others and collect what came."""
    if not waiting:
        return []
    links = [exchange.link for exchange in waiting if exchange.link is not None]
    attachment = wake.attach(waiting[0].source.lane.hub, waiting[0].end) if wake is not None else None
    try:
        ready = set(wait_readable([link.fileno() for link in links], timeout + max(link.timeout for link in links)))
    finally:
        if wake is not None:
            wake.detach(attachment)
    bodies: list[Body] = []
    for exchange, link in zip(waiting, links, strict=True):
        if link.fileno() not in ready:
            exchange.unblock()
        bodies += exchange.answer(limit - len(bodies))
    for exchange in waiting:
        exchange.finish()
    return bodies
