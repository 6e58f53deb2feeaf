"""The core of the channel layer: ASGI's messages on top of lanes, scripts and the wire form, and the state of it all.

One object serves all threads, hubs and greenlets of a process, and survives a fork.  ``send`` and its like raise
:class:`~greendaphne.layers.LayerUnavailable` in an outage; blocking receivers wait it out and return empty-handed.  The extensions
(``extensions``) and the choice of servers (``layer``, ``sentinel``) build on it.
"""

from __future__ import annotations

import logging
import os
import random
import string
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from .. import LayerUnavailable
from ..base import BaseChannelLayer
from ..groups import GROUP_HEADROOM, headroom
from ..runworker import attend
from ..tally import Tally
from ..wake import Wake
from . import receiving, wire
from .calls import Call, Send
from .hub_lane import HubLane
from .hubs import current_hub, native_lock
from .lanes import Lane
from .reliable import LEASE, Reliable, is_reliable, unclaimed_key
from .scripts import pack
from .send_commands import SendCommands
from .shard import Address, Listener, Shard, State
from .site import claim_site
from .taking import Body, Source
from .thread_lane import THREAD_CONNECTIONS, ThreadLane
from .wire import Message

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds to wait for a reply, and for a connection, where ``connection_kwargs`` do not say: a server that hangs is noticed soon.
SOCKET_TIMEOUT = 3.0
CONNECT_TIMEOUT = 2.0
#: Channels whose packed commands are kept.
PACKED_SENDS = 1000
#: Names of normal channels that are checked once.
SHARED_NAMES = 100
#: Sets of channels of which is kept where their messages are.
PLANS = 100
#: Channels to whose messages there is no reply.
UNANSWERED = frozenset({"http.disconnect", "websocket.disconnect"})
#: Letters at the end of a name from ``new_channel``.
NEW_CHANNEL_LETTERS = 12


class Plan:
    """Where the messages of some channels are."""

    __slots__ = ("busy", "places", "reliable", "shared")

    def __init__(self, places: list[tuple[int, list[str]]], shared: bool, reliable: bool) -> None:
        #: Shards with the lists to look at there.
        self.places = places
        #: Whether others may look there too.
        self.shared = shared
        #: Whether some of the messages are to be acknowledged.
        self.reliable = reliable
        #: Whether the last receive found messages.
        self.busy = False


