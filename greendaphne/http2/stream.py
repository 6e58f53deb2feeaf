"""One request on an HTTP/2 connection and the way to answer it: :class:`Http2Stream` implements :class:`greendaphne.core.message.Stream`.

The application's side runs in the stream's own greenlet and may block; the connection's side (``feed``, ``feed_end``, ``cancel``) is
called by the reader and never does.  What is received waits in an :class:`~greendaphne.http2.inbox.Inbox` until the application takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from h2.errors import ErrorCodes

from ..core.detached import Detached
from ..core.greenlets import Task
from ..core.message import ClientDisconnected, Headers, Request, ResponseError, with_extra
from .compression import Field
from .fields import ResponseHead, build_response, interim_fields, known_response, trailer_fields, tunnel_fields
from .inbox import Inbox
from .outbound import Outbound
from .owner import StreamOwner
from .priority import parse_priority
from .progress import Progress
from .states import RECEIVE

_CONTINUE: list[Field] = [(b":status", b"100")]


class Http2Stream(Outbound):
    """A request; see :class:`greendaphne.core.message.Stream` for the contract.

    :param expect_continue: whether the client waits for ``100 (Continue)`` before it sends the body (RFC 9110 section 10.1.1).
    :param end_stream: whether the request has no body.
    """

    __slots__ = (
        "_connection",
        "_head",
        "_inbox",
        "_left",
        "_no_body",
        "_progress",
        "_watcher",
        "body_limit",
        "complete",
        "detached",
        "extra_headers",
        "lost",
        "request",
        "response_headers",
        "sent",
        "status",
        "task",
        "tunnel",
    )

    def __init__(
        self, connection: StreamOwner, stream_id: int, request: Request, *, expect_continue: bool = False, end_stream: bool = True
    ) -> None:
        Outbound.__init__(
            self, stream_id, connection.http2_limits.initial_window_size, connection.engine.initial_send_window, end_stream=end_stream
        )
        self.request = request
        self.status = 0
        self.sent = 0
        self.response_headers: Headers = ()
        self.extra_headers: Headers = ()
        self.body_limit = 0
        #: Whether the response has been handed to the connection to its end.
        self.complete = False
        #: Whether the peer gave the stream up or the connection is gone.
        self.lost = False
        #: Whether :meth:`switch` has made a tunnel of the stream.
        self.tunnel = False
        #: What answers the stream where it has no greenlet.
        self.detached: Detached | None = None
        #: What serves the stream.
        self.task: Task | None = None
        self._connection = connection
        # What is received; there is none without a body.
        self._inbox = None if end_stream else Inbox(connection, request.content_length, expect_continue=expect_continue)
        # The head that is not sent yet, and the body bytes still owed where announced.
        self._head: ResponseHead | None = None
        self._no_body = False
        self._left: int | None = None
        self._watcher: Callable[[], None] | None = None
        # The waits for the client to take what is queued.
        self._progress: Progress | None = None

    @property
    def body_complete(self) -> bool:
        """Whether the request's body has been read to its end."""
        inbox = self._inbox
        return inbox is None or (inbox.ended and not inbox)

    @property
    def begun(self) -> bool:
        """Whether the response's head has left."""
        return self.status != 0 and self._head is None

    def read(self, n: int, timeout: float | None = None) -> bytes:
        inbox = self._inbox
        if inbox is not None:
            return inbox.read(self, n, timeout)
        if self.lost:
            raise ClientDisconnected
        return b""

    # --- the application's side: writing ---

    def inform(self, status: int, headers: Headers) -> None:
        if self.status and self._head is None:
            return
        fields = interim_fields(status, headers)
        if self.lost:
            raise ClientDisconnected
        self._connection.engine.send_head(self, fields, end_stream=False)
        self._connection.writer.wake()

    def send_continue(self) -> None:
        """Send ``100 (Continue)``: the application wants the body."""
        self._connection.engine.send_head(self, _CONTINUE, end_stream=False)
        self._connection.writer.wake()

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        return False

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        if self.extra_headers:
            headers = with_extra(headers, self.extra_headers)
        head = build_response(self.request.method, status, headers)
        if self.lost:
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
        if self.lost or self.complete or not self.status:
            self._unusable()
        if self.tunnel:
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
        if self.lost or self.complete or not self.status:
            self._unusable()
        head = self._head
        if (
            head is not None
            and not trailers
            and not self._no_body
            and (self._left is None or self._left == len(data))
            and self._connection.writer.send_response(self, head.fields, data, alone=self._connection.serving == 1)
        ):
            # Most responses: there is room for the whole.
            self._head = None
            self.sent = len(data)
            self._left = 0
            self._finished()
            return
        if self.tunnel:
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

    @property
    def detachable(self) -> bool:
        """See :class:`greendaphne.core.detached.Detachable`."""
        return self._inbox is None and self._connection.detaches

    def respond(self, status: int, headers: Any, data: bytes, check: Callable[[Any], Headers] | None = None) -> bool:
        """See :class:`greendaphne.core.detached.Detachable`; for a stream without a body."""
        if self.lost or self.status or self._inbox is not None:
            return False
        method = self.request.method
        extra = self.extra_headers
        try:
            given = with_extra(headers, extra) if extra else headers
            head = known_response(method, status, given)
            if head is None:
                if check is None:
                    return False
                # Only names that are bytes can be compared with those of the further fields.
                given = check(headers)
                if extra:
                    given = with_extra(given, extra)
                head = build_response(method, status, given)
        except (TypeError, ValueError, AttributeError, ResponseError):
            return False
        fields, length, no_body, priority = head
        connection = self._connection
        if (
            no_body
            or priority
            or (length is not None and length != len(data))
            or not connection.writer.send_response(self, fields, data, alone=connection.serving == 1)
        ):
            return False
        self.status = status
        self.response_headers = given
        self.sent = len(data)
        self._left = 0
        self.complete = True
        return True

    def resume(self) -> None:
        """See :class:`greendaphne.core.detached.Detachable`."""
        self._connection.resume(self)

    def end_detached(self) -> None:
        """See :class:`greendaphne.core.detached.Detachable`."""
        self.detached = None
        if self.complete:
            self._connection.end_answered(self)
        else:
            self._connection.close_stream(self)

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        if self.lost or self.complete or not self.status:
            self._unusable()
        connection = self._connection
        head = self._head
        if (
            last
            and head is not None
            and not trailers
            and not self._no_body
            and (self._left is None or self._left == len(data))
            and connection.writer.send_response(self, head.fields, data, alone=connection.serving == 1)
        ):
            # As in finish().
            self._head = None
            self.sent = len(data)
            self._left = 0
            self._finished()
            return True
        if not self._has_room():
            return False
        if self.tunnel:
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
            if head is not None:
                bare = end and not data and self.trailers is None
                self._head = None
                connection.engine.send_head(self, head.fields, end_stream=bare or self._no_body)
                connection.writer.wake()
                end = end and not bare
            if self._no_body:
                end = False
        if (data or end) and not connection.writer.send(self, data, end_stream=end):
            self._waits.watch(self)
        if last:
            self._finished()
        return True

    def _has_room(self) -> bool:
        connection = self._connection
        if self._head is not None and connection.writer.full:
            return False
        return self.queued < connection.http2_limits.write_buffer and not self.ending

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        if self.lost or self._has_room():
            return True
        if callback is None:
            return False
        if self.queued or self.ending:
            self._waits.room = callback
        else:
            self._connection.writer.when_room(callback)
        return False

    def flush(self) -> None:
        while self.queued or self.ending:
            self._waits.wait(self)
            if self.lost:
                raise ClientDisconnected

    @property
    def _waits(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(self._connection.timeouts)
        return self._progress

    @property
    def waits_for_window(self) -> bool:
        """Whether what is queued waits for the peer to open a window, not for its turn."""
        return self._connection.writer.is_blocked(self)

    def _unusable(self) -> NoReturn:
        """Nothing can be sent now; says why."""
        if self.lost or (self.complete and self.tunnel):
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
            if self.lost:
                raise ClientDisconnected
        head = self._head
        assert head is not None
        self._head = None
        connection.engine.send_head(self, head.fields, end_stream=end_stream)
        writer.wake()

    def _send(self, data: bytes, *, end_stream: bool) -> None:
        """Send body bytes; returns when the connection can take more from this stream, or has taken all where it is the end."""
        if self._connection.writer.send(self, data, end_stream=end_stream):
            return
        connection = self._connection
        # A client for which much waits already gets no piece more until this one is on its way.
        limit = 0 if end_stream or connection.account.memory > connection.share else connection.http2_limits.write_buffer
        while self.queued > limit or self.ending:
            self._waits.wait(self)
            if self.lost:
                raise ClientDisconnected

    def on_taken(self) -> None:
        if self._progress is not None:
            self._progress.taken(self, self._connection.http2_limits.write_buffer >> 1)

    def _finished(self) -> None:
        self.complete = True
        inbox = self._inbox
        if inbox is not None and not inbox.ended:
            # The whole response was sent, and the rest of the request is not wanted.
            self._connection.early_answers.add(self.stream_id)

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
        if self.lost:
            raise ClientDisconnected
        self._connection.engine.send_head(self, fields, end_stream=False)
        self._connection.writer.wake()
        self.status = 200
        self.tunnel = True

    def delivery(self) -> tuple[int, int] | None:
        # What waits for window waits inside of write().
        return self._connection.delivery()

    def reset(self) -> None:
        if not self.lost and not self.complete:
            # RFC 8441 section 5: CANCEL is a tunnel's TCP reset.
            self._abort(ErrorCodes.CANCEL if self.tunnel else ErrorCodes.INTERNAL_ERROR)

    def give_up(self) -> None:
        """Reset the stream, because the client takes too little of the response."""
        self._abort(ErrorCodes.CANCEL)

    def _abort(self, code: ErrorCodes) -> None:
        """Give the stream up: the peer is told ``code``, and everything queued is dropped."""
        connection = self._connection
        connection.engine.reset(self.stream_id, code)
        connection.writer.flush()
        self.cancel()

    def gone(self, *, half_closed: bool) -> bool:
        # The end of an ordinary request's body is no half-close, the end of a tunnel's input is.
        return self.lost or (half_closed and not self.open & RECEIVE and bool(self.request.upgrade))

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """As :class:`greendaphne.core.message.Stream` says; calls at once where the peer has given the stream up already."""
        self._watcher = callback
        if callback is not None and self.lost:
            callback()

    # --- the connection's side ---

    def feed(self, data: bytes) -> bool:
        """Body bytes have arrived; false where they are more than the request announced."""
        return self._inbox is None or self._inbox.feed(self, data)

    def feed_end(self) -> bool:
        """The body has ended; false where it is shorter than announced."""
        return self._inbox is None or self._inbox.feed_end(self)

    def cancel(self) -> None:
        """The peer wants no answer any more: release everything, and tell the greenlets that wait on the stream."""
        self.lost = True
        if self.scheduled or self.queued:
            self._connection.writer.discard(self)
        inbox = self._inbox
        if inbox is not None:
            inbox.release()
            inbox.wake()
        if self._progress is not None:
            self._progress.end()
        watcher = self._watcher
        if watcher is not None:
            self._watcher = None
            watcher()
        detached = self.detached
        if detached is not None:
            detached.abandon()

    def close(self) -> None:
        """The greenlet has ended: what it left open is reset."""
        if not self.complete:
            self._connection.engine.reset(self.stream_id, ErrorCodes.CANCEL if self.tunnel else ErrorCodes.INTERNAL_ERROR)
        self._watcher = None
        if self._progress is not None:
            self._progress.room = None
        self.cancel()

    @property
    def grown(self) -> int:
        """How much larger than at first the stream's receive window has become."""
        return self._inbox.grown if self._inbox is not None else 0
