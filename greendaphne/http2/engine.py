"""h2's connection, made into a server's: the only place that knows h2 from the inside.

:class:`Engine` is h2's :class:`~h2.connection.H2Connection` with what is hot or decided differently done here: framing of DATA and
HEADERS, header compression, counting of what costs the peer nothing, and the errors that h2 raises on the whole connection where
RFC 9113 asks for one stream.  Stream states, settings, windows and all other frames stay h2's.  Nothing in here blocks or switches
greenlets, except that :meth:`Engine.receive` gives way inside of a long header section; what happened is told to a :class:`Listener`.
Every frame of the peer's is in a budget or bounded by flow
control, and every frame counts for the connection's :class:`~greendaphne.core.turns.Turn`.

Bytes for the peer collect in :meth:`take`'s buffer; the caller sends them.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Protocol, cast

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, RemoteSettingsChanged, StreamReset, UnknownFrameReceived, WindowUpdated
from h2.exceptions import FlowControlError, FrameDataMissingError, FrameTooLargeError, ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from hyperframe.exceptions import InvalidDataError, InvalidFrameError, InvalidPaddingError
from hyperframe.frame import ExtensionFrame, Frame, GoAwayFrame, RstStreamFrame

from ..core.turns import SHORT_READ, Turn
from .budgets import Budget, EnhanceYourCalm
from .compression import Field, RequestDecoder, ResponseEncoder
from .fields import valid_field
from .limits import MAX_WINDOW, PREFACE, Http2Limits

#: RFC 9113 section 3.4.
#: RFC 9218 section 2.1: the priorities of RFC 7540 are not used.
SETTINGS_NO_RFC7540_PRIORITIES = 0x9

_HEADER_SIZE = 9
#: Where a frame's header has its type.
_KIND = 3
_HEADER = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
#: RFC 9113 section 6.5.2 and RFC 8441 section 3.
_KNOWN_SETTINGS = frozenset((1, 2, 3, 4, 5, 6, 8))
#: DATA with fewer bytes counts as small.
_SMALL_DATA = 8
#: What a header section on a closed stream counts for.
_LATE_SECTION = 16
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
#: RFC 9113 section 6: payloads of a fixed length.
_PAYLOAD_SIZES = {_PRIORITY: 5, _RST_STREAM: 4, _PING: 8, _WINDOW_UPDATE: 4}

#: How many closed streams are remembered to tell late frames from errors; h2 would keep 65 536 for each connection.
_CLOSED_STREAMS = 512


#: What this module uses of h2 and hyperframe that they do not document; a test names each, for h2 is free to change it.  The upper
#: bound of h2 in ``setup.py`` stands for that test.
UNDOCUMENTED: Final[dict[type, tuple[str, ...]]] = {
    H2Connection: (
        "_begin_new_stream",
        "_closed_streams",
        "_data_to_send",
        "_inbound_flow_control_window_manager",
        "_prepare_for_sending",
        "_receive_frame",
        "_receive_goaway_frame",
        "_receive_ping_frame",
        "_stream_closed_by",
        "encoder",
        "highest_inbound_stream_id",
        "local_settings",
        "max_inbound_frame_size",
        "outbound_flow_control_window",
        "state_machine",
        "streams",
        "MAX_CLOSED_STREAMS",
    ),
    H2Stream: ("_inbound_window_manager", "closed", "closed_by", "outbound_flow_control_window", "state_machine", "stream_id"),
    StreamClosedError: ("_events", "stream_id"),
}


class Listener(Protocol):
    """Who is told what the peer did; no method may switch greenlets."""

    def admit(self) -> bool:
        """Whether there is room for one more stream."""

    def on_request(self, stream_id: int, fields: list[Field] | None, size: int, end_stream: bool) -> None:
        """A request's head and its size as RFC 9113 section 6.5.2 counts it; no fields for a size over the limit."""

    def on_trailers(self, stream_id: int, fields: list[Field] | None) -> None:
        """A trailer section; the stream ends with it."""

    def on_data(self, stream_id: int, data: bytes, overhead: int, end_stream: bool) -> None:
        """Body bytes, with ``overhead`` bytes of padding that count for flow control."""

    def on_reset(self, stream_id: int) -> None:
        """The stream is gone, by the peer's RST_STREAM or because of its error."""

    def on_window(self, stream_id: int) -> None:
        """The window of a stream, or of the connection and all streams (0), has grown."""

    def on_priority_update(self, stream_id: int, value: bytes) -> None:
        """RFC 9218 section 7.1."""

    def on_ping_ack(self) -> None:
        """The answer to a PING of the server's."""

    def on_goaway(self) -> None:
        """The peer will open no more streams."""


