"""Taking messages so that a crash gives them back: the records of what was taken, and the leases of the processes that took it.

A worker's process that takes a message records it in Redis in the same step, and leaves the message itself there.  Once the consumer has
returned, the message and its record are deleted, along with the next take.  Each process keeps a lease; the messages of a process whose
lease has run out go back to the head of their lists.  Under ``<prefix>:`` there are, on each shard:

======================  ===========================================================================================================
``:takers``             set of the processes that take
``:lease:<process>``    its lease, which expires unless it is renewed
``:taken:<process>``    hash of its records: message key → ``<number of the take> <position in it> <list>``
``:unclaimed``          hash of message keys and lists: sent, and not yet recorded by a process that takes
``:suspects``           hash of those of ``:unclaimed`` that were missing from their list at the last look
======================  ===========================================================================================================

``BLPOP`` waits on several lists and cannot move what it pops, so a process that dies right then leaves a message that is in no list and in
no record.  ``:unclaimed`` finds it: a message that two looks, half a lease apart, find neither in its list nor recorded is put back.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from .. import LayerUnavailable
from ..wake import start_native_thread
from .calls import Call
from .hubs import sleep
from .lanes import Lane
from .scripts import BYE, CLAIM, RELEASE, TICK, pack
from .shard import Shard

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds without renewal after which a process counts as dead.
LEASE = 10.0
#: Renewals, and looks at the others' leases, in that time.
RENEWALS = 4
#: Replies to the commands of an acknowledgement.
ACKNOWLEDGEMENTS = 2


def is_reliable(channel: str) -> bool:
    """Whether messages of ``channel`` are kept until they are acknowledged."""
    return channel == "http.request" or (channel.startswith("websocket.") and "!" not in channel and "?" not in channel)


class TakeCall(Call):
    """A call that takes, with what is undone if its reply never comes."""

    __slots__ = ("acknowledged", "number")

    def __init__(self, data: bytes, replies: int, number: int, acknowledged: list[bytes]) -> None:
        super().__init__(data, replies, CLAIM)
        self.number = number
        self.acknowledged = acknowledged


class Held:
    """The messages that a greenlet or plain thread has received and not yet acknowledged.

    Where that ends without a word, they are put back.
    """

    __slots__ = ("__weakref__", "finished", "keys")

    def __init__(self) -> None:
        self.keys: list[tuple[Taker, bytes]] = []
        #: Whether the consumer is known to have returned.
        self.finished = False

    def acknowledge(self) -> None:
        """Have the messages deleted with the next take, or the next look of the keeper."""
        keys, self.keys = self.keys, []
        self.finished = False
        for taker, key in keys:
            taker.done.append(key)

    def release(self) -> None:
        """Have the messages put back at the keeper's next look."""
        keys, self.keys = self.keys, []
        self.finished = False
        for taker, key in keys:
            taker.failed.append(key)

    def __del__(self) -> None:
        # Runs wherever the greenlet ended: one operation on a deque each, and no lock.
        self.release()


