"""The body of one HTTP/2 request, or the bytes that come through a tunnel: what has arrived and was not read yet.

An :class:`Inbox` is bounded by the stream's flow-control window, and only what was read is given back to the peer.  A request without a
body has none.
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from gevent.event import Event

from ..core import causes
from ..core.message import ClientDisconnected, HTTPError, body_too_large
from ..core.rates import Patience
from .owner import StreamOwner

_RETRY_LATER = [(b"Retry-After", b"10")]


class ReceivingStream(Protocol):
    """The stream as its inbox sees it; :class:`~greendaphne.http2.stream.Http2Stream` is one."""

    body_limit: int
    complete: bool
    lost: bool
    stream_id: int
    tunnel: bool

    @property
    def begun(self) -> bool:
        """Whether the response's head has left."""

    def send_continue(self) -> None:
        """Send ``100 (Continue)``."""

    def reset(self) -> None:
        """As :meth:`greendaphne.core.message.Stream.reset` says."""


class Inbox:
    """The receiving side of a stream.

    :param content_length: bytes announced; ``None`` where only the end of the stream tells.
    :param expect_continue: whether the client waits for ``100 (Continue)`` before it sends the body (RFC 9110 section 10.1.1).
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_data",
        "_event",
        "_expect_continue",
        "_left",
        "_no_room",
        "_patience",
        "_received",
        "_window",
        "ended",
    )

    def __init__(self, connection: StreamOwner, content_length: int | None, *, expect_continue: bool) -> None:
        self._connection = connection
        self._data = bytearray()
        #: Whether END_STREAM has been received.
        self.ended = False
        self._expect_continue = expect_continue
        # How much is still to come where announced.
        self._left = content_length
        # How long the body is waited for, made with the first wait, and the bytes that have come since the last.
        self._patience: Patience | None = None
        self._received = 0
        # Whether what arrived could not be held.
        self._no_room = False
        # The window as it was opened for the peer, and bytes read that have not been given back to it.
        self._window = connection.http2_limits.initial_window_size
        self._credit = 0
        self._event: Event | None = None

    def __len__(self) -> int:
        return len(self._data)

    @property
    def grown(self) -> int:
        """How much larger than at first the stream's window has become."""
        return self._window - self._connection.http2_limits.initial_window_size

    # --- the application's side ---

    def read(self, stream: ReceivingStream, n: int, timeout: float | None) -> bytes:
        """As :meth:`greendaphne.core.message.Stream.read` says."""
        self._await_input(stream, timeout)
        if self._no_room:
            raise HTTPError(503, "The server has no room for the request body.", _RETRY_LATER, close=True, cause=causes.NO_ROOM)
        if stream.body_limit and self._received > stream.body_limit and not stream.tunnel:
            raise body_too_large()
        inbox = self._data
        if not inbox:
            return b""
        if len(inbox) <= n:
            data = bytes(inbox)
            inbox.clear()
        else:
            data = bytes(memoryview(inbox)[:n])
            del inbox[:n]
        self._connection.account.give(len(data))
        self._give_back(stream, len(data))
        return data

    def _await_input(self, stream: ReceivingStream, timeout: float | None) -> None:
        """Wait until bytes have been received, or their end."""
        if self._expect_continue:
            self._expect_continue = False
            # Not where the client has begun to send, or has been sent the final head.
            if not (self._data or self.ended or stream.lost or stream.begun):
                stream.send_continue()
        while True:
            if stream.lost:
                raise ClientDisconnected
            if self._data or self.ended or self._no_room:
                return
            self._wait(stream, timeout)

    def _wait(self, stream: ReceivingStream, timeout: float | None) -> None:
        if timeout == 0:
            raise TimeoutError
        event = self._event
        if event is None:
            event = self._event = Event()
        event.clear()
        if stream.tunnel:
            if not event.wait(timeout):
                raise TimeoutError
            return
        patience = self._patience
        if patience is None:
            limits = self._connection.timeouts
            patience = self._patience = Patience(limits.body, limits.body_rate)
        patience.moved(self._received)
        self._received = 0
        seconds = patience.left if timeout is None or timeout >= patience.left else timeout
        before = monotonic()
        came = event.wait(max(seconds, 0.0))
        patience.waited(monotonic() - before)
        if came:
            return
        if seconds == timeout:
            raise TimeoutError
        raise HTTPError(408, "The request body came too slowly.", close=True)

    def _give_back(self, stream: ReceivingStream, n: int) -> None:
        """``n`` bytes were read: let the peer send as many more, and more than before while the application keeps up with it."""
        connection = self._connection
        connection.engine.consumed(n)
        if not self.ended:
            self._credit += n
            if self._credit >= self._window >> 1:
                grant = self._credit
                self._credit = 0
                if not self._data:
                    growth = connection.grow_window(self._window)
                    self._window += growth
                    grant += growth
                connection.engine.widen(stream.stream_id, grant)
        connection.writer.flush()

    # --- the connection's side ---

    def feed(self, stream: ReceivingStream, data: bytes) -> bool:
        """Bytes have arrived; false where they are more than the request announced."""
        connection = self._connection
        if stream.lost or stream.complete or self._no_room:
            connection.engine.consumed(len(data))
            return True
        size = len(data)
        if self._left is not None and not stream.tunnel:
            self._left -= size
            if self._left < 0:
                connection.engine.consumed(size)
                return False
        self._received += size
        if connection.account.ask(size):
            self._data += data
        else:
            connection.engine.consumed(size)
            if stream.tunnel:
                stream.reset()
            self._no_room = True
            self.release()
        self.wake()
        return True

    def feed_end(self, stream: ReceivingStream) -> bool:
        """The body has ended; false where it is shorter than announced."""
        self.ended = True
        self.wake()
        return not self._left or stream.tunnel or stream.complete

    def wake(self) -> None:
        """Let the greenlet that waits in :meth:`read` look again."""
        if self._event is not None:
            self._event.set()

    def release(self) -> None:
        """Drop what was received and not read; the connection may receive as much again."""
        held = len(self._data)
        if held:
            self._connection.account.give(held)
            self._connection.engine.consumed(held)
            self._data = bytearray()
