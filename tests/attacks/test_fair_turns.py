"""Input that costs the server time without being many frames: it counts for the turn of its connection, so that others are served."""

from __future__ import annotations

import random
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from greendaphne.config import KIB, MIB, Config, WebSockets
from greendaphne.core import turns
from greendaphne.net.byte_stream import lingering_close
from greendaphne.net.transport import Transport
from greendaphne.websocket.frames import READ_SIZE
from tests.support.server import Client, RunningServer, serve
from tests.support.websocket import frame

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
PATIENCE = 30.0
TEXT, BINARY, CONTINUATION = 1, 2, 0
RSV1 = 4


class Bits:
    """Writes deflate's bits (RFC 1951 section 3.1.1)."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def number(self, value: int, size: int) -> None:
        self._bits += [value >> at & 1 for at in range(size)]

    def code(self, value: int, size: int) -> None:
        self._bits += [value >> at & 1 for at in range(size - 1, -1, -1)]

    def octets(self) -> bytes:
        assert not len(self._bits) % 8
        return bytes(sum(bit << at for at, bit in enumerate(self._bits[start : start + 8])) for start in range(0, len(self._bits), 8))


def empty_blocks() -> bytes:
    """Eight blocks with the largest code tables and no content (RFC 1951 section 3.2.7): 280 bytes that inflate to nothing."""
    lengths = {1: 2, 8: 2, 9: 2, 16: 2}
    codes = {symbol: place for place, symbol in enumerate(sorted(lengths))}
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    bits = Bits()
    for _ in range(8):
        bits.number(0, 1)
        bits.number(2, 2)
        # 286 codes for literals and lengths, two for distances.
        bits.number(286 - 257, 5)
        bits.number(2 - 1, 5)
        bits.number(len(order) - 4, 4)
        for symbol in order:
            bits.number(lengths.get(symbol, 0), 3)
        # 226 codes of eight bits and 60 of nine are complete.
        for length, count in ((8, 226), (9, 60)):
            bits.code(codes[length], 2)
            left = count - 1
            while left >= 3:
                bits.code(codes[16], 2)
                bits.number(min(6, left) - 3, 2)
                left -= min(6, left)
            for _ in range(left):
                bits.code(codes[length], 2)
        bits.code(codes[1], 2)
        bits.code(codes[1], 2)
        # The end of the block, 256, is the 31st code of nine bits.
        bits.code((226 << 1) + 30, 9)
    return bits.octets()


EMPTY = empty_blocks()
assert zlib.decompressobj(-15).decompress(EMPTY * 10) == b""


class Ways:
    """Counts how often greenlets of the server have given way."""

    number = 0


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Every turn is over at its first check, so that the number does not depend on the speed of the machine."""
    ways = Ways()
    wait = turns._Queue.wait

    def counted(queue: turns._Queue) -> None:
        ways.number += 1
        wait(queue)

    monkeypatch.setattr(turns, "TURN_SECONDS", 0)
    monkeypatch.setattr(turns._Queue, "wait", counted)
    return ways


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(config=Config(websockets=WebSockets(compression=True))) as running:
        yield running


@contextmanager
def websocket(server: RunningServer) -> Iterator[Client]:
    with server.connect() as client:
        client.send(HANDSHAKE)
        _, message = server.app.receive("websocket.connect")
        server.app.reply(message, accept=True)
        assert client.read_head().status == 101
        yield client


@pytest.mark.parametrize("size", [1000 * KIB, 60 * KIB], ids=["one frame", "fragments"])
def test_deflate_blocks_without_content(size: int, server: RunningServer, ways: Ways) -> None:
    """A mebibyte of them takes more than 50 ms, and no byte comes out."""
    payload = EMPTY * (size // len(EMPTY))
    number = 1000 * KIB // size
    fragments = [frame(CONTINUATION if n else TEXT, payload, fin=n == number - 1, rsv=0 if n else RSV1) for n in range(number)]
    with websocket(server) as client:
        before = ways.number
        client.send(b"".join(fragments))
        _, message = server.app.receive("websocket.receive")
    assert message["text"] == ""
    # Every 16 KiB; one read may have fewer.
    assert ways.number - before >= 1000 // 64


def test_compressed_frames_in_steps_are_the_same_messages(server: RunningServer) -> None:
    """A frame of more than one step, whole in one read or not, with what follows it in the same segment."""
    noise = random.Random(13).randbytes(READ_SIZE // 2)
    compressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (compressed.compress(noise) + compressed.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with websocket(server) as client:
        client.send(frame(BINARY, data, rsv=RSV1) + frame(BINARY, noise) + frame(BINARY, data, rsv=RSV1) + frame(TEXT, b"end"))
        for _ in range(3):
            assert server.app.receive("websocket.receive")[1]["bytes"] == noise
        assert server.app.receive("websocket.receive")[1]["text"] == "end"


def test_input_after_an_early_answer(ways: Ways) -> None:
    """It is read and discarded as fast as it comes; here all of it is there, so that no read waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        client.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 4 * MIB:
                sent += client.send(bytes(64 * KIB))
        client.shutdown(socket.SHUT_WR)
        # Each read has at most 64 KiB.
        assert sent >= 256 * KIB
        lingering_close(Transport(accepted, PATIENCE), PATIENCE)
        assert ways.number >= sent // (64 * KIB) // 4
