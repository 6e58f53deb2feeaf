"""The channel layer's extensions: groups, flush, statistics."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

from .. import LayerUnavailable
from . import wire
from .calls import Call
from .core import CoreLayer
from .lanes import Lane
from .resp import Reply
from .scripts import SEND_GROUP, pack
from .wire import Message

#: Channels of one script call when a group's members are sent to by name.
GROUP_BATCH = 1000
#: Keys looked at by one step of ``flush``.
SCAN_COUNT = 1000

#: Why messages of groups are lost, for the log.
_NO_ROOM = "the channel holds its capacity and group_headroom for each member of the group"
_NO_NAME = "a member of a group is no channel name"


class BaseRedisChannelLayer(CoreLayer):
    """What the layers with fixed servers and with Sentinel have in common."""

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]

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
        found = cast("list[bytes]", members)
        names = [member.decode() for member in found if wire.is_channel_name(member)]
        if len(names) < len(found):
            self.tally.bad_message(None, _NO_NAME, len(found) - len(names))
            lane.run([Call(pack("ZREM", key, *(member for member in found if not wire.is_channel_name(member))))])
        return names

    def send_group(self, group: str, message: Message) -> None:
        """Send ``message`` to all members of ``group``; those that are full miss it.

        :raises LayerUnavailable: when some members could not be sent to.
        """
        lane, key = self._group(group)
        self._check(message)
        if len(self._shards) == 1 and not self.crypter and not self.channel_capacity:
            [[reply]] = lane.run([self._group_call(message, [key], ())])
            if reply != -1:
                self._count_group(reply)
                return
        calls = self._calls_to_members(self.group_channels(group), message)
        failures = []
        for index, batch in calls.items():
            try:
                outcomes = self._lanes()[index].run([call for call, _ in batch])
            except LayerUnavailable as error:
                failures.append(error)
                continue
            for (_, channel), [outcome] in zip(batch, outcomes, strict=True):
                if channel is None:
                    self._count_group(outcome)
                elif not outcome:
                    self.tally.dropped_message(channel, _NO_ROOM)
        if failures:
            raise failures[0]

    def _count_group(self, reply: Reply) -> None:
        """Count what the script did not send."""
        _, bad, *dropped = cast("list[bytes | int]", reply)
        if bad:
            self.tally.bad_message(None, _NO_NAME, cast("int", bad))
        for channel, number in zip(dropped[::2], dropped[1::2], strict=True):
            self.tally.dropped_message(cast("bytes", channel).decode(), _NO_ROOM, cast("int", number))

    def _group(self, group: str) -> tuple[Lane, str]:
        self.valid_group_name(group)
        return self._lanes()[self.consistent_hash(group)], wire.group_key(self.prefix, group)

    def _group_threshold(self) -> int:
        """The time of joining, in seconds, up to which memberships are over."""
        return int(time.time()) - self.group_expiry

    def _calls_to_members(self, members: Sequence[str], message: Message) -> dict[int, list[tuple[Call, str | None]]]:
        """What to run on which shard to send ``message`` to ``members``, each call with its channel where it has one only."""
        lists = Counter(self.non_local_name(member) for member in members)
        headroom = self.group_headroom
        capacities = {channel: self.get_capacity(channel) + headroom * number * ("!" in channel) for channel, number in lists.items()}
        calls: dict[int, list[tuple[Call, str | None]]] = {}
        named: dict[int, list[tuple[str, int]]] = {}
        for member in members:
            channel = self.non_local_name(member)
            index = self._index(channel)
            if self.crypter:
                # The name is inside the encrypted part: every member has a body of its own.
                body = self.serialize({**message, wire.FULL_NAME: member} if "!" in member else message)
                calls.setdefault(index, []).append((self._store_call(channel, self._limited(body), capacities[channel]), channel))
            else:
                named.setdefault(index, []).append((member, capacities[channel]))
        for index, channels in named.items():
            for start in range(0, len(channels), GROUP_BATCH):
                calls.setdefault(index, []).append((self._group_call(message, [], channels[start : start + GROUP_BATCH]), None))
        return calls

    def _group_call(self, message: Message, keys: list[str], members: Iterable[tuple[str, int]]) -> Call:
        """The call that sends ``message`` to the group of the key, or to ``members`` with the capacities of their lists."""
        body = self._limited(wire.pack_message(message))
        named: list[str | int] = []
        for member in members:
            named += member
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
            self.group_headroom,
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
