"""A connected socket as a cooperative byte stream (:class:`.byte_stream.ByteStream`).

:class:`Transport` owns a plain non-blocking socket and two hub watchers, each created at the first wait, so an idle connection costs
little.  Every wait has a timeout.  A broken connection always raises :class:`ClientDisconnected`, never ``OSError``, because callers
cannot act on the difference.  One greenlet may read while another writes; two concurrent writers are an error of the
caller.  :mod:`greendaphne.net.tls` provides the same interface over TLS.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, ClassVar, Final

from gevent import get_hub, getcurrent, sleep, spawn
from gevent.exceptions import ConcurrentObjectUseError
from gevent.monkey import get_original
from gevent.socket import wait

from ..core.accounts import FREE, Account
from ..core.message import ClientDisconnected, ClientTooSlow
from ..core.turns import Events, events
from .batch import HELD_SIZE, JOINED_SIZE, SendBatch

#: The original poll returns at once with a time limit of 0; gevent's does not support all events.
_native_poll = get_original("select", "poll")
#: tcpi_bytes_acked in struct tcp_info (linux/tcp.h), since Linux 4.1; SIOCOUTQ, which has the number of TIOCOUTQ, gives an int.
_BYTES_ACKED: Final = struct.Struct("=Q")
_ACKED_AT: Final = 120
_TCP_INFO_SIZE: Final = 128
_INT: Final = struct.Struct("=i")

_READ, _WRITE = 1, 2
# A peer that sends as fast as the server reads never makes its reader wait; after this many reads in a row other greenlets run.
_READS_IN_A_ROW = 16
_ABORTIVE = struct.pack("ii", 1, 0)
# Bytes of one call of sendfile(), which may wait for the disk, and of all calls until the other greenlets get their turn.
_SENDFILE_SIZE: Final = 256 * 1024
_SENDFILE_TURN: Final = 4 * _SENDFILE_SIZE
# Errors of sendfile() that concern the connection; all others concern the file.
_PEER_ERRORS: Final = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH))


class Transport:
    """A connected TCP or UNIX stream socket.

    A busy connection waits to read thousands of times a second, so waits avoid system calls.  The read watcher stays started between
    waits and stops only when data arrives while no greenlet waits.  The timer of a wait keeps running for the next wait, which only moves
    the deadline.

    :param sock: the socket; made non-blocking here regardless of ``socket.setdefaulttimeout``.
    :param send_timeout: seconds without progress after which a send fails.
    """

    __slots__ = (
        "_deadline",
        "_drained",
        "_end",
        "_events",
        "_fd",
        "_flusher",
        "_held",
        "_hub",
        "_late",
        "_observer",
        "_reader",
        "_reads",
        "_rooms",
        "_send_timeout",
        "_sock",
        "_timer",
        "_timer_at",
        "_waiter",
        "_watching",
        "_writer",
        "account",
        "batch",
        "closed",
    )

    #: Whether bytes pass unchanged, so that :meth:`sendfile` can send them.
    can_sendfile: ClassVar[bool] = hasattr(os, "sendfile")

    def __init__(self, sock: _socket.socket, send_timeout: float) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._send_timeout = send_timeout
        self._reader: Any = None
        self._writer: Any = None
        self._timer: Any = None
        # The hub and its events; set with the reader.
        self._hub: Any
        self._events: Events
        # What woke the waiter, while it waits for an iteration of the loop with time left: input (true) or its timer (false).
        self._late: bool | None = None
        # Whether the read watcher is started.
        self._watching = False
        # The greenlet that waits to read, its deadline, and the time at which the timer fires, ``inf`` for never.
        self._waiter: Any = None
        self._deadline = inf
        self._timer_at = inf
        # Whether the last read emptied the kernel's buffer.  The next read then waits at once, because it would fail first.
        self._drained = False
        self._reads = 0
        # The callback for input that no greenlet waits for.
        self._observer: Callable[[], None] | None = None
        # The greenlet that sends the rest of the bytes that offer() took, and the callbacks for its end.
        self._flusher: Any = None
        self._rooms: list[Callable[[], None]] | None = None
        # The bytes for the batch; empty while the flusher runs.
        self._held = b""
        # What reads and writes raise once the connection is broken.
        self._end: type[ClientDisconnected] = ClientDisconnected
        self.closed = False
        #: Receives the numbers of bytes that wait to be sent.
        self.account: Account = FREE
        #: The batch that sends small data at the end of the hub's round; ``None`` to send at once.
        self.batch: SendBatch | None = None

    def hung_up(self, *, half_closed: bool) -> bool:
        if self.closed:
            return True
        poll = _native_poll()
        poll.register(self._fd, select.POLLRDHUP)
        events = sum(event for _, event in poll.poll(0))
        if events & (select.POLLHUP | select.POLLERR):
            return True
        return half_closed and events & select.POLLRDHUP != 0 and self._sock.family != _socket.AF_UNIX

    def delivery(self) -> tuple[int, int] | None:
        if self._held:
            self.send_held()
        if self.closed or self._sock.family == _socket.AF_UNIX:
            return None
        try:
            (taken,) = _BYTES_ACKED.unpack_from(self._sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _TCP_INFO_SIZE), _ACKED_AT)
            (waiting,) = _INT.unpack(fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(_INT.size)))
        except (OSError, struct.error):
            return None
        return taken, waiting

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._sock.fileno()

    def wait_readable(self, timeout: float | None) -> None:
        if self.closed:
            raise ClientDisconnected
        if self._waiter is not None:
            raise ConcurrentObjectUseError("Another greenlet is reading from this connection")
        # Without gevent's Waiter: its frames stay on the stack, and in memory, as long as the peer is silent.
        self._waiter = getcurrent()
        try:
            if not self._watching:
                self._start_reader()
            if timeout is not None:
                self._deadline = deadline = monotonic() + timeout
                if deadline < self._timer_at:
                    self._set_timer(timeout, deadline)
            # Another event may have woken it: a read shows that nothing is there, and waits again.
            if not self._hub.switch() and monotonic() >= self._deadline:
                raise TimeoutError
        finally:
            self._waiter = None
            self._deadline = inf
        self._drained = False
        self._reads = 0

    def _start_reader(self) -> None:
        reader = self._reader
        if reader is None:
            hub = get_hub()
            self._hub = hub
            self._events = events()
            reader = self._reader = hub.loop.io(self._fd, _READ)
        reader.start(self._on_readable)
        self._watching = True

    def _on_readable(self) -> None:
        # Runs in the hub.
        waiter = self._waiter
        if waiter is not None:
            hub_events = self._events
            hub_events.left = left = hub_events.left - 1
            if self._late is None and (left > 0 or not hub_events.late()):
                waiter.switch(True)
            else:
                self._wake_later(True)
        elif self._observer is not None:
            hub_events = self._events
            hub_events.left -= 1
            if self._late is None and (hub_events.left > 0 or not hub_events.late()):
                self._observer()
            else:
                self._wake_later(True)
        else:
            # No greenlet reads now; a started watcher would wake the hub again and again until one does.
            self._reader.stop()
            self._watching = False

    def _wake_later(self, received: bool) -> None:
        """Wake the waiter, or call the observer, in the next iteration of the loop that has time left.

        :param received: whether there is input; false for the time limit.
        """
        late = self._late
        if late is None:
            self._late = received
            self._events.add(self._wake)
        elif received and not late:
            self._late = True
        elif received:
            # A started watcher would wake the hub again in each iteration until then.
            self._reader.stop()
            self._watching = False

    def _wake(self) -> None:
        # Runs in the hub.
        late, self._late = self._late, None
        waiter = self._waiter
        if waiter is not None:
            waiter.switch(late)
        elif self._observer is not None:
            if not self._watching:
                self._start_reader()
            self._observer()

    @property
    def observed(self) -> bool:
        return self._observer is not None

    def observe(self, callback: Callable[[], None] | None) -> None:
        self._observer = callback
        if callback is None:
            return
        if self.closed:
            get_hub().loop.run_callback(callback)
        elif not self._watching:
            self._start_reader()

    def _set_timer(self, seconds: float, at: float) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer_at = at
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._on_timer, update=True)

    def _on_timer(self) -> None:
        # Runs in the hub.
        self._timer_at = inf
        if self._deadline == inf:
            return
        left = self._deadline - monotonic()
        if left > 0:
            self._set_timer(left, self._deadline)
        elif self._waiter is not None and self._late is None:
            hub_events = self._events
            hub_events.left -= 1
            if hub_events.left > 0 or not hub_events.late():
                self._waiter.switch(False)
            else:
                self._wake_later(False)

    def recv(self, n: int, timeout: float | None) -> bytes:
        if self._drained and timeout != 0:
            self.wait_readable(timeout)
        while True:
            try:
                data = self._sock.recv(n)
            except BlockingIOError:
                if timeout == 0:
                    raise TimeoutError from None
                self.wait_readable(timeout)
            except OSError:
                raise self._end from None
            else:
                self._reads += 1
                self._drained = 0 < len(data) < n or self._reads >= _READS_IN_A_ROW
                return data

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        if self._flusher is not None or self._held:
            due = self._due(data)
            if due is None:
                return
            data = due
        elif self.batch is not None and len(data) <= HELD_SIZE and self.batch.add(self):
            # Most data.
            self._held = data if type(data) is bytes else bytes(data)
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise self._end from None
        size = len(data)
        if sent == size:
            return
        self._send_rest(memoryview(data)[sent:], size)

    def _due(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview | None:
        """Wait for the flusher; return what has to be sent now, or ``None`` if the batch has ``data``."""
        if self._flusher is not None:
            self.flush()
        if self.batch is None:
            return data
        due = self._hold(data)
        if self._flusher is not None:
            self.flush()
        return due

    def _hold(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview | None:
        """Hold ``data`` for the batch if possible, and return ``None``.

        Otherwise return what has to be sent now: ``data``, after the bytes that were held before if both are small.  Larger ``data`` is not
        copied: the held bytes are sent alone, and the flusher may have them afterwards.
        """
        held = self._held
        if held:
            size = len(held) + len(data)
            if size <= HELD_SIZE:
                self._held = held + data
                return None
            if size <= JOINED_SIZE:
                self._held = b""
                return held + data
            self.send_held()
        elif len(data) <= HELD_SIZE and self.batch is not None and self.batch.add(self):
            self._held = bytes(data)
            return None
        return data

    def send_held(self) -> None:
        """Send the held bytes without waiting; the flusher sends those that the socket does not take."""
        held, self._held = self._held, b""
        if held and not self.closed:
            try:
                self._offer(held)
            except ClientDisconnected:
                # The next call raises the error itself.
                self.batch = None

    def _send_rest(self, view: memoryview, size: int) -> None:
        """Send ``view``, the end of an object of ``size`` bytes; the whole object stays in memory until the last byte is sent."""
        account = self.account
        account.take(size)
        try:
            while view:
                self._wait_writable()
                try:
                    view = view[self._sock.send(view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise ClientDisconnected from None
        finally:
            account.give(size)

    def _wait_writable(self) -> None:
        if self.closed:
            raise ClientDisconnected
        writer = self._writer
        if writer is None:
            writer = self._writer = get_hub().loop.io(self._fd, _WRITE)
        try:
            wait(writer, self._send_timeout, TimeoutError)
        except TimeoutError:
            # A part of the data is in the socket's buffer: only a reset tells the peer that it is incomplete.
            self._end = ClientTooSlow
            self.abort()
            raise ClientTooSlow from None
        # The buffers of many peers may get room at the same time.
        events().wait()
        if self.closed:
            raise ClientDisconnected

    def offer(self, data: bytes) -> bool:
        if self._flusher is not None:
            return False
        if self._held:
            due = self._hold(data)
            if due is not None:
                if not self.has_room():
                    return False
                self._offer(due)
            return True
        batch = self.batch
        if batch is not None and len(data) <= HELD_SIZE and batch.add(self):
            self._held = data if data.__class__ is bytes else bytes(data)
            return True
        self._offer(data)
        return True

    def _offer(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; the flusher gets what the socket does not take."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise self._end from None
        if sent < len(data):
            self._flush_later(memoryview(data)[sent:], len(data))

    def _flush_later(self, rest: memoryview, size: int) -> None:
        self._flusher = spawn(self._flush, rest, size)

    def _flush(self, view: memoryview, size: int) -> None:
        try:
            self._send_rest(view, size)
        except ClientDisconnected:
            pass  # the next call raises the error itself
        finally:
            self._flusher = None
            rooms, self._rooms = self._rooms, None
            for callback in rooms or ():
                callback()

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        if self._flusher is None:
            return True
        if callback is not None:
            if self._rooms is None:
                self._rooms = []
            self._rooms.append(callback)
        return False

    def flush(self, timeout: float | None = None) -> bool:
        if self._held:
            self.send_held()
        flusher = self._flusher
        if flusher is not None:
            flusher.join(timeout)
        return self._flusher is None

    def sendfile(self, descriptor: int, offset: int, count: int) -> int:
        """Send at most ``count`` bytes of a file by the kernel; returns the number of bytes sent, which is lower if the file ends.

        :raises ClientDisconnected: as :meth:`sendall`.
        :raises OSError: where the file cannot be read.
        """
        self.flush()
        sent = 0
        turn = 0
        while sent < count:
            try:
                size = os.sendfile(self._fd, descriptor, offset + sent, min(count - sent, _SENDFILE_SIZE))
            except BlockingIOError:
                self._wait_writable()
                turn = 0
                continue
            except OSError as error:
                if self.closed or error.errno in _PEER_ERRORS:
                    raise ClientDisconnected from None
                raise
            if size == 0:
                break
            sent += size
            turn += size
            if turn >= _SENDFILE_TURN:
                # A peer that reads as fast as this process sends would keep the other greenlets waiting.
                turn = 0
                sleep(0)
                if self.closed:
                    raise ClientDisconnected
        return sent

    def shutdown_write(self) -> None:
        self.flush()
        self._shutdown(_socket.SHUT_WR)

    def shutdown_read(self) -> None:
        self._shutdown(_socket.SHUT_RD)

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            pass  # the peer closed the connection first

    def abort(self) -> None:
        if not self.closed:
            if self._held:
                # As bytes that were sent at once, these come before the reset.
                self.send_held()
            try:
                self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _ABORTIVE)
            except OSError:
                pass
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        if self._held:
            self.send_held()
        self.batch = None
        self.closed = True
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            reader.close()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()
        hub = get_hub()
        observer, self._observer = self._observer, None
        if observer is not None:
            hub.loop.run_callback(observer)
        if self._waiter is not None:
            hub.loop.run_callback(self._interrupt, self._waiter)
        # The hub wakes a greenlet that waits to write before the descriptor's number can be reused.
        writer, self._writer = self._writer, None
        hub.cancel_waits_close_and_then((writer,), ClientDisconnected, self._sock.close)

    def _interrupt(self, waiter: Any) -> None:
        # Runs in the hub.  The greenlet may have been woken since, and must not be disturbed anywhere else.
        if self._waiter is waiter:
            waiter.throw(self._end)
