"""A lasting receiver of the memory layer: what one greenlet that receives again and again need not do each time.

The layer's ``receive_batch`` makes a waiter for each wait, enters it in every channel and takes it out again.  A :class:`Receiver` stays
entered, and so does its timer.  The rules are the same: a wake-up hands over no message, it only says "look again", and a receiver that
was told so and leaves messages behind passes the word on.  So a kill, a timeout or an error at any moment loses no message.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from math import inf
from time import monotonic
from typing import Any, Literal

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.hub import Waiter

from .waiter import FOREVER
from .wake import Wake

_Batch = list[tuple[str, dict[str, Any]]]


class Receiver:
    """Receives on some channels for one greenlet of the calling thread's hub.

    :param layer: the memory layer.
    :param channels: checked names without ``?``: a channel of one exchange is forgotten as soon as it is empty.
    """

    __slots__ = (
        "_attached",
        "_channels",
        "_deadline",
        "_forgotten",
        "_hub",
        "_layer",
        "_lock",
        "_rings_at",
        "_rotations",
        "_timer",
        "_waiter",
        "missing",
        "signalled",
        "told",
    )

    #: Whether it stays entered in channels while it does not wait.
    lasting: Literal[True] = True

    def __init__(self, layer: Any, channels: list[str]) -> None:
        self._layer = layer
        self._lock = layer._lock
        self._channels = channels
        # The queues of the channels, beginning with another one every time, so that none is starved; and how many channels the layer had
        # forgotten then.
        self._rotations: Iterator[list[Any]] = iter(())
        self._forgotten = -1
        self._hub = get_hub()
        self._waiter: Waiter[None] | None = None
        # When the wait ends, and when the timer rings.  It is not set anew for each wait, but rings for nothing where that has moved on.
        self._deadline = inf
        self._rings_at = inf
        self._timer: Any = None
        # The switch that ends the waits, and what detaches it.
        self._attached: tuple[Wake, object] | None = None
        # From here on guarded by the layer's lock.
        #: True while it does not wait, and once it has been told to look: it needs no word.
        self.signalled = True
        #: The channel that has told it.
        self.told: Any = None
        #: The names of channels in which it is not entered.
        self.missing = channels[:]

    def receive(self, limit: int, timeout: float | None = None, wake: Wake | None = None) -> _Batch:
        """As ``receive_batch`` of the layer.

        :param timeout: seconds, above 0; ``None``: as long as it takes.
        """
        layer = self._layer
        if limit == 1 and (wake is None or not wake.is_set):
            # A message that is there already needs no wait, and nothing that belongs to one.
            try:
                layer._acquire()
                if self._forgotten != layer.forgotten:
                    self._rotate()
                for queue in next(self._rotations):
                    if queue:
                        oldest = monotonic() - layer.expiry
                        ledger = layer._ledger
                        while queue:
                            # As in ChannelStore._pop() and Ledger.add().
                            sent, name, message, weight = queue.popleft()
                            ledger.held = held = ledger.held - weight
                            if held < ledger.low:
                                ledger.out_of_range()
                            if sent >= oldest:
                                return [(name, message)]
                            layer._groups.expel(name)
            finally:
                try:
                    layer._release()
                except RuntimeError:
                    # As in MemoryChannelLayer.send().
                    pass
        if not self.signalled or get_hub_if_exists() is not self._hub:
            # Another greenlet waits with it already, or this one belongs to another hub.
            alone: _Batch = layer.receive_batch(self._channels, limit, timeout, wake)
            return alone
        if wake is not None:
            if self._attached is None or self._attached[0] is not wake:
                self._detach()
                self._attached = wake, wake.attach(self._hub, self._end_wait)
            if wake.is_set:
                return []
        now = monotonic()
        with self._lock:
            # Looking and lying down are one step: no message comes in between unseen.
            batch: _Batch = layer._take(self._channels, limit, now)
            if batch:
                return batch
            if self.missing:
                for name in self.missing:
                    layer._channel(name).waiters[self] = None
                self.missing.clear()
            waiter: Waiter[None] = Waiter(self._hub)
            self._waiter = waiter
            self.signalled = False
        self._deadline = deadline = now + (FOREVER if timeout is None else timeout)
        if deadline < self._rings_at:
            self._set_timer(deadline, now)
        try:
            waiter.get()
        except BaseException:  # a timeout or a kill: nothing was taken, only the word is passed on
            with self._lock:
                self._get_up()
            raise
        finally:
            self._waiter = None
            self._deadline = inf
        with self._lock:
            # Taken before the word is passed on, or another would be woken for this message.
            batch = layer._take(self._channels, limit, monotonic())
            self._get_up()
        return batch

    def close(self) -> None:
        """Leave the channels; in the hub of the receiver, and not while it waits."""
        self._detach()
        self._close_timer()
        with self._lock:
            self._layer._leave(self, self._channels)
            self.missing = self._channels[:]

    def _set_timer(self, at: float, now: float) -> None:
        self._close_timer()
        self._rings_at = at
        self._timer = self._hub.loop.timer(max(at - now, 0.0))
        self._timer.start(self._ring, update=True)

    def _ring(self) -> None:
        # Runs in the hub.
        self._close_timer()
        deadline = self._deadline
        if deadline == inf:
            # It does not wait; the next wait starts the timer.
            return
        now = monotonic()
        if now < deadline:
            self._set_timer(deadline, now)
        elif self._waiter is not None:
            self._waiter.switch(None)

    def _close_timer(self) -> None:
        self._rings_at = inf
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _detach(self) -> None:
        if self._attached is not None:
            wake, key = self._attached
            self._attached = None
            wake.detach(key)

    def _end_wait(self) -> None:
        with self._lock:
            if not self.signalled:
                self.signalled = True
                self.wake()

    # Below: called with the lock held

    def _rotate(self) -> None:
        """Look the channels up."""
        layer = self._layer
        queues = [layer._channel(name).queue for name in self._channels]
        self._rotations = cycle([queues[start:] + queues[:start] for start in reversed(range(len(queues)))])
        self._forgotten = layer.forgotten

    def _get_up(self) -> None:
        """Need no word any more; where one was told, pass it on for the messages that are left.

        Only of the channel that told it: a channel that finds no waiter without a word tells none, and the next one looks by itself.
        """
        self.signalled = True
        told = self.told
        if told is not None:
            self.told = None
            if told.queue and told.waiters:
                self._layer._wake(told)

    def wake(self) -> bool:
        """End the wait soon, from any thread; false if its thread's hub is gone.  Never switches."""
        loop = self._hub.loop
        waiter = self._waiter
        if waiter is None:
            return True
        try:
            if get_hub_if_exists() is self._hub:
                loop.run_callback(waiter.switch, None)
            else:
                loop.run_callback_threadsafe(waiter.switch, None)
        except Exception:  # noqa: BLE001 - a destroyed hub: None instead of a loop, or a loop that refuses in one way or another
            return False
        return True
