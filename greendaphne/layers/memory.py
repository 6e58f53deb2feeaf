"""A channel layer inside one process whose ``receive`` really waits: for ``--inline-workers``, demonstrations and tests.

:class:`MemoryChannelLayer` fulfils the ASGI channel layer specification with the extensions *groups*, *flush* and *statistics*, passes
asgiref's conformance suite, and is safe to use from greenlets of any number of hubs and from native threads at once, monkey-patched or not.
``send`` never waits and never switches to another greenlet.  ``receive(block=True)`` is woken the moment a message arrives.

What it leaves to others: channels, messages and the waiters for them (:mod:`.channel_store`), names (:mod:`.channel_names`), validity and
isolation of messages (:mod:`.values`), sleeping and waking (:mod:`.waiter`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists

from ..core.accounts import Allowance
from .base import BaseChannelLayer
from .channel_names import NAME_LENGTH, check_group_name, check_receive_name, reader_name
from .channel_store import SERVED, Acceptor, ChannelStore, DirectClients, Message, Taker
from .groups import GROUP_HEADROOM, headroom
from .receiver import Receiver
from .sharing import tell_channels
from .tally import Tally
from .values import copy_message, message_size
from .waiter import FOREVER, new_waiter
from .wake import Wake

_NO_ROOM = "the channel holds its capacity and group_headroom for each member of the group"

#: Seconds after which ``receive(block=True)`` returns ``(None, None)``, as asgi_redis does, so that a worker can look at its stop flag.
BLOCK_LIMIT = 5.0
#: Random bytes in the names that ``new_channel`` makes.
NEW_CHANNEL_BYTES = 8
#: Clients' names that are remembered with the parts that readers listen on; they are forgotten all together when there are more.
KNOWN_NAMES = 1024
#: What layers on a wire keep in the message beside its own keys, and therefore refuse in it.
RESERVED_KEY = "__asgi_channel__"


class MemoryChannelLayer(BaseChannelLayer, ChannelStore):
    """See the module's documentation.

    :param expiry: seconds after which a message that was not taken is dropped.
    :param group_expiry: seconds after which a channel leaves a group unless it is added again.
    :param capacity: messages that wait in a channel at most; ``send`` raises ``ChannelFull`` then.
    :param channel_capacity: other capacities by channel name: a dict of globs or compiled expressions, the first match counts.
    :param max_message_size: bytes, measured as MessagePack; ``send`` raises ``MessageTooLarge`` beyond.  ``None``, the default, means no
        limit: a message costs no more than the sender spent on it already.
    :param group_headroom: messages per member of a group that a process-specific channel takes from groups beyond its capacity; see
        :data:`greendaphne.layers.groups.GROUP_HEADROOM`.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush", "statistics"]

    #: ``{channel: consumer}`` for ``--inline-workers`` without Channels; see :mod:`greendaphne.applications.channels.inline`.
    routes: Mapping[str, Callable[[Any], object]] | None = None

    #: Whether the server adds a key ``tls`` to messages from TLS connections; see docs/messages.rst.
    tls_info: bool = False

    #: Seconds for which ``receive(block=True)`` waits, where it is not :data:`BLOCK_LIMIT`.
    block_limit: float | None = None

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        max_message_size: int | None = None,
        group_headroom: int = GROUP_HEADROOM,
    ) -> None:
        ChannelStore.__init__(self)
        # Clients' channels, and the parts of their names that readers listen on.
        self._known_names: dict[str, str] = {}
        self.max_message_size = max_message_size
        self.group_headroom = headroom(group_headroom)
        #: The messages that were lost.
        self.tally = Tally()
        BaseChannelLayer.__init__(self, expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity)

    @property
    def capacity(self) -> int:
        """The capacity of channels that ``channel_capacity`` does not name."""
        return self._capacity

    @capacity.setter
    def capacity(self, value: int) -> None:
        self._capacity = value
        with self._lock:
            for name, channel in self._channels.items():
                channel.capacity = self.get_capacity(name)

    # Messages

    def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Put a copy of ``message`` into ``channel``.

        :raises ChannelFull: the channel holds as many messages as it may.
        :raises MessageTooLarge: the message is larger than ``max_message_size``.
        :raises TypeError: for a bad channel name, or a message of types that no layer carries.
        :raises ValueError: see :func:`greendaphne.layers.values.copy_message`; and for the reserved key ``__asgi_channel__``.
        """
        direct = self._direct
        if direct is not None:
            client = direct.clients.get(channel)
            if client.__class__ in direct.kinds and type(message) is dict and self._hand_over(direct, client, message):
                return
        # Many messages go to the same names, and to look one up costs a tenth of a check.
        name = self._known_names.get(channel)
        if name is None:
            name = self._reader_name(channel)
        # As in _copy().
        copy = copy_message(message)
        if RESERVED_KEY in copy or self.max_message_size is not None:
            self._check(copy)
        try:
            self._acquire()
            if self._put(name, channel, copy):
                return
        finally:
            try:
                self._release()
            except RuntimeError:
                # A signal handler's exception has ended the wait for the lock.
                pass
        raise self.ChannelFull(channel)

    def send_owned(self, channel: str, message: Message) -> None:
        """Like :meth:`send`, for a plain message that the sender has just made and never looks at again: it is neither copied nor checked.

        Not part of the specification.
        """
        # As in offer().
        name = channel if channel in self._channels else self._reader_name(channel)
        if self.max_message_size is not None:
            self._check_size(message)
        try:
            self._acquire()
            if self._put(name, channel, message):
                return
        finally:
            try:
                self._release()
            except RuntimeError:
                # A signal handler's exception has ended the wait for the lock.
                pass
        raise self.ChannelFull(channel)

    def offer(self, channel: str, message: Message) -> bool:
        """Like :meth:`send_owned`, but false where that raises ``ChannelFull``, which costs more than the message.

        Not part of the specification.
        """
        name = self._reader_name(channel)
        if self.max_message_size is not None:
            self._check_size(message)
        with self._lock:
            return self._put(name, channel, message)

    def offer_all(self, channel: str, messages: list[Message]) -> int:
        """As :meth:`offer` for each of ``messages``, which have no content; returns how many the channel took, the first ones.

        Not part of the specification.

        :param channel: one that is not specific to a process.
        """
        name = self._reader_name(channel)
        with self._lock:
            return self._put_all(name, messages)

    def receiver(self, channels: list[str]) -> Receiver | None:
        """What receives for one greenlet that does so again and again; ``None`` where :meth:`receive_batch` is as good.

        Not part of the specification.
        """
        if not channels or any("?" in name for name in channels) or get_hub_if_exists() is None:
            return None
        for name in channels:
            check_receive_name(name)
        if not SERVED.isdisjoint(channels):
            self.unserved = False
        return Receiver(self, channels)

    def _hand_over(self, direct: DirectClients, client: Acceptor, message: Message) -> bool:
        """Have ``client`` accept ``message`` where it would be handed to the taker of its channel; as in :meth:`ChannelStore._put`."""
        if direct.closed or direct.hub is not get_hub_if_exists() or self.max_message_size is not None:
            return False
        channel = self._channels.get(direct.name)
        if channel is None or channel.queue or len(channel.waiters) > 1 or not client.accept(message):
            return False
        channel.handed += 1
        if direct.on_accepted is not None:
            direct.on_accepted(1)
        return True

    def attach(self, name: str, taker: Taker, direct: DirectClients | None = None) -> None:
        """Have messages on ``name`` that are sent in the calling thread's hub handed to ``taker`` at once, before they enter the queue.

        Not part of the specification.  ``taker(channel, message)`` is called in the sender's greenlet with the layer's lock held: it must
        not wait, not switch and not raise.  False means that it does not take the message, which then is queued as any other.  The order
        is kept: where messages wait in the channel, later ones are queued, too.  What other threads and hubs send is queued, and so
        is everything while others than ``taker``'s reader wait for messages on ``name``.  So the caller has to receive as well.

        :param name: as in :meth:`receive`; there is one taker for each name.
        :param direct: clients of ``name`` that may take messages of :meth:`send` as they are; one for the layer.
        """
        self.valid_channel_name(name, receive=True)
        with self._lock:
            if direct is not None:
                self._direct = direct
            taken = self._takers[name] = (get_hub(), taker)
            self._channel(name).taker = taken

    def detach(self, name: str) -> None:
        """Undo :meth:`attach`."""
        with self._lock:
            if self._direct is not None and self._direct.name == name:
                self._direct = None
            self._takers.pop(name, None)
            channel = self._channels.get(name)
            if channel is not None:
                channel.taker = None

    def count_in(self, allowance: Allowance | None) -> None:
        """Have ``allowance``, that of a server in the calling thread's hub, count the bytes of the messages that wait.

        Not part of the specification.  It is asked for large messages; one that it does not grant is refused as by a full channel.  Of
        several servers that serve the layer, the last one counts.

        :param allowance: ``None`` ends that.
        """
        with self._lock:
            self._ledger.count_in(allowance)

    def receive(self, channels: Iterable[str], block: bool = False) -> tuple[str, Message] | tuple[None, None]:
        """Take the oldest message of one of ``channels``; which one changes from call to call, so that none is starved.

        :param block: wait for a message, at most :attr:`block_limit` seconds.
        :return: the full channel name and the message, or ``(None, None)``.
        :raises TypeError: for a bad channel name; a process-specific one must end in ``!``.
        """
        names = _list(channels)
        now = monotonic()
        with self._lock:
            batch = self._take(names, 1, now)
        if not batch and block:
            batch = self._wait(names, 1, now + (self.block_limit or BLOCK_LIMIT))
        return batch[0] if batch else (None, None)

    def receive_many(self, channels: Iterable[str], block: bool = False) -> tuple[str, Message] | tuple[None, None]:
        """The old name of :meth:`receive`, which the workers of Channels 1 call; without the warning of the base class."""
        return self.receive(channels, block)

    def receive_batch(
        self, channels: Iterable[str], limit: int, timeout: float | None = None, wake: Wake | None = None
    ) -> list[tuple[str, Message]]:
        """Take up to ``limit`` messages; wait up to ``timeout`` seconds (``None``: as long as it takes) for the first.

        Not part of the specification.  The order within a channel is kept.  Returns an empty list after ``timeout``, or once ``wake`` is
        set.  A message is taken when the wait is over, so an exception that is thrown into it loses none.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        names = _list(channels)
        if wake is not None and wake.is_set:
            return []
        now = monotonic()
        with self._lock:
            batch = self._take(names, limit, now)
        if batch or (timeout is not None and timeout <= 0):
            return batch
        return self._wait(names, limit, None if timeout is None else now + timeout, wake)

    def new_channel(self, pattern: Any) -> str:
        """An unused single-reader channel name that starts with ``pattern``, which must end in ``?``."""
        if not isinstance(pattern, str) or not pattern.endswith("?"):
            raise TypeError(f"a pattern for new_channel must be a str that ends in '?', not {pattern!r}")
        while True:
            name = pattern + secrets.token_hex(NEW_CHANNEL_BYTES)
            self._reader_name(name)
            if name not in self._channels:
                return name

    # Groups

    def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``, or renew its membership."""
        self.valid_group_name(group)
        self._reader_name(channel)
        now = monotonic()
        with self._lock:
            self._groups.add(group, channel, now)
            if now >= self._sweep_at:
                self._sweep(now)

    def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``; nothing happens where it is no member."""
        self.valid_group_name(group)
        self._reader_name(channel)
        with self._lock:
            self._groups.discard(group, channel)

    def group_channels(self, group: str) -> list[str]:
        """The members of ``group``."""
        self.valid_group_name(group)
        with self._lock:
            return list(self._groups.members(group, monotonic() - self.group_expiry))

    def send_group(self, group: str, message: Mapping[str, Any]) -> None:
        """Send ``message`` to every member of ``group``; a member whose channel is full misses it.

        All clients of one server process share one queue, and nothing drains it while this runs: their channels take
        ``group_headroom`` messages per member beyond their capacity here, so that a group larger than the capacity is served.  What is
        beyond that is counted in :attr:`tally`, which warns of it.
        """
        self.valid_group_name(group)
        # Validated once, also for a group without members: a mistake must not show only with the first one.
        copy: Message | None = self._copy(message)
        shared = False
        with self._lock:
            members = list(self._groups.members(group, monotonic() - self.group_expiry))
        slack = self.group_headroom * len(members)
        # Counted when all have been sent to, so that one line has the number.
        dropped: dict[str, int] = {}
        for channel in members:
            head, local, _ = channel.partition("!")
            if copy is None:
                copy = copy_message(message)
            with self._lock:
                stored = self._put(head + local, channel, copy, slack if local else 0, shared)
            # The copies have the same content.
            shared = True
            if not stored:
                dropped[head + local] = dropped.get(head + local, 0) + 1
            copy = None
        for name, number in dropped.items():
            self.tally.dropped_message(name, _NO_ROOM, number)

    # Flush and statistics

    def flush(self) -> None:
        """Forget all messages and all groups."""
        with self._lock:
            for channel in list(self._channels.values()):
                self._ledger.add(-sum(entry[3] for entry in channel.queue))
                channel.queue.clear()
                if not channel.waiters:
                    self._forget(channel)
            self._groups.clear()

    def global_statistics(self) -> dict[str, float]:
        """Statistics of the whole layer since it was made.

        ``messages_count`` messages sent, ``messages_pending`` messages that wait, ``messages_max_age`` seconds that the oldest of them
        has waited (0 without any), ``channel_full_count`` messages refused because a channel was full.
        """
        with self._lock:
            statistics = self._statistics(list(self._channels.values()))
            statistics["messages_count"] += self._sent_before
            statistics["channel_full_count"] += self._refused_before
        return statistics

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """The same of one channel, since it last came into use: a channel that was empty for a while is forgotten."""
        name = self._reader_name(channel)
        with self._lock:
            found = self._channels.get(name)
            return self._statistics([] if found is None else [found])

    # Names, as the base class offers them; stricter than there

    def valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """True, or :exc:`TypeError`."""
        if receive:
            check_receive_name(name)
        else:
            self._reader_name(name)
        return True

    def valid_group_name(self, name: object) -> bool:
        """True, or :exc:`TypeError`."""
        check_group_name(name)
        return True

    # Below: called without the lock

    def _reader_name(self, channel: Any) -> str:
        """Check a channel name and return the part that readers listen on."""
        if channel in self._channels:
            return channel  # type: ignore[no-any-return]
        if type(channel) is str and len(channel) < NAME_LENGTH:
            # Most names are those of clients, on a channel that is known.
            at = channel.find("!") + 1
            name = channel[:at]
            if name in self._channels:
                local = channel[at:]
                if local.isalnum() and local.isascii():
                    known = self._known_names
                    if len(known) >= KNOWN_NAMES:
                        known.clear()
                    known[channel] = name
                    return name
        return reader_name(channel)

    def _copy(self, message: Mapping[str, Any]) -> Message:
        copy = copy_message(message)
        self._check(copy)
        return copy

    def _check(self, copy: Message) -> None:
        if RESERVED_KEY in copy:
            raise ValueError(f"message key {RESERVED_KEY!r} is reserved to channel layers")
        self._check_size(copy)

    def _check_size(self, message: Message) -> None:
        if self.max_message_size is not None and message_size(message) > self.max_message_size:
            raise self.MessageTooLarge(f"a message of more than {self.max_message_size} bytes")

    def _wait(self, channels: list[str], limit: int, deadline: float | None, wake: Wake | None = None) -> list[tuple[str, Message]]:
        """Sleep until there are messages, then take up to ``limit``; an empty list after ``deadline`` (monotonic) or ``wake``."""
        now = monotonic()
        while deadline is None or now < deadline:
            waiter = new_waiter()
            with self._lock:
                # Looking and lying down are one step: no message comes in between unseen.
                batch = self._take(channels, limit, now)
                if batch:
                    return batch
                for name in channels:
                    self._channel(name).waiters[waiter] = None
            attachment = None if wake is None else wake.attach(waiter.hub, partial(self._end_wait, waiter))
            try:
                waiter.wait(FOREVER if deadline is None else min(deadline - now, FOREVER))
            except BaseException:  # a timeout or a kill: nothing was taken, only the word is passed on
                with self._lock:
                    self._leave(waiter, channels)
                raise
            finally:
                if wake is not None:
                    wake.detach(attachment)
            now = monotonic()
            with self._lock:
                # Taken before the word is passed on, or another would be woken for this message.
                batch = self._take(channels, limit, now)
                self._leave(waiter, channels)
            if batch or (wake is not None and wake.is_set):
                return batch
        return []


def _list(channels: Iterable[str]) -> list[str]:
    """Channels hands over a set of names; a single ``str`` is a mistake that would be taken for a list of letters."""
    if type(channels) is list:
        return channels
    if isinstance(channels, str):
        raise TypeError(f"channels must be a list of names, not {channels!r:.120}")
    return list(channels)


#: One layer for the whole process, for easy use: ``greendaphne greendaphne.layers.memory:channel_layer``.
channel_layer = MemoryChannelLayer()


# Channels 1 imports this module when it makes its layer.
tell_channels()
