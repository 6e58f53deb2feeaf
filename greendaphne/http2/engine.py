"""The protocol state of one HTTP/2 connection (RFC 9113), for a server, without input and output of its own.

:class:`Engine` receives: it cuts the input into frames, has the header sections decoded, and judges every frame of the peer's by the state
of its stream.  What happened is told to a :class:`~greendaphne.http2.listener.Listener`.  Its bases are
:class:`~greendaphne.http2.control.ControlFrames`, for the frames that carry no part of a request, and
:class:`~greendaphne.http2.sender.Sender`, for what the server sends.

Nothing in here blocks or switches greenlets, except that :meth:`Engine.receive` gives way inside of a long header section.  Every frame of
the peer's is in a budget or bounded by flow control, and every frame counts for the connection's :class:`~greendaphne.core.turns.Turn`.
"""

from __future__ import annotations

from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameDataMissingError, FrameTooLargeError, ProtocolError, StreamClosedError

from ..core.turns import SHORT_READ, Turn
from .budgets import Budget, EnhanceYourCalm
from .compression import RequestDecoder, Section
from .control import ControlFrames
from .fields import valid_field
from .frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADER, HEADER_SIZE, HEADERS, PADDED, TYPE_AT, WITH_PRIORITY
from .limits import MAX_WINDOW, PREFACE, Http2Limits
from .listener import Listener
from .states import RECEIVE, Closed, StreamState

_unpack = HEADER.unpack_from
#: DATA with fewer bytes counts as small.
_SMALL_DATA: Final = 8
#: What a header section on a closed stream counts for.
_LATE_SECTION: Final = 16