class Taker:
    """What this process has taken from one shard.  Its methods may be called from any thread and hub."""

    def __init__(self, shard: Shard, lease: float, held: Callable[[], Held], start: Callable[[], None]) -> None:
        """
        :param lease: seconds.
        :param held: returns what the calling greenlet holds.
        :param start: sees to it that the lease is kept; called before the first take.
        """
        self.shard = shard
        self.name = os.urandom(8).hex()
        self._lease = lease
        self._held = held
        self._start = start
        self._numbers = count(1)
        #: Message keys whose consumers have returned.
        self.done: deque[bytes] = deque()
        #: Message keys to put back, and takes whose replies never came.
        self.failed: deque[bytes] = deque()
        self.lost: deque[int] = deque()
        prefix = f"{shard.prefix}:"
        self.takers = f"{prefix}takers"
        self.leases = f"{prefix}lease:"
        self.records = f"{prefix}taken:"
        self.taken = self.records + self.name
        self.unclaimed = unclaimed_key(shard.prefix)
        self.suspects = f"{prefix}suspects"

    def take_call(self, lists: Sequence[str], limit: int, limit_bytes: int, popped: bytes, position: int) -> TakeCall:
        """The call that takes and records up to ``limit`` messages of ``lists``, and acknowledges what is done."""
        self._start()
        number = next(self._numbers)
        done = self.take_done()
        size = len(self.shard.prefix)
        flags = "".join("1" if is_reliable(name[size:]) else "0" for name in lists)
        data = CLAIM.call(lists, limit, limit_bytes, self.taken, self.unclaimed, number, flags, popped, position)
        return TakeCall(data + self.acknowledgement(done) if done else data, 1 + ACKNOWLEDGEMENTS * bool(done), number, done)

    def take_done(self) -> list[bytes]:
        """The keys to acknowledge now; the caller returns them to :attr:`done` where that fails."""
        keys = []
        while self.done:
            try:
                keys.append(self.done.popleft())
            except IndexError:  # another thread was quicker
                break
        return keys

    def acknowledgement(self, keys: Iterable[bytes]) -> bytes:
        """The commands that delete messages and their records; :data:`ACKNOWLEDGEMENTS` replies."""
        return pack("HDEL", self.taken, *keys) + pack("DEL", *keys)

    def hold(self, keys: Iterable[bytes]) -> None:
        """Have the calling greenlet hold the messages of ``keys``."""
        held = self._held()
        held.finished = False
        held.keys.extend((self, key) for key in keys)

    def release(self, keys: Iterable[bytes]) -> None:
        """Have messages put back when this is settled."""
        self.failed.extend(keys)

    def lose(self, call: Call) -> None:
        """Undo a call whose reply did not come: what it may have taken is put back."""
        if isinstance(call, TakeCall):
            self.done.extend(call.acknowledged)
            self.lost.append(call.number)

    def tick(self, lane: Lane) -> None:
        """Renew the lease, settle what is open, and put back what processes without a lease had taken.

        :raises LayerUnavailable: when the shard does not answer.
        """
        lease = int(self._lease * 1000)
        look = TICK.call(
            [self.takers, self.unclaimed, self.suspects], self.name, self.leases, self.records, lease, lease // 2, self.shard.expiry
        )
        [[restored]] = lane.run([Call(look, script=TICK)])
        if restored:
            logger.warning("Redis %s: %d messages that other processes did not finish are back in their lists", self.shard.name, restored)
        self.settle(lane)

    def settle(self, lane: Lane) -> None:
        """Acknowledge what is done and put back what failed.

        :raises LayerUnavailable: when the shard does not answer; it is tried again the next time.
        """
        done = self.take_done()
        failed = [self.failed.popleft() for _ in range(len(self.failed))]
        lost = [self.lost.popleft() for _ in range(len(self.lost))]
        calls = []
        if failed or lost:
            data = RELEASE.call([self.taken, self.unclaimed], self.shard.expiry, *failed, *lost)
            calls.append(Call(data, script=RELEASE))
        if done:
            calls.append(Call(self.acknowledgement(done), ACKNOWLEDGEMENTS))
        if not calls:
            return
        try:
            lane.run(calls)
        except BaseException:
            self.done.extend(done)
            self.failed.extend(failed)
            self.lost.extend(lost)
            raise

    def leave(self, lane: Lane) -> None:
        """Put back everything that is not acknowledged and give up the lease.

        :raises LayerUnavailable: when the shard does not answer.
        """
        self.settle(lane)
        keys = [self.takers, self.taken, self.unclaimed, self.leases + self.name]
        lane.run([Call(BYE.call(keys, self.name, self.shard.expiry), script=BYE)])


def unclaimed_key(prefix: str) -> str:
    """The key of the hash of messages that were sent and are not yet recorded."""
    return f"{prefix}:unclaimed"


class Reliable:
    """The takers of a layer, the leases that it keeps, and what its greenlets and threads hold."""

    def __init__(self, shards: Sequence[Shard], lease: float, lanes: Callable[[], Sequence[Lane]]) -> None:
        """
        :param lease: seconds.
        :param lanes: returns the lanes of the calling thread, one for each shard.
        """
        self._lanes = lanes
        self._lease = lease
        self._local: Any = None
        self._holders: weakref.WeakSet[Held] = weakref.WeakSet()
        self._started = False
        self.takers = [Taker(shard, lease, self.held, self._start) for shard in shards]

    def held(self) -> Held:
        """What the calling greenlet or plain thread holds."""
        if self._local is None:
            self._local = _new_local()
        held: Held | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = Held()
            self._holders.add(held)
        return held

    def settle(self) -> None:
        """Tell Redis at once what is acknowledged, and what is to be put back; an outage leaves that to the keeper."""
        # No lanes: the layer is gone.
        for taker, lane in zip(self.takers, self._lanes(), strict=False):
            try:
                taker.settle(lane)
            except LayerUnavailable:
                continue

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        self._tick()
        start_native_thread(_keep, (weakref.ref(self), self._lease / RENEWALS))
        # Not a bound method, which would keep the layer alive.
        atexit.register(_leave, weakref.ref(self))

    def _tick(self) -> None:
        # No lanes: the layer is gone.
        for taker, lane in zip(self.takers, self._lanes(), strict=False):
            try:
                taker.tick(lane)
            except LayerUnavailable:
                # Noticed and logged by the shard.
                continue

    def _leave(self) -> None:
        for held in list(self._holders):
            if held.finished:
                held.acknowledge()
        # No lanes: the layer is gone.
        for taker, lane in zip(self.takers, self._lanes(), strict=False):
            try:
                taker.leave(lane)
            except LayerUnavailable:
                continue


def _keep(reference: weakref.ref[Reliable], pause: float) -> None:
    """Keep the leases of a layer as long as there is one; runs in a native thread, so that no consumer can hold it up."""
    lanes: Sequence[Lane] = ()
    while True:
        sleep(pause)
        reliable = reference()
        if reliable is None:
            # The connections outlive the layer for this.
            for lane in lanes:
                lane.close()
            return
        try:
            lanes = reliable._lanes() or lanes
            reliable._tick()
        except Exception:
            logger.exception("The leases of a channel layer could not be renewed:")
        del reliable


def _leave(reference: weakref.ref[Reliable]) -> None:
    reliable = reference()
    if reliable is not None:
        reliable._leave()


def _new_local() -> Any:
    """An object whose attributes each greenlet has for itself, or each thread where there is no gevent."""
    if "gevent" in sys.modules:
        from gevent.local import local

        return local()
    return threading.local()
