"""How commands get to a shard: one lane per shard for each hub, and one for all plain threads together.

In a hub the commands of all greenlets share one connection.  A lone command goes out at once, from the greenlet that has it; those
that come up while the connection is busy travel together in the next pipeline.  Plain threads share a small pool.  Receivers that block
have connections of their own.  Nothing is sent twice: only a call whose script was unknown, and therefore not run, is repeated.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .. import LayerUnavailable
from .connection import Identity, Link, LinkError
from .outlets import Outlet
from .resp import ErrorReply, Reply
from .scripts import SEND, SEND_ALL, SEND_GROUP, Script
from .shard import FATAL_CODES, Shard

#: Connections of a lane that stay open for the next blocking receiver.
IDLE_READERS = 4
#: Connections that plain threads share per shard.
THREAD_CONNECTIONS = 8
#: Commands and bytes in one pipeline.
PIPELINE_COMMANDS = 256
PIPELINE_BYTES = 1024 * 1024
#: Bytes of messages that one command stores, which Redis holds until it has them all.
TOGETHER_BYTES = 256 * 1024
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
#: A success of these shows that Redis stores messages (again).
STORING_SCRIPTS = frozenset({SEND, SEND_ALL, SEND_GROUP})


class Call:
    """Commands of one caller: packed, with the number of replies, and the script that they call, if any."""

    __slots__ = ("asks", "data", "error", "failed", "replies", "result", "script", "waiter")

    def __init__(self, data: bytes, replies: int = 1, script: Script | None = None) -> None:
        self.data = data
        #: Whether it sends a message to workers that a reply is expected to.
        self.asks = False
        self.replies = replies
        self.script = script
        self.result: list[Reply] = []
        self.error: LayerUnavailable | None = None
        self.waiter: Any = None
        #: In the place of a waiter: called where the outcome is not the usual one, see :meth:`HubLane.take_along`.
        self.failed: Callable[[LayerUnavailable | None], object] | None = None


class Send(Call):
    """A message for one list.  Its result is the length of the list, or 0 where that was full."""

    __slots__ = ("body", "outlet", "posted")

    def __init__(self, outlet: Outlet, body: bytes) -> None:
        # As Call.__init__(), without the call.
        self.data = b""
        self.asks = False
        self.replies = 1
        self.script = SEND
        self.result = []
        self.error = self.waiter = self.failed = None
        self.outlet = outlet
        self.body = body
        #: Whether no caller waits for the outcome, and the message may go behind others of its pipeline.
        self.posted = False


class _SendAll(Call):
    """Messages for one list in one command."""

    __slots__ = ("sends",)

    def __init__(self, sends: list[Send]) -> None:
        super().__init__(sends[0].outlet.pack_all([send.body for send in sends]), 1, SEND_ALL)
        self.sends = sends

    def share(self) -> None:
        """Give each message its outcome."""
        error = self.error
        if error is not None:
            for send in self.sends:
                send.error = error
        elif self.result:
            length, stored = self.result[0]  # type: ignore[misc]
            for place, send in enumerate(self.sends, 1):
                send.result = [length + place] if place <= stored else [0]  # type: ignore[operator]


class _Batch:
    """Messages for one list that one command may store."""

    __slots__ = ("place", "sends", "size")

    def __init__(self, send: Send, place: list[Any]) -> None:
        self.sends = [send]
        self.size = len(send.body)
        #: Where in the pipeline it goes.
        self.place = place

    def call(self) -> Call:
        sends = self.sends
        if len(sends) > 1:
            return _SendAll(sends)
        [send] = sends
        send.data = send.outlet.pack(send.body)
        return send


def combine(calls: Sequence[Call]) -> Sequence[Call]:
    """The calls that a pipeline consists of, where ``calls`` are to be run: messages for the same list become one of them.

    They go where the first of them is, so that none is later than it was.  What was posted goes last: a notice that a client has left must
    not overtake the client's request.
    """
    if len(calls) == 1:
        call = calls[0]
        if type(call) is Send:
            call.data = call.outlet.pack(call.body)
        return calls
    batches: dict[Outlet, _Batch] = {}
    combined: list[Any] = []
    last: list[Any] = []
    for call in calls:
        if type(call) is not Send:
            combined.append(call)
            continue
        batch = batches.get(call.outlet)
        if batch is None:
            place = last if call.posted else combined
        elif len(batch.sends) < PIPELINE_COMMANDS and batch.size + len(call.body) <= TOGETHER_BYTES:
            batch.sends.append(call)
            batch.size += len(call.body)
            continue
        else:
            # Behind the messages for the same list that came before.
            place = batch.place
        batches[call.outlet] = batch = _Batch(call, place)
        place.append(batch)
    combined += last
    return [item.call() if type(item) is _Batch else item for item in combined]


def share(calls: Sequence[Call]) -> None:
    """Give the messages that were combined into ``calls`` their outcomes."""
    for call in calls:
        if type(call) is _SendAll:
            call.share()


def perform(shard: Shard, link: Link, calls: Sequence[Call]) -> None:
    """Exchange ``calls`` over ``link`` in one pipeline and set their results.

    :raises LinkError: when the link broke; the calls without a result have an unknown outcome then.
    """
    link.send(calls[0].data if len(calls) == 1 else b"".join([call.data for call in calls]))
    read = link.read
    missing: list[Call] = []
    for call in calls:
        reply = read()
        call.result = [reply] if call.replies == 1 else [reply, *(read() for _ in range(call.replies - 1))]
        if call.script is not None and isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            missing.append(call)
            call.result = []
    if missing:
        scripts = {call.script for call in missing if call.script is not None}
        link.exchange(b"".join([script.load for script in scripts]), len(scripts))
        link.send(b"".join([call.data for call in missing]))
        for call in missing:
            call.result = [link.read() for _ in range(call.replies)]


def settle(shard: Shard, calls: Sequence[Call]) -> bool:
    """Turn error replies into the calls' errors; returns whether the link remains of use."""
    usable = True
    for call in calls:
        for reply in call.result:
            if isinstance(reply, ErrorReply):
                call.error = shard.refused(reply)
                usable = usable and reply.code not in FATAL_CODES
                break
        else:
            if call.result and call.script in STORING_SCRIPTS:
                shard.accepted()
    return usable


