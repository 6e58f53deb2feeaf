"""Clients that make the server hold bytes and descriptors: memory stays bounded and comes back, and others are served at once."""

from __future__ import annotations

import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import pytest

from greendaphne.config import MIB
from greendaphne.serving import peak_heap
from tests.support.server import PATIENCE
from tests.support.victim import Victim, victim, withstands

#: Connections of each attack, and ``--max-memory``.
CONNECTIONS = 100
MEMORY = 160 * MIB
CONFIG = f"Config(limits=Limits(memory={MEMORY}), http2=Http2(cleartext=True), websockets=WebSockets(compression=True))"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        pass  # the server has closed it: that may be what the test is about


def unread_streams(target: Victim) -> Iterator[socket.socket]:
    """HTTP/2 requests for large answers without any window for them (M1)."""
    for _ in range(3):
        sock = target.slow()
        get = [frame(1, 5, number, b"\x82\x86\x04\x06/large\x01\x01a") for number in range(1, 2 * CONNECTIONS // 3, 2)]
        send(sock, PREFACE + frame(4, 0, 0, struct.pack(">HL", 4, 0)) + b"".join(get))
        yield sock


def unread_streams_of_many(target: Victim) -> Iterator[socket.socket]:
    """The same on many connections: the requests themselves take more than the memory that there is."""
    get = [frame(1, 5, number, b"\x82\x86\x04\x06/large\x01\x01a") for number in range(1, 200, 2)]
    for _ in range(3 * CONNECTIONS):
        sock = target.slow()
        send(sock, PREFACE + frame(4, 0, 0, struct.pack(">HL", 4, 0)) + b"".join(get))
        yield sock


def unread_answers(target: Victim) -> Iterator[socket.socket]:
    """HTTP/1 requests for large answers that are not read (M2)."""
    for number in range(CONNECTIONS):
        sock = target.slow()
        send(sock, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"/many", b"/large")[number % 2])
        yield sock


def unfinished_messages(target: Victim) -> Iterator[socket.socket]:
    """WebSocket messages without their end, half of them of a few hundred bytes that inflate (M3)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = "\U0001f600" + "a" * (MIB - 200)
    data = (deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    compressed = struct.pack(">BBH4x", 0x41, 0xFE, len(data)) + data
    plain = struct.pack(">BBQ4x", 0x81, 0xFF, MIB - 10) + b"a" * (MIB - 20)
    for number in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE)
        sock.sendall(HANDSHAKE)
        assert b"101" in sock.recv(4096)
        send(sock, (compressed, plain)[number % 2])
        yield sock


def stopped_uploads(target: Victim) -> Iterator[socket.socket]:
    """Bodies that stop before their end (M5)."""
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE)
        send(sock, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MIB + bytes(MIB - 20))
        yield sock


@pytest.mark.parametrize("attack", [unread_streams, unread_streams_of_many, unread_answers, unfinished_messages, stopped_uploads])
def test_memory_is_bounded_and_comes_back(attack: Callable[[Victim], Iterator[socket.socket]], tmp_path: Path) -> None:
    # The small objects of thousands of requests at a time are not in Python's arenas, of which 19 to 28 MiB would stay.
    stays = (20 if peak_heap.VERSIONS[0] <= sys.version_info[:2] <= peak_heap.VERSIONS[1] else 32) * MIB
    withstands(attack, str(tmp_path / "log"), CONFIG, MEMORY, stays)


def test_stopped_uploads_lose_the_disk_to_others(tmp_path: Path) -> None:
    """M6: what they hold is theirs for a few seconds only, once others need it."""
    config = "Config(limits=Limits(spooled_bodies=40_000_000))"
    with victim(str(tmp_path / "log"), config) as target, ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE))
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n" + bytes(9_900_000))
        begun = monotonic()
        while target.post_large(5_000_000) != 200:
            assert monotonic() - begun < PATIENCE
            sleep(0.5)
        assert target.log.count("Overload:") == 1


def test_an_idle_connection_makes_room(tmp_path: Path) -> None:
    """M7: with few descriptors and only idle connections, new clients and uploads are served."""
    with victim(str(tmp_path / "log"), "Config()", descriptors=128) as target, ExitStack() as stack:
        for _ in range(140):
            stack.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE))
        assert target.post()[0] == 200
        assert target.post_large(3_000_000) == 200
        assert "Cannot accept" not in target.log
