"""WebSockets of clients on slow lines, and compression with context takeover."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect
from websockets.typing import ExtensionHeader, ExtensionName

from greendaphne.config import Config, ConfigurationError, Limits, Timeouts, WebSockets
from greendaphne.core.accounts import Account, Allowance
from greendaphne.running.assembly import compression_for
from greendaphne.websocket.deflate import Compression, context_size
from tests.support.server import PATIENCE, RunningServer, serve

HANDSHAKE = (
    b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
#: Fits into the system's buffers, so the server has sent it long before it has arrived.
SIZE = 600_000
PING, PONG, CLOSE = 0x89, 0x8A, 0x88
OFFER: list[ExtensionHeader] = [(ExtensionName("permessage-deflate"), [])]


@contextmanager
def slow_client(server: RunningServer) -> Iterator[socket.socket]:
    """A client with a small window, to which the server has sent a large message."""
    sock = socket.socket()
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(PATIENCE)
        sock.connect(server.address)
        sock.sendall(HANDSHAKE)
        _, message = server.app.receive("websocket.connect")
        server.app.reply(message, accept=True)
        server.app.reply(message, bytes=bytes(SIZE))
        yield sock


def read_all(sock: socket.socket, size: int, pause: float = 0.0) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 8192))
        assert piece, len(data)
        data += piece
        time.sleep(pause)
    return data


def test_a_ping_s_clock_runs_from_when_the_peer_could_have_seen_it() -> None:
    with serve(timeouts=Timeouts(ping_interval=0.2, ping_timeout=0.5, graceful=2)) as server, slow_client(server) as sock:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        # Several times as long as a ping may take.
        started = time.monotonic()
        read_all(sock, 10 + SIZE, 0.03)
        assert time.monotonic() - started > 1.5
        assert read_all(sock, 1)[0] == PING
        payload = read_all(sock, 5)[1:]
        sock.sendall(bytes([PONG, 0x84]) + bytes(4) + payload)
        # It lives: the next ping comes, and not a close frame.
        assert read_all(sock, 1)[0] == PING


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    with serve(timeouts=Timeouts(ping_interval=0.2, ping_timeout=0.5, websocket_close=0.5, graceful=2)) as server, slow_client(server):
        _, message = server.app.receive("websocket.disconnect")
        assert message["code"] == 1006


def test_a_peer_that_has_seen_the_ping_and_does_not_answer_is_given_up() -> None:
    with serve(timeouts=Timeouts(ping_interval=0.2, ping_timeout=0.5, graceful=2)) as server, slow_client(server) as sock:
        data = b""
        while piece := sock.recv(65536):
            data += piece
        assert data[-16:-14] == bytes([CLOSE, 14])
        assert data.endswith(b"ping timeout")


# ---- Compression


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("client", [True, False], ids=["both", "server"])
def test_messages_that_refer_to_earlier_ones(bits: int, client: bool) -> None:
    config = Config(websockets=WebSockets(compression=True, keep_context=True, window_bits=bits))
    factory = ClientPerMessageDeflateFactory(client_max_window_bits=True, client_no_context_takeover=not client)
    messages = [f"message {number} " + "abcdefgh" * 50 for number in range(50)]
    with serve(config=config) as server:

        def application() -> None:
            _, message = server.app.receive("websocket.connect")
            server.app.reply(message, accept=True)
            for _ in messages:
                text = server.app.receive("websocket.receive")[1]["text"]
                server.app.reply(message, text=text)

        thread = threading.Thread(target=application)
        thread.start()
        url = f"ws://{server.host}:{server.port}/"
        with connect(url, extensions=[factory], compression=None, open_timeout=PATIENCE, proxy=None) as peer:
            [extension] = peer.protocol.extensions
            assert not extension.remote_no_context_takeover  # type: ignore[attr-defined]
            assert extension.local_no_context_takeover is not client  # type: ignore[attr-defined]
            assert extension.remote_max_window_bits == bits  # type: ignore[attr-defined]
            for text in messages:
                peer.send(text)
                assert peer.recv(PATIENCE) == text
        thread.join(PATIENCE)


def test_context_takeover_saves_bytes() -> None:
    agreed = Compression(keeps=True, bound=1 << 20).negotiate(OFFER)
    assert agreed is not None
    message = bytes(range(256))
    first, second = agreed[1].compress(message), agreed[1].compress(message)
    assert len(second) < len(first) // 4
    inflate = zlib.decompressobj(-15)
    assert inflate.decompress(first + b"\0\0\xff\xff") + inflate.decompress(second + b"\0\0\xff\xff") == message * 2


def test_all_contexts_together_are_bounded() -> None:
    size = context_size(15, 15)
    compression = Compression(keeps=True, bound=2 * size)
    made = [compression.negotiate(OFFER) for _ in range(3)]
    assert [agreed is not None and agreed[1].keeps for agreed in made] == [True, True, False]
    assert made[2] is not None
    assert made[2][0] == b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert made[0] is not None
    made[0][1].release()
    again = compression.negotiate(OFFER)
    assert again is not None
    assert again[1].keeps


def test_contexts_are_part_of_the_memory_for_clients() -> None:
    size = context_size(15, 15)
    memory = Allowance(4 * size, spill=2 * size)
    compression = Compression(keeps=True, bound=8 * size)
    accounts = [Account(memory) for _ in range(3)]
    made = [compression.negotiate(OFFER, account) for account in accounts]
    # The third would take what is left for what can be stored on disk.
    assert [agreed is not None and agreed[1].keeps for agreed in made] == [True, True, False]
    assert memory.left == 2 * size
    # A WebSocket that has one for hours is not the connection that holds most for longest.
    assert accounts[0].memory == 0
    accounts[0].settle()
    assert made[0] is not None
    made[0][1].release()
    assert memory.left == 3 * size


def test_contexts_are_given_back_at_the_end() -> None:
    config = Config(websockets=WebSockets(compression=True, keep_context=True), limits=Limits(websocket_contexts=context_size(15, 15)))
    with serve(config=config) as server:
        for _ in range(3):
            sock = socket.create_connection(server.address, timeout=PATIENCE)
            with sock:
                sock.sendall(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"))
                _, message = server.app.receive("websocket.connect")
                server.app.reply(message, accept=True)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(4096)
                assert b"Sec-WebSocket-Extensions: permessage-deflate\r\n" in head
            server.app.receive("websocket.disconnect")


def test_a_window_that_zlib_does_not_have() -> None:
    with pytest.raises(ConfigurationError, match=r"websockets\.window_bits must be a number from 9 to 15, not 8"):
        compression_for(Config(websockets=WebSockets(window_bits=8)))