def outcome(call: Call) -> list[Reply]:
    """The replies to ``call``.

    :raises LayerUnavailable: when it failed.
    """
    if call.error is not None:
        # Several calls may share the error, each of which is raised with a traceback of its own.
        raise LayerUnavailable(str(call.error), maybe_stored=call.error.maybe_stored)
    return call.result


class Lane(Protocol):
    """The way to one shard."""

    shard: Shard
    #: The gevent hub that it belongs to, ``None`` for plain threads.
    hub: Any
    #: The links of its blocking receivers.
    readers: Readers

    def run(self, calls: Sequence[Call]) -> list[list[Reply]]:
        """Run ``calls`` in order and return their replies, none of which is an error.

        :raises LayerUnavailable: when one of them failed.
        """

    def post(self, call: Call) -> None:
        """Run ``call`` soon, along with others; its outcome is dropped."""

    def close(self) -> None:
        """Send what was posted and close the connections."""


class Readers:
    """The links of blocking receivers of one lane."""

    def __init__(self, shard: Shard, cooperative: bool) -> None:
        self._shard = shard
        self._cooperative = cooperative
        self.limit = IDLE_READERS
        self._idle: list[Link] = []

    def take(self) -> Link:
        """A link that is the caller's until :meth:`give`.

        :raises LayerUnavailable: when none comes about.
        """
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return self._shard.open(self._cooperative, "receive")
            if not self._shard.is_stale(link):
                return link
            self._shard.close(link)

    def give(self, link: Link, usable: bool) -> None:
        """Take back ``link``: kept for the next receiver where it is ``usable``, which means that no reply is missing, else closed."""
        if usable and len(self._idle) < self.limit:
            self._idle.append(link)
        else:
            self._shard.close(link)

    def close(self) -> None:
        while self._idle:
            self._shard.close(self._idle.pop())

    def abandon(self) -> None:
        while self._idle:
            self._shard.abandon(self._idle.pop())


class ThreadLane:
    """The lane of all plain threads: a bounded pool of connections."""

    def __init__(self, shard: Shard, connections: int = THREAD_CONNECTIONS) -> None:
        self.shard = shard
        self.hub = None
        self._free: list[Link] = []
        self._unopened = connections
        self._available = threading.Condition()
        # How often close() was called: a link that another thread uses meanwhile is closed when it comes back.
        self._closed = 0
        self.readers = Readers(shard, False)

    def run(self, calls: Sequence[Call]) -> list[list[Reply]]:
        closed = self._closed
        link = self._acquire()
        usable = False
        combined = combine(calls)
        try:
            perform(self.shard, link, combined)
            usable = settle(self.shard, combined)
        except LinkError as error:
            raise self.shard.broken(error) from None
        finally:
            self._release(link, usable, closed)
        share(combined)
        return [outcome(call) for call in calls]

    def post(self, call: Call) -> None:
        try:
            self.run([call])
        except LayerUnavailable:
            pass

    def close(self) -> None:
        with self._available:
            links, self._free = self._free, []
            self._unopened += len(links)
            self._closed += 1
        for link in links:
            self.shard.close(link)
        self.readers.close()

    def _acquire(self) -> Link:
        deadline = time.monotonic() + self.shard.timeout
        while True:
            with self._available:
                while not self._free and self._unopened == 0:
                    if not self._available.wait(deadline - time.monotonic()):
                        text = f"Redis {self.shard.name}: no connection came free in {self.shard.timeout} s"
                        raise LayerUnavailable(text, maybe_stored=False)
                link = self._free.pop() if self._free else None
                if link is None:
                    self._unopened -= 1
            try:
                if link is None:
                    return self.shard.open(False, "send")
                if not self.shard.is_stale(link):
                    return link
            except BaseException:
                self._vacate()
                raise
            self.shard.close(link)
            self._vacate()

    def _vacate(self) -> None:
        with self._available:
            self._unopened += 1
            self._available.notify()

    def _release(self, link: Link, usable: bool, closed: int) -> None:
        with self._available:
            if usable and closed == self._closed:
                self._free.append(link)
                self._available.notify()
                return
        self.shard.close(link)
        self._vacate()


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
