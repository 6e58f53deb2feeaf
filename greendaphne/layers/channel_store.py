"""The channels of the memory layer: their messages, the readers that wait for one, and how long all of that is kept.

How it stays correct: messages lie in a queue per channel until a receiver takes them in one step under the lock, so neither a timeout nor
a kill can lose one.  A wake-up hands over no message; it only says "look again".  For every channel with messages and sleeping waiters at
least one waiter has been told so, and a waiter that leaves, with a message, empty-handed or killed, passes the word on.

All methods are called with :attr:`ChannelStore._lock` held.  None of them waits or switches to another greenlet.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Final, Protocol

from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

from .channel_names import check_receive_name
from .groups import Groups
from .ledger import OVERHEAD, SMALL, Ledger, message_weight
from .receiver import Receiver
from .waiter import GreenletWaiter, ThreadWaiter

#: Channels that a reader of has to exist for an application to answer.
SERVED: Final = frozenset(("http.request", "websocket.connect", "websocket.receive"))

#: A sweep looks at this many channels and groups and comes at most every ``SWEEP_INTERVAL`` seconds, within a ``send`` or a ``receive``.
SWEEP_BATCH: Final = 100
SWEEP_INTERVAL: Final = 0.05

# Recursive, for a signal handler or a finalizer may send while its thread holds the lock; the native one, for threads of any kind.
_new_lock = get_original("_thread", "RLock")

AnyWaiter = GreenletWaiter | ThreadWaiter | Receiver
Message = dict[str, Any]
Taker = Callable[[str, Message], bool]


class Channel:
    """The messages of a name that readers listen on, and the waiters that sleep until one comes.  Guarded by the layer's lock."""

    __slots__ = ("capacity", "handed", "name", "queue", "refused", "sent", "taker", "temporary", "waiters")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        #: (monotonic time of sending, full name, message, its weight), oldest first.
        self.queue: deque[tuple[float, str, Message, int]] = deque()
        #: A dict for its order and its removal in constant time.
        self.waiters: dict[AnyWaiter, None] = {}
        #: A name of ``new_channel``, used for one exchange: forgotten as soon as it is empty.
        self.temporary = "?" in name
        self.sent = 0
        self.refused = 0
        #: The hub and the function of :meth:`greendaphne.layers.memory.MemoryChannelLayer.attach`.
        self.taker: tuple[Any, Taker] | None = None
        #: How many messages :class:`DirectClients` have accepted; only their hub changes the number, without the lock.
        self.handed = 0


class Acceptor(Protocol):
    """A client that may take a message without keeping it."""

    def accept(self, message: Message) -> bool:
        """Use ``message``, which the sender may change later and which is not checked; false where nothing was done.

        Called in the sender's greenlet, without the layer's lock.  Must not wait, switch or raise.
        """


class DirectClients:
    """Clients of one reader that may take a message as its sender has it: without a copy, without a check and without the lock.

    They accept only messages of a form whose every value is known to be valid.

    :param hub: the hub of the clients.
    :param name: the channel that they are all on.
    :param clients: by their full names.
    :param kinds: the classes of those that do so.
    :param on_accepted: called with the number of accepted messages.
    """

    __slots__ = ("clients", "closed", "hub", "kinds", "name", "on_accepted")

    def __init__(
        self,
        hub: Any,
        name: str,
        clients: Mapping[str, Any],
        kinds: frozenset[type[Acceptor]],
        on_accepted: Callable[[int], None] | None = None,
    ) -> None:
        self.hub = hub
        self.name = name
        self.clients = clients
        self.kinds = kinds
        self.on_accepted = on_accepted
        #: Whether nothing may be handed over: the reader has taken messages out of the channel, before which no later one may come, or a
        #: finalizer may be the sender.
        self.closed = False