class Engine(ControlFrames):
    """One HTTP/2 connection's protocol state.

    :param longest_field: no request has a field whose name or value is longer, in octets.
    """

    def __init__(self, limits: Http2Limits, listener: Listener, longest_field: int) -> None:
        super().__init__(limits, listener)
        self._turn = Turn()
        self._decoder = RequestDecoder(
            limits.max_header_list_size, limits.header_list_excess, valid_field, longest_field, self._turn, self._pause
        )
        self._input = bytearray()
        self._preface = PREFACE
        # A header section that is not complete: stream, END_STREAM flag, fragment, and the number of CONTINUATION frames.
        self._section: tuple[int, int] | None = None
        self._fragment = b""
        self._continuations = 0
        self._late = Budget("frames on closed streams", limits.late_frames, limits.period)
        self._small = Budget("DATA frames of a few bytes", limits.small_data_frames, limits.period)
        #: Counts up with every complete frame or header section.
        self.progress = 0

    @property
    def midway(self) -> bool:
        """Whether a header section or a frame other than DATA has begun and not ended: what a peer has no reason to delay."""
        data = self._input
        return self._section is not None or (len(data) > TYPE_AT and data[TYPE_AT] != DATA)

    def receive(self, data: bytes) -> bool:
        """Process what the peer sent; the listener is told as it goes.

        :returns: whether the turn ended before the last whole frame.  After :meth:`give_way` the caller goes on with no data.
        :raises ProtocolError: for a connection error.  GOAWAY is in the buffer then; nothing more may be received.
        """
        self._judging = True
        self._turn.received(len(data) or SHORT_READ)
        try:
            if self._preface:
                data = self._check_preface(data)
            unfinished = self._receive_frames(data)
            if len(self.output) > self._limits.control_buffer:
                raise EnhanceYourCalm("too many answers that are not read")
            return unfinished
        except ProtocolError as error:
            text = str(error) if isinstance(error, EnhanceYourCalm) else ""
            self._fail(error.error_code, text.encode("ascii"))
            raise
        finally:
            self._judging = False

    def give_way(self) -> None:
        """Wait for the next turn; for the caller of :meth:`receive`."""
        self._turn.give_way()

    def _pause(self) -> None:
        """Give way, where the turn is over, inside of a header section that has had no effect yet."""
        self._judging = False
        self._turn.look()
        self._judging = True

    @property
    def held(self) -> int:
        """Bytes in the buffers: input that is not complete, and output that has not been taken."""
        return len(self._input) + len(self._fragment) + len(self.output)

    def end(self) -> None:
        """The connection has ended: let go of the listener, so that both are released without the cyclic garbage collector."""
        del self._listener, self._decoder

    def fail(self, code: int, reason: bytes) -> None:
        """End the connection with an error of the server's own; only what is in the buffer is still sent."""
        if not self.failed:
            self._fail(code, reason)

    def _fail(self, code: int, reason: bytes) -> None:
        self._send_failure(code, reason)
        self._input.clear()

    def _check_preface(self, data: bytes) -> bytes:
        n = min(len(data), len(self._preface))
        if data[:n] != self._preface[:n]:
            raise ProtocolError("no HTTP/2 preface")
        self._preface = self._preface[n:]
        return data[n:]

    def _receive_frames(self, data: bytes) -> bool:
        # The common case, whole frames in one segment, is parsed where it is.
        buffered = self._input
        source: bytes | bytearray
        if buffered:
            buffered += data
            source = buffered
        else:
            source = data
        position = 0
        end = len(source)
        limit = self._limits.max_frame_size
        turn = self._turn
        try:
            while end - position >= HEADER_SIZE:
                high, low, kind, flags, stream_id = _unpack(source, position)
                length = high << 8 | low
                if length > limit:
                    # RFC 9113 section 4.2; before a byte of it is buffered.
                    raise FrameTooLargeError(f"a frame of {length} bytes")
                start = position + HEADER_SIZE
                if end - start < length:
                    break
                position = start + length
                payload = data[start:position] if source is data else bytes(source[start:position])
                stream_id &= MAX_WINDOW
                if self._section is not None or kind == CONTINUATION:
                    self._receive_continuation(kind, flags, stream_id, payload)
                elif kind == HEADERS and self._settled:
                    self._receive_headers(flags, stream_id, payload)
                elif kind == DATA and self._settled:
                    self._receive_data(flags, stream_id, payload)
                else:
                    self._receive_control(kind, flags, stream_id, payload)
                # A frame is one unit, a header section more with each literal; what is only stored takes no time worth the name.
                turn.left -= 1 if kind == DATA else 1 + (length >> 8)
                if turn.left <= 0 and turn.over():
                    return True
            return False
        finally:
            if position and self._section is None:
                self.progress += 1
            if source is buffered:
                del buffered[:position]
            elif position < end:
                buffered += data[position:]

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError("HEADERS on stream 0")
        if flags & (PADDED | WITH_PRIORITY):
            payload = self._strip(flags, stream_id, payload)
        if flags & END_HEADERS:
            self._receive_section(stream_id, flags & END_STREAM, payload)
        else:
            self._section = (stream_id, flags & END_STREAM)
            self._fragment = payload
            self._continuations = 0

    @staticmethod
    def _strip(flags: int, stream_id: int, payload: bytes) -> bytes:
        """The payload of a HEADERS frame without padding and priority (RFC 9113 section 6.2)."""
        start = end = 0
        if flags & PADDED:
            if not payload:
                raise FrameDataMissingError("no padding length")
            start, end = 1, payload[0]
        if flags & WITH_PRIORITY:
            if len(payload) - start < 5:
                raise FrameDataMissingError("no priority")
            if int.from_bytes(payload[start : start + 4], "big") & MAX_WINDOW == stream_id:
                # RFC 7540 section 5.3.1.
                raise ProtocolError("a stream that depends on itself")
            start += 5
        if len(payload) - start < end:
            raise ProtocolError("padding longer than the frame")
        return payload[start : len(payload) - end]

    def _receive_continuation(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        section = self._section
        if section is None or kind != CONTINUATION or stream_id != section[0]:
            # RFC 9113 sections 4.3 and 6.10.
            raise ProtocolError("a header section is interrupted")
        self._continuations += 1
        self._fragment += payload
        # Compressed, a list is no longer than its size; so nothing that would not be looked at is ever collected (CVE-2024-27316).
        limits = self._limits
        if (
            self._continuations > limits.continuation_frames
            or len(self._fragment) > limits.max_header_list_size * limits.header_list_excess
        ):
            raise EnhanceYourCalm("a header section in too many pieces")
        if flags & END_HEADERS:
            payload = self._fragment
            self._section = None
            self._fragment = b""
            self._receive_section(stream_id, section[1], payload)

    def _receive_section(self, stream_id: int, end_stream: int, block: bytes) -> None:
        """A complete header section."""
        # Decoded whatever becomes of it, or the tables would differ from the peer's (RFC 9113 section 4.3).
        section = self._decoder.section(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._receive_request(stream_id, section, end_stream)
        elif not stream.open & RECEIVE:
            self._late.spend(_LATE_SECTION)
            self._stream_error(stream_id, ErrorCodes.STREAM_CLOSED)
        elif end_stream:
            # RFC 9113 section 8.1: a second section is the trailers and ends the stream.
            self._end_received(stream)
            self._listener.on_trailers(stream_id, section)
        else:
            self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _receive_request(self, stream_id: int, section: Section, end_stream: int) -> None:
        closed = self.closed_streams
        if not stream_id & 1:
            raise ProtocolError("a client's stream has an even number")
        if stream_id <= closed.latest:
            self._late.spend(_LATE_SECTION)
            how = closed.get(stream_id)
            if how == Closed.BY_CLIENT:
                self._send_reset(stream_id, ErrorCodes.STREAM_CLOSED)
            elif how == Closed.ENDED:
                raise StreamClosedError(stream_id)
            elif how == Closed.UNKNOWN:
                # RFC 9113 section 5.1.1.
                raise ProtocolError(f"stream {stream_id} is opened after a later one")
            # After the server's own reset frames may be under way, and are ignored.
            return
        closed.open(stream_id)
        if self._listener.admit():
            self._listener.on_request(stream_id, section, bool(end_stream))
        else:
            self.refuse(stream_id, ErrorCodes.REFUSED_STREAM)

    def open(self, stream: StreamState) -> None:
        """The listener serves the request that it was told of last."""
        self.streams[stream.stream_id] = stream

    def refuse(self, stream_id: int, code: int) -> None:
        """The listener does not serve the request that it was told of last: RST_STREAM."""
        self.closed_streams.close(stream_id, Closed.BY_SERVER)
        self._send_reset(stream_id, code)

    def _end_received(self, stream: StreamState) -> None:
        """The peer has ended ``stream``."""
        stream.open &= ~RECEIVE
        if not stream.open:
            self._close(stream.stream_id, Closed.ENDED)

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError("DATA on stream 0")
        length = len(payload)
        data = payload
        if flags & PADDED:
            if not payload:
                raise FrameDataMissingError("no padding length")
            if payload[0] >= length:
                raise ProtocolError("padding longer than the frame")
            data = payload[1 : length - payload[0]]
        end_stream = flags & END_STREAM
        if len(data) < _SMALL_DATA and not end_stream:
            (self._small if data else self._control).spend()
        self.receive_window -= length
        if self.receive_window < 0:
            raise FlowControlError("more data than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is None or not stream.open & RECEIVE:
            if stream is None and self._idle(stream_id):
                raise ProtocolError("DATA on an idle stream")
            self.consumed(length)
            self._late.spend()
            self._receive_late_data(stream_id, stream)
            return
        stream.receive_window -= length
        if stream.receive_window < 0:
            raise FlowControlError("more data than the stream's window")
        if end_stream:
            self._end_received(stream)
        self._listener.on_data(stream_id, data, length - len(data), bool(end_stream))

    def _receive_late_data(self, stream_id: int, stream: StreamState | None) -> None:
        """DATA on a stream that the peer has ended or that is closed (RFC 9113 section 5.1)."""
        if stream is not None:
            self._stream_error(stream_id, ErrorCodes.STREAM_CLOSED)
            return
        how = self.closed_streams.get(stream_id)
        if how == Closed.BY_CLIENT:
            self._send_reset(stream_id, ErrorCodes.STREAM_CLOSED)
        elif how == Closed.ENDED:
            raise StreamClosedError(stream_id)
