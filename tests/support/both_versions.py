"""One client for HTTP/1.1 and HTTP/2: requests and WebSockets whose results look alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import h2.events

from .asgi import HANDSHAKE, ASGIServer
from .http2 import Fields, Peer
from .websocket import CLOSE, frame

if TYPE_CHECKING:
    from .server import Client, LiveServer

VERSIONS = ("1.1", "2")


@dataclass
class Answer:
    """A response; ``complete`` is whether it ended as the protocol has it."""

    status: int
    headers: Fields
    body: bytes
    complete: bool = True

    def all(self, name: bytes) -> list[bytes]:
        """The values of a header field, in order."""
        return [value for key, value in self.headers if key.lower() == name]


class Requester(Protocol):
    """Sends requests on one connection."""

    def ask(
        self, target: bytes = b"/", method: bytes = b"GET", headers: Sequence[tuple[bytes, bytes]] = (), body: bytes | None = None
    ) -> Answer:
        """The answer to a request."""


class OverHTTP1:
    """Requests on one HTTP/1.1 connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(
        self, target: bytes = b"/", method: bytes = b"GET", headers: Sequence[tuple[bytes, bytes]] = (), body: bytes | None = None
    ) -> Answer:
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: a", *(name + b": " + value for name, value in headers)]
        if body is not None:
            lines.append(b"Content-Length: %d" % len(body))
        self._client.send(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        head = self._client.read_until(b"\r\n\r\n")
        first, *rest = head[:-4].split(b"\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in rest)]
        answer = Answer(int(first.split()[1]), fields, b"")
        if method == b"HEAD" or answer.status in (204, 304):
            return answer
        try:
            if lengths := answer.all(b"content-length"):
                answer.body = self._client.read_exactly(int(lengths[0]))
            elif answer.all(b"transfer-encoding"):
                while piece := self._client.read_chunk():
                    answer.body += piece
            else:
                answer.body = self._client.read_to_eof()
        except EOFError:
            answer.body += self._client.buffer
            answer.complete = False
        return answer


class OverHTTP2:
    """Requests on one HTTP/2 connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def ask(
        self, target: bytes = b"/", method: bytes = b"GET", headers: Sequence[tuple[bytes, bytes]] = (), body: bytes | None = None
    ) -> Answer:
        peer = self._peer
        fields = [(b":method", method), (b":scheme", b"http"), (b":path", target), (b":authority", b"a"), *headers]
        if body is not None:
            fields.append((b"content-length", b"%d" % len(body)))
        stream = peer.request(fields, body)
        head = peer.wait(h2.events.ResponseReceived, stream)
        found = [(bytes(name), bytes(value)) for name, value in head.headers or ()]
        answer = Answer(int(found[0][1]), found[1:], b"")
        while True:
            for event in [event for event in peer.events if getattr(event, "stream_id", None) == stream]:
                peer.events.remove(event)
                if isinstance(event, h2.events.DataReceived):
                    answer.body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return answer
                elif isinstance(event, h2.events.StreamReset):
                    answer.complete = False
                    return answer
            peer.receive()


@contextmanager
def requester(server: LiveServer, version: str) -> Iterator[Requester]:
    """A requester on a connection of its own, while the block runs."""
    if version == "1.1":
        with server.connect() as client:
            yield OverHTTP1(client)
    else:
        with Peer(server) as peer:
            yield OverHTTP2(peer)


class Talk:
    """A WebSocket over either version."""

    def __init__(self, server: ASGIServer, version: str, headers: Sequence[tuple[bytes, bytes]] = (), path: bytes = b"/") -> None:
        self._buffer = b""
        if version == "1.1":
            client = self._client = server.connect()
            client.send(HANDSHAKE % (path, b"".join(name + b": " + value + b"\r\n" for name, value in headers)))
            first, *rest = client.read_until(b"\r\n\r\n")[:-4].split(b"\r\n")
            self.status = int(first.split()[1])
            self.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in rest)]
            self._peer = None
        else:
            peer = self._peer = Peer(server)
            fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", path)]
            self._stream = peer.request([*fields, (b":authority", b"a"), (b"sec-websocket-version", b"13"), *headers], end=False)
            head = peer.wait(h2.events.ResponseReceived, self._stream)
            found = [(bytes(name), bytes(value)) for name, value in head.headers or ()]
            self.status, self.headers = int(found[0][1]), found[1:]

    @property
    def open(self) -> bool:
        """Whether the handshake has succeeded."""
        return self.status == (101 if self._peer is None else 200)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def send(self, opcode: int, payload: bytes) -> None:
        if self._peer is None:
            self._client.send(frame(opcode, payload))
        else:
            self._peer.send(self._stream, frame(opcode, payload))

    def receive(self) -> tuple[int, bytes]:
        """The next frame, which is short."""
        first, length = self._read(2)
        if length == 126:
            length = int.from_bytes(self._read(2), "big")
        return first & 15, self._read(length)

    def _read(self, n: int) -> bytes:
        if self._peer is None:
            return self._client.read_exactly(n)
        while len(self._buffer) < n:
            self._buffer += self._peer.wait(h2.events.DataReceived, self._stream).data or b""
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    def close(self, payload: bytes = b"") -> None:
        """Send a close frame."""
        self.send(CLOSE, payload)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *exc: object) -> None:
        (self._client.sock if self._peer is None else self._peer.sock).close()
