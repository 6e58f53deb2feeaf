"""HTTP/2: interim responses (RFC 9110 section 15.2) before a whole response."""

from __future__ import annotations

import pytest
from h2.events import InformationalResponseReceived, TrailersReceived

from greendaphne.core.message import ResponseError
from greendaphne.http2 import Http2Stream
from tests.support.http2 import Peer, serve_http2

#: What is about the length of a response, or the connection (RFC 9110 sections 8.6 and 6.1).
REFUSED = [(b"Content-Length", b"5"), (b"transfer-encoding", b"chunked"), (b"connection", b"close"), (b"trailer", b"x")]
HINT = (b"link", b"</style.css>; rel=preload")


def test_several_interim_responses_before_a_response_with_trailers() -> None:
    def application(stream: Http2Stream) -> None:
        for field in REFUSED:
            with pytest.raises(ResponseError):
                stream.inform(103, [HINT, field])
        stream.inform(103, [HINT])
        stream.inform(103, [HINT, HINT])
        stream.start(200, [(b"content-type", b"text/plain")])
        stream.write(b"hello")
        stream.finish(trailers=[(b"x-sum", b"5")])

    with serve_http2(application) as server, Peer(server) as peer:
        stream_id = peer.request()
        hints = [peer.wait(InformationalResponseReceived, stream_id).headers for _ in range(2)]
        assert [[(bytes(name), bytes(value)) for name, value in fields] for fields in hints] == [
            [(b":status", b"103"), HINT],
            [(b":status", b"103"), HINT, HINT],
        ]
        trailers = peer.wait(TrailersReceived, stream_id)
        assert [(bytes(name), bytes(value)) for name, value in trailers.headers] == [(b"x-sum", b"5")]
        status, _, body = peer.response(stream_id)
        assert (status, body) == (200, b"hello")
        # The connection is still in step.
        assert peer.get()[0] == 200
