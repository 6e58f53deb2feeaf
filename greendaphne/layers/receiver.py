"""A lasting receiver of the memory layer: what one greenlet that receives again and again need not do each time.

The layer's ``receive_batch`` makes a waiter for each wait, enters it in every channel and takes it out again.  A :class:`Receiver` stays
entered.  The rules are the same: a wake-up hands over no message, it only says "look again", and a receiver that was told so and leaves
messages behind passes the word on.  So a kill, a timeout or an error at any moment loses no message.
"""

from __future__ import annotations

import time
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

    __slots__ = ("_attached", "_channels", "_hub", "_layer", "_seconds", "_timer", "_waiter", "missing", "signalled", "told")

    #: Whether it stays entered in channels while it does not wait.
    lasting: Literal[True] = True

    def __init__(self, layer: Any, channels: list[str]) -> None:
        self._layer = layer
        self._channels = channels
        self._hub = get_hub()
        self._waiter: Waiter[None] = Waiter(self._hub)
        # A timer, and its seconds.
        self._timer: Any = None
        self._seconds = 0.0
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
        if timeout is None:
            timeout = FOREVER
        if timeout != self._seconds:
            self._close_timer()
            # Repeated, so that again() starts it with all of its seconds; start() would go on with what was left when it was stopped.
            self._timer = self._hub.loop.timer(timeout, timeout)
            self._seconds = timeout
        channels = self._channels
        waiter: Waiter[None] = Waiter(self._hub)
        with layer._lock:
            # Looking and lying down are one step: no message comes in between unseen.
            batch: _Batch = layer._take(channels, limit, time.monotonic())
            if batch:
                return batch
            if self.missing:
                for name in self.missing:
                    layer._channel(name).waiters[self] = None
                self.missing.clear()
            self._waiter = waiter
            self.signalled = False
        timer = self._timer
        timer.again(waiter.switch, None)
        try:
            waiter.get()
        except BaseException:  # a timeout or a kill: nothing was taken, only the word is passed on
            with layer._lock:
                self._get_up()
            raise
        finally:
            timer.stop()
        with layer._lock:
            # Taken before the word is passed on, or another would be woken for this message.
            batch = layer._take(channels, limit, time.monotonic())
            self._get_up()
        return batch

    def close(self) -> None:
        """Leave the channels; in the hub of the receiver, and not while it waits."""
        self._detach()
        self._close_timer()
        with self._layer._lock:
            self._layer._leave(self, self._channels)
            self.missing = self._channels[:]

    def _close_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
            self._seconds = 0.0

    def _detach(self) -> None:
        if self._attached is not None:
            wake, key = self._attached
            self._attached = None
            wake.detach(key)

    def _end_wait(self) -> None:
        with self._layer._lock:
            if not self.signalled:
                self.signalled = True
                self.wake()

    # Below: called with the lock held

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
        try:
            if get_hub_if_exists() is self._hub:
                loop.run_callback(self._waiter.switch, None)
            else:
                loop.run_callback_threadsafe(self._waiter.switch, None)
        except Exception:  # noqa: BLE001 - a destroyed hub: None instead of a loop, or a loop that refuses in one way or another
            return False
        return True
