"""The frames of a fixed form, read by hyperframe."""

from __future__ import annotations

import hyperframe.frame
import pytest

from greendaphne.http2.frames import goaway, rst_stream, window_update


def parsed(data: bytes) -> hyperframe.frame.Frame:
    """The one frame that ``data`` is."""
    frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(data)[:9], strict=True)
    assert len(data) == 9 + length
    # hyperframe drops flags that the type does not define.
    assert data[4] == 0
    frame.parse_body(memoryview(data)[9:])
    return frame


@pytest.mark.parametrize("stream_id", [1, 2**31 - 1])
@pytest.mark.parametrize("code", [0, 0xD, 2**32 - 1])
def test_rst_stream(stream_id: int, code: int) -> None:
    frame = parsed(rst_stream(stream_id, code))
    assert isinstance(frame, hyperframe.frame.RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (stream_id, code)


@pytest.mark.parametrize("stream_id", [0, 1, 2**31 - 1])
@pytest.mark.parametrize("increment", [1, 2**31 - 1])
def test_window_update(stream_id: int, increment: int) -> None:
    frame = parsed(window_update(stream_id, increment))
    assert isinstance(frame, hyperframe.frame.WindowUpdateFrame)
    assert (frame.stream_id, frame.window_increment) == (stream_id, increment)


@pytest.mark.parametrize("debug_data", [b"", b"too many"])
def test_goaway(debug_data: bytes) -> None:
    frame = parsed(goaway(7, 11, debug_data))
    assert isinstance(frame, hyperframe.frame.GoAwayFrame)
    assert (frame.stream_id, frame.last_stream_id, frame.error_code, frame.additional_data) == (0, 7, 11, debug_data)
