"""HTTP/2 through the whole server: the channel layer's messages, WebSockets on streams, prior knowledge beside HTTP/1.1, draining."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import h2.events
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame

from greendaphne.http2 import Http2Limits
from tests.support.http2 import GET, POST, Fields, Peer, RawPeer
from tests.support.server import RunningServer, serve

CONNECT: Fields = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":path", b"/chat?room=1"),
    (b":authority", b"localhost"),
    (b"sec-websocket-version", b"13"),
    (b"origin", b"http://localhost"),
]
#: A client's frames need a mask (RFC 6455 section 5.3); this one changes nothing.
MASK = bytes(4)
TEXT, CLOSE = 0x1, 0x8


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with serve(http2_cleartext=True) as running:
        yield running


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's WebSocket frame."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + payload


class Tunnel:
    """A WebSocket on a stream, seen from the client."""

    def __init__(self, peer: Peer, stream_id: int) -> None:
        self.peer = peer
        self.stream_id = stream_id
        self.buffer = b""

    def send(self, opcode: int, payload: bytes) -> None:
        self.peer.send(self.stream_id, frame(opcode, payload))

    def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the server's next frame."""
        while len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            self.buffer += self.peer.wait(h2.events.DataReceived, self.stream_id).data
        end = 2 + self.buffer[1]
        result = (self.buffer[0] & 0xF, self.buffer[2:end])
        self.buffer = self.buffer[end:]
        return result


def connect(server: RunningServer, peer: Peer) -> tuple[Tunnel, dict[str, object]]:
    """Open a WebSocket; returns it and its connect message."""
    stream_id = peer.request(CONNECT, end=False)
    message = server.app.receive("websocket.connect")[1]
    server.app.reply(message, accept=True)
    head = peer.wait(h2.events.ResponseReceived, stream_id)
    assert head.headers[0] == (b":status", b"200")
    return Tunnel(peer, stream_id), message


