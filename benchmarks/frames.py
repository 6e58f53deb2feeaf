"""The WebSocket's frames against those of ``websockets``: what an echo costs the server, by message size.

Two kinds of server processes echo on the same transport, one through :class:`greendaphne.websocket.WebSocket` and one through the sans-I/O
``ServerProtocol`` of ``websockets``.  A client process, which writes prepared frames and counts the bytes that come back, drives them.
"""

from __future__ import annotations

import _socket
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from greendaphne.config import KIB, MIB, Limits, Timeouts
from greendaphne.core.message import ClientDisconnected, ConnectionInfo, Headers, Request
from greendaphne.net.byte_stream import RECV_SIZE
from greendaphne.net.transport import Transport

from .environment import CHECKOUT
from .family import Family, Layout, Plan, Sample, Trial, cpu_us
from .results import Measure

OURS, THEIRS = "greendaphne", "websockets"
SIZES = {"16 B": 16, "1 KiB": KIB, "64 KiB": 64 * KIB, "1 MiB": MIB}
#: Text that is not all ASCII, as texts are.
TEXT = "Grüße aus dem Äther. "
CONNECTIONS = 8
_MASK = b"\x12\x34\x56\x78"
_INFO = ConnectionInfo("http", None, None)
_REQUEST = Request("GET", b"/", b"/", b"", "1.1", [(b"sec-websocket-key", b"")], 0, b"websocket", _INFO)


WARM_UP = 0.1


class _Tunnel:
    """A stream on which the handshake has taken place already."""

    request = _REQUEST
    status = 101
    sent = 0
    complete = False

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.response_headers: Headers = ()
        self.extra_headers: Headers = ()
        self.body_limit = 0

    def read(self, n: int, timeout: float | None = None) -> bytes:
        return self._transport.recv(n, timeout)

    def write(self, data: bytes) -> None:
        self._transport.sendall(data)

    def inform(self, status: int, headers: Headers) -> None:
        raise NotImplementedError

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        return False

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        raise NotImplementedError

    def finish(self, data: bytes = b"", trailers: Headers = ()) -> None:
        self._transport.shutdown_write()

    def switch(self, headers: Headers) -> None:
        pass

    @property
    def begun(self) -> bool:
        return self.status != 0

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        return self._transport.offer(data)

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        return self._transport.has_room(callback)

    def flush(self) -> None:
        self._transport.flush()

    @property
    def body_complete(self) -> bool:
        return True

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """Do nothing, as HTTP/1 does."""

    def gone(self, *, half_closed: bool) -> bool:
        return False

    def delivery(self) -> tuple[int, int] | None:
        return None

    def reset(self) -> None:
        self._transport.abort()


def _echo_ours(transport: Transport) -> None:
    from greendaphne.websocket import WebSocket, WebSocketClosed

    websocket = WebSocket(_Tunnel(transport), Limits(), Timeouts())
    websocket.accept()
    try:
        while True:
            websocket.send(websocket.receive())
    except WebSocketClosed:
        pass


def _echo_theirs(transport: Transport) -> None:
    from websockets.frames import Frame, Opcode
    from websockets.protocol import OPEN
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(state=OPEN, max_size=Limits().websocket_message)
    while data := transport.recv(RECV_SIZE, None):
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT:
                protocol.send_text(str(event.data, "utf-8").encode())
            else:
                protocol.send_binary(event.data)
        for part in protocol.data_to_send():
            transport.sendall(part)