class CoreLayer(BaseChannelLayer):
    """Messages and state; subclasses find the shards."""

    LayerUnavailable = LayerUnavailable

    #: In a thread with a hub it waits cooperatively, whether or not the process is monkey-patched.
    blocks_natively = False

    #: Seconds that ``receive(block=True)`` waits before it returns without a message.
    blpop_timeout: float = 5

    expiry: int
    group_expiry: int
    capacity: int
    channel_capacity: list[tuple[Any, int]]

    #: Seconds after which an idle connection is replaced; 0 for never.
    _link_life: float = 0

    def __init__(
        self,
        expiry: int = 60,
        hosts: Iterable[Any] | None = None,
        prefix: str = "asgi:",
        group_expiry: int = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        stats_prefix: str = "asgi-meta:",
        connection_kwargs: Mapping[str, Any] | None = None,
        group_headroom: int = GROUP_HEADROOM,
        reliable: bool = False,
        lease: float = LEASE,
    ) -> None:
        """
        :param expiry: life of a message in seconds.
        :param hosts: where the servers are, the same in the same order for all processes; see :meth:`_addresses`.
        :param prefix: what the keys begin with.
        :param group_expiry: life of a group's membership in seconds.
        :param capacity: messages that a channel holds.
        :param channel_capacity: patterns (globs or compiled regular expressions) of channel names and their capacities.
        :param symmetric_encryption_keys: passphrases: messages are encrypted under the first and read under any of them.
        :param stats_prefix: what the counters' keys begin with.
        :param connection_kwargs: options for redis-py's connections.  ``socket_timeout`` (default 3 s) and
            ``socket_connect_timeout`` (2 s) bound the time in which an outage is noticed; ``max_connections`` (8) is what plain
            threads share per server.
        :param group_headroom: messages per member of a group that a process-specific channel takes from groups beyond its capacity; see
            :data:`greendaphne.layers.groups.GROUP_HEADROOM`.
        :param reliable: keep the messages of ``http.request`` and ``websocket.*`` until they are acknowledged, so that those of a worker
            that crashes are handled by another.  A consumer may see a message twice then.
        :param lease: seconds after which the messages of a worker that crashed go back into their lists.
        :raises ValueError: for hosts or options that make no sense.
        """
        if not isinstance(prefix, str):
            raise TypeError("Prefix must be unicode")
        super().__init__(expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.prefix = prefix
        self.group_headroom = headroom(group_headroom)
        #: The messages that this layer lost, as far as this process knows.
        self.tally = Tally()
        self.stats_prefix = stats_prefix
        self.crypter = wire.make_crypter(symmetric_encryption_keys)
        self._options = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT, **(connection_kwargs or {})}
        self._state = State()
        self._rotation = count(random.randrange(4096))
        # For the keys of messages, which need not be secret: a source of its own, which no application seeds, and no system call for each.
        self._random = random.Random()
        # Names of normal channels that have been checked.
        self._shared_names: set[str] = set()
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._send_commands: dict[tuple[str, int], SendCommands] = {}
        self._lock = native_lock()
        self._hub_lanes: dict[int, tuple[Any, list[HubLane]]] = {}
        if lease <= 0:
            raise ValueError(f"lease must be more than 0 seconds, not {lease}")
        self._lease = lease
        #: Whether messages of ``http.request`` and ``websocket.*`` are kept until they are acknowledged.
        self.reliable = reliable
        self._reliable: Reliable | None = None
        #: Ends the blocking receives on normal channels of the whole process, see :meth:`interrupt`.
        self._wake = Wake()
        timeout = float(self._options["socket_timeout"] or SOCKET_TIMEOUT)
        self._shards = [
            Shard(address, self._state, timeout=timeout, expiry=expiry, prefix=prefix, link_life=self._link_life)
            for address in self._addresses(hosts)
        ]
        self._new_thread_lanes()
        self._new_reliable()
        layer = weakref.ref(self)

        def forked() -> None:
            if (found := layer()) is not None:
                found._forked()

        os.register_at_fork(after_in_child=forked)

    def _addresses(self, hosts: Iterable[Any] | None) -> Sequence[Address]:
        """The servers of the ring, found by the subclass, for which ``_options`` are there."""
        raise NotImplementedError

    @property
    def ring_size(self) -> int:
        """The number of shards."""
        return len(self._shards)

    # Availability

    @property
    def available(self) -> bool:
        """Whether no Redis is known to be out of reach."""
        return self._state.available

    def epoch(self) -> int:
        """How many times data may have been lost: messages and groups from before the last change of this number may be gone."""
        return self._state.losses

    def add_listener(self, listener: Listener) -> None:
        """Have ``listener(event, data_lost)`` called when the layer's state changes.

        ``"lost"``: a Redis went out of reach.  ``"restored"``: all are in reach again; ``data_lost`` tells whether messages and groups
        may be gone, which is also reported when nothing was out of reach (a ``FLUSHALL``, a quick restart).  The call comes in
        whatever thread or greenlet notices and must neither wait nor raise.
        """
        self._state.add_listener(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Take back :meth:`add_listener`."""
        self._state.remove_listener(listener)

    def set_patience(self, seconds: float) -> None:
        """Let the commands of many greenlets that come at the same time wait so long for others to travel with, from now on.

        Without this the layer takes a part of the time after which messages usually have their first reply, see :mod:`.pace`.
        """
        self._state.pace.fix(seconds)

    def claim_site(self, name: str) -> str | None:
        """Mark this Redis and prefix as used by the site ``name``; returns the name of another site that uses them, or ``None``.

        :raises LayerUnavailable: where a server is out of reach.
        """
        return claim_site(self._lanes(), self.prefix, name)

    def close(self) -> None:
        """Send what :meth:`send_later` still holds and close the calling hub's (or all plain threads') connections.

        The layer remains usable: it connects again when needed.
        """
        if self._reliable is not None:
            self._reliable.settle()
        hub = current_hub()
        lanes: Sequence[Lane] = self._thread_lanes
        if hub is not None:
            with self._lock:
                lanes = self._hub_lanes.pop(id(hub), (hub, []))[1]
        for lane in lanes:
            lane.close()

    # Lanes

    def _lanes(self) -> Sequence[Lane]:
        hub = current_hub()
        if hub is None:
            return self._thread_lanes
        found = self._hub_lanes.get(id(hub))
        if found is None or found[0] is not hub:
            found = hub, [HubLane(shard, hub) for shard in self._shards]
            with self._lock:
                self._clear_away()
                self._hub_lanes[id(hub)] = found
        return found[1]

    def _clear_away(self) -> None:
        """Let go of hubs that ended without :meth:`close`."""
        for key, (_, lanes) in list(self._hub_lanes.items()):
            if any(lane.is_dead for lane in lanes):
                del self._hub_lanes[key]
                for lane in lanes:
                    lane.abandon()

    def _new_thread_lanes(self) -> None:
        connections = int(self._options.get("max_connections") or THREAD_CONNECTIONS)
        self._thread_lanes = [ThreadLane(shard, connections) for shard in self._shards]

    def _new_reliable(self) -> None:
        if self.reliable:
            layer = weakref.ref(self)

            def lanes() -> Sequence[Lane]:
                found = layer()
                return [] if found is None else found._lanes()

            self._reliable = Reliable(self._shards, self._lease, lanes)

    def _forked(self) -> None:
        """Leave the parent's connections alone."""
        self._lock = native_lock()
        # The parent's next keys must not be this process' too.
        self._random = random.Random()
        self._send_commands = {}
        self._hub_lanes = {}
        for shard in self._shards:
            shard.forget()
        self._new_thread_lanes()
        # What the parent took is the parent's to acknowledge.
        self._new_reliable()

    def consistent_hash(self, value: str) -> int:
        """The shard on which the group or non-normal channel ``value`` lives."""
        return wire.shard_of(value, len(self._shards))

    def _index(self, name: str) -> int:
        """The shard to send to: fixed for response channels; for normal ones the next in turn that is in reach."""
        shards = self._shards
        if len(shards) == 1:
            return 0
        if "!" in name or "?" in name:
            return self.consistent_hash(self.non_local_name(name))
        first = next(self._rotation)
        for offset in range(len(shards)):
            index = (first + offset) % len(shards)
            if not shards[index].wait_time():
                return index
        return first % len(shards)

    # Messages

    def send(self, channel: str, message: Message) -> None:
        """Store ``message`` for the readers of ``channel``.

        :raises ChannelFull: when the channel holds as many messages as its capacity allows.
        :raises LayerUnavailable: when Redis cannot be reached or refuses; its ``maybe_stored`` tells whether the message may have
            been stored all the same.
        :raises MessageTooLarge: for more than 512 MiB.
        """
        call = self._send_call(channel, message)
        [[stored]] = self._lanes()[self._index(channel)].run([call])
        if not stored:
            raise self.ChannelFull(channel)

    def send_later(self, channel: str, message: Message) -> None:
        """Send ``message`` along with other messages of this hub, within 20 ms; it is dropped where :meth:`send` would raise."""
        self._lanes()[self._index(channel)].post(self._send_call(channel, message))

    def send_along(self, channel: str, message: Message, failed: Callable[[Exception | None], object]) -> bool:
        """Send ``message`` with the next pipeline without waiting for it, if other greenlets' messages are on their way; otherwise false.

        A greenlet that waits for the reply to its message in any case need not be woken for the message before.

        :param failed: called in a greenlet of its own where :meth:`send` would raise: with :class:`LayerUnavailable`, or with ``None``
            for a full channel.
        :raises MessageTooLarge: for more than 512 MiB.
        """
        lane = self._lanes()[self._index(channel)]
        if not isinstance(lane, HubLane) or not lane.is_busy:
            return False
        lane.take_along(self._send_call(channel, message), failed)
        return True

    def _send_call(self, channel: str, message: Message) -> Send:
        if channel not in self._shared_names:
            self.valid_channel_name(channel)
            if "!" not in channel and "?" not in channel and len(self._shared_names) < SHARED_NAMES:
                self._shared_names.add(channel)
        if type(message) is not dict or wire.FULL_NAME in message:
            self._check(message)
        asks = False
        if "!" in channel:
            message = {**message, wire.FULL_NAME: channel}
            channel = self.non_local_name(channel)
        elif channel not in UNANSWERED and type(reply_channel := message.get("reply_channel")) is str:
            self._state.pace.sent(reply_channel)
            asks = True
        call = self._store_call(channel, self._limited(self.serialize(message)), self.get_capacity(channel))
        call.asks = asks
        return call

    def _store_call(self, channel: str, body: bytes, capacity: int) -> Send:
        """The call that appends ``body`` to the list ``channel`` if it has fewer messages than ``capacity``."""
        return Send(self._send_commands.get((channel, capacity)) or self._new_send_commands(channel, capacity), body)

    def _new_send_commands(self, channel: str, capacity: int) -> SendCommands:
        commands = SendCommands(
            self.prefix,
            self.stats_prefix,
            channel,
            capacity=capacity,
            expiry=self.expiry,
            random=self._random,
            unclaimed=unclaimed_key(self.prefix) if self.reliable and is_reliable(channel) else None,
        )
        if len(self._send_commands) >= PACKED_SENDS:
            self._send_commands.clear()
        self._send_commands[channel, capacity] = commands
        return commands

    def _check(self, message: Message) -> None:
        if not isinstance(message, dict):
            raise TypeError("message is not a dict")
        if wire.FULL_NAME in message:
            raise ValueError(f"the key {wire.FULL_NAME} is reserved")

    def _limited(self, body: bytes) -> bytes:
        if len(body) > wire.VALUE_LIMIT:
            raise self.MessageTooLarge(f"{len(body)} bytes")
        return body

    def serialize(self, message: Message) -> bytes:
        """``message`` as it is stored."""
        data = wire.pack_message(message)
        return self.crypter.encrypt(data) if self.crypter else data

    def deserialize(self, data: bytes) -> Message:
        """The message that was stored as ``data``.

        :raises ValueError: where it is none, or was encrypted under an unknown key or too long ago.
        """
        if self.crypter:
            try:
                data = self.crypter.decrypt(data, self.expiry + wire.ENCRYPTION_GRACE)
            except Exception:  # noqa: BLE001 - InvalidToken, and whatever a damaged token leads to
                raise ValueError("not encrypted under a known key, or too old") from None
        return wire.unpack_message(data)

    def receive(
        self, channels: Collection[str], block: bool = False, *, wake: Wake | None = None
    ) -> tuple[str, Message] | tuple[None, None]:
        """Return a message of one of ``channels`` with the name of its channel, or ``(None, None)``.

        With ``block`` it waits up to ``blpop_timeout`` seconds, and an outage merely looks like a time without messages.

        :param wake: ends the wait earlier, with the message that Redis has handed over by then, if any.
        :raises LayerUnavailable: without ``block``, when no Redis of these channels can be reached.
        """
        if block:
            found = self.receive_batch(channels, 1, self.blpop_timeout, wake)
            return found[0] if found else (None, None)
        polled = self._poll(self._sources(self._planned(channels)), 1)
        return polled[0] if polled else (None, None)

    def receive_many(self, channels: Collection[str], block: bool = False) -> tuple[str, Message] | tuple[None, None]:
        """The old name of :meth:`receive`, which the workers of Channels 1 call; without the warning of the base class.

        ``manage.py runworker`` ends in good order from the first such call on, see :mod:`greendaphne.layers.runworker`.
        """
        if not block:
            return self.receive(channels)
        attend(self)
        return self.receive(channels, True, wake=self._wake if self._planned(channels).shared else None)

    def receive_batch(
        self, channels: Collection[str], limit: int, timeout: float | None, wake: Wake | None = None
    ) -> list[tuple[str, Message]]:
        """Return up to ``limit`` messages of ``channels``, at least one unless ``timeout`` seconds pass first; ``None`` is for ever.

        In an outage it returns early with nothing, yet never at once, and raises nothing.  An exception that is thrown into the wait (a
        killed greenlet, a time limit) loses no message: what Redis has handed over goes back to the head of its list.

        :param wake: ends the wait earlier, with the messages that Redis has handed over by then.
        """
        plan = self._planned(channels)
        sources = self._sources(plan)
        if not sources:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if wake is not None and wake.is_set:
                return []
            remaining = self.blpop_timeout if deadline is None else min(self.blpop_timeout, deadline - time.monotonic())
            if remaining <= 0:
                return self._poll(sources, limit) if timeout == 0 else []
            received = self._decode(receiving.wait(sources, limit, remaining, shared=plan.shared, busy=plan.busy, wake=wake))
            plan.busy = bool(received)
            if received or not self._state.available:
                return received

    # The end of waits, and of the work on messages

    def interrupt(self) -> None:
        """End all calls of :meth:`receive_many` on normal channels, for good; from any thread, greenlet or signal handler.

        They return the message that Redis has handed over by then, if any: what the end of a worker of Channels needs.
        """
        self._wake.set()

    def acknowledge(self) -> None:
        """Have the messages that the calling greenlet or thread received last count as handled; without ``reliable`` nothing happens.

        The next receive of the same greenlet or thread on ``http.request`` or ``websocket.*`` does it as well.  Redis is told with the next
        receive, or after some seconds; :meth:`settle` tells it at once.
        """
        if self._reliable is not None:
            self._reliable.held().acknowledge()

    def release(self) -> None:
        """Have the messages that the calling greenlet or thread received last put back at the head of their lists: the reverse of
        :meth:`acknowledge`."""
        if self._reliable is not None:
            self._reliable.held().release()

    def settle(self) -> None:
        """Tell Redis at once what was acknowledged and what is to be put back."""
        if self._reliable is not None:
            self._reliable.settle()

    def finished(self) -> None:
        """Take note that the consumer has returned: the end of the process acknowledges the message then, if no receive did before."""
        if self._reliable is not None:
            self._reliable.held().finished = True

    def _poll(self, sources: Sequence[Source], limit: int) -> list[tuple[str, Message]]:
        failures: list[LayerUnavailable] = []
        for source in sources:
            try:
                while bodies := receiving.take(source, limit):
                    if received := self._decode(bodies):
                        return received
            except LayerUnavailable as error:
                failures.append(error)
        if failures and len(failures) == len(sources):
            raise failures[0]
        return []

    def _planned(self, channels: Iterable[str]) -> Plan:
        """The plan of ``channels``."""
        channels = tuple(channels)
        plan = self._plans.get(channels)
        if plan is None:
            plan = self._plan(channels)
            if len(self._plans) >= PLANS:
                self._plans.clear()
            self._plans[channels] = plan
        return plan

    def _sources(self, plan: Plan) -> list[Source]:
        """Where to look for messages."""
        lanes = self._lanes()
        takers = None
        if plan.reliable and self._reliable is not None:
            takers = self._reliable.takers
            self._reliable.held().acknowledge()
        # The first lists must not starve the others, nor the first shards.
        sources = [
            Source(
                lanes[index], names if len(names) == 1 else random.sample(names, len(names)), takers[index] if takers is not None else None
            )
            for index, names in plan.places
        ]
        if len(sources) > 1:
            first = next(self._rotation) % len(sources)
            sources = sources[first:] + sources[:first]
        return sources

    def _plan(self, channels: Iterable[str]) -> Plan:
        """The shards and lists of ``channels``; normal channels are on every shard."""
        lists: dict[int, list[str]] = {}
        shared = reliable = False
        for channel in channels:
            self.valid_channel_name(channel, receive=True)
            fixed = "!" in channel or "?" in channel
            shared = shared or not fixed
            reliable = reliable or (self.reliable and is_reliable(channel))
            for index in (self.consistent_hash(channel),) if fixed else range(len(self._shards)):
                lists.setdefault(index, []).append(self.prefix + channel)
        if shared:
            self._state.pace.has_workers()
        return Plan(list(lists.items()), shared, reliable)

    def _decode(self, bodies: Iterable[Body]) -> list[tuple[str, Message]]:
        received = []
        arrived = self._state.pace.received
        for key, body in bodies:
            channel = key[len(self.prefix) :]
            try:
                if body is None:
                    raise ValueError("its key in Redis was no list, and is deleted")
                message = self.deserialize(body)
                name = wire.full_name(message, channel)
            except ValueError as error:
                self.tally.bad_message(channel, str(error))
                continue
            arrived(name)
            received.append((name, message))
        return received

    def new_channel(self, pattern: str) -> str:
        """Return a name that no messages wait under: ``pattern``, which must end in ``?``, and twelve letters."""
        if not pattern.endswith("?"):
            raise TypeError("A pattern of new_channel must end with ?")
        while True:
            name = pattern + "".join(random.choices(string.ascii_letters, k=NEW_CHANNEL_LETTERS))
            self.valid_channel_name(name)
            [[exists]] = self._lanes()[self.consistent_hash(name)].run([Call(pack("EXISTS", self.prefix + name))])
            if not exists:
                return name