def test_a_request_and_its_response(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request([*GET[:2], (b":path", b"/a%20b?c=d"), GET[3], (b"cookie", b"a=1"), (b"cookie", b"b=2")])
        message = server.app.answer(b"content", 201, [(b"X-Test", b"1")])
        status, fields, body = peer.response(stream_id)
    assert (status, body) == (201, b"content")
    assert (b"x-test", b"1") in fields
    assert message["http_version"] == "2"
    assert (message["method"], message["path"], message["query_string"]) == ("GET", "/a b", b"c=d")
    assert [tuple(field) for field in message["headers"]] == [(b"host", b"localhost"), (b"cookie", b"a=1; b=2")]
    assert message["body"] == b""


def test_server_name() -> None:
    with serve(http2_cleartext=True, server_name="example/1") as server, Peer(server) as peer:
        names = []
        for number in range(3):
            stream_id = peer.request(GET)
            server.app.answer(b"", headers=[(b"Server", b"mine")] if number == 2 else [])
            names.append([value for name, value in peer.response(stream_id)[1] if name == b"server"])
        refused = peer.request([*GET, (b"expect", b"200-ok")])
        status, fields, _ = peer.response(refused)
        # A handshake has it too.
        tunnel = peer.request(CONNECT, end=False)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        head = peer.wait(h2.events.ResponseReceived, tunnel)
    assert names == [[b"example/1"], [b"example/1"], [b"mine"]]
    assert (status, dict(fields)[b"server"]) == (417, b"example/1")
    assert dict(head.headers)[b"server"] == b"example/1"


def test_bodies(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request(POST, b"x" * 500_000)
        message = server.app.request()
        assert message["body"] == b"x" * 500_000
        server.app.reply(message, status=200, content=b"a" * 300_000, more_content=True)
        server.app.reply(message, content=b"b" * 300_000)
        assert peer.response(stream_id)[2] == b"a" * 300_000 + b"b" * 300_000


def test_many_requests_at_once(server: RunningServer) -> None:
    with Peer(server) as peer:
        streams = [peer.request([*GET[:2], (b":path", b"/%d" % n), GET[3]]) for n in range(50)]
        messages = [server.app.request() for _ in streams]
        for message in reversed(messages):
            server.app.reply(message, status=200, content=message["path"].encode())
        for n, stream_id in enumerate(streams):
            assert peer.response(stream_id)[2] == b"/%d" % n


def test_a_client_that_gives_up_is_reported(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request(GET)
        message = server.app.request()
        peer.h2.reset_stream(stream_id)
        peer.flush()
        # Whatever is answered now reaches nobody, and the connection goes on.
        server.app.reply(message, status=200, content=b"late")
        assert server.app.receive("http.disconnect")[1]["reply_channel"] == message["reply_channel"]
        stream_id = peer.request(GET)
        server.app.answer(b"next")
        assert peer.response(stream_id)[2] == b"next"


def test_errors_have_their_pages(server: RunningServer) -> None:
    with Peer(server) as peer:
        status, fields, body = peer.get([*GET[:2], (b":path", b"/\xe9"), GET[3]])
        assert status == 400
        assert b"Invalid characters in path" in body
        assert (b"content-length", b"%d" % len(body)) in fields
        assert b"connection" not in dict(fields)


def test_a_websocket(server: RunningServer) -> None:
    with Peer(server) as peer:
        websocket, message = connect(server, peer)
        assert (message["path"], message["query_string"]) == ("/chat", b"room=1")
        websocket.send(TEXT, b"hello")
        received = server.app.receive("websocket.receive")[1]
        assert (received["text"], received["order"]) == ("hello", 1)
        server.app.reply(message, text="welcome")
        assert websocket.receive() == (TEXT, b"welcome")
        # Requests beside it are served as ever.
        stream_id = peer.request(GET)
        server.app.answer(b"beside")
        assert peer.response(stream_id)[2] == b"beside"
        websocket.send(CLOSE, struct.pack(">H", 4000))
        assert websocket.receive() == (CLOSE, struct.pack(">H", 4000))
        peer.wait(h2.events.StreamEnded, websocket.stream_id)
        assert server.app.receive("websocket.disconnect")[1]["code"] == 4000


def test_many_websockets_on_one_connection(server: RunningServer) -> None:
    with Peer(server) as peer:
        opened = [connect(server, peer) for _ in range(20)]
        for n, (websocket, _) in enumerate(opened):
            websocket.send(TEXT, b"from %d" % n)
        received = {server.app.receive("websocket.receive")[1]["text"] for _ in opened}
        assert received == {f"from {n}" for n in range(20)}
        for n, (_, message) in enumerate(opened):
            server.app.reply(message, text=f"to {n}")
        for n, (websocket, _) in enumerate(opened):
            assert websocket.receive() == (TEXT, b"to %d" % n)


def test_a_websocket_that_is_rejected(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request(CONNECT, end=False)
        message = server.app.receive("websocket.connect")[1]
        server.app.reply(message, accept=False)
        head = peer.wait(h2.events.ResponseReceived, stream_id)
        assert head.headers[0] == (b":status", b"403")


def test_a_websocket_that_the_client_resets(server: RunningServer) -> None:
    with Peer(server) as peer:
        websocket, _ = connect(server, peer)
        peer.h2.reset_stream(websocket.stream_id, ErrorCodes.CANCEL)
        peer.flush()
        assert server.app.receive("websocket.disconnect")[1]["code"] == 1006


def test_a_bad_handshake(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request([field if field[0] != b"sec-websocket-version" else (field[0], b"8") for field in CONNECT], end=False)
        head = peer.wait(h2.events.ResponseReceived, stream_id)
        assert head.headers[0] == (b":status", b"426")


def test_a_handshake_with_a_body(server: RunningServer) -> None:
    with Peer(server) as peer:
        stream_id = peer.request([*CONNECT, (b"content-length", b"5")], end=False)
        head = peer.wait(h2.events.ResponseReceived, stream_id)
        assert head.headers[0] == (b":status", b"400")
        # No body is no body; frames are not counted.
        stream_id = peer.request([*CONNECT, (b"content-length", b"0")], end=False)
        server.app.reply(server.app.receive("websocket.connect")[1], accept=True)
        assert peer.wait(h2.events.ResponseReceived, stream_id).headers[0] == (b":status", b"200")
        peer.send(stream_id, frame(TEXT, b"hello"))
        assert server.app.receive("websocket.receive")[1]["text"] == "hello"


def test_http1_is_served_beside_prior_knowledge(server: RunningServer) -> None:
    with server.connect() as client:
        client.sock.sendall(b"GET /old HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.app.answer(b"one")["http_version"] == "1.1"
        assert client.sock.recv(1000).endswith(b"one\r\n0\r\n\r\n")


def test_without_the_option_prior_knowledge_is_refused() -> None:
    with serve() as server:
        peer = RawPeer(server, preface=False)
        with peer:
            peer.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert peer.sock.recv(1000).startswith(b"HTTP/1.1 505 ")


def test_the_limits_are_the_servers() -> None:
    with serve(http2_cleartext=True, http2_limits=Http2Limits(max_concurrent_streams=2)) as server, RawPeer(server) as peer:
        peer.send(*[peer.headers(stream_id) for stream_id in (1, 3, 5)])
        assert peer.reset(5) == ErrorCodes.REFUSED_STREAM
        for _ in range(2):
            server.app.answer()
        assert (peer.status(1), peer.status(3)) == (200, 200)


def test_a_server_that_stops_answers_what_is_open() -> None:
    with serve(http2_cleartext=True) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        message = server.app.request()
        server.server.stop()
        assert peer.wait(GoAwayFrame).last_stream_id == 2**31 - 1
        ping = peer.wait(PingFrame)
        peer.send(PingFrame(opaque_data=ping.opaque_data, flags=["ACK"]))
        assert peer.wait(GoAwayFrame).last_stream_id == 1
        server.app.reply(message, status=200, content=b"last")
        assert peer.wait(DataFrame).data == b"last"
        while peer.recv() is not None:
            pass
