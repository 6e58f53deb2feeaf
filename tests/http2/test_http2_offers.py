"""HTTP/2: what ``offer`` sends of a response whose head has not left yet."""

from __future__ import annotations

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from greendaphne.http2 import Http2Stream
from tests.support.http2 import GET, Fields, RawPeer, serve_http2

TRAILERS: Fields = [(b"x-sum", b"1")]


@pytest.mark.parametrize(
    ("data", "trailers", "kinds"),
    [
        (b"", [], [HeadersFrame]),
        (b"hello", [], [HeadersFrame, DataFrame]),
        (b"", TRAILERS, [HeadersFrame, HeadersFrame]),
        (b"hello", TRAILERS, [HeadersFrame, DataFrame, HeadersFrame]),
    ],
)
def test_a_response_offered_at_once(data: bytes, trailers: Fields, kinds: list[type[Frame]]) -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"content-type", b"text/plain")])
        assert stream.offer(data, last=True, trailers=trailers)

    with serve_http2(application) as server, RawPeer(server) as peer:
        # A second response shows that the connection is in step.
        for stream_id in (1, 3):
            peer.send(peer.headers(stream_id, GET))
            frames: list[Frame] = []
            while not frames or "END_STREAM" not in frames[-1].flags:
                frame = peer.recv()
                assert frame is not None
                if frame.stream_id == stream_id:
                    frames.append(frame)
            assert [type(frame) for frame in frames] == kinds
            assert b"".join(frame.data for frame in frames if isinstance(frame, DataFrame)) == data


def test_pieces_offered_one_after_the_other() -> None:
    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"content-length", b"6")])
        assert stream.offer(b"abc")
        assert stream.offer(b"def")
        assert stream.offer(b"", last=True)

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, GET))
        assert peer.status(1) == 200
        body = b""
        while True:
            frame = peer.wait(DataFrame)
            body += frame.data
            if "END_STREAM" in frame.flags:
                break
        assert body == b"abcdef"
