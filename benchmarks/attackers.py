"""Clients that make a server work as hard as the protocol lets them, for :mod:`benchmarks.attacks`.

``python -m benchmarks.attackers NAME PORT CONNECTIONS`` attacks until it is killed.  A connection that the server ends is opened again.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

#: Seconds before an ended connection is opened again.
PAUSE = 0.01
#: Units in one send: 64 KiB or so.
MANY = 10_000

_FRAME = struct.Struct(">HBBBL")
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_STREAM, _END_HEADERS = 1, 4
_WINDOW = 65535
_MASK = bytes(4)

_HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Attack(NamedTuple):
    """What it sends; whether it needs TLS, HTTP/2 with prior knowledge, or WebSockets."""

    name: str
    run: Callable[[socket.socket], None]
    tls: bool = False
    http2: bool = False
    websocket: bool = False


def _drain(sock: socket.socket) -> bytes:
    """What has come, without waiting.

    :raises ConnectionError: at the end of the connection.
    """
    data = b""
    sock.setblocking(False)
    try:
        while True:
            piece = sock.recv(65536)
            if not piece:
                raise ConnectionError
            data += piece
    except (BlockingIOError, ssl.SSLWantReadError):
        return data
    finally:
        sock.settimeout(30)


def chunks(sock: socket.socket) -> None:
    """Bodies of chunks of one byte, one request after the other."""
    data = _HEAD + b"1\r\na\r\n" * MANY + b"0\r\n\r\n"
    while True:
        sock.sendall(data)
        _drain(sock)


def pipelined(sock: socket.socket) -> None:
    """Requests without waiting for the answers."""
    data = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    while True:
        sock.sendall(data)
        _drain(sock)


def octets(sock: socket.socket) -> None:
    """Heads of 8 KiB, byte by byte."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Field: abcdefghijkl\r\n" * 150 + b"\r\n"
    while True:
        for octet in head:
            sock.send(bytes((octet,)))
        _drain(sock)


def _upgrade(sock: socket.socket) -> None:
    sock.sendall(_UPGRADE)
    if not sock.recv(65536).startswith(b"HTTP/1.1 101"):
        raise ConnectionError


def fragments(sock: socket.socket) -> None:
    """WebSocket messages of empty fragments."""
    _upgrade(sock)
    data = b"\x01\x80" + _MASK + (b"\x00\x80" + _MASK) * MANY + b"\x80\x80" + _MASK
    while True:
        sock.sendall(data)
        _drain(sock)


def pongs(sock: socket.socket) -> None:
    """Pongs to no ping."""
    _upgrade(sock)
    data = (b"\x8a\x80" + _MASK) * MANY
    while True:
        sock.sendall(data)
        _drain(sock)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes, first: int = 0x00) -> bytes:
    """A literal field with a new name; 0x40 puts it into the table."""
    rest = len(value) - 127
    length = bytes((len(value),)) if rest < 0 else bytes((0x7F, rest & 0x7F | 0x80, rest >> 7))
    return bytes((first, len(name))) + name + length + value


#: POST / on http, from the static table, and the authority.
_POST = b"\x83\x86\x84\x01\x09localhost"


class _Http2:
    """Just enough of HTTP/2 to send DATA within the connection's window."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""
        self.window = _WINDOW
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))

    def read(self) -> None:
        """Take what has come."""
        data = self._received + _drain(self._sock)
        position = 0
        while len(data) - position >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            end = position + _FRAME.size + (high << 8 | low)
            if end > len(data):
                break
            if kind == _WINDOW_UPDATE and stream == 0:
                self.window += int.from_bytes(data[end - 4 : end], "big")
            elif kind == _SETTINGS and not flags:
                self._sock.sendall(_frame(_SETTINGS, 1, 0))
            elif kind == _PING and not flags:
                self._sock.sendall(_frame(_PING, 1, 0, data[end - 8 : end]))
            position = end
        self._received = data[position:]


def data_frames(sock: socket.socket) -> None:
    """Bodies of DATA frames of one byte, one request after the other."""
    http2 = _Http2(sock)
    stream = 1
    while True:
        while http2.window < MANY:
            http2.read()
            time.sleep(0.0005)
        body = _frame(_DATA, 0, stream, b"a") * (MANY - 1) + _frame(_DATA, _END_STREAM, stream, b"a")
        sock.sendall(_frame(_HEADERS, _END_HEADERS, stream, _POST) + body)
        http2.window -= MANY
        stream += 2
        http2.read()


def late_data(sock: socket.socket) -> None:
    """DATA frames of one byte on a stream that the server refused."""
    http2 = _Http2(sock)
    sock.sendall(_frame(_HEADERS, _END_HEADERS, 1, _POST + _literal(b"BAD", b"a")))
    data = _frame(_DATA, 0, 1, b"a") * 1000
    while True:
        while http2.window < 1000:
            http2.read()
            time.sleep(0.0005)
        sock.sendall(data)
        http2.window -= 1000
        http2.read()


def late_sections(sock: socket.socket) -> None:
    """Header sections of 61 KiB, 26 bytes on the wire, on a stream that the server refused; the table has an invalid field."""
    http2 = _Http2(sock)
    bad = _literal(b"BAD", b"a", 0x40) + _literal(b"x", b"v" * 3600, 0x40)
    sock.sendall(_frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, _POST + bad))
    data = _frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, b"\xbe" * 17) * 2000
    while True:
        sock.sendall(data)
        http2.read()


def sections(sock: socket.socket) -> None:
    """Header sections of 60 KiB on new streams, each refused."""
    http2 = _Http2(sock)
    block = _POST + b"".join(_literal(b"x-%05d" % n, b"v" * 3500) for n in range(4)) + _literal(b"BAD", b"a")
    stream = 1
    while True:
        sock.sendall(b"".join(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream + 2 * n, block) for n in range(20)))
        stream += 40
        http2.read()


ATTACKS = (
    Attack("chunks of 1 byte", chunks),
    Attack("chunks of 1 byte, TLS", chunks, tls=True),
    Attack("pipelined requests", pipelined),
    Attack("heads in 1-byte segments", octets),
    Attack("empty WebSocket fragments", fragments, websocket=True),
    Attack("pongs to no ping", pongs, websocket=True),
    Attack("DATA of 1 byte", data_frames, http2=True),
    Attack("DATA on a refused stream", late_data, http2=True),
    Attack("HEADERS on a refused stream", late_sections, http2=True),
    Attack("refused header sections", sections, http2=True),
)


def _attack(attack: Attack, port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                attack.run(context.wrap_socket(sock) if attack.tls else sock)
        except OSError:
            time.sleep(PAUSE)


def main() -> None:
    """Attack for ever."""
    # They share a core with the client, which must wait for the server only.
    os.nice(19)
    name, port, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    attack = next(attack for attack in ATTACKS if attack.name == name)
    for _ in range(connections):
        threading.Thread(target=_attack, args=(attack, port), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
