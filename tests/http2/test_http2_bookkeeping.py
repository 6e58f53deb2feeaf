"""HTTP/2: what a connection keeps of streams that have ended, and how it counts those that it refuses."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from greendaphne.core.accounts import Account, Allowance
from greendaphne.http2 import Http2Stream, fields
from tests.support.http2 import GET, POST, Fields, Peer, RawPeer, eventually, forever, serve_http2

CONNECT: Fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
HEAD: Fields = [(b":method", b"HEAD"), *GET[1:]]


def test_streams_that_end_with_a_header_section_are_forgotten() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(trailers=[(b"x-sum", b"1")])

    with serve_http2(application) as server, Peer(server) as peer:
        # HEAD ends with the head; the others with trailers.
        for fields in (GET, HEAD, GET):
            assert peer.get(fields)[0] == 200
        eventually(lambda: not server.connections[0].engine.streams)


def test_refused_streams_count_as_errors() -> None:
    with serve_http2(forever, max_concurrent_streams=1, server_resets=3) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        for number in range(4):
            peer.try_send(peer.headers(3 + 2 * number))
        assert peer.goaway().error_code == ErrorCodes.ENHANCE_YOUR_CALM
        refused = [frame.stream_id for frame in peer.frames if isinstance(frame, RstStreamFrame)]
        assert refused[:3] == [3, 5, 7]


def test_window_updates_count_as_control_frames_before_the_first_data() -> None:
    with serve_http2(forever, control_frames=10, period=600) as server:
        with RawPeer(server) as peer:
            # SETTINGS and their acknowledgement, maybe, and these.
            peer.alive()
            number = 1
            while peer.try_send(PingFrame(opaque_data=b"8 octets")) and not isinstance(peer.recv(), GoAwayFrame):
                number += 1
        assert 1 < number < 10
        with RawPeer(server) as peer:
            peer.alive()
            peer.send(*(WindowUpdateFrame(0, window_increment=1) for _ in range(number - 1)))
            peer.try_send(WindowUpdateFrame(0, window_increment=1))
            assert peer.goaway().error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_data_on_streams_that_are_over_is_given_back_to_the_connection() -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, ("END_HEADERS",)), RstStreamFrame(1, ErrorCodes.CANCEL))
        eventually(lambda: bool(server.connections))
        slack = server.connections[0].engine._limits.window_slack
        size = 16384
        number = slack // size + 1
        peer.send(*(DataFrame(1, b"x" * size) for _ in range(number)))
        # The first of the connection, which is larger, widens its window.
        peer.wait(WindowUpdateFrame, lambda frame: frame.stream_id == 0 and slack <= frame.window_increment <= number * size)


def test_a_tunnel_is_reset_where_memory_is_short() -> None:
    def application(stream: Http2Stream) -> None:
        stream.switch([])
        forever(stream)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, CONNECT, ("END_HEADERS",)))
        assert peer.status(1) == 200
        server.connections[0].account = Account(Allowance(0))
        peer.send(DataFrame(1, b"x"))
        assert peer.reset(1) == ErrorCodes.CANCEL
        eventually(lambda: server.disconnected == 1)


def test_memory_of_an_unfinished_head_is_given_back_at_the_end() -> None:
    account = Account(Allowance(1 << 20))
    with serve_http2(forever) as server:
        with RawPeer(server) as peer:
            # The server has seen the client's settings.
            peer.alive()
            server.connections[0].account = account
            peer.send(peer.headers(1, GET, ()), *(ContinuationFrame(1, b"x" * 15000) for _ in range(3)))
            eventually(lambda: account.memory >= 45000)
        eventually(lambda: not server.connections)
    assert account.memory == 0


def test_response_heads_of_an_earlier_second_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of no use, and would keep memory of a peak."""
    for date in (b"first", b"second"):
        monkeypatch.setattr(fields, "http_date", lambda date=date: date)
        heads = [fields.build_response("GET", status, []) for status in (200, 404, 200)]
        assert all((b"date", date) in head.fields for head in heads)
        assert heads[0] is heads[2]
        assert len(fields._heads) == 2
