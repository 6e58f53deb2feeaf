"""Sends for one connection, and has the queues that it sends from.

A stream's greenlet hands its body bytes to :meth:`Writer.send`.  What fits, while no other stream waits, goes into the engine's buffer at
once; the rest is queued on the stream, and the writer takes from the queues by priority (RFC 9218), as the peer's windows allow, one
buffer's worth for each ``sendall``.  It does so in a kept greenlet, which it has only while there is something to send: an idle connection
needs no memory for it.  The last stream that is served sends by itself what is in the buffer (:meth:`Writer.push`).  So whatever several
streams do in one turn of the event loop leaves in one system call, memory is bounded for each stream and for the connection, and a stream
whose peer gives it no window holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable

from gevent import Timeout
from gevent.event import Event

from ..core.accounts import FREE, Account
from ..core.greenlets import Greenlets, Task
from ..core.message import ClientDisconnected
from ..net.byte_stream import ByteStream
from .compression import Field
from .engine import Engine
from .limits import MIN_FRAME_SIZE, Http2Limits
from .outbound import Outbound
from .priority import Scheduler

#: The largest DATA frame sent, one turn of an incremental stream: what every peer takes (RFC 9113 section 6.5.2), and no more.
DATA_SIZE = MIN_FRAME_SIZE


class Writer:
    """Sends what the engine has for the peer.

    :param transport: aborted when sending fails, so that the reader learns of it.
    :param account: is told of what is queued.
    """

    __slots__ = (
        "_account",
        "_blocked",
        "_engine",
        "_greenlets",
        "_limits",
        "_room",
        "_rooms",
        "_running",
        "_scheduler",
        "_sending",
        "_task",
        "_transport",
        "failed",
    )

    def __init__(self, engine: Engine, transport: ByteStream, limits: Http2Limits, account: Account = FREE) -> None:
        self._account = account
        self._engine = engine
        self._transport = transport
        self._limits = limits
        self._scheduler: Scheduler[Outbound] = Scheduler()
        # Streams with bytes to send and no window, in the order in which they ran out of it.
        self._blocked: dict[int, Outbound] = {}
        # Set when something was sent; made with the first wait.
        self._room: Event | None = None
        # Called once when something was sent.
        self._rooms: list[Callable[[], None]] = []
        # What runs the writer; ``None`` before the start and after the end.
        self._greenlets: Greenlets | None = None
        self._task: Task | None = None
        # Whether the task has not ended, and whether it waits for the transport.
        self._running = False
        self._sending = False
        #: Whether the connection broke while sending.
        self.failed = False

    def start(self, greenlets: Greenlets) -> None:
        """Begin to send."""
        self._greenlets = greenlets
        self.flush()

    def close(self, timeout: float) -> None:
        """Send what the engine still has, for ``timeout`` seconds at most, and stop."""
        self.flush()
        task = self._task
        if task is not None and not task.done:
            if timeout > 0:
                with Timeout(timeout, False):  # type: ignore[arg-type]  # it may be false: nothing is raised
                    task.join()
            if not task.done:
                task.kill()
                task.join()
        self._greenlets = None
        self._blocked.clear()

    def wake(self) -> None:
        """Something is there to be sent."""
        if not self._running and self._greenlets is not None and not self.failed:
            self._running = True
            self._task = self._greenlets.spawn(self._run)

    def flush(self) -> None:
        """Wake the writer if the engine has anything for the peer."""
        if not self._running and self._engine.output:
            self.wake()

    def push(self) -> None:
        """Send what is in the engine's buffer from the calling greenlet, without waiting, where that is possible."""
        engine = self._engine
        if self._sending or not engine.output or self.failed or self._greenlets is None:
            return
        try:
            if self._transport.offer(bytes(engine.output)):
                engine.take()
                self._sent()
            else:
                self.wake()
        except ClientDisconnected:
            self._fail()

    def _sent(self) -> None:
        if self._room is not None:
            self._room.set()
        if self._rooms:
            self.release()

    def _fail(self) -> None:
        self.failed = True
        self._transport.abort()

    @property
    def full(self) -> bool:
        """Whether so much waits to be sent that the streams have to wait too."""
        return self._engine.pending >= self._limits.write_buffer

    def wait_for_room(self, timeout: float) -> None:
        """Wait, for ``timeout`` seconds at most, until something was sent."""
        if self._room is None:
            self._room = Event()
        self._room.clear()
        self._room.wait(timeout)

    def when_room(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once when something was sent."""
        self._rooms.append(callback)

    def release(self) -> None:
        """Let all who wait for room look again."""
        if self._room is not None:
            self._room.set()
        rooms, self._rooms = self._rooms, []
        for callback in rooms:
            callback()

    def send_response(self, stream: Outbound, fields: list[Field], data: bytes) -> bool:
        """Put a whole response into the engine's buffer, if there is room for it and no other response waits; returns whether it did.

        The caller has the buffer sent, by :meth:`push` or :meth:`wake`.
        """
        engine = self._engine
        size = len(data)
        if (
            self._scheduler._size
            or size > DATA_SIZE
            or len(engine.output) >= self._limits.write_buffer
            or (size and (size > engine.send_window or size > stream.send_window))
        ):
            return False
        engine.send_response(stream, fields, data)
        return True

    def send(self, stream: Outbound, data: bytes, *, end_stream: bool) -> bool:
        """Send or queue body bytes; returns whether all of them, and END_STREAM with them, are with the engine already."""
        engine = self._engine
        size = len(data)
        if (
            not self._scheduler._size
            and not stream.queued
            and size <= DATA_SIZE
            and engine.pending < self._limits.write_buffer
            and (size <= engine.window(stream) or not size)
        ):
            if end_stream and stream.trailers is not None:
                if size:
                    engine.send_body(stream, data, end_stream=False)
                engine.send_head(stream, stream.trailers, end_stream=True)
            else:
                engine.send_body(stream, data, end_stream=end_stream)
            stream.taken += size
            if not self._running:
                self.wake()
            return True
        if size:
            stream.put(data)
            self._account.take(size)
        stream.ending = end_stream
        if stream.stream_id not in self._blocked:
            self._scheduler.add(stream)
            self.wake()
        return False

    def is_blocked(self, stream: Outbound) -> bool:
        """Whether the stream waits for the peer to open a window, not for its turn."""
        return stream.stream_id in self._blocked

    def prioritize(self, stream: Outbound, urgency: int | None, incremental: bool | None) -> None:
        """Change a stream's priority where the arguments are not ``None``."""
        if urgency is None:
            urgency = stream.urgency
        if incremental is None:
            incremental = stream.incremental
        if (urgency, incremental) != (stream.urgency, stream.incremental):
            self._scheduler.change(stream, urgency, incremental)

    def discard(self, stream: Outbound) -> None:
        """Forget what a stream has queued."""
        self._scheduler.remove(stream)
        self._blocked.pop(stream.stream_id, None)
        if stream.queued:
            self._account.give(stream.queued)
        stream.discard()

    def on_window(self, stream_id: int) -> None:
        """The peer has opened the window of a stream, or of the connection or all streams (0)."""
        if stream_id:
            stream = self._blocked.pop(stream_id, None)
            if stream is None:
                return
            self._scheduler.add(stream)
        else:
            if not self._blocked:
                return
            for stream in self._blocked.values():
                self._scheduler.add(stream)
            self._blocked.clear()
        self.wake()

    def _run(self) -> None:
        engine = self._engine
        transport = self._transport
        try:
            while True:
                if self._scheduler:
                    self._fill()
                if not engine.output:
                    return
                self._sending = True
                transport.sendall(engine.take())
                self._sending = False
                self._sent()
        except ClientDisconnected:
            self._fail()
        finally:
            self._running = self._sending = False

    def _fill(self) -> None:
        """Move body bytes from the streams' queues into the engine's buffer until it has enough for one turn."""
        engine = self._engine
        scheduler = self._scheduler
        while engine.pending < self._limits.write_buffer:
            stream = scheduler.first()
            if stream is None:
                return
            size = 0
            if stream.queued:
                size = min(DATA_SIZE, engine.window(stream))
                if size <= 0:
                    scheduler.remove(stream)
                    self._blocked[stream.stream_id] = stream
                    continue
            data: bytes | memoryview = b""
            if size:
                data = stream.get(size)
                self._account.give(len(data))
            last = not stream.queued
            if stream.trailers is not None and last and stream.ending:
                if size:
                    engine.send_body(stream, data, end_stream=False)
                engine.send_head(stream, stream.trailers, end_stream=True)
            elif size or stream.ending:
                engine.send_body(stream, data, end_stream=last and stream.ending)
            if last:
                scheduler.remove(stream)
                stream.ending = False
            else:
                scheduler.served(stream)
            stream.on_taken()
