"""Messages and bodies that are whole, or come in many pieces, and wait: they count with all the memory that they take."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import pytest

from greendaphne.config import MIB
from tests.support.ports import free_port
from tests.support.server import PATIENCE, Client
from tests.support.victim import Victim, withstands

CONNECTIONS = 100
MEMORY = 160 * MIB
CONFIG = f"Config(limits=Limits(memory={MEMORY}), http2=Http2(cleartext=True), websockets=WebSockets(compression=True))"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HANDSHAKE = (
    b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
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
        pass  # the server has closed it, or reads no more: that may be what the test is about


def opened(sock: socket.socket) -> socket.socket:
    """``sock`` after the opening handshake of a WebSocket, unless the server refuses it."""
    try:
        sock.sendall(HANDSHAKE)
        sock.recv(4096)
    except OSError:
        pass
    return sock


def wide_messages(target: Victim) -> Iterator[socket.socket]:
    """Messages of 1 KiB that take 4 MiB, more than the application handles."""
    for _ in range(CONNECTIONS):
        sock = opened(target.slow())
        send(sock, WIDE * 4)
        yield sock


def stopped_streams(target: Victim) -> Iterator[socket.socket]:
    """Bodies over HTTP/2 that stop before their end, a hundred on each connection."""
    post = [frame(1, 4, number, b"\x83\x86\x84\x01\x01a") + frame(0, 0, number, bytes(16000)) * 4 for number in range(1, 200, 2)]
    for _ in range(CONNECTIONS // 4):
        sock = target.slow()
        sock.settimeout(0.3)
        send(sock, PREFACE + frame(4, 0, 0) + b"".join(post))
        yield sock


def unfinished_sections(target: Victim) -> Iterator[socket.socket]:
    """Header sections over HTTP/2 without their end."""
    section = frame(1, 1, 1, b"\x83\x86\x84\x01\x01a") + frame(9, 0, 1, b"\x00\x01x\x7f\x81\x7a" + bytes(16000)) * 14
    for _ in range(3 * CONNECTIONS):
        sock = target.slow()
        send(sock, PREFACE + frame(4, 0, 0) + section)
        yield sock


@pytest.mark.parametrize("attack", [wide_messages, stopped_streams, unfinished_sections])
def test_memory_is_bounded_and_comes_back(attack: Callable[[Victim], Iterator[socket.socket]], tmp_path: Path) -> None:
    withstands(attack, str(tmp_path / "log"), CONFIG, MEMORY, 20 * MIB)


#: Accepts WebSockets and receives nothing.
DEAF = """
import asyncio

async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(3600)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


def test_messages_that_an_asgi_application_does_not_receive(tmp_path: Path) -> None:
    """They wait in the server, one of any size on each connection, and count like all else."""
    (tmp_path / "deaf.py").write_text(DEAF)
    port = free_port()
    options = ["--max-memory", "160M", "--websocket-compression", "-v", "1", "-b", "127.0.0.1", "-p", str(port)]
    line = [sys.executable, "-m", "greendaphne", "--asgi", *options, "deaf:application"]
    with open(tmp_path / "log", "w") as log, ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=log))
        stack.callback(process.kill)
        target = Victim(process, port, str(tmp_path / "log"))  # type: ignore[arg-type]
        until = monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert monotonic() < until, target.log
                assert process.poll() is None, target.log
                sleep(0.05)
        peak = 0
        for _ in range(CONNECTIONS):
            sock = stack.enter_context(opened(target.slow()))
            send(sock, WIDE)
            peak = max(peak, target.memory)
        for _ in range(20):
            with Client(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.read_response().status == 200
            peak = max(peak, target.memory)
            sleep(0.05)
        assert peak < MEMORY * 1.2, f"{peak >> 20} MiB"
        assert "Traceback" not in target.log
