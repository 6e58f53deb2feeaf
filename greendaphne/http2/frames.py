"""The frames of RFC 9113 section 6: their types, flags and layout, and the frames of a fixed form."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final


class FrameType(IntEnum):
    """RFC 9113 section 6, and RFC 9218 section 7.1."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    PRIORITY_UPDATE = 0x10


class Flag(IntFlag):
    """RFC 9113 section 6; each type of frame defines some of them."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


# The same as plain integers, because members of an enum are slower and most of these are used with each frame.
DATA: Final = FrameType.DATA.value
HEADERS: Final = FrameType.HEADERS.value
SETTINGS: Final = FrameType.SETTINGS.value
CONTINUATION: Final = FrameType.CONTINUATION.value
END_STREAM: Final = Flag.END_STREAM.value
ACK: Final = Flag.ACK.value
END_HEADERS: Final = Flag.END_HEADERS.value
PADDED: Final = Flag.PADDED.value
WITH_PRIORITY: Final = Flag.PRIORITY.value

#: RFC 9113 section 4.1: the length (in two parts), type, flags and stream; a frame begins with it.
HEADER: Final = struct.Struct(">HBBBL")
HEADER_SIZE: Final = HEADER.size
#: Where a frame's header has its type.
TYPE_AT: Final = 3

_FIXED: Final = struct.Struct(">HBBBLL")
_GOAWAY: Final = struct.Struct(">LL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame with any payload."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: int) -> bytes:
    """RFC 9113 section 6.4."""
    return _FIXED.pack(0, 4, FrameType.RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, increment: int) -> bytes:
    """RFC 9113 section 6.9."""
    return _FIXED.pack(0, 4, FrameType.WINDOW_UPDATE, 0, stream_id, increment)


def goaway(last_stream_id: int, code: int, debug_data: bytes = b"") -> bytes:
    """RFC 9113 section 6.8."""
    return frame(FrameType.GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + debug_data)
