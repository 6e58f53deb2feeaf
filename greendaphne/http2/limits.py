"""The limits that exist only in HTTP/2: what is advertised to the peer, and budgets for what the protocol lets a peer do for nothing.

The values, their defaults and reasons are :class:`greendaphne.config.Http2`'s.  :class:`Http2Limits` adds what the protocol asks of them:
it refuses values that RFC 9113 section 6.5.2 rules out.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import KIB, Http2

#: What a client begins with (RFC 9113 section 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Bounds of RFC 9113 section 6.5.2.
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 2**16 - 1
MIN_FRAME_SIZE = 2**14
MAX_FRAME_SIZE = 2**24 - 1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Http2Limits(Http2):
    """What a peer may do on one HTTP/2 connection; bytes unless stated otherwise.

    :raises ValueError: for a value out of the protocol's range.
    """

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
