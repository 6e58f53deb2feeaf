"""What a well-behaved client notices of another one that attacks: p50 and p99 of hello, beside the same without the attack.

``python -m benchmarks.attacks [--quick] [--only PART] [--json FILE]``.  Every server runs hello on the first core.  A client asks for it on
one connection, a request every few milliseconds, while attackers from :mod:`benchmarks.attackers` send from 1 and from 10 connections;
both share the second core.  *Hub lag* is greendaphne's own: the longest time by which a sleep of a millisecond ended too late, and
*CPU* the most CPU time in such a sleep, which does not depend on what else the machine does.

Servers: greendaphne (in-memory layer, inline workers), nginx (answers by itself), gunicorn with gevent workers, uvicorn and hypercorn.  A
server is left out of what it does not speak: WebSockets for nginx and gunicorn, cleartext HTTP/2 for nginx, gunicorn and uvicorn.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import NamedTuple

from . import environment
from .apps.nginx_hello import program as nginx_program
from .attackers import ATTACKS, Attack
from .candidates import INLINE_WORKERS
from .environment import CHECKOUT, bound_to, progress
from .http2 import ENVIRONMENTS, Peer, certificate, python_of, running
from .report import Column, Figures, Row, command

ENVIRONMENTS |= {
    "gunicorn": ("gunicorn==27.0.1", "gevent==26.9.0", "packaging==26.4"),
    "uvicorn": ("uvicorn[standard]==0.54.0",),
}

#: Seconds between an answer and the client's next request, and for the attack to begin.
GAP = 0.003
BEFORE = 0.5
#: Seconds for an answer; what takes longer counts as this.
PATIENCE = 5.0
CONNECTIONS = (1, 10)
_REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Contestant(NamedTuple):
    """A server: its command lines, over cleartext, TLS and HTTP/2 with prior knowledge; ``None`` for what it does not speak."""

    name: str
    plain: tuple[str, ...]
    tls: tuple[str, ...]
    http2: tuple[str, ...] | None
    websocket: bool

    def line(self, attack: Attack) -> tuple[str, ...] | None:
        """How it is started for ``attack``."""
        if attack.websocket and not self.websocket:
            return None
        return self.http2 if attack.http2 else self.tls if attack.tls else self.plain


def contestants() -> list[Contestant]:
    """All servers that can be started here, ours first."""
    ours = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "-v", "0", "--inline-workers", str(INLINE_WORKERS), "--http2-cleartext")
    layer = "benchmarks.apps.attacked:layer"
    tcp, tls = "tcp:{port}:interface=127.0.0.1", "ssl:{port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    plain = (*ours, "-e", tcp, layer)
    gunicorn = (str(python_of("gunicorn") / "gunicorn"), "-k", "gevent", "-w", "1", "-b", "127.0.0.1:{port}", "--log-level", "critical")
    uvicorn = (str(python_of("uvicorn") / "uvicorn"), "--port", "{port}", "--log-level", "critical", "--no-access-log")
    hypercorn = (str(python_of("hypercorn") / "hypercorn"), "--bind", "127.0.0.1:{port}", "--log-level", "critical")
    asgi, wsgi = "benchmarks.apps.attacked:asgi", "benchmarks.apps.attacked:wsgi"
    files = ("--certfile", "{cert}", "--keyfile", "{key}")
    nginx = (sys.executable, "-m", "benchmarks.apps.nginx_hello", "{port}")
    found = [
        Contestant("greendaphne", plain, (*ours, "-e", tls, layer), plain, True),
        Contestant("gunicorn gevent", (*gunicorn, wsgi), (*gunicorn, *files, wsgi), None, False),
        Contestant("uvicorn", (*uvicorn, asgi), (*uvicorn, "--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}", asgi), None, True),
        Contestant("hypercorn", (*hypercorn, asgi), (*hypercorn, *files, asgi), (*hypercorn, asgi), True),
    ]
    if nginx_program() is None:
        progress("nginx is not installed, and left out")
    else:
        # nginx 1.22 speaks nothing but HTTP/2 on a cleartext port that has it, and the client speaks HTTP/1.1.
        found.append(Contestant("nginx", nginx, (*nginx, "{cert}", "{key}"), None, False))
    return found


class Client:
    """Asks for hello over HTTP/1.1."""

    def __init__(self, port: int, *, tls: bool) -> None:
        self._port = port
        self._tls = tls
        self._sock: socket.socket | None = self._connect()

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._tls:
            return sock
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock)

    def get(self, path: bytes = b"/") -> bytes:
        """The body of an answer."""
        sock = self._sock
        assert sock is not None
        sock.sendall(_REQUEST % path)
        data = b""
        while True:
            piece = sock.recv(65536)
            if not piece:
                raise ConnectionError("the server closed the client's connection")
            data += piece
            head, found, body = data.partition(b"\r\n\r\n")
            if not found:
                continue
            lower = head.lower()
            if b"transfer-encoding: chunked" in lower:
                if body.endswith(b"0\r\n\r\n"):
                    return body
            elif len(body) >= int(lower.partition(b"content-length:")[2].split(b"\r\n")[0]):
                return body

    def latencies(self, seconds: float) -> list[float]:
        """Seconds that each request took; one that failed, or took longer than :data:`PATIENCE`, counts for that."""
        taken = []
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            try:
                if self._sock is None:
                    self._sock = self._connect()
                self.get()
                taken.append(time.perf_counter() - begun)
            except OSError:
                self.close()
                taken.append(PATIENCE)
            time.sleep(GAP)
        return taken

    def close(self) -> None:
        """End."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Plan(NamedTuple):
    """Seconds of each run."""

    seconds: float


