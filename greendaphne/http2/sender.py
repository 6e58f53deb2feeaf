"""What the server sends on one connection: its frames, the streams' states and windows that they change, and the buffer they collect in."""

from __future__ import annotations

from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, StreamClosedError

from . import frames
from .budgets import Budget
from .compression import Field, ResponseEncoder
from .frames import DATA, END_HEADERS, END_STREAM, HEADER, HEADERS
from .limits import DEFAULT_WINDOW, MAX_WINDOW, MIN_FRAME_SIZE, Http2Limits
from .settings import announcement
from .states import RECEIVE, SEND, Closed, ClosedStreams, StreamState

_pack = HEADER.pack
# A global name costs less than a member of an enum.
_ENDED = Closed.ENDED


class Sender:
    """The sending half of an :class:`~greendaphne.http2.engine.Engine`, and the streams, which both halves change."""

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        #: Bytes for the peer; :meth:`take` hands them over.
        self.output = bytearray()
        #: The streams that are not closed.
        self.streams: dict[int, StreamState] = {}
        self.closed_streams = ClosedStreams()
        self._encoder = ResponseEncoder()
        #: The largest frame that the peer takes.
        self.frame_size = MIN_FRAME_SIZE
        #: Bytes that the peer takes on the connection, and on a new stream.
        self.send_window = DEFAULT_WINDOW
        self.initial_send_window = DEFAULT_WINDOW
        #: Bytes that the peer may send on the connection.
        self.receive_window = DEFAULT_WINDOW
        # Received and used, but not given back to the peer yet.
        self._unacknowledged = 0
        # WINDOW_UPDATE frames that the DATA frames sent explain and that have not come yet.  A peer gives windows back when it likes, so
        # nothing takes them away: their number is bounded by what the server itself sent.
        self._window_updates = 0
        self._window_update_step = limits.window_update_step
        self._server_resets = Budget("stream errors", limits.server_resets, limits.period)
        # Set while a frame of the peer's is judged, so that a reset it causes counts as its doing.
        self._judging = False
        #: Set by a connection error; only what is in the buffer is still sent.
        self.failed = False

    def begin(self) -> None:
        """Announce the settings and open the connection's window."""
        self.output += announcement(self._limits)
        increment = self._limits.connection_window - self.receive_window
        if increment > 0:
            self.receive_window += increment
            self.output += frames.window_update(0, increment)

    @property
    def pending(self) -> int:
        """Bytes in the buffer."""
        return len(self.output)

    def take(self) -> bytearray:
        """Hand over the buffer's bytes; the buffer is empty then."""
        data = self.output
        self.output = bytearray()
        return data

    def window(self, stream: StreamState) -> int:
        """How many bytes may be sent on ``stream`` now; negative after the peer has shrunk its windows."""
        return min(self.send_window, stream.send_window)

    # --- responses ---

    def send_response(self, stream: StreamState, fields: list[Field], data: bytes) -> None:
        """Queue a whole response; the caller has looked at :meth:`window` and the peer's frame size."""
        size = len(data)
        if not size or not stream.open & SEND:
            self.send_head(stream, fields, end_stream=True)
            return
        block = self._encoder.encode(fields)
        length = len(block)
        stream_id = stream.stream_id
        if length > self.frame_size:
            self._send_section(stream_id, block, 0)
            self.send_body(stream, data, end_stream=True)
            return
        stream.send_window -= size
        self.send_window -= size
        out = self.output
        out += _pack(length >> 8, length & 0xFF, HEADERS, END_HEADERS, stream_id)
        out += block
        out += _pack(size >> 8, size & 0xFF, DATA, END_STREAM, stream_id)
        out += data
        self._window_updates += 2 + size // self._window_update_step
        self._end(stream)

    def send_head(self, stream: StreamState, fields: list[Field], *, end_stream: bool) -> None:
        """Queue a header section (RFC 9113 section 6.2).

        :param fields: not changed afterwards, because the encoder remembers them.
        """
        if not stream.open & SEND:
            raise StreamClosedError(stream.stream_id)
        self._send_section(stream.stream_id, self._encoder.encode(fields), END_STREAM if end_stream else 0)
        if end_stream:
            self._end(stream)

    def _send_section(self, stream_id: int, block: bytes, flags: int) -> None:
        """Queue HEADERS, and CONTINUATION frames where one frame does not suffice."""
        size = self.frame_size
        kind = HEADERS
        out = self.output
        while len(block) > size:
            out += _pack(size >> 8, size & 0xFF, kind, flags, stream_id)
            out += block[:size]
            block = block[size:]
            kind, flags = frames.CONTINUATION, 0
        size = len(block)
        out += _pack(size >> 8, size & 0xFF, kind, flags | END_HEADERS, stream_id)
        out += block

    def send_body(self, stream: StreamState, data: bytes | memoryview, *, end_stream: bool) -> None:
        """Queue one DATA frame; the caller has looked at :meth:`window` and the peer's frame size."""
        if not stream.open & SEND:
            raise StreamClosedError(stream.stream_id)
        size = len(data)
        if size:
            if size > self.frame_size or size > self.send_window or size > stream.send_window:
                raise FlowControlError("more data than the peer allows")
            stream.send_window -= size
            self.send_window -= size
        out = self.output
        out += _pack(size >> 8, size & 0xFF, DATA, END_STREAM if end_stream else 0, stream.stream_id)
        out += data
        # The peer gives back what it receives for the stream and for the connection, with each frame or in steps of its own.
        self._window_updates += 2 + size // self._window_update_step
        if end_stream:
            self._end(stream)

    def _end(self, stream: StreamState) -> None:
        """The server has ended ``stream``."""
        stream.open &= RECEIVE
        if not stream.open:
            self._close(stream.stream_id, _ENDED)

    # --- the end of streams and of the connection ---

    def _close(self, stream_id: int, how: Closed) -> None:
        del self.streams[stream_id]
        self.closed_streams.close(stream_id, how)

    def reset(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM if the stream is not closed yet."""
        stream = self.streams.get(stream_id)
        if stream is not None and not self.failed:
            stream.open = 0
            self._close(stream_id, Closed.BY_SERVER)
            self._send_reset(stream_id, code)

    def _send_reset(self, stream_id: int, code: int) -> None:
        """Queue RST_STREAM.

        :raises EnhanceYourCalm: where the peer has caused too many (CVE-2025-8671).
        """
        if self._judging:
            self._server_resets.spend()
        self.output += frames.rst_stream(stream_id, code)

    def send_goaway(self, last_stream_id: int) -> None:
        """Announce a graceful end (RFC 9113 section 6.8); open streams go on."""
        self.output += frames.goaway(last_stream_id, ErrorCodes.NO_ERROR)

    def ping(self, payload: bytes) -> None:
        """Send PING with 8 bytes."""
        self.output += frames.frame(frames.FrameType.PING, 0, 0, payload)

    def _send_failure(self, code: int, reason: bytes) -> None:
        self.failed = True
        self.output += frames.goaway(self.closed_streams.latest, code, reason)

    # --- flow control of what is received ---

    def consumed(self, n: int) -> None:
        """``n`` flow-controlled bytes have been used or dropped: the connection may receive as many more."""
        self._unacknowledged += n
        if self._unacknowledged >= self._limits.window_slack and not self.failed:
            increment, self._unacknowledged = self._unacknowledged, 0
            self.receive_window += increment
            self.output += frames.window_update(0, increment)

    def widen(self, stream_id: int, n: int) -> None:
        """Let the peer send ``n`` bytes more on a stream, if it still may send anything."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.open & RECEIVE and not self.failed:
            if stream.receive_window + n > MAX_WINDOW:
                raise FlowControlError("a window above 2^31-1")
            stream.receive_window += n
            self.output += frames.window_update(stream_id, n)
