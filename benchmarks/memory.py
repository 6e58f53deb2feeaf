"""Memory for each connection on which nothing happens, and what opening it and keeping it costs."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol

from . import candidates, environment, wsclient
from .environment import BenchmarkError, bound_to
from .family import Family, Layout, Plan, Sample, Trial
from .results import Measure
from .servers import Command, Server, running
from .websocket import SPARE_FILES

KIB: Final = 1024
#: Connections before the first look at the memory, and seconds for a server to come to rest.
WARM_UP, REST = 50, 0.4
#: Connections that are opened together.
AT_A_TIME: Final = 50
_NO_PINGS: Final = ("--ping-interval", "86400")
_GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: The preface, empty SETTINGS, and a request: ``:method GET``, ``:scheme http``, ``:path /``, ``:authority localhost`` (RFC 9113, 7541).
_HTTP2: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x0e\x01\x05\x00\x00\x00\x01\x82\x86\x84\x01\x09localhost"
)
_BODY: Final = b"Hello, world\n"
#: SETTINGS with ACK.
_ACK: Final = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"


class _Opened(Protocol):
    """Connections that are open."""

    def lost(self) -> int:
        """How many the server has closed."""

    def close(self) -> None:
        """Close all."""


class _Sockets:
    """Connections that had one response; some are opened at a time, because daphne 1.4.2 answers after its pause only."""

    def __init__(self, port: int, count: int, request: bytes) -> None:
        self._sockets: list[socket.socket] = []
        while len(self._sockets) < count:
            some = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(min(AT_A_TIME, count - len(self._sockets)))]
            self._sockets += some
            for sock in some:
                sock.sendall(request)
            for sock in some:
                _read(sock)
                if request is _HTTP2:
                    sock.sendall(_ACK)

    def lost(self) -> int:
        poll = select.poll()
        for sock in self._sockets:
            poll.register(sock, select.POLLRDHUP)
        return len(poll.poll(0))

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def _read(sock: socket.socket) -> None:
    """Read a response as far as the end of its body."""
    received = b""
    while _BODY not in received:
        data = sock.recv(65536)
        if not data:
            raise BenchmarkError("the server closed a connection instead of answering")
        received += data


class _WebSockets:
    """WebSockets after the handshake."""

    def __init__(self, port: int, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients = self._loop.run_until_complete(wsclient.connect(port, count))

    def lost(self) -> int:
        self._loop.run_until_complete(asyncio.sleep(0.01))
        return sum(client.closed for client in self._clients)

    def close(self) -> None:
        wsclient.close(self._clients)
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()


_Open = Callable[[int, int], _Opened]
_Commands = dict[str, Callable[[], Command]]

_ECHO: Final = "benchmarks.apps.asgi:echo"
_KEEP: Final = ("--timeout-keep-alive", "600")
_HTTP1_SERVERS: Final[_Commands] = {
    candidates.LAYER: candidates.layer,
    candidates.ASGI: candidates.asgi,
    candidates.GRANIAN: lambda: candidates.granian(candidates.HELLO, "--http", "1"),
    candidates.UVLOOP: lambda: candidates.uvicorn("uvloop", candidates.HELLO, *_KEEP),
    candidates.ASYNCIO: lambda: candidates.uvicorn("asyncio", candidates.HELLO, *_KEEP),
    candidates.HYPERCORN: lambda: candidates.hypercorn(candidates.HELLO, "--keep-alive", "600"),
    candidates.DAPHNE4: candidates.daphne4,
    candidates.DAPHNE1: candidates.daphne1,
}
_HTTP2_SERVERS: Final[_Commands] = {
    candidates.LAYER: lambda: candidates.layer("--http2-cleartext", "-e", "tcp:{port}:interface=127.0.0.1"),
    candidates.STREAM: candidates.stream,
    candidates.ASGI: lambda: candidates.asgi(candidates.HELLO, "--http2-cleartext", "-e", "tcp:{port}:interface=127.0.0.1"),
    candidates.GRANIAN: lambda: candidates.granian(candidates.HELLO, "--http", "2", "--no-ws"),
    candidates.HYPERCORN: _HTTP1_SERVERS[candidates.HYPERCORN],
}
_WEBSOCKET_SERVERS: Final[_Commands] = {
    candidates.LAYER: lambda: candidates.layer(*_NO_PINGS),
    candidates.ASGI: lambda: candidates.asgi(_ECHO),
    candidates.GRANIAN: lambda: candidates.granian(_ECHO),
    candidates.UVLOOP: lambda: candidates.uvicorn("uvloop", _ECHO),
    candidates.ASYNCIO: lambda: candidates.uvicorn("asyncio", _ECHO),
    candidates.HYPERCORN: lambda: candidates.hypercorn(_ECHO),
    candidates.DAPHNE4: lambda: candidates.daphne4(_ECHO),
    candidates.DAPHNE1: lambda: candidates.daphne1(*_NO_PINGS),
}
_KINDS: Final[dict[str, tuple[_Open, _Commands]]] = {
    "HTTP/1.1": (partial(_Sockets, request=_GET), _HTTP1_SERVERS),
    "HTTP/2": (partial(_Sockets, request=_HTTP2), _HTTP2_SERVERS),
    "WebSocket": (_WebSockets, _WEBSOCKET_SERVERS),
}


def _measure(server: Server, opened: _Open, plan: Plan) -> Sample:
    warm = opened(server.port, WARM_UP)
    warm.close()
    time.sleep(REST)
    empty, before = server.rss(), server.cpu()
    connections = opened(server.port, plan.idle)
    cpu = server.cpu() - before
    time.sleep(REST)
    full, before = server.rss(), server.cpu()
    time.sleep(plan.seconds)
    idle = server.cpu() - before
    lost = connections.lost()
    connections.close()
    if lost:
        raise BenchmarkError(f"{lost} of {plan.idle} idle connections were lost")
    return {
        "kib": (full - empty) / KIB / plan.idle,
        "open_us": 1e6 * cpu / plan.idle,
        "idle_percent": 100 * idle / plan.seconds,
    }


def _run(name: str, opened: _Open, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    wanted = plan.idle + SPARE_FILES
    if (allowed := environment.allow_open_files(wanted)) < wanted:
        raise BenchmarkError(f"{plan.idle} connections need {wanted} open files; the hard limit here is {allowed} (ulimit -Hn)")
    for case in cases:
        with running(name, command()) as server, bound_to(environment.cores().client):
            yield case, _measure(server, opened, plan)


def _trials(plan: Plan) -> list[Trial]:
    return [
        Trial("idle", name, (kind,), partial(_run, name, opened, command))
        for kind, (opened, commands) in _KINDS.items()
        for name, command in commands.items()
    ]


FAMILY: Final = Family(
    "memory",
    "Memory of idle connections",
    "The growth of the resident set of the server's processes while connections are opened, divided by their number. A connection of HTTP "
    "had one request; a WebSocket had its handshake. HTTP/2 is over cleartext, where servers have it. Pings of WebSockets are off, or "
    "further apart than the measurement takes; keep-alive timeouts are too. Opening includes the request.",
    (
        Layout(
            "idle",
            "Idle connections",
            (Measure("kib", "KiB/connection", 1), Measure("open_us", "CPU µs/opening", 0), Measure("idle_percent", "idle, core %", 2)),
        ),
    ),
    _trials,
)