FULL = Plan(8)
QUICK = Plan(2)

COLUMNS = (
    Column("server", "server"),
    Column("attack", "attack"),
    Column("connections", "connections"),
    Column("p50", "p50 ms"),
    Column("p99", "p99 ms"),
    Column("calm_p50", "without, p50"),
    Column("calm_p99", "without, p99"),
    Column("more", "p99 more"),
    Column("lag", "hub lag ms"),
    Column("busy", "CPU ms"),
)


def _cuts(taken: Sequence[float]) -> tuple[float, float]:
    if len(taken) < 3:
        worst = max(taken) * 1e3
        return round(worst, 2), round(worst, 2)
    cuts = quantiles(taken, n=100, method="inclusive")
    return round(cuts[49] * 1e3, 2), round(cuts[98] * 1e3, 2)


def _one(contestant: Contestant, attack: Attack, files: dict[str, str], plan: Plan, cores: environment.Cores) -> list[Row]:
    line = contestant.line(attack)
    if line is None:
        return []
    peer = Peer(contestant.name, line, None)
    rows: list[Row] = []
    with running(peer, line, files, cores.server) as server, bound_to(cores.client):
        ours = contestant.name == "greendaphne"
        client = Client(server.port, tls=attack.tls)
        if ours:
            client.get(b"/lag")
        client.latencies(plan.seconds / 4)
        calm = _cuts(client.latencies(plan.seconds))
        for connections in CONNECTIONS:
            if ours:
                client.get(b"/lag")
            attacker = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.attackers", attack.name, str(server.port), str(connections)], cwd=CHECKOUT
            )
            try:
                time.sleep(BEFORE)
                under = _cuts(client.latencies(plan.seconds))
                lag, busy = (round(float(word), 1) for word in client.get(b"/lag").split()) if ours else (None, None)
            finally:
                attacker.kill()
                attacker.wait()
            rows.append(
                {
                    "server": contestant.name,
                    "attack": attack.name,
                    "connections": connections,
                    "p50": under[0],
                    "p99": under[1],
                    "calm_p50": calm[0],
                    "calm_p99": calm[1],
                    "more": round(under[1] - calm[1], 2),
                    "lag": lag,
                    "busy": busy,
                }
            )
            # The server finishes what it holds of this attack before the next one begins.
            client.latencies(BEFORE)
        client.close()
    return rows


def measure(plan: Plan, only: Sequence[str]) -> list[Figures]:
    """Run every attack against every server."""
    cores = environment.cores()
    rows: list[Row] = []
    with certificate() as files:
        servers = contestants()
        for attack in ATTACKS:
            for contestant in servers:
                if contestant.name in only:
                    progress(f"attacks: {attack.name}, {contestant.name}")
                    rows += _one(contestant, attack, files, plan, cores)
    conditions: Row = {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "server_core": cores.server,
        "client_and_attackers_core": cores.client,
        "seconds": plan.seconds,
    }
    return [Figures("attacks", "Another client under attack", "attack", COLUMNS, rows, conditions)]


PARTS = ("greendaphne", "gunicorn gevent", "uvicorn", "hypercorn", "nginx")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.attacks``."""
    return command(argv, __doc__ or "", lambda quick, parts: measure(QUICK if quick else FULL, parts), parts=PARTS)


if __name__ == "__main__":
    raise SystemExit(main())
