"""How the commands of one hub get to a shard: all its greenlets share one connection.

A lone command goes out at once, from the greenlet that has it; those that come up while the connection is busy travel together in the
next pipeline.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .. import LayerUnavailable
from .calls import PIPELINE_COMMANDS, Call, Send, combine, outcome, perform, settle, share
from .connection import Identity, Link, LinkError
from .readers import Readers
from .resp import Reply
from .shard import Shard

#: Bytes in one pipeline.
PIPELINE_BYTES = 1024 * 1024
#: Seconds that a posted command may wait for others to travel with, and how many may wait.
POST_DELAY = 0.02
POST_LIMIT = 10000
#: Seconds by which a timer of the hub may be early.
TIMER_GRAIN = 0.001
#: While at least this number of callers share a pipeline, or workers are saturated, the next pipeline waits for more commands: for as long
#: as the clients of a server have patience (see :mod:`.pace` for both), and at least for a number of seconds for each caller, which is at
#: most what the last pipeline took.
GATHER_CALLERS = 3
GATHER_PER_CALLER = 0.0004
GATHER_LIMIT = 0.004


class HubLane:
    """The lane of one hub: all greenlets share a connection, which one of them at a time owns.

    The owner is a greenlet with commands of its own, or, where several have some, the flusher, a greenlet of the moment.
    """

    def __init__(self, shard: Shard, hub: Any) -> None:
        self.shard = shard
        self.hub = hub
        self._queue: deque[Call] = deque()
        self._link: Link | None = None
        # Whether the connection has an owner, who sees to what is queued meanwhile.
        self._owned = False
        # Callers in the queue; and whether what was posted goes even if there are none, which a timer sees to.
        self._waiting = 0
        self._due = False
        self._timer: Any = None
        # When what was posted first is to go.
        self._deadline = 0.0
        # How many callers shared the last pipeline, and the seconds that it took.
        self._callers = 0
        self._seconds = 0.0
        # Told when the connection has no owner any more; made by the greenlet that waits for that.
        self._disowned: Any = None
        self.readers = Readers(shard, True)
        # Once, since the statement takes some microseconds each time.
        from gevent import sleep, spawn
        from gevent.hub import Waiter

        self._new_waiter, self._sleep, self._spawn = Waiter, sleep, spawn

    def run(self, calls: Sequence[Call]) -> list[list[Reply]]:
        if self._owned or self.gathers or len(self._queue) >= PIPELINE_COMMANDS:
            self._join_others(calls)
        else:
            self._run_alone(calls)
        return [outcome(call) for call in calls]

    @property
    def is_busy(self) -> bool:
        """Whether commands travel together, so that one more costs little."""
        return self._owned or self.gathers

    @property
    def gathers(self) -> bool:
        """Whether the next pipeline waits for more commands, because many callers share it or would."""
        return self._callers >= GATHER_CALLERS or self.shard.pace.is_saturated

    @property
    def identity(self) -> Identity | None:
        """The server that answered last, ``None`` where the connection has ended since."""
        return None if self._link is None else self._link.identity

    def run_apart(self, call: Call) -> Reply:
        """Run ``call``, which has one reply, in another greenlet than the caller's.

        An exception that is thrown into the caller leaves the exchange alone; :meth:`outcome_of` returns the reply to who comes for it.
        """
        self._join_others([call])
        return outcome(call)[0]

    def outcome_of(self, call: Call) -> Reply:
        """Wait for the reply to a call of :meth:`run_apart` whose caller did not wait for it."""
        call.waiter.get()
        return outcome(call)[0]

    def take_along(self, send: Send, failed: Callable[[LayerUnavailable | None], object]) -> None:
        """Have the next pipeline take ``send``, for which the caller does not wait; only while :attr:`is_busy`.

        :param failed: called in a greenlet of its own with the error, or with ``None`` where the list is full.
        """
        send.failed = failed
        self._queue.append(send)
        self._waiting += 1
        if not self._owned:
            self._start()

    def post(self, call: Call) -> None:
        if len(self._queue) >= POST_LIMIT:
            return
        if not self._queue:
            self._deadline = time.monotonic() + POST_DELAY
        if type(call) is Send:
            call.posted = True
        self._queue.append(call)
        if self._timer is None and not self._owned:
            self._start_timer(POST_DELAY)

    def close(self) -> None:
        self._stop_timer()
        self._flush_posted()
        if self._owned:
            from gevent.event import Event

            self._disowned = self._disowned or Event()
            while self._owned:
                self._disowned.clear()
                self._disowned.wait()
        if self._link is not None:
            self.shard.close(self._link)
            self._link = None
        # Readers that still wait give nothing back to a lane that is not used any more.
        self.readers.limit = 0
        self.readers.close()

    @property
    def is_dead(self) -> bool:
        """Whether the hub cannot run any more: destroyed, or its thread ended."""
        return self.hub.loop is None or self.hub.thread_ident not in sys._current_frames()

    def abandon(self) -> None:
        """Do what is left to do for a lane that :attr:`is_dead`."""
        if self._link is not None:
            self.shard.abandon(self._link)
            self._link = None
        self.readers.abandon()

    def _run_alone(self, calls: Sequence[Call]) -> None:
        """Run ``calls``, and what was posted before them, in the calling greenlet, which takes no notice of others."""
        queue = self._queue
        if queue:
            calls = [*queue, *calls]
            queue.clear()
        self._owned = True
        try:
            self._exchange(calls)
            self._callers = 1
            self._note_queue(calls)
        finally:
            self._disown()

    def _join_others(self, calls: Sequence[Call]) -> None:
        """Wait until the flusher has run ``calls``."""
        # The last call's outcome is known last; the others' are there by then.
        waiter = calls[-1].waiter = self._new_waiter(self.hub)
        self._queue.extend(calls)
        self._waiting += 1
        if not self._owned:
            self._start()
        waiter.get()

    def _start(self) -> None:
        self._owned = True
        self._spawn(self._flush)

    def _disown(self) -> None:
        """Leave the connection to the flusher, if anything has to be sent now."""
        self._owned = False
        if self._waiting or (self._due and self._queue):
            self._start()
            return
        self._due = False
        if self._queue and self._timer is None:
            self._start_timer(max(0.0, self._deadline - time.monotonic()))
        if self._disowned is not None:
            self._disowned.set()

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.hub.loop.timer(seconds)
        self._timer.start(self._on_timer)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _on_timer(self) -> None:
        # Runs in the hub.  It was left running when what it was started for went along with others.
        self._stop_timer()
        if self._queue:
            left = self._deadline - time.monotonic()
            if left > TIMER_GRAIN:
                self._start_timer(left)
            else:
                self._flush_posted()

    def _flush_posted(self) -> None:
        if self._queue:
            self._due = True
            if not self._owned:
                self._start()

    def _flush(self) -> None:
        batch: list[Call] = []
        try:
            while True:
                if self.gathers and len(self._queue) < PIPELINE_COMMANDS:
                    # Also where nothing waits yet: another flusher would be a greenlet more for each pipeline.
                    self._sleep(max(min(self._callers * GATHER_PER_CALLER, self._seconds, GATHER_LIMIT), self.shard.pace.patience))
                    # A hub that is busy calls timers before it reads the sockets that are ready: what clients sent comes along.
                    self._sleep(0)
                if not (self._waiting or (self._due and self._queue)):
                    self._callers = 0
                    self.shard.pace.queued(0)
                    break
                batch = self._next_batch()
                started = time.monotonic()
                self._exchange(batch)
                self._seconds = time.monotonic() - started
                self._note_queue(batch)
                self._finish(batch)
                batch = []
        finally:
            # Also when killed: no caller may wait for ever, nor one whose reply has come already.
            unfinished = batch
            if self._waiting:
                unfinished = [*batch, *self._queue]
                self._queue.clear()
            if unfinished:
                for call in unfinished:
                    if not call.result and call.error is None:
                        call.error = LayerUnavailable(f"Redis {self.shard.name}: interrupted")
                self._finish(unfinished)
            self._waiting = 0
            self._disown()

    def _next_batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._queue and len(batch) < PIPELINE_COMMANDS and size < PIPELINE_BYTES:
            call = self._queue.popleft()
            batch.append(call)
            size += len(call.body if type(call) is Send else call.data)
            if call.waiter is not None or call.failed is not None:
                self._waiting -= 1
        return batch

    def _note_queue(self, batch: Sequence[Call]) -> None:
        """Have the pace learn how many messages wait for workers, the first one of ``batch`` among them."""
        for call in batch:
            if call.asks:
                if call.result and type(length := call.result[0]) is int:
                    self.shard.pace.queued(length)
                return
        self.shard.pace.queued(0)

    def _exchange(self, batch: Sequence[Call]) -> None:
        try:
            link = self._connect()
        except LayerUnavailable as error:
            for call in batch:
                call.error = error
            return
        usable = False
        combined = combine(batch)
        try:
            perform(self.shard, link, combined)
            usable = True
        except LinkError as error:
            failure = self.shard.broken(error)
            for call in combined:
                if not call.result:
                    call.error = failure
        finally:
            # Also when killed: the replies that came are told.
            usable = settle(self.shard, combined) and usable
            if not usable:
                self.shard.close(link)
                self._link = None
            share(combined)

    def _connect(self) -> Link:
        link = self._link
        if link is not None and self.shard.is_stale(link):
            self.shard.close(link)
            link = None
        if link is None:
            link = self._link = self.shard.open(True, "send")
        return link

    def _finish(self, batch: list[Call]) -> None:
        callback = self.hub.loop.run_callback
        callers = 0
        for call in batch:
            if call.waiter is not None:
                callback(call.waiter.switch, None)
                callers += 1
            elif call.failed is not None:
                callers += 1
                if call.error is not None or call.result[0] == 0:
                    self._spawn(call.failed, call.error)
        # One pipeline with few does not show that the many have gone.
        self._callers = max(callers, self._callers >> 1)
