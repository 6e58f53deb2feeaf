"""The frames of a client's that carry no part of a request: all but HEADERS, CONTINUATION and DATA (RFC 9113 section 6)."""

from __future__ import annotations

from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameDataMissingError, ProtocolError

from . import settings
from .budgets import Budget
from .frames import ACK, FrameType, frame
from .limits import MAX_WINDOW, Http2Limits
from .listener import Listener
from .sender import Sender
from .settings import Setting
from .states import Closed

#: RFC 9113 section 6: payloads of a fixed length, and the least of others.
_SIZES: Final = {FrameType.PRIORITY: 5, FrameType.RST_STREAM: 4, FrameType.PING: 8, FrameType.WINDOW_UPDATE: 4}
_LEAST_SIZES: Final = {FrameType.GOAWAY: 8, FrameType.PRIORITY_UPDATE: 4}
#: Frames of the connection, and frames of one stream; an error on the other kind of stream identifier.
_OF_CONNECTION: Final = frozenset((FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY, FrameType.PRIORITY_UPDATE))
_OF_STREAMS: Final = frozenset((FrameType.PRIORITY, FrameType.RST_STREAM))
_NO_STREAM: Final = 0


class ControlFrames(Sender):
    """Judges control frames; a part of :class:`~greendaphne.http2.engine.Engine`."""

    def __init__(self, limits: Http2Limits, listener: Listener) -> None:
        super().__init__(limits)
        self._listener = listener
        self._settled = False
        self._client_resets = Budget("RST_STREAM frames", limits.client_resets, limits.period)
        self._control = Budget("control frames", limits.control_frames, limits.period)

    @property
    def settled(self) -> bool:
        """Whether the peer's preface and its SETTINGS have been received (RFC 9113 section 3.4)."""
        return self._settled

    def _idle(self, stream_id: int) -> bool:
        """Whether the stream has never been opened (RFC 9113 section 5.1); the server opens none."""
        return stream_id > self.closed_streams.latest or not stream_id & 1

    def _receive_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame other than DATA, HEADERS and CONTINUATION, or the first frame, whatever it is."""
        if not self._settled:
            if kind != FrameType.SETTINGS or flags & ACK:
                raise ProtocolError("the first frame is not SETTINGS")
            self._settled = True
        size = len(payload)
        if size != _SIZES.get(kind, size) or size < _LEAST_SIZES.get(kind, 0):  # type: ignore[call-overload]
            raise FrameDataMissingError("a frame of the wrong size")
        if kind in _OF_CONNECTION if stream_id else kind in _OF_STREAMS:
            raise ProtocolError(f"a frame of type {kind} on stream {stream_id}")
        if kind == FrameType.WINDOW_UPDATE:
            if self._window_updates:
                self._window_updates -= 1
            else:
                self._control.spend()
            self._receive_window_update(stream_id, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == FrameType.RST_STREAM:
            self._receive_rst_stream(stream_id)
        else:
            self._control.spend()
            if kind == FrameType.SETTINGS:
                self._receive_settings(flags, payload)
            elif kind == FrameType.PING:
                self._receive_ping(flags, payload)
            elif kind == FrameType.GOAWAY:
                self._listener.on_goaway()
            elif kind == FrameType.PRIORITY:
                if int.from_bytes(payload[:4], "big") & MAX_WINDOW == stream_id:
                    # RFC 7540 section 5.3.1.
                    raise ProtocolError("a stream that depends on itself")
            elif kind == FrameType.PRIORITY_UPDATE:
                self._receive_priority_update(payload)
            elif kind == FrameType.PUSH_PROMISE:
                # RFC 9113 section 8.4.
                raise ProtocolError("a client does not push")
            # RFC 9113 section 4.1: frames of other types are ignored.

    def _receive_settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise FrameDataMissingError("a frame of the wrong size")
            return
        window: int | None = None
        for setting, value in settings.parse(payload, self._limits.settings):
            if setting == Setting.INITIAL_WINDOW_SIZE:
                # Nothing is sent between two settings of one frame, so only the last value changes the streams' windows.
                window = value
            elif setting == Setting.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = value
            elif setting == Setting.MAX_FRAME_SIZE:
                self.frame_size = value
        if window is not None:
            self._change_windows(window - self.initial_send_window)
            self.initial_send_window = window
        self.output += frame(FrameType.SETTINGS, ACK, 0, b"")
        if window is not None:
            self._listener.on_window(_NO_STREAM)

    def _change_windows(self, difference: int) -> None:
        """RFC 9113 section 6.9.2."""
        for stream in self.streams.values():
            stream.send_window += difference
            if stream.send_window > MAX_WINDOW:
                raise FlowControlError("a window above 2^31-1")

    def _receive_window_update(self, stream_id: int, increment: int) -> None:
        if not stream_id:
            if not increment:
                raise ProtocolError("WINDOW_UPDATE by nothing")
            if self.send_window + increment > MAX_WINDOW:
                raise FlowControlError("a window above 2^31-1")
            self.send_window += increment
            self._listener.on_window(_NO_STREAM)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._idle(stream_id):
                raise ProtocolError("WINDOW_UPDATE on an idle stream")
        elif not increment:
            # RFC 9113 section 6.9.
            self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
        elif stream.send_window + increment > MAX_WINDOW:
            # RFC 9113 section 6.9.1.
            self._stream_error(stream_id, ErrorCodes.FLOW_CONTROL_ERROR)
        else:
            stream.send_window += increment
            self._listener.on_window(stream_id)

    def _receive_rst_stream(self, stream_id: int) -> None:
        if self._idle(stream_id):
            # RFC 9113 section 6.4.
            raise ProtocolError("RST_STREAM on an idle stream")
        self._client_resets.spend()
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.open = 0
            self._close(stream_id, Closed.BY_CLIENT)
            self._listener.on_reset(stream_id)

    def _receive_ping(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._listener.on_ping_ack()
        else:
            self.output += frame(FrameType.PING, ACK, 0, payload)

    def _receive_priority_update(self, payload: bytes) -> None:
        prioritized = int.from_bytes(payload[:4], "big") & MAX_WINDOW
        if not prioritized & 1:
            raise ProtocolError("PRIORITY_UPDATE for no request")
        self._listener.on_priority_update(prioritized, payload[4:])

    def _stream_error(self, stream_id: int, code: int) -> None:
        """Reset a stream whose peer made an error on it."""
        self.reset(stream_id, code)
        self._listener.on_reset(stream_id)

    def stream_error(self, stream_id: int) -> None:
        """The listener found an error of the peer's: PROTOCOL_ERROR on the stream (RFC 9113 section 8.1.1)."""
        self._stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
