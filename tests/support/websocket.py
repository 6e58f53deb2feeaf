"""What the WebSocket tests share: a server's end in a native thread with its own gevent hub, and a client that writes frames byte by byte.

The server's end is the real :class:`greendaphne.websocket.WebSocket` on the real transport, over a socket pair; only the HTTP request is
given instead of parsed.  The client is a plain blocking socket.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import gevent
from websockets.utils import apply_mask

from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import ClientDisconnected, ConnectionInfo, Headers, Request
from greendaphne.net.byte_stream import lingering_close
from greendaphne.net.transport import Transport
from greendaphne.websocket import WebSocket, WebSocketClosed

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x37\xfa\x21\x3d"
INFO = ConnectionInfo("http", ["127.0.0.1", 50000], ["127.0.0.1", 80])
HANDSHAKE: list[tuple[bytes, bytes]] = [
    (b"host", b"example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]
#: Seconds after which a test's peer has failed.
PATIENCE = 30.0


class HubThread:
    """A native thread that runs greenlets for the tests' threads."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._loop: Any = None
        threading.Thread(target=self._run, daemon=True).start()
        self._started.wait()

    def _run(self) -> None:
        hub = gevent.get_hub()
        self._loop = hub.loop
        # Keeps the loop alive while no greenlet runs.
        keep = hub.loop.async_()
        keep.start(lambda: None)
        self._started.set()
        hub.join()

    def spawn(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run ``function`` in a greenlet of this thread."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
                future.set_exception(error)
            else:
                future.set_result(result)

        self._loop.run_callback_threadsafe(gevent.spawn, run)
        return future

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` there and return what it returns."""
        return self.spawn(function, *args).result(PATIENCE)


@cache
def hub() -> HubThread:
    """The one hub thread of the test process."""
    return HubThread()


def request(headers: Headers = HANDSHAKE, **fields: Any) -> Request:
    """A handshake request."""
    upgrade = next((value.lower() for name, value in headers if name == b"upgrade"), b"")
    return Request("GET", b"/chat", b"/chat", b"", "1.1", list(headers), 0, upgrade, INFO)._replace(**fields)


class SocketStream:
    """A :class:`greendaphne.core.message.Stream` that is a tunnel from the start."""

    def __init__(self, transport: Transport, handshake: Request) -> None:
        self.request = handshake
        self.transport = transport
        self.status = 0
        self.sent = 0
        self.complete = False
        self.response_headers: Headers = ()
        self.extra_headers: Headers = ()
        self.body_limit = 0
        self.body_complete = True
        self.head: list[tuple[bytes, bytes]] = []
        self.reason: str | None = None
        self.was_reset = False

    def read(self, n: int, timeout: float | None = None) -> bytes:
        return self.transport.recv(n, timeout)

    def inform(self, status: int, headers: Headers) -> None:
        raise NotImplementedError

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        return False

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        self.status, self.head, self.reason = status, list(headers), reason

    def write(self, data: bytes) -> None:
        self.transport.sendall(data)

    def finish(self, data: bytes = b"", trailers: Headers = ()) -> None:
        if self.transport.closed:
            raise ClientDisconnected
        if data:
            self.transport.sendall(data)
        self.complete = True
        self.transport.shutdown_write()

    def switch(self, headers: Headers) -> None:
        self.status, self.head = 101, list(headers)

    @property
    def begun(self) -> bool:
        return self.status != 0

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        return self.transport.offer(data)

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        return self.transport.has_room(callback)

    def flush(self) -> None:
        self.transport.flush()

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """Do nothing, as HTTP/1 does."""

    def gone(self, *, half_closed: bool) -> bool:
        return self.transport.closed

    def delivery(self) -> tuple[int, int] | None:
        return self.transport.delivery()

    def reset(self) -> None:
        self.was_reset = True
        self.transport.abort()


@dataclass
class Frame:
    """A frame as the client received it."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """A client's frame.

    :param rsv: the three reserved bits, 4 being RSV1.
    :param mask: ``None`` for an unmasked frame.
    :param length: the length to announce, where it is not the payload's.
    :param form: 7, 16 or 64 bits for the length, where it is not the shortest.
    """
    if length is None:
        length = len(payload)
    if form is None:
        form = 7 if length < 126 else 16 if length < 65536 else 64
    masked = 0 if mask is None else 0x80
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if form == 7:
        head = struct.pack("!BB", first, masked | length)
    elif form == 16:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    if mask is None:
        return head + payload
    return head + mask + (apply_mask(payload, mask) if payload else b"")


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", code) + reason


class Client:
    """A client's end: a blocking socket and a frame reader."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self._input = sock.makefile("rb")

    def send(self, *data: bytes) -> None:
        self.sock.sendall(b"".join(data))

    def receive(self) -> Frame | None:
        """The next frame, ``None`` at the end of the stream."""
        head = self._input.read(2)
        if not head:
            return None
        first, second = head
        assert not second & 0x80, "a server's frames are not masked"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._input.read(2))
            assert length > 125
        elif length == 127:
            (length,) = struct.unpack("!Q", self._input.read(8))
            assert length > 65535
        payload = self._input.read(length)
        assert len(payload) == length
        return Frame(first & 15, payload, bool(first & 0x80), first >> 4 & 7)

    def frames(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        return list(iter(self.receive, None))

    def end(self) -> None:
        """Send nothing more."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._input.close()
        self.sock.close()


@dataclass
class Server:
    """The server's end, and what it has seen."""

    websocket: WebSocket
    stream: SocketStream
    received: list[str | bytes] = field(default_factory=list)
    finished: Future[Any] = field(default_factory=Future)

    @property
    def closed(self) -> WebSocketClosed:
        """How it ended."""
        result = self.finished.result(PATIENCE)
        assert isinstance(result, WebSocketClosed), result
        assert self.websocket.closed
        assert self.websocket.code == result.code
        return result


Handler = Callable[[Server], None]


def echo(server: Server) -> None:
    """Send back what comes in."""
    while True:
        message = server.websocket.receive()
        server.received.append(message)
        server.websocket.send(message)


def collect(server: Server) -> None:
    """Keep what comes in."""
    while True:
        server.received.append(server.websocket.receive())


@contextmanager
def websocket(
    handler: Handler = echo,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    pair: tuple[socket.socket, socket.socket] | None = None,
    **options: Any,
) -> Iterator[tuple[Client, Server]]:
    """An open WebSocket: its client, and the server's end run by ``handler`` until it raises :class:`WebSocketClosed`."""
    near, far = pair or socket.socketpair()
    made: Future[Server] = Future()

    def serve() -> object:
        timing = timeouts or Timeouts()
        stream = SocketStream(Transport(far, timing.send), request([*HANDSHAKE, *headers]))
        end = WebSocket(stream, limits or Limits(), timing, **options)
        server = Server(end, stream)
        end.check()
        end.accept()
        made.set_result(server)
        try:
            handler(server)
        except WebSocketClosed as closed:
            # As an HTTP/1.1 connection does, so that a client that is still sending can send.
            gevent.spawn(lingering_close, stream.transport, PATIENCE)
            return closed.with_traceback(None)
        return None

    finished = hub().spawn(serve)
    client = Client(near)
    wait([made, finished], PATIENCE, FIRST_COMPLETED)
    if not made.done():
        finished.result()  # raises what was wrong with the handshake
    server = made.result(0)
    server.finished = finished
    try:
        yield client, server
    finally:
        client.close()
        hub().call(server.stream.transport.close)
        near.close()
        far.close()
