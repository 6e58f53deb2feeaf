"""Messages and requests that are whole and wait for a slow application: they count like those that are not whole."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from greendaphne.config import MIB
from tests.support.server import PATIENCE
from tests.support.victim import Victim, victim

CONNECTIONS = 300
MEMORY = 160 * MIB
CONFIG = f"Config(limits=Limits(memory={MEMORY}), http2=Http2(cleartext=True), websockets=WebSockets(compression=True))"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def compressed(text: str) -> bytes:
    """A WebSocket frame with ``text``, compressed."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return struct.pack(">BBH4x", 0xC1, 0xFE, len(data)) + data


#: 1 MiB of UTF-8, of which one character makes a str take 4 MiB.
WIDE = compressed("\U0001f600" + "a" * (MIB - 200))


def send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except OSError:
        pass  # the server has closed it: that may be what the test is about


def opened(target: Victim, path: bytes) -> socket.socket:
    sock = target.slow()
    try:
        sock.sendall(HANDSHAKE % path)
        sock.recv(4096)
    except OSError:
        pass
    return sock


def wide_messages(target: Victim) -> Iterator[socket.socket]:
    """Messages of 1 KiB that take 4 MiB, faster than the application handles them."""
    for _ in range(CONNECTIONS):
        sock = opened(target, b"/slow")
        send(sock, WIDE * 4)
        yield sock


def wide_echoes(target: Victim) -> Iterator[socket.socket]:
    """The same, which the application sends back to clients that do not read."""
    for _ in range(CONNECTIONS):
        sock = opened(target, b"/echo")
        send(sock, WIDE * 8)
        yield sock


def whole_uploads(target: Victim) -> Iterator[socket.socket]:
    """Bodies that are whole and wait for a worker."""
    for _ in range(CONNECTIONS):
        sock = target.slow()
        send(sock, b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MIB - 20) + bytes(MIB - 20))
        yield sock


def stopped_streams(target: Victim) -> Iterator[socket.socket]:
    """Bodies over HTTP/2 that stop before their end (M5)."""
    post = [frame(1, 4, number, b"\x83\x86\x84\x01\x01a") + frame(0, 0, number, bytes(16000)) * 4 for number in range(1, 200, 2)]
    for _ in range(CONNECTIONS):
        sock = target.slow()
        sock.settimeout(0.2)
        send(sock, PREFACE + frame(4, 0, 0) + b"".join(post))
        yield sock


def unfinished_heads(target: Victim) -> Iterator[socket.socket]:
    """Heads without their end."""
    for _ in range(CONNECTIONS):
        sock = target.slow()
        send(sock, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 300) for n in range(190)))
        yield sock


def unfinished_sections(target: Victim) -> Iterator[socket.socket]:
    """Header sections over HTTP/2 without their end."""
    for _ in range(CONNECTIONS):
        sock = target.slow()
        section = frame(1, 1, 1, b"\x83\x86\x84\x01\x01a") + frame(9, 0, 1, b"\x00\x01x\x7f\x81\x7a" + bytes(16000)) * 14
        send(sock, PREFACE + frame(4, 0, 0) + section)
        yield sock


def requests_ahead(target: Victim) -> Iterator[socket.socket]:
    """Requests that are sent ahead, for answers that are not read."""
    for _ in range(CONNECTIONS):
        sock = target.slow()
        send(sock, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        yield sock


ATTACKS = [wide_messages, wide_echoes, whole_uploads, stopped_streams, unfinished_heads, unfinished_sections, requests_ahead]


@pytest.mark.parametrize("attack", ATTACKS)
def test_memory_is_bounded_and_comes_back(attack: Callable[[Victim], Iterator[socket.socket]], tmp_path: Path) -> None:
    with victim(str(tmp_path / "log"), CONFIG) as target:
        assert target.post()[0] == 200
        start = peak = target.memory
        with ExitStack() as stack:
            for sock in attack(target):
                stack.enter_context(sock)
                peak = max(peak, target.memory)
            end = monotonic() + 2
            while monotonic() < end:
                # Of another client.
                assert target.post()[0] == 200
                peak = max(peak, target.memory)
            print("start", start >> 20, "peak", peak >> 20)
        assert peak < MEMORY * 1.2, f"{peak >> 20} MiB"
        print("settled", target.settles(60, start + 20 * MIB), (target.memory - start) >> 20)
        assert "Traceback" not in target.log
    assert PATIENCE
