"""The states of streams that are closed, without a connection."""

from __future__ import annotations

from greendaphne.http2.states import REMEMBERED, Closed, ClosedStreams


def test_the_latest_streams_are_remembered() -> None:
    closed = ClosedStreams()
    for stream_id in range(1, 8 * REMEMBERED, 2):
        closed.open(stream_id)
        closed.close(stream_id, Closed.ENDED)
    latest = closed.latest
    assert closed.get(latest) == Closed.ENDED
    assert closed.get(latest - 2 * (REMEMBERED - 1)) == Closed.ENDED
    assert closed.get(latest - 2 * REMEMBERED) == Closed.UNKNOWN
    closed.close(1, Closed.BY_CLIENT)
    assert closed.get(latest) == Closed.ENDED


def test_skipped_streams_were_never_opened() -> None:
    closed = ClosedStreams()
    for stream_id in range(1, 2 * REMEMBERED + 200, 2):
        closed.open(stream_id)
        closed.close(stream_id, Closed.BY_SERVER)
    before = closed.latest
    closed.open(before + 6)
    closed.close(before + 6, Closed.BY_CLIENT)
    assert [closed.get(before + n) for n in (0, 2, 4, 6)] == [Closed.BY_SERVER, Closed.UNKNOWN, Closed.UNKNOWN, Closed.BY_CLIENT]
    closed.open(2**31 - 1)
    assert closed.get(2**31 - 1) == closed.get(2**31 - 3) == closed.get(2**31 - 1 - 2 * (REMEMBERED - 1)) == Closed.UNKNOWN
