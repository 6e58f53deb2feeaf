"""One request on an HTTP/1 connection and the way to answer it: :class:`Http1Stream`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn, Protocol

from ..config import Limits, Timeouts
from ..core.errors import reason_phrase
from ..core.message import (
    ClientDisconnected,
    Headers,
    HTTPError,
    Request,
    ResponseError,
    body_too_large,
    check_interim,
    check_sent_trailers,
    with_extra,
)
from ..net.byte_stream import RECV_SIZE, ByteStream
from ..net.transport import Transport
from .body import ChunkedBody, Input, LengthBody
from .response import CHUNKED, LENGTH, NO_BODY, build_head, field_line, known_head

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The most bytes of an unread request body that are skipped, so that the connection can serve the next request.
SKIPPED = 64 * 1024
_LAST_CHUNK = b"0\r\n\r\n"
#: Bytes up to which a piece of a body is joined with what frames it.  A copy of a larger one costs more than a further system call, and a
#: slow client would make the server hold the piece twice.
_JOINED = 64 * 1024


class StreamOwner(Protocol):
    """The connection as its streams see it; :class:`~greendaphne.http1.connection.Http1Connection` is one."""

    #: Whether the connection ends after the response in flight.
    draining: bool
    input: Input
    limits: Limits
    timeouts: Timeouts
    transport: ByteStream


class Http1Stream:
    """One request on an HTTP/1 connection; see :class:`greendaphne.core.message.Stream` for the contract."""

    __slots__ = (
        "_connection",
        "_expect_continue",
        "_framing",
        "_half_closed",
        "_head",
        "_left",
        "_reading",
        "_received",
        "_tunnel",
        "_watch",
        "body",
        "body_limit",
        "close",
        "complete",
        "extra_headers",
        "request",
        "response_headers",
        "sent",
        "status",
    )

    def __init__(self, connection: StreamOwner, request: Request, *, close: bool, expect_continue: bool) -> None:
        self.request = request
        self.status = 0
        self.sent = 0
        self.response_headers: Headers = ()
        self.extra_headers: Headers = ()
        self.body_limit = 0
        #: Whether the connection ends after this response.
        self.close = close
        #: Whether the response has been sent to its end.
        self.complete = False
        self._connection = connection
        self._expect_continue = expect_continue
        length = request.content_length
        #: The request's body; ``None`` where it has none.
        self.body: LengthBody | ChunkedBody | None = None
        if length is None:
            self.body = ChunkedBody(connection.input, connection.limits, connection.timeouts)
        elif length:
            self.body = LengthBody(connection.input, length, connection.timeouts)
        # Whether a greenlet is in read().
        self._reading = False
        # Body bytes read, counted where there is a limit that the head could not be checked against.
        self._received = 0
        self._head = b""
        self._framing = NO_BODY
        self._left = 0
        self._tunnel = False
        # What watch() was told.
        self._watch: Callable[[], None] | None = None
        self._half_closed = False

    @property
    def body_complete(self) -> bool:
        """Whether the request's body has been read to its end."""
        return self.body is None or self.body.complete

    @property
    def begun(self) -> bool:
        """Whether the response's head has left."""
        return self.status != 0 and not self._head

    def read(self, n: int, timeout: float | None = None) -> bytes:
        if self._tunnel:
            source = self._connection.input
            # As Input.empty, without the call.
            return source.transport.recv(n, timeout) if source.position >= len(source.buffer) else source.take(n)
        body = self.body
        if body is None:
            return b""
        if self._expect_continue:
            self._expect_continue = False
            # RFC 9110 section 10.1.1: not where the client has begun to send the body.
            if self._connection.input.empty and not self.status:
                self._connection.transport.sendall(_CONTINUE)
        self._reading = True
        try:
            data = body.read(n, timeout)
        except HTTPError:
            # Nothing that follows may be taken for a request.
            self.close = True
            raise
        finally:
            self._reading = False
        if self.body_limit:
            self._received += len(data)
            if self._received > self.body_limit:
                self.close = True
                raise body_too_large()
        return data

    def inform(self, status: int, headers: Headers) -> None:
        if self.request.http_version != "1.1" or (self.status and not self._head):
            return
        check_interim(status, headers)
        lines = [f"HTTP/1.1 {status} {reason_phrase(status)}\r\n".encode("ascii"), *(field_line(name, value) for name, value in headers)]
        self._connection.transport.sendall(b"".join(lines) + b"\r\n")

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        transport = self._connection.transport
        if not isinstance(transport, Transport) or not transport.can_sendfile or self._tunnel:
            return False
        framing = self._framing
        if framing == LENGTH and count > self._left:
            # An error of the application, which write() reports.
            return False
        head, self._head = self._head, b""
        if framing == CHUNKED and count:
            head += b"%x\r\n" % count
        if head:
            transport.sendall(head)
        if framing == NO_BODY or not count:
            return True
        sent = transport.sendfile(descriptor, offset, count)
        self.sent += sent
        if framing == LENGTH:
            self._left -= sent
        if sent < count:
            raise ResponseError(f"the file is {count - sent} bytes shorter than it was")
        if framing == CHUNKED:
            transport.sendall(b"\r\n")
        return True

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        # A body that is not read to its end would be taken for the next request (RFC 9112 section 9.3).
        body = self.body
        close = self.close or self._connection.draining or (body is not None and not body.complete and not self._can_skip(body))
        if self.extra_headers:
            headers = with_extra(headers, self.extra_headers)
        head = build_head(self.request.method, self.request.http_version, status, headers, close, reason)
        self._head, self._framing, self._left, self.close = head
        self.status = status
        self.response_headers = headers

    def _can_skip(self, body: LengthBody | ChunkedBody) -> bool:
        """Whether the rest of the body is expected to be short, so that the connection can go on; nothing of it is used.

        The application may still read it.  :meth:`skip_body` has the last word.
        """
        if self._expect_continue:
            # The client may send the body or the next request (RFC 9110 section 10.1.1).
            return False
        if isinstance(body, LengthBody):
            return body.left <= SKIPPED
        source = self._connection.input
        if not self._reading and source.unused < SKIPPED:
            try:
                source.more(0)
            except (TimeoutError, ClientDisconnected):
                pass
        return body.may_be_whole(SKIPPED)

    def skip_body(self) -> bool:
        """Read the rest of the body, :data:`SKIPPED` bytes in ``Timeouts.linger`` seconds at most; return whether that was all.

        Called once the response is complete.

        :raises ClientDisconnected: when the client has left.
        """
        body = self.body
        assert body is not None
        connection = self._connection
        left = SKIPPED
        deadline = monotonic() + connection.timeouts.linger
        try:
            while not body.complete:
                left -= len(body.read(left + 1, max(deadline - monotonic(), 0.0)))
                if left < 0:
                    return False
                connection.input.turn.spend()
        except (TimeoutError, HTTPError):
            return False
        return True

    def write(self, data: bytes) -> None:
        size = len(data)
        if self._framing == LENGTH and 0 < size <= self._left and size <= _JOINED:
            # Most pieces.  A tunnel has no such framing.
            head, self._head = self._head, b""
            self._left -= size
            self.sent += size
            self._connection.transport.sendall(head + data)
            return
        if self._tunnel:
            self._connection.transport.sendall(data)
            return
        out = self._framed(data)
        if out:
            self._connection.transport.sendall(out)

    def finish(self, data: bytes = b"", trailers: Headers = ()) -> None:
        left = self._left
        if self._framing == LENGTH and len(data) == left <= _JOINED:
            # Most responses.
            head, self._head = self._head, b""
            if left or head:
                self._left = 0
                self.sent += left
                self._connection.transport.sendall(head + data)
            self.complete = True
            return
        out = self._framed(data)
        if self._framing == CHUNKED:
            out += _last_chunk(trailers) if trailers else _LAST_CHUNK
        if out:
            self._connection.transport.sendall(out)
        if self._framing == LENGTH and self._left:
            raise ResponseError(f"the body is {self._left} bytes shorter than its Content-Length")
        self.complete = True

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        transport = self._connection.transport
        if self._tunnel:
            return transport.offer(data)
        framing = self._framing
        head, sent, left = self._head, self.sent, self._left
        if last and framing == LENGTH and len(data) == left:
            # Most responses.
            if left or head:
                if not transport.offer(head + data):
                    return False
                self._head = b""
                self._left = 0
                self.sent = sent + left
            self.complete = True
            return True
        if framing == LENGTH:
            size = len(data)
            if size > left:
                # An error of the application: the peer gets the response that the head announced.
                if not transport.offer(head + data[:left]):
                    return False
                self._head = b""
                self._over(size)
            if not last and size:
                # What most pieces of a stream are.
                if not transport.offer(head + data):
                    return False
                self._head = b""
                self._left = left - size
                self.sent = sent + size
                return True
        end = b"" if not last or framing != CHUNKED else _last_chunk(trailers) if trailers else _LAST_CHUNK
        out = self._joined(data) + end
        if out and not transport.offer(out):
            self._head, self.sent, self._left = head, sent, left
            return False
        if last:
            if self._framing == LENGTH and self._left:
                raise ResponseError(f"the body is {self._left} bytes shorter than its Content-Length")
            self.complete = True
        return True

    def respond(self, status: int, headers: Any, data: bytes) -> bool:
        """Send a whole response that needs no wait and whose fields are equal to checked ones; false where nothing was done.

        Never switches and never raises.

        :param headers: anything.
        """
        body = self.body
        if self.status or self._tunnel or (body is not None and not body.complete):
            return False
        if self.extra_headers:
            try:
                headers = with_extra(headers, self.extra_headers)
            except (TypeError, ValueError, AttributeError):
                return False
        connection = self._connection
        head = known_head(self.request.method, self.request.http_version, status, headers, self.close or connection.draining)
        size = len(data)
        if head is None or head.framing != LENGTH or head.length != size or size > _JOINED:
            return False
        try:
            if not connection.transport.offer(head.data + data):
                return False
        except ClientDisconnected:
            return False
        self.close = head.close
        self.status = status
        # The observer reads them when the application may have changed its list.
        self.response_headers = tuple(headers)
        self.sent = size
        self.complete = True
        return True

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        return self._connection.transport.has_room(callback)

    def flush(self) -> None:
        transport = self._connection.transport
        if not transport.has_room():
            transport.flush()
        if transport.closed:
            raise ClientDisconnected

    def _over(self, size: int) -> NoReturn:
        """Refuse the rest of a body of which the announced part was sent: the peer would take that rest for the next response."""
        self.sent += self._left
        excess, self._left = size - self._left, 0
        self.complete = self.close = True
        raise ResponseError(f"the body is {excess} bytes or more longer than its Content-Length")

    def _framed(self, data: bytes) -> bytes:
        """As :meth:`_joined`, but sends a large ``data`` and what comes before it; returns what comes after it."""
        if len(data) <= _JOINED or self._framing == NO_BODY or (self._framing == LENGTH and len(data) > self._left):
            return self._joined(data)
        transport = self._connection.transport
        size = len(data)
        head, self._head = self._head, b""
        end = b""
        if self._framing == CHUNKED:
            head += b"%x\r\n" % size
            end = b"\r\n"
        elif self._framing == LENGTH:
            self._left -= size
        self.sent += size
        if head:
            transport.sendall(head)
        transport.sendall(data)
        return end

    def _joined(self, data: bytes) -> bytes:
        """The bytes on the wire for ``data``, with the head before the first."""
        head = self._head
        self._head = b""
        framing = self._framing
        if framing == NO_BODY or not data:
            return head
        size = len(data)
        if framing == CHUNKED:
            self.sent += size
            return b"%b%x\r\n%b\r\n" % (head, size, data)
        if framing == LENGTH:
            if size > self._left:
                # The peer gets the response that the head announced.
                self._connection.transport.sendall(head + data[: self._left])
                self._over(size)
            self._left -= size
        self.sent += size
        return head + data

    def switch(self, headers: Headers) -> None:
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n", *(field_line(name, value) for name, value in headers), b"\r\n"]
        self._connection.transport.sendall(b"".join(lines))
        self.status = 101
        self._tunnel = True
        self.close = True

    def gone(self, *, half_closed: bool) -> bool:
        source = self._connection.input
        if source.transport.closed:
            return True
        # The rest of a body belongs to its reader, which may wait for it in another greenlet.  Bytes after it are held here, up to a limit.
        if not self.body_complete or source.unused >= RECV_SIZE:
            return False
        try:
            return not source.more(0) and source.transport.hung_up(half_closed=half_closed)
        except TimeoutError:
            return False
        except ClientDisconnected:
            return True

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """As :class:`greendaphne.core.message.Stream` says; ends with the request."""
        self._watch = callback
        self._half_closed = half_closed
        self._connection.transport.observe(None if callback is None else self._look)

    def _look(self) -> None:
        # Runs in the hub: there is input that no greenlet waits for, or the transport was closed.
        source = self._connection.input
        transport = source.transport
        gone = self._half_closed
        try:
            # Input that comes ahead of its turn is held here, up to a limit.
            if source.unused < RECV_SIZE and source.more(0):
                return
            if source.unused >= RECV_SIZE:
                gone = False
        except TimeoutError:
            return
        except ClientDisconnected:
            gone = True
        transport.observe(None)
        callback, self._watch = self._watch, None
        if gone and callback is not None:
            callback()

    def delivery(self) -> tuple[int, int] | None:
        return self._connection.transport.delivery()

    def reset(self) -> None:
        if not self.complete:
            self._connection.transport.abort()


def _last_chunk(trailers: Headers) -> bytes:
    """The last chunk with a trailer section (RFC 9112 section 7.1.2)."""
    check_sent_trailers(trailers)
    return b"0\r\n" + b"".join([field_line(name, value) for name, value in trailers]) + b"\r\n"
