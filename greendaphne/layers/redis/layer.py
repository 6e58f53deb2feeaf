"""The channel layer itself: asgi_redis' constructor and ASGI's methods, on top of lanes, scripts and the wire form.

One object serves all threads, hubs and greenlets of a process, and survives a fork.  ``send`` and its like raise
:class:`~greendaphne.layers.LayerUnavailable` in an outage; blocking receivers wait it out and return empty-handed.
"""

from __future__ import annotations

import logging
import os
import random
import string
import sys
import time
import uuid
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, cast

from asgiref.base_layer import BaseChannelLayer

from .. import LayerUnavailable
from . import receiving, wire
from .connection import Reply, parse_host
from .hubs import current_hub, native_lock
from .lanes import THREAD_CONNECTIONS, Call, HubLane, Lane, ThreadLane
from .scripts import SEND, SEND_GROUP, pack
from .shard import Address, FixedAddress, Listener, Shard, State
from .wire import Message

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds to wait for a reply, and for a connection, where ``connection_kwargs`` do not say: a server that hangs is noticed soon.
SOCKET_TIMEOUT = 3.0
CONNECT_TIMEOUT = 2.0
#: Channels of one script call when a group's members are sent to by name.
GROUP_BATCH = 1000
#: Keys looked at by one step of ``flush``.
SCAN_COUNT = 1000
#: Letters at the end of a name from ``new_channel``.
NEW_CHANNEL_LETTERS = 12


class BaseRedisChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """What the layers with fixed servers and with Sentinel have in common; subclasses find the shards."""

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]

    LayerUnavailable = LayerUnavailable

    #: Seconds that ``receive(block=True)`` waits before it returns without a message.
    blpop_timeout: float = 5

    expiry: int
    group_expiry: int
    capacity: int
    channel_capacity: list[tuple[Any, int]]

    def __init__(
        self,
        *,
        expiry: int,
        prefix: str,
        group_expiry: int,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        symmetric_encryption_keys: Iterable[str | bytes] | None,
        stats_prefix: str,
        connection_kwargs: Mapping[str, Any] | None,
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError("Prefix must be unicode")
        super().__init__(expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.prefix = prefix
        self.stats_prefix = stats_prefix
        self.crypter = wire.make_crypter(symmetric_encryption_keys)
        self._options = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT, **(connection_kwargs or {})}
        self._state = State()
        self._shards: list[Shard] = []
        self._rotation = count(random.randrange(4096))
        self._busy = False
        self._lock = native_lock()
        self._thread_lanes: list[Lane] = []
        self._hub_lanes: dict[int, tuple[Any, list[Lane]]] = {}
        layer = weakref.ref(self)

        def forked() -> None:
            if (found := layer()) is not None:
                found._forked()

        os.register_at_fork(after_in_child=forked)

    def _set_shards(self, addresses: Iterable[Address], link_life: float = 0) -> None:
        timeout = float(self._options["socket_timeout"] or SOCKET_TIMEOUT)
        marker = wire.marker_key(self.prefix)
        self._shards = [
            Shard(address, self._state, timeout=timeout, expiry=self.expiry, marker=marker, link_life=link_life) for address in addresses
        ]
        self._new_thread_lanes()

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

    def close(self) -> None:
        """Send what :meth:`send_later` still holds and close the calling hub's (or all plain threads') connections.

        The layer remains usable: it connects again when needed.
        """
        hub = current_hub()
        lanes = self._thread_lanes
        if hub is not None:
            with self._lock:
                lanes = self._hub_lanes.pop(id(hub), (hub, []))[1]
        for lane in lanes:
            lane.close()

    # Lanes

    def _lanes(self) -> list[Lane]:
        hub = current_hub()
        if hub is None:
            return self._thread_lanes
        found = self._hub_lanes.get(id(hub))
        if found is None or found[0] is not hub:
            lanes: list[Lane] = [HubLane(shard, hub) for shard in self._shards]
            with self._lock:
                alive = sys._current_frames()
                self._hub_lanes = {key: entry for key, entry in self._hub_lanes.items() if entry[0].thread_ident in alive}
                found = self._hub_lanes[id(hub)] = (hub, lanes)
        return found[1]

    def _new_thread_lanes(self) -> None:
        connections = int(self._options.get("max_connections") or THREAD_CONNECTIONS)
        self._thread_lanes = [ThreadLane(shard, connections) for shard in self._shards]

    def _forked(self) -> None:
        """Leave the parent's connections alone."""
        self._lock = native_lock()
        self._hub_lanes = {}
        for shard in self._shards:
            shard.forget()
        self._new_thread_lanes()

    def consistent_hash(self, value: str) -> int:
        """The shard on which the group or non-normal channel ``value`` lives."""
        return wire.shard_of(value, len(self._shards))

    def _index(self, name: str) -> int:
        """The shard to send to: fixed for response channels; for normal ones the next in turn that is in reach."""
        shards = self._shards
        if len(shards) == 1:
            return 0
        if "!" in name or "?" in name:
            return self.consistent_hash(name)
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
        :raises LayerUnavailable: when Redis cannot be reached or refuses; the message may have been stored all the same.
        :raises MessageTooLarge: for more than 512 MiB.
        """
        index, call = self._send_call(channel, message)
        [[stored]] = self._lanes()[index].run([call])
        if not stored:
            raise self.ChannelFull(channel)

    def send_later(self, channel: str, message: Message) -> None:
        """Send ``message`` along with other messages of this hub, within 20 ms; it is dropped where :meth:`send` would raise."""
        index, call = self._send_call(channel, message)
        self._lanes()[index].post(call)

    def _send_call(self, channel: str, message: Message) -> tuple[int, Call]:
        self.valid_channel_name(channel)
        self._check(message)
        if "!" in channel:
            message = {**message, wire.FULL_NAME: channel}
            channel = self.non_local_name(channel)
        return self._index(channel), self._store_call(channel, self._limited(self.serialize(message)))

    def _store_call(self, channel: str, body: bytes) -> Call:
        """The call that appends ``body`` to the list ``channel``."""
        keys = [
            f"{self.prefix}{uuid.uuid4().hex}",
            f"{self.prefix}{channel}",
            f"{self.stats_prefix}{channel}:",
            f"{self.stats_prefix}{wire.GLOBAL_STATISTICS}:",
        ]
        capacity = self.get_capacity(channel)
        data = SEND.call(keys, body, self.expiry, capacity, wire.CHANNEL_STATISTICS_EXPIRY, wire.GLOBAL_STATISTICS_EXPIRY)
        return Call(data, script=SEND)

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
            from cryptography.fernet import InvalidToken

            try:
                data = self.crypter.decrypt(data, self.expiry + wire.ENCRYPTION_GRACE)
            except InvalidToken:
                raise ValueError("not encrypted under a known key, or too old") from None
        return wire.unpack_message(data)

    def receive(self, channels: Collection[str], block: bool = False) -> tuple[str, Message] | tuple[None, None]:
        """Return a message of one of ``channels`` with the name of its channel, or ``(None, None)``.

        With ``block`` it waits up to ``blpop_timeout`` seconds, and an outage merely looks like a time without messages.

        :raises LayerUnavailable: without ``block``, when no Redis of these channels can be reached.
        """
        sources, shared = self._sources(channels)
        if block:
            received = self._decode(receiving.wait(sources, 1, self.blpop_timeout, shared=shared, busy=self._busy)) if sources else []
            self._busy = bool(received)
        else:
            received = self._poll(sources, 1)
        return received[0] if received else (None, None)

    def receive_batch(self, channels: Collection[str], limit: int, timeout: float | None) -> list[tuple[str, Message]]:
        """Return up to ``limit`` messages of ``channels``, at least one unless ``timeout`` seconds pass first; ``None`` is for ever.

        In an outage it returns early with nothing, yet never at once, and raises nothing.
        """
        sources, shared = self._sources(channels)
        if not sources:
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = self.blpop_timeout if deadline is None else min(self.blpop_timeout, deadline - time.monotonic())
            if remaining <= 0:
                return self._poll(sources, limit) if timeout == 0 else []
            received = self._decode(receiving.wait(sources, limit, remaining, shared=shared, busy=self._busy))
            self._busy = bool(received)
            if received or not self._state.available:
                return received

    def _poll(self, sources: Sequence[receiving.Source], limit: int) -> list[tuple[str, Message]]:
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

    def _sources(self, channels: Iterable[str]) -> tuple[list[receiving.Source], bool]:
        """Where to look for messages of ``channels``, and whether others may look there too.  Normal channels are on every shard."""
        lists: dict[int, list[str]] = {}
        shared = False
        shards = len(self._shards)
        first = next(self._rotation)
        everywhere = [(first + offset) % shards for offset in range(shards)]
        for channel in channels:
            self.valid_channel_name(channel, receive=True)
            fixed = "!" in channel or "?" in channel
            shared = shared or not fixed
            for index in (self.consistent_hash(channel),) if fixed else everywhere:
                lists.setdefault(index, []).append(self.prefix + channel)
        lanes = self._lanes()
        for names in lists.values():
            # The first lists must not starve the others.
            random.shuffle(names)
        return [(lanes[index], names) for index, names in lists.items()], shared

    def _decode(self, bodies: Iterable[receiving.Body]) -> list[tuple[str, Message]]:
        received = []
        for key, body in bodies:
            channel = key[len(self.prefix) :]
            try:
                message = self.deserialize(body)
            except ValueError as error:
                logger.error("Dropped a message on %s that cannot be read: %s", channel, error)
                continue
            received.append((message.pop(wire.FULL_NAME, channel), message))
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

    # Groups

    def group_add(self, group: str, channel: str) -> None:
        """Make ``channel`` a member of ``group`` for ``group_expiry`` seconds from now."""
        lane, key = self._group(group)
        self.valid_channel_name(channel)
        lane.run([Call(pack("ZADD", key, time.time(), channel) + pack("EXPIRE", key, self.group_expiry), 2)])

    def group_discard(self, group: str, channel: str) -> None:
        """End the membership of ``channel`` in ``group``, if there is one."""
        lane, key = self._group(group)
        self.valid_channel_name(channel)
        lane.run([Call(pack("ZREM", key, channel))])

    def group_channels(self, group: str) -> list[str]:
        """The members of ``group``."""
        lane, key = self._group(group)
        [[_, members]] = lane.run([Call(pack("ZREMRANGEBYSCORE", key, 0, self._group_threshold()) + pack("ZRANGE", key, 0, -1), 2)])
        return [member.decode() for member in cast("list[bytes]", members)]

    def send_group(self, group: str, message: Message) -> None:
        """Send ``message`` to all members of ``group``; those that are full miss it.

        :raises LayerUnavailable: when some members could not be sent to.
        """
        lane, key = self._group(group)
        self._check(message)
        if len(self._shards) == 1 and not self.crypter and not self.channel_capacity:
            [[sent]] = lane.run([self._group_call(message, [key], ())])
            if sent != -1:
                return
        calls = self._calls_to_members(self.group_channels(group), message)
        failures = []
        for index, batch in calls.items():
            try:
                self._lanes()[index].run(batch)
            except LayerUnavailable as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _group(self, group: str) -> tuple[Lane, str]:
        self.valid_group_name(group)
        return self._lanes()[self.consistent_hash(group)], wire.group_key(self.prefix, group)

    def _group_threshold(self) -> int:
        """The time of joining, in seconds, up to which memberships are over."""
        return int(time.time()) - self.group_expiry

    def _calls_to_members(self, members: Iterable[str], message: Message) -> dict[int, list[Call]]:
        """What to run on which shard to send ``message`` to ``members``."""
        calls: dict[int, list[Call]] = {}
        names: dict[int, list[str]] = {}
        for member in members:
            channel = self.non_local_name(member)
            index = self._index(channel)
            if self.crypter:
                # The name is inside the encrypted part: every member has a body of its own.
                body = self.serialize({**message, wire.FULL_NAME: member} if "!" in member else message)
                calls.setdefault(index, []).append(self._store_call(channel, body))
            else:
                names.setdefault(index, []).append(member)
        for index, channels in names.items():
            for start in range(0, len(channels), GROUP_BATCH):
                calls.setdefault(index, []).append(self._group_call(message, [], channels[start : start + GROUP_BATCH]))
        return calls

    def _group_call(self, message: Message, keys: list[str], members: Iterable[str]) -> Call:
        body = self._limited(wire.pack_message(message))
        named: list[str | int] = []
        for member in members:
            named += (member, self.get_capacity(self.non_local_name(member)))
        data = SEND_GROUP.call(
            keys,
            wire.open_body(message, body),
            body,
            self.expiry,
            self.prefix,
            self.stats_prefix,
            uuid.uuid4().hex[:24],
            wire.CHANNEL_STATISTICS_EXPIRY,
            wire.GLOBAL_STATISTICS_EXPIRY,
            self._group_threshold(),
            self.capacity,
            *named,
        )
        return Call(data, script=SEND_GROUP)

    # Flush

    def flush(self) -> None:
        """Delete all messages, groups and counters on all shards.  Servers that watch the layer take it for a loss of data."""
        for lane in self._lanes():
            for prefix in (self.prefix, self.stats_prefix):
                self._flush(lane, wire.escape_glob(prefix) + "*")

    def _flush(self, lane: Lane, pattern: str) -> None:
        cursor: bytes | str = "0"
        while True:
            [[reply]] = lane.run([Call(pack("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT))])
            cursor, keys = cast("tuple[bytes, list[bytes]]", reply)
            if keys:
                lane.run([Call(pack("DEL", *keys))])
            if cursor == b"0":
                return

    # Statistics

    def global_statistics(self) -> dict[str, int]:
        """``messages_count`` and ``channel_full_count`` of all channels over all shards."""
        statistics = {wire.STAT_MESSAGES_COUNT: 0, wire.STAT_CHANNEL_FULL: 0}
        for lane in self._lanes():
            [[counters]] = lane.run([Call(self._counters(wire.GLOBAL_STATISTICS))])
            self._add_counters(statistics, counters)
        return statistics

    def channel_statistics(self, channel: str) -> dict[str, int]:
        """The counters of ``channel``, ``messages_pending``, and ``messages_max_age``: the oldest message's age in seconds."""
        channel = self.non_local_name(channel)
        lanes = self._lanes()
        if "!" in channel or "?" in channel:
            lanes = [lanes[self.consistent_hash(channel)]]
        statistics = {
            wire.STAT_MESSAGES_COUNT: 0,
            wire.STAT_MESSAGES_PENDING: 0,
            wire.STAT_MESSAGES_MAX_AGE: 0,
            wire.STAT_CHANNEL_FULL: 0,
        }
        key = self.prefix + channel
        for lane in lanes:
            [[counters, pending, oldest]] = lane.run([Call(self._counters(channel) + pack("LLEN", key) + pack("LINDEX", key, 0), 3)])
            self._add_counters(statistics, counters)
            statistics[wire.STAT_MESSAGES_PENDING] += cast(int, pending)
            if oldest:
                [[life]] = lane.run([Call(pack("TTL", cast(bytes, oldest)))])
                age = self.expiry - max(0, cast(int, life))
                statistics[wire.STAT_MESSAGES_MAX_AGE] = max(statistics[wire.STAT_MESSAGES_MAX_AGE], age)
        return statistics

    def _counters(self, channel: str) -> bytes:
        prefix = f"{self.stats_prefix}{channel}:"
        return pack("MGET", prefix + wire.STAT_MESSAGES_COUNT, prefix + wire.STAT_CHANNEL_FULL)

    @staticmethod
    def _add_counters(statistics: dict[str, int], counters: Reply) -> None:
        messages, full = cast("list[bytes | None]", counters)
        statistics[wire.STAT_MESSAGES_COUNT] += int(messages or 0)
        statistics[wire.STAT_CHANNEL_FULL] += int(full or 0)


class RedisChannelLayer(BaseRedisChannelLayer):
    """A channel layer on one Redis server or on a ring of several."""

    def __init__(
        self,
        expiry: int = 60,
        hosts: Iterable[str | tuple[str, int]] | None = None,
        prefix: str = "asgi:",
        group_expiry: int = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        stats_prefix: str = "asgi-meta:",
        connection_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """
        :param expiry: life of a message in seconds.
        :param hosts: URLs (``redis://``, ``rediss://``, ``unix://``) or ``(host, port)``; the same in the same order for all
            processes.  By default a server on this machine.
        :param prefix: what the keys begin with.
        :param group_expiry: life of a group's membership in seconds.
        :param capacity: messages that a channel holds.
        :param channel_capacity: patterns (globs or compiled regular expressions) of channel names and their capacities.
        :param symmetric_encryption_keys: passphrases: messages are encrypted under the first and read under any of them.
        :param stats_prefix: what the counters' keys begin with.
        :param connection_kwargs: options for redis-py's connections.  ``socket_timeout`` (default 3 s) and
            ``socket_connect_timeout`` (2 s) bound the time in which an outage is noticed; ``max_connections`` (8) is what plain
            threads share per server.
        :raises ValueError: for hosts or options that make no sense.
        """
        super().__init__(
            expiry=expiry,
            prefix=prefix,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            symmetric_encryption_keys=symmetric_encryption_keys,
            stats_prefix=stats_prefix,
            connection_kwargs=connection_kwargs,
        )
        if isinstance(hosts, str):
            raise ValueError("ASGI Redis hosts must be specified as an iterable list of hosts.")
        self.hosts = [_host_url(entry) for entry in hosts or [("localhost", 6379)]]
        targets = [parse_host(url, self._options) for url in self.hosts]
        for target in targets:
            target.new_connection(False)
        self._set_shards([FixedAddress(target) for target in targets])

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[shard.name for shard in self._shards]})"


def _host_url(entry: str | tuple[str, int]) -> str:
    if isinstance(entry, str):
        return entry
    host, port = entry
    return f"redis://{f'[{host}]' if ':' in host else host}:{port:d}/0"
