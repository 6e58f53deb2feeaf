"""One request on an HTTP/2 connection and the way to answer it: :class:`Http2Stream` implements :class:`greendaphne.core.message.Stream`.

The application's side runs in the stream's own greenlet and may block; the connection's side (``feed``, ``feed_end``, ``cancel``) is
called by the reader and never does.  What is received waits in the stream until the application takes it, bounded by the stream's
flow-control window, and only what was taken is given back to the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from gevent import get_hub
from gevent.event import Event
from h2.errors import ErrorCodes
from h2.stream import H2Stream

from ..core import causes
from ..core.greenlets import Task
from ..core.message import ClientDisconnected, ClientTooSlow, Headers, HTTPError, Request, ResponseError, body_too_large
from ..core.rates import Patience
from .compression import Field
from .fields import ResponseHead, build_response, interim_fields, trailer_fields, tunnel_fields
from .priority import parse_priority
from .writer import Outbound

if TYPE_CHECKING:
    from .connection import Http2Connection

_CONTINUE: list[Field] = [(b":status", b"100")]
_RETRY_LATER = [(b"Retry-After", b"10")]


class Http2Stream(Outbound):
    """A request; see :class:`greendaphne.core.message.Stream` for the contract.

    :param h2: h2's state of the stream.
    :param expect_continue: whether the client waits for ``100 (Continue)`` before it sends the body (RFC 9110 section 10.1.1).
    :param end_stream: whether the request has no body.
    """

    __slots__ = (
        "_body_left",
        "_connection",
        "_credit",
        "_ended",
        "_expect_continue",
        "_gone",
        "_head",
        "_inbox",
        "_left",
        "_no_body",
        "_no_room",
        "_patience",
        "_read_event",
        "_received",
        "_room",
        "_stuck",
        "_tunnel",
        "_watcher",
        "_window",
        "_write_event",
        "body_limit",
        "complete",
        "extra_headers",
        "request",
        "response_headers",
        "sent",
        "status",
        "task",
    )

    def __init__(self, connection: Http2Connection, h2: H2Stream, request: Request, *, expect_continue: bool, end_stream: bool) -> None:
        Outbound.__init__(self, h2)
        self.request = request
        self.status = 0
        self.sent = 0
        self.response_headers: Headers = ()
        self.extra_headers: Headers = ()
        self.body_limit = 0
        #: Whether the response has been handed to the connection to its end.
        self.complete = False
        #: What serves the stream.
        self.task: Task | None = None
        self._connection = connection
        # Receiving: what has arrived and was not read yet, whether END_STREAM has, and how much body is still to come where announced.
        self._inbox: bytearray | None = None
        self._ended = end_stream
        self._expect_continue = expect_continue
        self._body_left = request.content_length
        # How long the body is waited for, made with the first wait, and the bytes that have come since the last.
        self._patience: Patience | None = None
        self._received = 0
        # Whether what arrived could not be held.
        self._no_room = False
        # The window as it was opened for the peer, and bytes read that have not been given back to it.
        self._window = connection.http2_limits.initial_window_size
        self._credit = 0
        # Sending: the head that is not sent yet, and the body bytes still owed where announced.
        self._head: ResponseHead | None = None
        self._no_body = False
        self._left: int | None = None
        self._tunnel = False
        # Whether the peer gave the stream up or the connection is gone, and who wants to know.
        self._gone = False
        self._watcher: Callable[[], None] | None = None
        self._read_event: Event | None = None
        self._write_event: Event | None = None
        # Called once when there is room for offer(); and what gives up a client that takes nothing of what offer() queued: a timer and
        # the number of bytes taken when it was started.
        self._room: Callable[[], None] | None = None
        self._stuck: tuple[Any, int] | None = None

    @property
    def body_complete(self) -> bool:
        """Whether the request's body has been read to its end."""
        return self._ended and not self._inbox

    @property
    def begun(self) -> bool:
        """Whether the response's head has left."""
        return self.status != 0 and self._head is None

    # --- the application's side: reading ---

    def read(self, n: int, timeout: float | None = None) -> bytes:
        inbox = self._await_input(timeout)
        if self._no_room:
            raise HTTPError(503, "The server has no room for the request body.", _RETRY_LATER, close=True, cause=causes.NO_ROOM)
        if self.body_limit and self._received > self.body_limit and not self._tunnel:
            raise body_too_large()
        if inbox is None:
            return b""
        if len(inbox) <= n:
            data = bytes(inbox)
            inbox.clear()
        else:
            data = bytes(memoryview(inbox)[:n])
            del inbox[:n]
        self._connection.account.give(len(data))
        self._give_back(len(data))
        return data

    def _await_input(self, timeout: float | None) -> bytearray | None:
        """The received bytes, at least one; ``None`` at their end."""
        if self._expect_continue:
            self._expect_continue = False
            # Not where the client has begun to send, or has been sent the final head.
            if not (self._inbox or self._ended or self._gone or (self.status and self._head is None)):
                self._connection.engine.send_head(self.h2, _CONTINUE, end_stream=False, informational=True)
                self._connection.writer.wake()
        while True:
            if self._gone:
                raise ClientDisconnected
            inbox = self._inbox
            if inbox:
                return inbox
            if self._ended or self._no_room:
                return None
            self._wait_readable(timeout)

    def _wait_readable(self, timeout: float | None) -> None:
        if timeout == 0:
            raise TimeoutError
        event = self._read_event
        if event is None:
            event = self._read_event = Event()
        event.clear()
        if self._tunnel:
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

    def _give_back(self, n: int) -> None:
        """``n`` bytes were read: let the peer send as many more, and more than before while the application keeps up with it."""
        connection = self._connection
        connection.engine.consumed(n)
        if not self._ended:
            self._credit += n
            if self._credit >= self._window >> 1:
                grant = self._credit
                self._credit = 0
                if not self._inbox:
                    growth = connection.grow_window(self._window)
                    self._window += growth
                    grant += growth
                connection.engine.widen(self.h2.stream_id, grant)
        connection.writer.flush()

    # --- the application's side: writing ---

    def inform(self, status: int, headers: Headers) -> None:
        if self.status and self._head is None:
            return
        fields = interim_fields(status, headers)
        if self._gone:
            raise ClientDisconnected
        self._connection.engine.send_head(self.h2, fields, end_stream=False, informational=True)
        self._connection.writer.wake()

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        return False

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        head = build_response(self.request.method, status, headers)
        if self._gone:
            raise ClientDisconnected
        if self.status and self._head is None:
            raise ResponseError("a response has been started already")
        self._head = head
        self._no_body = head.no_body
        self._left = head.content_length
        self.status = status
        self.response_headers = headers
        if head.priority:
            # RFC 9218 section 8: the server knows better than the client what its response is.
            self._connection.writer.prioritize(self, *parse_priority(head.priority))

    def write(self, data: bytes) -> None:
        if self._gone or self.complete or not self.status:
            self._unusable()
        if self._tunnel:
            self._send(data, end_stream=False)
            return
        if self._left is not None and len(data) > self._left:
            self._wrong_length(f"the body is {len(data) - self._left} bytes or more longer than its Content-Length")
        if self._head is not None:
            self._send_head(end_stream=self._no_body)
        if data and not self._no_body:
            self._account(len(data))
            self._send(data, end_stream=False)

    def finish(self, data: bytes = b"", trailers: Headers = ()) -> None:
        if self._gone or self.complete or not self.status:
            self._unusable()
        if self._tunnel:
            self._send(data, end_stream=True)
            self._finished()
            return
        if self._left is not None and len(data) != self._left:
            amount = len(data) - self._left
            self._wrong_length(f"the body is {abs(amount)} bytes {'longer' if amount > 0 else 'shorter'} than its Content-Length")
        if trailers and not self._no_body:
            self.trailers = trailer_fields(trailers)
        bare = (self._no_body or not data) and self.trailers is None
        if self._head is not None:
            self._send_head(end_stream=bare)
        elif not self._no_body:
            bare = False
        if not bare:
            self._account(len(data))
            self._send(data, end_stream=True)
        self._finished()

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        if self._gone or self.complete or not self.status:
            self._unusable()
        connection = self._connection
        if not self._has_room():
            return False
        if self._tunnel:
            end = last
        else:
            size = len(data)
            if self._left is not None and (size > self._left or (last and size != self._left)):
                amount = size - self._left
                self._wrong_length(f"the body is {abs(amount)} bytes {'longer' if amount > 0 else 'shorter'} than its Content-Length")
            if self._no_body:
                data = b""
            elif last and trailers:
                self.trailers = trailer_fields(trailers)
            self._account(len(data))
            end = last
            head = self._head
            if head is not None:
                bare = end and not data and self.trailers is None
                self._head = None
                connection.engine.send_head(self.h2, head.fields, end_stream=bare or self._no_body)
                connection.writer.wake()
                end = end and not bare
            if self._no_body:
                end = False
        if (data or end) and not connection.writer.send(self, data, end_stream=end):
            self._watch_progress()
        if last:
            self._finished()
        return True

    def _has_room(self) -> bool:
        connection = self._connection
        if self._head is not None and connection.writer.full:
            return False
        return self.queued < connection.http2_limits.write_buffer and not self.ending

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        if self._gone or self._has_room():
            return True
        if callback is None:
            return False
        if self.queued or self.ending:
            self._room = callback
        else:
            self._connection.writer.when_room(callback)
        return False

    def flush(self) -> None:
        while self.queued or self.ending:
            self._wait_writable()
            if self._gone:
                raise ClientDisconnected

    def _watch_progress(self) -> None:
        """Give the client up where it takes next to nothing of what is queued, without a greenlet that waits for it."""
        if self._stuck is None:
            timer = get_hub().loop.timer(self._connection.timeouts.send)
            self._stuck = (timer, self.taken)
            timer.start(self._on_stuck)

    def _on_stuck(self) -> None:
        # Runs in the hub.
        assert self._stuck is not None
        taken = self._stuck[1]
        self._stop_watching_progress()
        if not self.queued and not self.ending:
            return
        timeouts = self._connection.timeouts
        if self.taken - taken < timeouts.send * timeouts.body_rate and self._connection.writer.is_blocked(self):
            self._abort(ErrorCodes.CANCEL)
        else:
            self._watch_progress()

    def _stop_watching_progress(self) -> None:
        stuck, self._stuck = self._stuck, None
        if stuck is not None:
            stuck[0].stop()
            stuck[0].close()

    def _unusable(self) -> NoReturn:
        """Nothing can be sent now; says why."""
        if self._gone or (self.complete and self._tunnel):
            raise ClientDisconnected
        raise ResponseError("the response is complete already" if self.complete else "no response has been started")

    def _account(self, n: int) -> None:
        self.sent += n
        if self._left is not None:
            self._left -= n

    def _send_head(self, *, end_stream: bool) -> None:
        connection = self._connection
        writer = connection.writer
        while writer.full:
            writer.wait_for_room(connection.timeouts.send)
            if self._gone:
                raise ClientDisconnected
        head = self._head
        assert head is not None
        self._head = None
        connection.engine.send_head(self.h2, head.fields, end_stream=end_stream)
        writer.wake()

    def _send(self, data: bytes, *, end_stream: bool) -> None:
        """Send body bytes; returns when the connection can take more from this stream, or has taken all where it is the end."""
        if self._connection.writer.send(self, data, end_stream=end_stream):
            return
        connection = self._connection
        # A client for which much waits already gets no piece more until this one is on its way.
        limit = 0 if end_stream or connection.account.memory > connection.share else connection.http2_limits.write_buffer
        while self.queued > limit or self.ending:
            self._wait_writable()
            if self._gone:
                raise ClientDisconnected

    def _wait_writable(self) -> None:
        event = self._write_event
        if event is None:
            event = self._write_event = Event()
        event.clear()
        timeouts = self._connection.timeouts
        taken = self.taken
        # A peer that opens its window by a few bytes at a time makes no progress worth the name (CVE-2019-9511, CVE-2019-9517).
        stuck = not event.wait(timeouts.send) and self.taken - taken < timeouts.send * timeouts.body_rate
        # Where it is not the window, others have been more urgent; the writer notices a connection that does not move.
        if stuck and self._connection.writer.is_blocked(self):
            self._abort(ErrorCodes.CANCEL)
            raise ClientTooSlow

    def on_taken(self) -> None:
        if self._room is not None and not self.ending and self.queued <= self._connection.http2_limits.write_buffer >> 1:
            room, self._room = self._room, None
            room()
        event = self._write_event
        if event is not None and (self.queued <= self._connection.http2_limits.write_buffer >> 1) and not (self.queued and self.ending):
            event.set()

    def _finished(self) -> None:
        self.complete = True
        if not self._ended:
            # The whole response was sent, and the rest of the request is not wanted.
            self._connection.linger(self.h2.stream_id)

    def _wrong_length(self, text: str) -> None:
        """The body does not fit its Content-Length.

        :raises ResponseError: always; where the head has been sent the stream is reset, or the peer would be told a lie.
        """
        if self._head is not None:
            self._head = None
            self._left = None
            self._no_body = False
            self.status = 0
        else:
            self._abort(ErrorCodes.INTERNAL_ERROR)
        raise ResponseError(text)

    def switch(self, headers: Headers) -> None:
        fields = tunnel_fields(headers)
        if self._gone:
            raise ClientDisconnected
        self._connection.engine.send_head(self.h2, fields, end_stream=False)
        self._connection.writer.wake()
        self.status = 200
        self._tunnel = True

    def delivery(self) -> tuple[int, int] | None:
        # What waits for window waits inside of write().
        return self._connection.delivery()

    def reset(self) -> None:
        if not self._gone and not self.complete:
            # RFC 8441 section 5: CANCEL is a tunnel's TCP reset.
            self._abort(ErrorCodes.CANCEL if self._tunnel else ErrorCodes.INTERNAL_ERROR)

    def _abort(self, code: ErrorCodes) -> None:
        """Give the stream up: the peer is told ``code``, and everything queued is dropped."""
        connection = self._connection
        connection.engine.reset(self.h2.stream_id, code)
        connection.writer.flush()
        self.cancel()

    def gone(self, *, half_closed: bool) -> bool:
        # The end of an ordinary request's body is no half-close, the end of a tunnel's input is.
        return self._gone or (half_closed and self._ended and bool(self.request.upgrade))

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """As :class:`greendaphne.core.message.Stream` says; calls at once where the peer has given the stream up already."""
        self._watcher = callback
        if callback is not None and self._gone:
            callback()

    # --- the connection's side ---

    def feed(self, data: bytes) -> bool:
        """Body bytes have arrived; false where they are more than the request announced."""
        if self._gone or self.complete or self._no_room:
            self._connection.engine.consumed(len(data))
            return True
        size = len(data)
        if self._body_left is not None and not self._tunnel:
            self._body_left -= size
            if self._body_left < 0:
                self._connection.engine.consumed(size)
                return False
        self._received += size
        if not self._connection.account.ask(size):
            self._connection.engine.consumed(size)
            if self._tunnel:
                self.reset()
            self._no_room = True
            self.release()
            if self._read_event is not None:
                self._read_event.set()
            return True
        if self._inbox is None:
            self._inbox = bytearray()
        self._inbox += data
        event = self._read_event
        if event is not None:
            event.set()
        return True

    def feed_end(self) -> bool:
        """The body has ended; false where it is shorter than announced."""
        self._ended = True
        event = self._read_event
        if event is not None:
            event.set()
        return not self._body_left or self._tunnel or self.complete

    def cancel(self) -> None:
        """The peer wants no answer any more: release everything, and tell the greenlets that wait on the stream."""
        self._gone = True
        self._connection.writer.discard(self)
        self.release()
        for event in (self._read_event, self._write_event):
            if event is not None:
                event.set()
        if self._stuck is not None:
            self._stop_watching_progress()
        watcher = self._watcher
        if watcher is not None:
            self._watcher = None
            watcher()
        room = self._room
        if room is not None:
            self._room = None
            room()

    def close(self) -> None:
        """The greenlet has ended: what it left open is reset."""
        if not self.complete:
            self._connection.engine.reset(self.h2.stream_id, ErrorCodes.CANCEL if self._tunnel else ErrorCodes.INTERNAL_ERROR)
        self._watcher = self._room = None
        self.cancel()

    def release(self) -> None:
        """Drop what was received and not read; the connection may receive as much again."""
        inbox = self._inbox
        if inbox:
            self._connection.account.give(len(inbox))
            self._connection.engine.consumed(len(inbox))
            self._inbox = None

    @property
    def grown(self) -> int:
        """How much larger than at first the stream's window has become."""
        return self._window - self._connection.http2_limits.initial_window_size
