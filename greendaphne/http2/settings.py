"""SETTINGS (RFC 9113 section 6.5): what the server announces, and what it keeps of the client's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameDataMissingError, ProtocolError

from .budgets import EnhanceYourCalm
from .frames import FrameType, frame
from .limits import MAX_FRAME_SIZE, MAX_WINDOW, MIN_FRAME_SIZE, Http2Limits


class Setting(IntEnum):
    """RFC 9113 section 6.5.2; RFC 8441 section 3; RFC 9218 section 2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    #: The priorities of RFC 7540 are not used.
    NO_RFC7540_PRIORITIES = 9


_SETTING: Final = struct.Struct(">HL")
#: The values allowed where not all are.
_RANGES: Final = {
    Setting.ENABLE_PUSH: (0, 1, ErrorCodes.PROTOCOL_ERROR),
    Setting.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCodes.FLOW_CONTROL_ERROR),
    Setting.MAX_FRAME_SIZE: (MIN_FRAME_SIZE, MAX_FRAME_SIZE, ErrorCodes.PROTOCOL_ERROR),
    Setting.ENABLE_CONNECT_PROTOCOL: (0, 1, ErrorCodes.PROTOCOL_ERROR),
    Setting.NO_RFC7540_PRIORITIES: (0, 1, ErrorCodes.PROTOCOL_ERROR),
}


def announcement(limits: Http2Limits) -> bytes:
    """The server's SETTINGS frame; all else has its initial value."""
    values = {
        Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
        Setting.INITIAL_WINDOW_SIZE: limits.initial_window_size,
        Setting.MAX_FRAME_SIZE: limits.max_frame_size,
        Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_size,
        Setting.ENABLE_CONNECT_PROTOCOL: 1,
        Setting.NO_RFC7540_PRIORITIES: 1,
    }
    return frame(FrameType.SETTINGS, 0, 0, b"".join(_SETTING.pack(setting, value) for setting, value in values.items()))


def parse(payload: bytes, most: int) -> Iterator[tuple[int, int]]:
    """The settings of a client's SETTINGS frame, in order, each valid or not defined.

    :param most: the number of settings that a frame may have.
    :raises ProtocolError: for a payload or a value that RFC 9113 section 6.5 does not allow.
    """
    if len(payload) % _SETTING.size:
        raise FrameDataMissingError("a frame of the wrong size")
    if len(payload) > most * _SETTING.size:
        raise EnhanceYourCalm("too many settings in one frame")
    for setting, value in _SETTING.iter_unpack(payload):
        least, highest, code = _RANGES.get(setting, _ANY)
        if not least <= value <= highest:
            raise (FlowControlError if code == ErrorCodes.FLOW_CONTROL_ERROR else ProtocolError)(f"the setting {setting} is {value}")
        yield setting, value


_ANY: Final = (0, 2**32 - 1, ErrorCodes.NO_ERROR)
