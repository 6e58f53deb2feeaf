"""What an engine tells the connection that it belongs to."""

from __future__ import annotations

from typing import Protocol

from .compression import Section


class Listener(Protocol):
    """Is told what the peer did; no method may switch greenlets."""

    def admit(self) -> bool:
        """Whether there is room for one more stream."""

    def on_request(self, stream_id: int, section: Section, end_stream: bool) -> None:
        """A request's header section.  Must call :meth:`Engine.open` or :meth:`Engine.refuse` for the stream."""

    def on_trailers(self, stream_id: int, section: Section) -> None:
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
