"""The limits that exist only in HTTP/2: what is advertised to the peer, and budgets for what the protocol lets a peer do for nothing.

The names are those of gunicorn's ``--http2-*`` options where it has one.  :class:`Http2Limits` is frozen and refuses unknown names and
values that RFC 9113 section 6.5.2 rules out.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import KIB, MIB

#: Bounds of RFC 9113 section 6.5.2.
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 2**16 - 1
MIN_FRAME_SIZE = 2**14
MAX_FRAME_SIZE = 2**24 - 1


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What a peer may do on one HTTP/2 connection; bytes unless stated otherwise.

    :raises ValueError: for a value out of the protocol's range.
    """

    #: Requests at a time (a number).  A stream counts until the work for it has ended, so resetting it makes no room; one more is
    #: answered with REFUSED_STREAM.  The number RFC 9113 section 6.5.2 recommends as the least, and gunicorn's default.
    max_concurrent_streams: int = 100
    #: Request body that a client may send before the application reads.  RFC 9113's own default, and gunicorn's; never less, because a
    #: client uses the default until it has seen the settings.
    initial_window_size: int = DEFAULT_WINDOW
    #: The window of a stream whose application reads as fast as the client sends grows to this: 1 MiB fills 20 MB/s at 50 ms.
    upload_window_size: int = 1 * MIB
    #: What the grown windows of one connection may add up to beyond ``initial_window_size`` each.  The connection's window is made large
    #: enough for all streams' windows together, so that no stream that is not read can hold up another.
    upload_windows: int = 2 * MIB
    #: One frame's payload.  RFC 9113's smallest, and gunicorn's default: larger ones let one stream hold up the others.
    max_frame_size: int = 16 * KIB
    #: A request's fields after decompression, 32 bytes more for each (RFC 9113 section 6.5.2); over it 431.
    max_header_list_size: int = 64 * KIB
    #: A header list this many times too large is no mistake but an attack: ENHANCE_YOUR_CALM.
    header_list_excess: int = 4
    #: CONTINUATION frames for one header section (a number).  Five of 16 KiB hold any list within the limits.
    continuation_frames: int = 16
    #: RST_STREAM frames received in ``period`` (a number), CVE-2023-44487.  A browser sends as many as it has requests open when its
    #: user leaves the page, so two pages' worth; gunicorn's default.
    client_resets: int = 200
    #: RST_STREAM frames that the peer's errors made the server send in ``period`` (a number), CVE-2025-8671.
    server_resets: int = 200
    #: PING, SETTINGS, PRIORITY, PRIORITY_UPDATE, GOAWAY, unknown and empty DATA frames, and WINDOW_UPDATE frames beyond those that the
    #: server's own DATA frames explain, received in ``period`` (a number).  gRPC clients ping a few times a second at most; gunicorn's
    #: default.
    control_frames: int = 1000
    #: Bytes of DATA sent that explain one WINDOW_UPDATE frame, besides two for every DATA frame.  Go's client returns its windows in steps
    #: of 4 KiB, for the stream and for the connection.
    window_update_step: int = 2 * KIB
    #: DATA frames on streams that are closed, received in ``period`` (a number); a header section counts for 16.  After the server's reset
    #: of an upload frames are still on their way: its whole window, which is 64 frames of 16 KiB, or a thousand of 1 KiB.
    late_frames: int = 4096
    #: DATA frames of 1 to 7 bytes, without END_STREAM, received in ``period`` (a number).  Interactive uploads send some tens a second, and
    #: a body that is sent octet by octet, 64 KiB of it, must still pass; a WebSocket frame of a client has 6 bytes and its payload.
    small_data_frames: int = 100_000
    #: Settings in one SETTINGS frame (a number).  Fewer than ten are defined; the reserved ones that clients send to keep servers tolerant
    #: (RFC 8701) are one or two more.
    settings: int = 64
    #: The time in which resets and control frames are counted, in seconds.
    period: float = 10
    #: Bytes that wait for a client that reads slowly before its streams have to wait: with 16 KiB frames four of the writer's turns.
    write_buffer: int = 64 * KIB
    #: Answers to control frames that wait for a client that does not read at all; over it ENHANCE_YOUR_CALM.
    control_buffer: int = 256 * KIB

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_concurrent_streams", 1, 2**31 - 1),
            ("initial_window_size", DEFAULT_WINDOW, MAX_WINDOW),
            ("upload_window_size", self.initial_window_size, MAX_WINDOW),
            ("max_frame_size", MIN_FRAME_SIZE, MAX_FRAME_SIZE),
            ("max_header_list_size", 1 * KIB, 2**31 - 1),
            ("write_buffer", 1, MAX_WINDOW),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} must be between {least} and {most}, not {value}")
        if self.connection_window > MAX_WINDOW:
            raise ValueError("max_concurrent_streams times initial_window_size must be below 2 GiB")

    @property
    def window_slack(self) -> int:
        """What has been consumed on a connection is given back to the peer in steps of this size."""
        return max(self.initial_window_size, 64 * KIB)

    @property
    def connection_window(self) -> int:
        """The connection's flow-control window: all streams' windows together, and what has not been given back yet."""
        return self.max_concurrent_streams * self.initial_window_size + self.upload_windows + self.window_slack
