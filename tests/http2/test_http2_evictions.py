"""HTTP/2: a connection ends since it holds what others need; and the urgency of a request that names none."""

from __future__ import annotations

from h2.errors import ErrorCodes
from hyperframe.frame import PingFrame

from greendaphne.http2 import Http2Stream
from tests.support.http2 import GET, RawPeer, eventually, forever, serve_http2


def test_a_connection_that_lets_go_tells_its_peer_and_its_requests() -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: server.served == 1)
        server.call(server.connections[0].evict)
        frame = peer.goaway()
        assert (frame.error_code, frame.last_stream_id) == (ErrorCodes.ENHANCE_YOUR_CALM, 1)
        eventually(lambda: server.disconnected == 1)
        eventually(lambda: server.connections == [])


def test_a_connection_that_ends_already_is_cut_off() -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: server.served == 1)
        connection = server.connections[0]

        def twice() -> None:
            connection.evict()
            connection.evict()

        server.call(twice)
        eventually(lambda: server.disconnected == 1)
        eventually(lambda: server.connections == [])
        # A reset, or the end of the stream where the peer had read all before.
        while peer.try_send(PingFrame(opaque_data=b"anybody?")) and peer.recv() is not None:
            pass


def test_a_request_without_a_priority_has_urgency_3() -> None:
    """RFC 9218 section 4.1."""

    def application(stream: Http2Stream) -> None:
        stream.start(200, [(b"x-priority", b"%d %d" % (stream.urgency, stream.incremental))])
        stream.finish()

    with serve_http2(application) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, GET))
        assert (b"x-priority", b"3 0") in peer.fields(1)