class ChannelStore:
    """The part of the memory layer that holds messages; see the module's documentation."""

    #: Seconds after which a message that was not taken is dropped, and a channel leaves a group; of the layer.
    expiry: float
    group_expiry: float

    def __init__(self) -> None:
        self._lock = _new_lock()
        # For what is called for each message: a with statement costs twice as much as these two calls.  They belong into a try statement,
        # the first one too, so that an exception of a signal handler after it leaves the lock free.  One that ends the wait for the lock
        # makes the second call raise RuntimeError, which must not replace it.
        self._acquire, self._release = self._lock.acquire, self._lock.release
        #: By the name that readers listen on; the order is that of the sweep.
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        self._groups = Groups()
        self._takers: dict[str, tuple[Any, Taker]] = {}
        #: See :meth:`greendaphne.layers.memory.MemoryChannelLayer.attach`.
        self._direct: DirectClients | None = None
        self._turn = 0
        self._sweep_at = 0.0
        #: How many channels were forgotten, besides those of one exchange.
        self.forgotten = 0
        # What channels that are gone have counted.
        self._sent_before = 0
        self._refused_before = 0
        #: What counts the bytes of messages that wait, in the hub of a server that serves the layer.
        self._ledger = Ledger()
        #: Whether no reader has ever looked for a request or a WebSocket.
        self.unserved = True

    def get_capacity(self, channel: str) -> int:
        """Return the number of messages that wait in ``channel`` at most."""
        raise NotImplementedError

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self.get_capacity(name))
            if self._takers:
                channel.taker = self._takers.get(name)
        return channel

    def _put(self, name: str, full_name: str, message: Message, slack: int = 0, shared: bool = False) -> bool:
        """Queue ``message`` and wake a waiter; false if the channel holds ``slack`` more than its capacity already, or memory is short.

        :param shared: whether another message that was queued has the same content.
        """
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channel(name)
        queue = channel.queue
        taker = channel.taker
        if (
            taker is not None
            and not queue
            and len(channel.waiters) < 2
            and taker[0] is get_hub_if_exists()
            and taker[1](full_name, message)
        ):
            channel.sent += 1
            return True
        now = monotonic()
        if now >= self._sweep_at:
            self._sweep(now, channel)
        if len(queue) >= channel.capacity + slack:
            self._expire(channel, now)
            if len(queue) >= channel.capacity + slack:
                channel.refused += 1
                return False
        weight = OVERHEAD if shared else message_weight(message)
        if weight > SMALL and not self._grants(channel, full_name, weight):
            channel.refused += 1
            return False
        queue.append((now, full_name, message, weight))
        # As Ledger.add(), without the call.
        ledger = self._ledger
        ledger.held = held = ledger.held + weight
        if held > ledger.high:
            ledger.out_of_range()
        channel.sent += 1
        if channel.waiters:
            self._wake(channel)
        return True

    def _put_all(self, name: str, messages: list[Message]) -> int:
        """Queue ``messages``, which have no content, as far as the channel ``name`` has room, and wake a waiter; returns their number."""
        channel = self._channel(name)
        if channel.taker is not None:
            return sum([self._put(name, name, message) for message in messages])
        queue = channel.queue
        now = monotonic()
        if now >= self._sweep_at:
            self._sweep(now, channel)
        number = len(messages)
        room = channel.capacity - len(queue)
        if number > room:
            self._expire(channel, now)
            room = max(channel.capacity - len(queue), 0)
            if number > room:
                channel.refused += number - room
                messages = messages[:room]
                number = room
        for message in messages:
            queue.append((now, name, message, OVERHEAD))
        self._ledger.add(number * OVERHEAD)
        channel.sent += number
        if channel.waiters and queue:
            # It passes the word on.
            self._wake(channel)
        return number

    def _grants(self, channel: Channel, full_name: str, weight: int) -> bool:
        """Whether a large message may wait; see :meth:`greendaphne.layers.memory.MemoryChannelLayer.count_in`.

        The server takes replies in any case, and has what to do with them: they are refused only as long as others wait before them.
        """
        ledger = self._ledger
        return ledger.has_room(weight) or (not channel.queue if "!" in full_name else ledger.ask(weight))

    def _pop(self, channel: Channel, now: float) -> tuple[str, Message] | None:
        """Take the oldest message of ``channel`` that has not expired.

        A message that was not read in time has no reader any more, so its channel leaves its groups, as the specification allows.
        """
        queue = channel.queue
        oldest = now - self.expiry
        while queue:
            sent, name, message, weight = queue.popleft()
            self._ledger.add(-weight)
            if channel.temporary and not queue and not channel.waiters:
                self._forget(channel)
            if sent >= oldest:
                return name, message
            self._groups.expel(name)
        return None

    def _take(self, names: list[str], limit: int, now: float) -> list[tuple[str, Message]]:
        """Take up to ``limit`` messages of the channels ``names``, beginning with another channel every time."""
        if self.unserved and not SERVED.isdisjoint(names):
            self.unserved = False
        count = len(names)
        start = 0
        if count != 1:
            if not count:
                raise TypeError("no channel to receive on")
            start = self._turn = (self._turn + 1) % count
        batch: list[tuple[str, Message]] = []
        channels = self._channels
        for index in range(start - count, start):
            name = names[index]
            channel = channels.get(name)
            if channel is None:
                check_receive_name(name)
                continue
            while channel.queue:
                taken = self._pop(channel, now)
                if taken is None:
                    break
                batch.append(taken)
                if len(batch) == limit:
                    return batch
        if not batch and now >= self._sweep_at:
            self._sweep(now)
        return batch

    def _wake(self, channel: Channel) -> None:
        """Tell the waiter of ``channel`` that has slept longest to look again."""
        waiters = channel.waiters
        while waiters:
            waiter = next(iter(waiters))
            del waiters[waiter]
            if waiter.lasting:
                waiter.missing.append(channel.name)
            if not waiter.signalled:
                waiter.signalled = True
                if waiter.wake():
                    if waiter.lasting:
                        waiter.told = channel
                    return

    def _leave(self, waiter: AnyWaiter, names: list[str]) -> None:
        """Strike ``waiter`` off; if it was told of a message, tell the next one of what it left behind."""
        for name in names:
            channel = self._channels.get(name)
            if channel is None:
                continue
            channel.waiters.pop(waiter, None)
            if channel.queue:
                if waiter.signalled and channel.waiters:
                    self._wake(channel)
            elif channel.temporary and not channel.waiters:
                self._forget(channel)

    def _end_wait(self, waiter: AnyWaiter) -> None:
        """Have ``waiter`` return; what takes the lock itself, unlike the others."""
        with self._lock:
            if not waiter.signalled:
                waiter.signalled = True
                waiter.wake()

    def _forget(self, channel: Channel) -> None:
        if self._channels.pop(channel.name, None) is not None:
            if not channel.temporary:
                self.forgotten += 1
            self._sent_before += channel.sent + channel.handed
            self._refused_before += channel.refused

    def _expire(self, channel: Channel, now: float) -> None:
        """Drop the messages of ``channel`` that are too old, and their memberships like :meth:`_pop`."""
        queue = channel.queue
        oldest = now - self.expiry
        while queue and queue[0][0] < oldest:
            _, name, _, weight = queue.popleft()
            self._ledger.add(-weight)
            self._groups.expel(name)

    def _sweep(self, now: float, used: Channel | None = None) -> None:
        """Look at the next few channels and groups and forget what is not used any more.

        Each look costs a constant time and goes round the whole layer in turn, so that what is abandoned is found without ever being
        searched for.

        :param used: a channel that stays because the caller is about to use it.
        """
        self._sweep_at = now + SWEEP_INTERVAL
        channels = self._channels
        oldest = now - self.expiry
        for _ in range(min(SWEEP_BATCH, len(channels))):
            name = next(iter(channels))
            channel = channels[name]
            queue = channel.queue
            if queue and queue[0][0] < oldest:
                self._expire(channel, now)
            if queue or channel.waiters or channel is used:
                channels.move_to_end(name)
            else:
                self._forget(channel)
        self._groups.sweep(SWEEP_BATCH, now - self.group_expiry)

    def _statistics(self, channels: Iterable[Channel]) -> dict[str, float]:
        now = monotonic()
        count = pending = refused = 0
        oldest = now
        for channel in channels:
            self._expire(channel, now)
            count += channel.sent + channel.handed
            refused += channel.refused
            pending += len(channel.queue)
            if channel.queue:
                oldest = min(oldest, channel.queue[0][0])
        return {
            "messages_count": count,
            "messages_pending": pending,
            "messages_max_age": now - oldest,
            "channel_full_count": refused,
        }
