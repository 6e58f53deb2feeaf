"""A WebSocket client that only measures: thousands of sockets on one asyncio loop, each a small object, frames kept as bytes.

It knows as much of RFC 6455 as the servers make it meet: an upgrade that succeeds, unfragmented frames, pings, which it answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .environment import BenchmarkError

TEXT, PING, PONG = 0x1, 0x9, 0xA
FIN = 0x80
MASK = b"\x37\xfa\x21\x3d"
#: Handshakes in flight at a time; below the backlog of every server.
HANDSHAKES = 50
HANDSHAKE_LIMIT = 120.0


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One masked frame (RFC 6455 section 5.2); the mask is the same each time, which costs a server what any mask costs."""
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((FIN | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


class Client(asyncio.Protocol):
    """One WebSocket; ``received`` is called with the payload of each text message."""

    __slots__ = ("_buffer", "_open", "closed", "received", "transport")

    def __init__(self, opened: asyncio.Future[None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.received: Callable[[Client, bytes], None] | None = None
        self.closed = False
        self._open: asyncio.Future[None] | None = opened
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send bytes of :func:`frame`."""
        assert self.transport is not None
        self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self.closed = True
        if self._open is not None and not self._open.done():
            self._open.set_exception(BenchmarkError("the server closed a connection during the handshake"))

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        data = self._buffer + data
        if self._open is not None:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            if not self._open.done():
                if head.startswith(b"HTTP/1.1 101 "):
                    self._open.set_result(None)
                else:
                    self._open.set_exception(BenchmarkError(f"the handshake was answered with {head.splitlines()[0]!r}"))
            self._open = None
        self._buffer = self._frames(data)

    def _frames(self, data: bytes) -> bytes:
        """Handle the whole frames of ``data``; returns the rest."""
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if end < start + size:
                break
            opcode, payload = data[at] & 0x0F, data[start : start + size]
            at = start + size
            if opcode == PING:
                self.send(frame(payload, PONG))
            elif opcode == TEXT and self.received is not None:
                self.received(self, payload)
        return data[at:]


async def connect(port: int, count: int) -> list[Client]:
    """Open ``count`` WebSockets, a bounded number of handshakes at a time."""
    loop = asyncio.get_running_loop()
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    slots = asyncio.Semaphore(HANDSHAKES)

    async def one() -> Client:
        async with slots:
            opened = loop.create_future()
            _, client = await loop.create_connection(lambda: Client(opened), "127.0.0.1", port)
            client.send(request)
            await opened
            return client

    try:
        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(count))), HANDSHAKE_LIMIT)
    except (OSError, asyncio.TimeoutError) as error:
        raise BenchmarkError(f"{count} WebSockets could not be opened: {str(error) or 'too slow'}") from error


def close(clients: Iterable[Client]) -> None:
    """Drop the connections."""
    for client in clients:
        if client.transport is not None:
            client.transport.abort()


class Echoes(NamedTuple):
    """Messages that came back, the seconds that took, and the sorted round trips in milliseconds."""

    messages: int
    seconds: float
    trips_ms: list[float]


async def echo(clients: list[Client], payload: bytes, seconds: float) -> Echoes:
    """Each client has one message under way; the next leaves when it has come back.

    :raises BenchmarkError: where something else than the payload comes back, or nothing.
    """
    loop = asyncio.get_running_loop()
    data, clock = frame(payload), time.perf_counter
    failed: asyncio.Future[None] = loop.create_future()
    sent: dict[Client, float] = {}
    trips: list[float] = []

    def received(client: Client, message: bytes) -> None:
        now = clock()
        trips.append(1e3 * (now - sent[client]))
        if message != payload and not failed.done():
            failed.set_exception(BenchmarkError("an echo differs from what was sent"))
        if now < end:
            sent[client] = now
            client.send(data)

    begun = clock()
    end = begun + seconds
    for client in clients:
        client.received = received
        sent[client] = clock()
        client.send(data)
    await asyncio.wait([failed], timeout=seconds)
    taken, trips = clock() - begun, trips[:]
    if failed.done():
        failed.result()
    failed.cancel()
    if not trips:
        raise BenchmarkError("no echo came back")
    return Echoes(len(trips), taken, sorted(trips))


async def settle(clients: list[Client], seconds: float) -> None:
    """Let what is still under way arrive and be forgotten."""
    for client in clients:
        client.received = None
    await asyncio.sleep(seconds)


class Spread(NamedTuple):
    """How many clients a message to all reached, and the milliseconds until the last of them had it."""

    reached: int
    last_ms: float


async def to_everyone(clients: list[Client], text: bytes, limit: float) -> Spread:
    """Have one client ask for a message to all; wait until all have it, at most ``limit`` seconds without another arrival."""
    arrived: dict[Client, float] = {}
    more = asyncio.Event()

    def received(client: Client, message: bytes) -> None:
        arrived[client] = time.perf_counter()
        more.set()

    for client in clients:
        client.received = received
    begun = time.perf_counter()
    clients[0].send(frame(text))
    while len(arrived) < len(clients):
        more.clear()
        try:
            await asyncio.wait_for(more.wait(), limit)
        except asyncio.TimeoutError:
            break
    return Spread(len(arrived), 1e3 * (max(arrived.values(), default=begun) - begun))
