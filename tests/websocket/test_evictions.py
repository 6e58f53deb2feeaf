"""A WebSocket ends since it holds what others need; and reasons of a failed connection."""

from __future__ import annotations

import pytest

from greendaphne.config import Timeouts
from greendaphne.core import causes
from greendaphne.core.accounts import FREE
from tests.support.websocket import CLOSE, TEXT, Frame, close_payload, collect, frame, hub, websocket


def test_an_open_websocket_is_asked_to_let_go_before_its_connection_is_closed() -> None:
    with websocket(collect, timeouts=Timeouts(ping_interval=0)) as (client, server):
        # The account of connections outside of a server.
        holders = FREE.holders
        assert holders is not None
        assert server.websocket in holders
        hub().call(server.websocket.evict)
        assert client.receive() == Frame(CLOSE, close_payload(1013, b"out of memory"))
        assert server.closed.code == 1013
        assert server.websocket.cause == causes.NO_ROOM
    assert server.websocket not in (FREE.holders or ())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(3), b"unknown opcode"),
        (frame(9, fin=False), b"control frame is fragmented"),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), b"new message inside of a fragmented one"),
        (frame(0, b"a"), b"continuation of no message"),
        (frame(TEXT, b"a", rsv=2), b"reserved bits are set"),
    ],
)
def test_the_client_is_told_what_is_wrong_with_a_frame(data: bytes, reason: bytes) -> None:
    with websocket(collect, timeouts=Timeouts(ping_interval=0)) as (client, server):
        client.send(data)
        assert client.receive() == Frame(CLOSE, close_payload(1002, reason))
        client.send(frame(CLOSE, close_payload(1002)))
        assert server.closed.code in (1002, 1006)
