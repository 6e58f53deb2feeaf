"""One HTTP/1 connection: requests one after the other, each answered before the next is looked at (RFC 9112 section 9.3.2).

:class:`Http1Connection` owns the connection's input and runs in the connection's greenlet; :class:`.stream.Http1Stream` is one request on
it.  The caller decides what is served, and how errors become responses: its ``serve`` function gets every stream, and ``refuse`` gets
those whose head was in error.
"""

from __future__ import annotations

from time import monotonic

from ..core.message import ClientDisconnected, ConnectionInfo, HTTPError, Request
from ..net.byte_stream import RECV_SIZE, ByteStream, lingering_close
from ..net.service import Service
from .body import Input
from .head import HeadParser, bad_request
from .stream import Http1Stream

#: Seconds that an idle connection has to send what was on its way when the server began to stop.
DRAIN_MOMENT = 1.0

#: What a pipelined request counts for, in units of :meth:`.core.turns.Turn.spend`.
_REQUEST_WORK = 8
_CR = 13
#: As a shift: 64 bytes of such a read, or of a head that came in pieces, are one unit.
_HEAD_SHIFT = 6
#: Bytes of a read beyond which its work is counted although the client may have sent no more.
_LARGE_HEAD = 4096
_METHOD_START = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Http1Connection:
    """Serves the requests of one connection until it ends.

    :param transport: the connected byte stream; closed when :meth:`run` returns.
    :param info: what all requests have in common.
    :param service: how the connection is served.
    :param initial: bytes that were received already.
    """

    __slots__ = (
        "_head",
        "_info",
        "_patience",
        "_refuse",
        "_serve",
        "draining",
        "idle",
        "idle_since",
        "input",
        "limits",
        "timeouts",
        "transport",
    )

    def __init__(self, transport: ByteStream, info: ConnectionInfo, service: Service, initial: bytes = b"") -> None:
        limits, timeouts, self._serve, self._refuse, _ = service
        self.transport = transport
        self.input = Input(transport, initial)
        self.limits = limits
        self.timeouts = timeouts
        self.draining = False
        #: Whether the connection waits for a request, so that nothing is lost when it is closed.
        self.idle = False
        #: Since when it waits for a whole head, on the monotonic clock; 0 while it serves a request.
        self.idle_since = 0.0
        self._info = info
        # How long to wait for a request; one that was connected for has not been idle yet.
        self._patience = max(timeouts.keep_alive, timeouts.header)
        # Parses the heads; made for the first, and anew after one that may have begun a tunnel.
        self._head: HeadParser | None = None

    def run(self) -> None:
        """Serve until the peer, a time limit, an error or :meth:`drain` ends the connection."""
        transport = self.transport
        try:
            while (stream := self._next_stream()) is not None:
                if transport.closed or not stream.complete:
                    break
                body = stream.body
                if stream.close or not (body is None or body.complete or stream.skip_body()):
                    # The peer may still be sending, or not have read yet: closing now could erase the answer.  Requests after this
                    # one are ignored, because the answer announced the end of the connection.
                    lingering_close(transport, self.timeouts.linger)
                    break
            else:
                transport.flush()
        except ClientDisconnected:
            pass
        finally:
            transport.close()

    def _next_stream(self) -> Http1Stream | None:
        """Read and serve the next request; ``None`` when the connection has ended in good order."""
        try:
            head = self._read_head()
            if not head:
                return None
            self.idle_since = 0.0
            parser = self._head or HeadParser(self._info, self.limits)
            request = parser.parse(head)
        except HTTPError as error:
            self.idle_since = 0.0
            stream = Http1Stream(self, self._unread_request(), close=error.close, expect_continue=False)
            self._refuse(stream, error)
            return stream
        stream = Http1Stream(self, request, close=not parser.keep_alive, expect_continue=parser.expect_continue)
        # A WebSocket may keep this frame for a day and needs none of them.
        self._head = None if request.upgrade else parser
        del head, request, parser
        self._serve(stream)
        if self.transport.observed:
            self.transport.observe(None)
        return stream

    def drain(self) -> None:
        """Answer what is in flight, with ``Connection: close``, and end; called from another greenlet."""
        self.draining = True

    def end_if_idle(self) -> None:
        """End where no request has come within :data:`DRAIN_MOMENT` of :meth:`drain`; called from another greenlet.

        One may have been on its way, and a client whose connection ends under it must not send it again by itself.
        """
        if self.idle:
            self.transport.shutdown_read()

    def make_room(self) -> None:
        """End: it waits for a request, and another client waits for a connection; called from another greenlet."""
        self.transport.shutdown_read()

    def evict(self) -> None:
        """End at once: it holds what others need; called from any greenlet."""
        self.transport.abort()

    def _unread_request(self) -> Request:
        """Stands for a request whose head could not be read."""
        return Request("GET", b"", b"/", b"", "1.1", [], 0, b"", self._info)

    def _read_head(self) -> bytes:
        """Read the next head with its empty line; ``b""`` when the connection has ended in good order."""
        source = self.input
        if not source.buffer:
            self.idle = True
            self.idle_since = monotonic()
            try:
                # During a drain this is the request after a response that began before the drain and did not announce the end of the
                # connection: the client was allowed to send it.
                data = self.transport.recv(RECV_SIZE, DRAIN_MOMENT if self.draining else self._patience)
            except TimeoutError:
                return b""
            finally:
                self.idle = False
                self._patience = self.timeouts.keep_alive
            size = len(data)
            if size > _LARGE_HEAD:
                # Many clients may send one at the same time.
                source.turn.spend(size >> _HEAD_SHIFT)
            if data.find(b"\r\n\r\n") == size - 4 and 4 < size <= self.limits.request_head and data[0] != _CR:
                # One request without a body, as most are: nothing is left for the buffer.
                return data
            if not data:
                return b""
            source.buffer = data
        else:
            # A peer that sends ahead and reads fast may never make this greenlet wait; other connections need their turn.
            source.turn.spend(_REQUEST_WORK)
            self.idle_since = monotonic()
        buffer = source.buffer
        start = source.position
        end = buffer.find(b"\r\n\r\n", start)
        if end < 0 or end - start > self.limits.request_head or buffer[start] == _CR:
            return self._read_slow_head()
        return source.take_to(end + 4)

    def _read_slow_head(self) -> bytes:
        """Read a head that has not arrived completely, is too large, or follows empty lines.

        Each byte is searched once, in whatever segments the head comes.
        """
        source = self.input
        limits = self.limits
        turn = source.turn
        deadline = monotonic() + self.timeouts.header
        # Bytes of empty lines before the request line (RFC 9112 section 2.2: they are ignored), and of whole lines of the head.
        skipped = 0
        lines = 0
        while True:
            while True:
                start = source.position + lines
                if not lines and source.unused and not self._may_begin(source.buffer[start : start + 2]):
                    raise bad_request("The request line is malformed.")
                end = source.find_line(start, limits.request_head + 2 - lines if lines else limits.request_line)
                if end < 0:
                    break
                turn.spend()
                if end > start:
                    lines = end + 2 - source.position
                elif lines:
                    turn.spend(lines >> _HEAD_SHIFT)
                    return source.take(lines + 2)
                else:
                    source.skip(2)
                    skipped += 2
                    if skipped > limits.request_head:
                        raise bad_request("The request line is malformed.")
            if not lines and source.unused > limits.request_line:
                raise HTTPError(414, "The request line is too long.", close=True)
            if source.unused > limits.request_head:
                raise HTTPError(431, "The request's header section is too long.", close=True)
            left = deadline - monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                if not source.more(left):
                    return b""
            except TimeoutError:
                raise HTTPError(408, "The request head came too slowly.", close=True) from None

    @staticmethod
    def _may_begin(data: bytes | bytearray) -> bool:
        """Whether a head, or an empty line before one, may begin with ``data``, one or two bytes."""
        return data[0] in _METHOD_START or data in (b"\r", b"\r\n")
