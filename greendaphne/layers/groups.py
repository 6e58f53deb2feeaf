"""The members of groups, each with the time since when: the data of :mod:`.memory`'s groups extension.

Every operation costs constant time per membership that it touches.  The owner takes the lock and checks the names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

#: Messages per member of a group that a process-specific channel takes from groups beyond its capacity, by default.  All clients of a
#: server share one such channel, and its reader cannot run while one message is sent to all of them.  The other messages are for a burst
#: before the reader runs.
GROUP_HEADROOM = 50


def headroom(value: int) -> int:
    """Return ``value`` if it is valid as a group's headroom.

    :raises ValueError: for anything but a whole number of messages, at least 1.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"group_headroom must be a number of messages, at least 1, not {value!r}")
    return value


class Groups:
    """Memberships that end if they are not renewed.

    Times are monotonic seconds; ``oldest`` is the time before which a membership that was not renewed has ended.
    """

    __slots__ = ("_groups", "_memberships")

    def __init__(self) -> None:
        #: group -> channel -> time of the latest addition, oldest first; the outer order is that of :meth:`sweep`.
        self._groups: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()
        #: channel -> its groups, so that :meth:`expel` touches only the channel's own memberships.  Most have one, which needs no set.
        self._memberships: dict[str, str | set[str]] = {}

    def add(self, group: str, channel: str, now: float) -> None:
        """Add ``channel`` to ``group`` or renew its membership."""
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = OrderedDict()
        members[channel] = now
        members.move_to_end(channel)
        memberships = self._memberships
        groups = memberships.setdefault(channel, group)
        if type(groups) is set:
            groups.add(group)
        elif groups != group:
            memberships[channel] = {groups, group}  # type: ignore[arg-type]

    def discard(self, group: str, channel: str) -> None:
        """End a membership, if there is one."""
        members = self._groups.get(group)
        if members is None or members.pop(channel, None) is None:
            return
        if not members:
            del self._groups[group]
        groups = self._memberships[channel]
        if type(groups) is set:
            groups.discard(group)
        if not groups or groups == group:
            del self._memberships[channel]

    def expel(self, channel: str) -> None:
        """End every membership of ``channel``."""
        groups = self._memberships.get(channel, ())
        for group in [groups] if type(groups) is str else list(groups):
            self.discard(group, channel)

    def members(self, group: str, oldest: float) -> Collection[str]:
        """A view of the channels in ``group`` whose membership has not ended."""
        members = self._groups.get(group)
        if members is None:
            return ()
        while members:
            channel = next(iter(members))
            if members[channel] >= oldest:
                break
            self.discard(group, channel)
        return members

    def sweep(self, limit: int, oldest: float) -> None:
        """Remove ended memberships from the next ``limit`` groups; repeated calls go through all groups in turn."""
        groups = self._groups
        for _ in range(min(limit, len(groups))):
            group = next(iter(groups))
            if self.members(group, oldest):
                groups.move_to_end(group)

    def clear(self) -> None:
        """End all memberships."""
        self._groups.clear()
        self._memberships.clear()

    def __len__(self) -> int:
        """The number of groups."""
        return len(self._groups)