class Engine(H2Connection):
    """One HTTP/2 connection's protocol state, without any input or output of its own.

    :param longest_field: no request has a field whose name or value is longer, in octets.
    """

    MAX_CLOSED_STREAMS = _CLOSED_STREAMS

    def __init__(self, limits: Http2Limits, listener: Listener, longest_field: int) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._listener = listener
        self._limits = limits
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: limits.initial_window_size,
            SettingCodes.MAX_FRAME_SIZE: limits.max_frame_size,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            cast("SettingCodes", SETTINGS_NO_RFC7540_PRIORITIES): 1,
        }
        # Before initiate_connection(), or h2 announces its own values first.
        self.local_settings = Settings(client=False, initial_values=values)
        self.max_inbound_frame_size = limits.max_frame_size
        self.encoder = cast("Any", ResponseEncoder())
        self._turn = Turn()
        self._decoder = RequestDecoder(
            limits.max_header_list_size, limits.header_list_excess, valid_field, longest_field, self._turn, self._pause
        )
        self._input = bytearray()
        self._preface = PREFACE
        self._settled = False
        # A header section that is not complete: stream, END_STREAM flag, fragment, and the number of CONTINUATION frames.
        self._section: tuple[int, int] | None = None
        self._fragment = b""
        self._continuations = 0
        self._client_resets = Budget("RST_STREAM frames", limits.client_resets, limits.period)
        self._server_resets = Budget("stream errors", limits.server_resets, limits.period)
        self._control = Budget("control frames", limits.control_frames, limits.period)
        self._late = Budget("frames on closed streams", limits.late_frames, limits.period)
        self._small = Budget("DATA frames of a few bytes", limits.small_data_frames, limits.period)
        # WINDOW_UPDATE frames that the DATA frames sent explain and that have not come yet.  A peer gives windows back when it likes, so
        # nothing takes them away: their number is bounded by what the server itself sent.
        self._window_updates = 0
        self._window_update_step = limits.window_update_step
        # Received and used, but not given back to the peer yet.
        self._unacknowledged = 0
        #: Set while a frame of the peer's is judged, so that a reset it causes counts as its doing.
        self._judging = False
        #: Counts up with every complete frame or header section.
        self.progress = 0
        #: Set by a connection error; only what is in the buffer is still sent.
        self.failed = False

    def begin(self) -> None:
        """Announce the settings and open the connection's window."""
        self.initiate_connection()
        increment = self._limits.connection_window - self.inbound_flow_control_window
        if increment > 0:
            self.increment_flow_control_window(increment)

    # --- receiving ---

    @property
    def settled(self) -> bool:
        """Whether the peer's preface and its SETTINGS have been received (RFC 9113 section 3.4)."""
        return self._settled

    @property
    def midway(self) -> bool:
        """Whether a header section or a frame other than DATA has begun and not ended: what a peer has no reason to delay."""
        data = self._input
        return self._section is not None or (len(data) > _KIND and data[_KIND] != _DATA)

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
            if len(self._data_to_send) > self._limits.control_buffer:
                raise EnhanceYourCalm("too many answers that are not read")
            return unfinished
        except InvalidPaddingError:
            self._fail(ErrorCodes.PROTOCOL_ERROR, b"bad padding")
            raise ProtocolError("bad padding") from None
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
        return len(self._input) + len(self._fragment) + len(self._data_to_send)

    def fail(self, code: int, reason: bytes) -> None:
        """End the connection with an error of the server's own; only what is in the buffer is still sent."""
        if not self.failed:
            self._fail(code, reason)

    def _fail(self, code: int, reason: bytes) -> None:
        self.failed = True
        self.close_connection(code, reason or None)
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
            while end - position >= _HEADER_SIZE:
                high, low, kind, flags, stream_id = _HEADER.unpack_from(source, position)
                length = high << 8 | low
                if length > limit:
                    # RFC 9113 section 4.2; before a byte of it is buffered.
                    raise FrameTooLargeError(f"a frame of {length} bytes")
                start = position + _HEADER_SIZE
                if end - start < length:
                    break
                position = start + length
                self._receive_one(kind, flags, stream_id & MAX_WINDOW, bytes(source[start:position]))
                # A frame is one unit, a header section more; what is only stored takes no time worth the name.
                turn.left -= 1 if kind == _DATA else 2 + (length >> 8)
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

    def _receive_one(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._section is not None or kind == _CONTINUATION:
            self._receive_continuation(kind, flags, stream_id, payload)
        elif kind == _HEADERS and self._settled:
            self._receive_headers(flags, stream_id, payload)
        elif kind == _DATA and self._settled:
            self._receive_data(flags, stream_id, payload)
        else:
            self._receive_other(kind, flags, stream_id, payload)

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError("HEADERS on stream 0")
        if flags & (_PADDED | _WITH_PRIORITY):
            payload = self._strip(flags, stream_id, payload)
        if flags & _END_HEADERS:
            self._receive_section(stream_id, flags & _END_STREAM, payload)
        else:
            self._section = (stream_id, flags & _END_STREAM)
            self._fragment = payload
            self._continuations = 0

    @staticmethod
    def _strip(flags: int, stream_id: int, payload: bytes) -> bytes:
        """The payload of a HEADERS frame without padding and priority (RFC 9113 section 6.2)."""
        start = end = 0
        if flags & _PADDED:
            if not payload:
                raise FrameDataMissingError("no padding length")
            start, end = 1, payload[0]
        if flags & _WITH_PRIORITY:
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
        if section is None or kind != _CONTINUATION or stream_id != section[0]:
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
        if flags & _END_HEADERS:
            payload = self._fragment
            self._section = None
            self._fragment = b""
            self._receive_section(stream_id, section[1], payload)

    def _receive_section(self, stream_id: int, end_stream: int, block: bytes) -> None:
        """A complete header section."""
        # Decoded whatever becomes of it, or the tables would differ from the peer's (RFC 9113 section 4.3).
        decoder = self._decoder
        fields = decoder.decode(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._open_stream(stream_id, fields, end_stream)
            return
        try:
            stream.state_machine.process_input(StreamInputs.RECV_HEADERS)
        except StreamClosedError as error:
            self._late.spend(_LATE_SECTION)
            self._late_frame(error)
            return
        # RFC 9113 section 8.1: a second section is the trailers and ends the stream.
        if end_stream:
            stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            self.forget(stream_id)
            self._listener.on_trailers(stream_id, fields)
        else:
            self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _open_stream(self, stream_id: int, fields: list[Field] | None, end_stream: int) -> None:
        if stream_id <= self.highest_inbound_stream_id:
            closed_by = self._closed_streams.get(stream_id)
            self._late.spend(_LATE_SECTION)
            if closed_by is StreamClosedBy.SEND_RST_STREAM:
                return
            if closed_by is StreamClosedBy.RECV_RST_STREAM:
                self._count_reset(stream_id, ErrorCodes.STREAM_CLOSED)
                return
            if closed_by is None:
                # RFC 9113 section 5.1.1.
                raise ProtocolError(f"stream {stream_id} is opened after a later one")
            raise StreamClosedError(stream_id)
        if not stream_id & 1:
            raise ProtocolError("a client's stream has an even number")
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        if not self._listener.admit():
            self.highest_inbound_stream_id = stream_id
            self._closed_streams[stream_id] = StreamClosedBy.SEND_RST_STREAM
            self._count_reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        stream = self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        stream.state_machine.process_input(StreamInputs.RECV_HEADERS)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        self._listener.on_request(stream_id, fields, self._decoder.list_size, bool(end_stream))

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError("DATA on stream 0")
        length = len(payload)
        data = payload
        if flags & _PADDED:
            if not payload:
                raise FrameDataMissingError("no padding length")
            if payload[0] >= length:
                raise ProtocolError("padding longer than the frame")
            data = payload[1 : length - payload[0]]
        end_stream = flags & _END_STREAM
        if len(data) < _SMALL_DATA and not end_stream:
            (self._small if data else self._control).spend()
        self._inbound_flow_control_window_manager.window_consumed(length)
        stream = self.streams.get(stream_id)
        try:
            if stream is None:
                if self._idle(stream_id):
                    raise ProtocolError("DATA on an idle stream")
                raise StreamClosedError(stream_id)
            stream.state_machine.process_input(StreamInputs.RECV_DATA)
            stream._inbound_window_manager.window_consumed(length)
            if end_stream:
                stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        except StreamClosedError as error:
            self.consumed(length)
            self._late.spend()
            self._late_frame(error)
            return
        if end_stream:
            self.forget(stream_id)
        self._listener.on_data(stream_id, data, length - len(data), bool(end_stream))

    def _late_frame(self, error: StreamClosedError) -> None:
        """DATA or HEADERS on a closed stream (RFC 9113 section 5.1)."""
        stream_id = error.stream_id
        if error._events:
            # Half-closed (remote): the stream was open until now.
            self._count_reset(stream_id, ErrorCodes.STREAM_CLOSED)
            self.forget(stream_id)
            self._listener.on_reset(stream_id)
            return
        closed_by = self._stream_closed_by(stream_id)
        if closed_by is StreamClosedBy.RECV_RST_STREAM:
            self._count_reset(stream_id, ErrorCodes.STREAM_CLOSED)
        elif closed_by is not StreamClosedBy.SEND_RST_STREAM and closed_by is not None:
            # Its END_STREAM was seen.  After the server's own reset frames may be under way, and are ignored.
            raise error

    def _receive_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """All frames but DATA, HEADERS and CONTINUATION: parsed by hyperframe, judged by h2."""
        if not self._settled:
            if kind != _SETTINGS or flags & _ACK:
                raise ProtocolError("the first frame is not SETTINGS")
            self._settled = True
        size = len(payload)
        if size != _PAYLOAD_SIZES.get(kind, size) or (kind == _SETTINGS and flags & _ACK and size):
            raise FrameDataMissingError("a frame of the wrong size")
        if kind == _RST_STREAM:
            if stream_id and self._idle(stream_id):
                # RFC 9113 section 6.4; h2 ignores it.
                raise ProtocolError("RST_STREAM on an idle stream")
            self._client_resets.spend()
        elif kind == _WINDOW_UPDATE and self._window_updates:
            self._window_updates -= 1
        else:
            self._control.spend()
        if kind == _SETTINGS:
            payload = self._check_settings(payload)
            size = len(payload)
        if kind == _WINDOW_UPDATE and payload == _NO_INCREMENT and stream_id and not self._idle(stream_id):
            # RFC 9113 section 6.9: on a stream that is the stream's error; hyperframe makes it the connection's.
            if stream_id in self.streams:
                self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        try:
            frame, _ = Frame.parse_frame_header(memoryview(_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)))
            frame.parse_body(memoryview(payload))
        except InvalidFrameError:
            raise FrameDataMissingError("a frame of the wrong size") from None
        except InvalidDataError:
            raise ProtocolError("a frame with impossible contents") from None
        for event in self._receive_frame(frame):
            self._dispatch(event)

    def _check_settings(self, payload: bytes) -> bytes:
        """The settings of a SETTINGS frame that are defined; others are ignored (RFC 9113 section 6.5.2) before h2 remembers them."""
        if len(payload) % _SETTING.size:
            raise FrameDataMissingError("a frame of the wrong size")
        if len(payload) > self._limits.settings * _SETTING.size:
            raise EnhanceYourCalm("too many settings in one frame")
        known = b""
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == SETTINGS_NO_RFC7540_PRIORITIES and value > 1:
                # RFC 9218 section 2.1.
                raise ProtocolError("SETTINGS_NO_RFC7540_PRIORITIES is neither 0 nor 1")
            if setting in _KNOWN_SETTINGS:
                known += _SETTING.pack(setting, value)
        return known

    def _idle(self, stream_id: int) -> bool:
        """Whether the stream has never been opened (RFC 9113 section 5.1); the server opens none."""
        return stream_id > self.highest_inbound_stream_id or not stream_id & 1

    def _dispatch(self, event: Event) -> None:
        listener = self._listener
        if isinstance(event, WindowUpdated):
            listener.on_window(event.stream_id or 0)
        elif isinstance(event, StreamReset):
            self.forget(event.stream_id)
            listener.on_reset(event.stream_id)
        elif isinstance(event, RemoteSettingsChanged):
            if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                listener.on_window(0)
        elif isinstance(event, UnknownFrameReceived):
            frame = event.frame
            if isinstance(frame, ExtensionFrame) and frame.type == _PRIORITY_UPDATE:
                self._receive_priority_update(frame.stream_id, frame.body)

    def _receive_ping_frame(self, frame: Any) -> tuple[list[Frame], list[Event]]:
        result = super()._receive_ping_frame(frame)
        if "ACK" in frame.flags:
            self._listener.on_ping_ack()
        return result

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # h2 would forbid all sending from here on; RFC 9113 section 6.8 has open streams completed.
        self._listener.on_goaway()
        return [], []

    def _receive_priority_update(self, stream_id: int, body: bytes) -> None:
        if stream_id:
            raise ProtocolError("PRIORITY_UPDATE on a stream")
        if len(body) < 4:
            raise FrameDataMissingError("a PRIORITY_UPDATE frame without a stream")
        prioritized = int.from_bytes(body[:4], "big") & MAX_WINDOW
        if not prioritized & 1:
            raise ProtocolError("PRIORITY_UPDATE for no request")
        self._listener.on_priority_update(prioritized, body[4:])

    # --- sending ---

    @property
    def pending(self) -> int:
        """Bytes in the buffer."""
        return len(self._data_to_send)

    def take(self) -> bytearray:
        """Hand over the buffer's bytes; the buffer is empty then."""
        data = self._data_to_send
        self._data_to_send = bytearray()
        return data

    def window(self, stream: H2Stream) -> int:
        """How many bytes may be sent on ``stream`` now; negative after the peer has shrunk its windows."""
        return min(self.outbound_flow_control_window, stream.outbound_flow_control_window)

    def send_head(self, stream: H2Stream, fields: list[Field], *, end_stream: bool, informational: bool = False) -> None:
        """Queue a header section (RFC 9113 section 6.2)."""
        machine = stream.state_machine
        machine.process_input(StreamInputs.SEND_INFORMATIONAL_HEADERS if informational else StreamInputs.SEND_HEADERS)
        if end_stream:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        block = self.encoder.encode(cast("Any", fields))
        flags = _END_STREAM if end_stream else 0
        size = self.max_outbound_frame_size
        kind = _HEADERS
        out = self._data_to_send
        while len(block) > size:
            out += _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream.stream_id)
            out += block[:size]
            block = block[size:]
            kind, flags = _CONTINUATION, 0
        size = len(block)
        out += _HEADER.pack(size >> 8, size & 0xFF, kind, flags | _END_HEADERS, stream.stream_id)
        out += block
        if end_stream:
            self.forget(stream.stream_id)

    def send_body(self, stream: H2Stream, data: bytes | memoryview, *, end_stream: bool) -> None:
        """Queue one DATA frame; the caller has looked at :meth:`window` and the peer's frame size."""
        machine = stream.state_machine
        machine.process_input(StreamInputs.SEND_DATA)
        if end_stream:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        size = len(data)
        if size > self.max_outbound_frame_size or (size and size > self.window(stream)):
            raise FlowControlError("more data than the peer allows")
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        out = self._data_to_send
        out += _HEADER.pack(size >> 8, size & 0xFF, _DATA, _END_STREAM if end_stream else 0, stream.stream_id)
        out += data
        # The peer gives back what it receives for the stream and for the connection, with each frame or in steps of its own.
        self._window_updates += 2 + size // self._window_update_step
        if end_stream:
            self.forget(stream.stream_id)

    def reset(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM if the stream is not closed yet."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.closed and not self.failed:
            self.reset_stream(stream_id, code)
            self.forget(stream_id)

    def _stream_error(self, stream_id: int, code: int) -> None:
        """Reset a stream whose peer made an error on it."""
        self.reset(stream_id, code)
        self._listener.on_reset(stream_id)

    def stream_error(self, stream_id: int) -> None:
        """The listener found an error of the peer's: PROTOCOL_ERROR on the stream (RFC 9113 section 8.1.1)."""
        self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)

    def _count_reset(self, stream_id: int, code: int) -> None:
        """RST_STREAM for a stream that h2 no longer has."""
        self._server_resets.spend()
        frame = RstStreamFrame(stream_id)
        frame.error_code = code
        super()._prepare_for_sending([frame])

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        # h2 answers some errors of the peer's with RST_STREAM on its own accord (CVE-2025-8671).
        if self._judging:
            for frame in frames:
                if isinstance(frame, RstStreamFrame):
                    self._server_resets.spend()
        super()._prepare_for_sending(frames)

    def send_goaway(self, last_stream_id: int) -> None:
        """Announce a graceful end (RFC 9113 section 6.8); unlike h2's ``close_connection`` this lets open streams go on."""
        super()._prepare_for_sending([GoAwayFrame(0, last_stream_id=last_stream_id, error_code=ErrorCodes.NO_ERROR)])

    # --- flow control of what is received ---

    def consumed(self, n: int) -> None:
        """``n`` flow-controlled bytes have been used or dropped: the connection may receive as many more."""
        self._unacknowledged += n
        if self._unacknowledged >= self._limits.window_slack and not self.failed:
            increment, self._unacknowledged = self._unacknowledged, 0
            self.increment_flow_control_window(increment)

    def widen(self, stream_id: int, n: int) -> None:
        """Let the peer send ``n`` bytes more on a stream, if it still may send anything."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state_machine.state in _RECEIVING and not self.failed:
            self.increment_flow_control_window(n, stream_id)

    def forget(self, stream_id: int) -> None:
        """Drop what h2 keeps about a closed stream but how it was closed; h2 itself would search for such streams at every request."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by


_PRIORITY_UPDATE = 0x10
_NO_INCREMENT = b"\0\0\0\0"
_RECEIVING = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