def _serve(which: str) -> None:
    """Serve in this process for ever; prints the port."""
    import gevent
    from gevent import socket as cooperative

    echo = _echo_ours if which == OURS else _echo_theirs
    listener = cooperative.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(CONNECTIONS)

    def connection(sock: cooperative.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The transport wants the plain socket, which gevent's is a wrapper of.
        transport = Transport(_socket.socket(fileno=sock.detach()), 60)
        try:
            echo(transport)
        except ClientDisconnected:
            pass
        finally:
            transport.close()

    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        gevent.spawn(connection, sock)


class _Server(NamedTuple):
    name: str
    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds that its process has used (the process's own clock, see clock_getres(2))."""
        return time.clock_gettime((~self.pid << 3) | 2)


@contextmanager
def _running(which: str) -> Iterator[_Server]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.frames", which], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    try:
        assert process.stdout is not None
        yield _Server(which, process.pid, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


def _frame(payload: bytes, *, text: bool) -> bytes:
    from websockets.frames import Frame, Opcode
    from websockets.utils import apply_mask

    data = Frame(Opcode.TEXT if text else Opcode.BINARY, payload).serialize(mask=False)
    head = len(data) - len(payload)
    return bytes((data[0], data[1] | 0x80)) + data[2:head] + _MASK + apply_mask(payload, _MASK)


class _Client:
    """A connection that sends one message over and over again, each when the echo of the last is there."""

    def __init__(self, port: int, frame: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.echoes = 0
        self._frame = memoryview(frame)
        # A server's frame has no mask.
        self._expected = len(frame) - len(_MASK)
        self._missing = self._expected
        self._unsent = self._frame

    def send(self) -> bool:
        """Send as much as can be sent; whether that was everything."""
        try:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        return not self._unsent

    def receive(self, buffer: bytearray) -> bool:
        """Receive what is there; whether an echo is complete and the next message may be sent."""
        count = self.sock.recv_into(buffer)
        if not count:
            raise ConnectionError("the server closed the connection")
        self._missing -= count
        if self._missing:
            return False
        self._missing = self._expected
        self._unsent = self._frame
        self.echoes += 1
        return True


def _drive(server: _Server, frame: bytes, seconds: float) -> tuple[float, float]:
    """Echoes per second, and CPU seconds of the server per echo."""
    buffer = bytearray(256 * KIB)
    clients = {}
    poll = select.epoll()
    for _ in range(CONNECTIONS):
        client = _Client(server.port, frame)
        clients[client.sock.fileno()] = client
        poll.register(client.sock, select.EPOLLIN | select.EPOLLOUT)
    try:
        used, started = server.cpu(), time.monotonic()
        end = started + seconds
        while time.monotonic() < end:
            for descriptor, events in poll.poll(1):
                client = clients[descriptor]
                if events & select.EPOLLIN and client.receive(buffer):
                    if not client.send():
                        poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
                elif events & select.EPOLLOUT and client.send():
                    poll.modify(descriptor, select.EPOLLIN)
        elapsed, used = time.monotonic() - started, server.cpu() - used
    finally:
        poll.close()
        for client in clients.values():
            client.sock.close()
    echoes = sum(client.echoes for client in clients.values())
    return echoes / elapsed, used / echoes


def _payload(size: int, *, text: bool) -> bytes:
    if not text:
        return bytes(range(256)) * (size // 256 + 1)
    return (TEXT * (size // len(TEXT) + 1)).encode()[:size].decode(errors="ignore").encode().ljust(size)


_CASES = {f"{name} {'text' if text else 'binary'}": (size, text) for text in (True, False) for name, size in SIZES.items()}


def _run(which: str, cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with _running(which) as server:
        for case in cases:
            size, text = _CASES[case]
            frame = _frame(_payload(size, text=text)[:size], text=text)
            _drive(server, frame, WARM_UP)
            rate, cost = _drive(server, frame, plan.seconds / 2)
            yield case, {"cpu_us": 1e6 * cost, "rate": rate}


def _trials(plan: Plan) -> list[Trial]:
    return [Trial("frames", which, tuple(_CASES), partial(_run, which)) for which in (OURS, THEIRS)]


FAMILY = Family(
    "frames",
    "WebSocket frames",
    f"Echo over {CONNECTIONS} connections by the WebSocket of this project and by the sans-I/O protocol of websockets, which that "
    "library's own servers are made of, on the same transport and without a server around them. Both hand text over as str.",
    (Layout("frames", "WebSocket echo, protocol only", (cpu_us("message"), Measure("rate", "messages/s", 0, less_is_better=False))),),
    _trials,
)


if __name__ == "__main__":
    _serve(sys.argv[1])
