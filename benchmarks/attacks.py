"""What a well-behaved client notices of another one that attacks."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import quantiles
from typing import Final, NamedTuple

from . import candidates, environment, peers
from .attackers import ATTACKS, Attack
from .environment import CHECKOUT, bound_to
from .family import Family, Layout, Plan, Sample, Trial
from .peers import TODAY
from .results import Measure
from .servers import Command, running

#: Seconds between an answer and the client's next request, and for the attack to begin.
GAP: Final = 0.003
BEFORE: Final = 0.3
WARM_UP: Final = 0.2
#: Seconds for an answer; what takes longer counts as this.
PATIENCE: Final = 2.0
#: From how many connections each attack comes, one after the other.
CONNECTIONS: Final = {"1 connection": 1, "10 connections": 10}
#: The promises, in milliseconds: the most that an attack adds to the p99 of another client, and the longest turn of the hub.
MOST_MORE: Final = 10.0
LONGEST_TURN: Final = 20.0
_REQUEST: Final = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
_OURS: Final = "greendaphne"


class Contestant(NamedTuple):
    """A server: its command over cleartext, its options for TLS, and what it speaks."""

    command: Callable[[], Command]
    tls: Callable[[], Command]
    http2: bool
    websocket: bool

    def takes(self, attack: Attack) -> bool:
        """Whether it speaks what ``attack`` needs."""
        return (self.http2 or not attack.http2) and (self.websocket or not attack.websocket)


_LAYER: Final = "benchmarks.apps.attacked:layer"
_ASGI: Final = "benchmarks.apps.attacked:asgi"
_FILES: Final = ("--certfile", "{cert}", "--keyfile", "{key}")
_SSL: Final = "ssl:{port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"


def _ours(*place: str) -> Command:
    return candidates.layer("--http2-cleartext", *place, application=_LAYER)


def _nginx(*files: str) -> Command:
    environment.tool("nginx", "nginx-light")
    return Command((sys.executable, "-m", "benchmarks.apps.nginx_hello", "{port}", *files))


def _gunicorn(*files: str) -> Command:
    line = (peers.program(TODAY, "gunicorn"), "-k", "gevent", "-w", "1", "-b", "127.0.0.1:{port}", "--log-level", "critical")
    return Command((*line, *files, "benchmarks.apps.attacked:wsgi"))


_CONTESTANTS: Final = {
    _OURS: Contestant(_ours, partial(_ours, "-e", _SSL), http2=True, websocket=True),
    # nginx 1.22 speaks nothing but HTTP/2 on a cleartext port that has it, and the client speaks HTTP/1.1.
    "nginx": Contestant(_nginx, partial(_nginx, "{cert}", "{key}"), http2=False, websocket=False),
    "gunicorn, gevent": Contestant(_gunicorn, partial(_gunicorn, *_FILES), http2=False, websocket=False),
    candidates.UVLOOP: Contestant(
        lambda: candidates.uvicorn("uvloop", _ASGI),
        lambda: candidates.uvicorn("uvloop", _ASGI, "--ssl-certfile", "{cert}", "--ssl-keyfile", "{key}"),
        http2=False,
        websocket=True,
    ),
    candidates.HYPERCORN: Contestant(
        lambda: candidates.hypercorn(_ASGI), lambda: candidates.hypercorn(_ASGI, *_FILES), http2=True, websocket=True
    ),
    candidates.GRANIAN: Contestant(
        lambda: candidates.granian(_ASGI),
        lambda: candidates.granian(_ASGI, "--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}"),
        http2=True,
        websocket=True,
    ),
}


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
        if self._sock is None:
            self._sock = self._connect()
        sock = self._sock
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


def _cuts(taken: Sequence[float]) -> tuple[float, float]:
    if len(taken) < 3:
        worst = max(taken) * 1e3
        return round(worst, 2), round(worst, 2)
    cuts = quantiles(taken, n=100, method="inclusive")
    return round(cuts[49] * 1e3, 2), round(cuts[98] * 1e3, 2)


def _run(name: str, contestant: Contestant, attack: Attack, cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    made = contestant.tls() if attack.tls else contestant.command()
    for case in cases:
        # A server of its own for each: the first attack may leave work behind, and what a first WebSocket costs belongs to both.
        with running(name, made) as server, bound_to(environment.cores().client):
            yield case, _measure(server.port, attack, CONNECTIONS[case.partition(": ")[2]], plan, lag=name == _OURS)


def _measure(port: int, attack: Attack, connections: int, plan: Plan, *, lag: bool) -> Sample:
    """What a client notices at first without and then under ``attack``.

    :param lag: whether the server tells how late its hub was.
    """
    client = Client(port, tls=attack.tls)
    client.latencies(WARM_UP)
    calm = _cuts(client.latencies(plan.seconds / 2))
    if lag:
        client.get(b"/lag")
    attacker = subprocess.Popen([sys.executable, "-m", "benchmarks.attackers", attack.name, str(port), str(connections)], cwd=CHECKOUT)
    try:
        time.sleep(BEFORE)
        under = _cuts(client.latencies(plan.seconds))
        sample = {"p99": under[1], "p50": under[0], "calm_p99": calm[1], "calm_p50": calm[0]}
        sample["more"] = round(under[1] - calm[1], 2)
        if lag:
            late, busy = client.get(b"/lag").split()
            sample |= {"lag": float(late), "busy": float(busy)}
        sample["kept"] = float(kept(sample))
        sample["kept_cpu"] = float(kept(sample, "busy"))
    finally:
        attacker.kill()
        attacker.wait()
        client.close()
    return sample


def kept(sample: Sample, hub: str = "lag") -> bool:
    """Whether the server kept both promises of this page to its other clients.

    :param hub: what counts for the hub: its ``lag``, or ``busy``, its CPU time, to which other processes of the machine add nothing.
    """
    return sample["more"] <= MOST_MORE and sample.get(hub, 0.0) <= LONGEST_TURN


def _trials(plan: Plan) -> list[Trial]:
    return [
        Trial("attacks", name, tuple(f"{attack.name}: {text}" for text in CONNECTIONS), partial(_run, name, contestant, attack))
        for attack in ATTACKS
        for name, contestant in _CONTESTANTS.items()
        if contestant.takes(attack)
    ]


FAMILY: Final = Family(
    "attacks",
    "Another client under attack",
    f"One client asks for hello on one connection, a request every {1e3 * GAP:.0f} ms, while attackers send from one connection "
    "or from ten; both share the second core, where the client goes first. "
    "Without is the time before the attack, and more is what the attack adds to it. Hub lag is "
    "the longest time by which a sleep of a millisecond ended too late in greendaphne; hub CPU is the most CPU time in such a sleep, which "
    f"does not depend on other work of the machine. Kept is 1 if p99 grew by at most {MOST_MORE:.0f} ms and hub lag was at most "
    f"{LONGEST_TURN:.0f} ms; kept, CPU is the same with hub CPU in the place of hub lag, for a machine with other work. "
    f"The client waits at most {1e3 * PATIENCE:,.0f} ms. A server is left out of what it does not speak: WebSockets for nginx and "
    "gunicorn, cleartext HTTP/2 beside HTTP/1.1 for nginx, gunicorn and uvicorn. "
    "``--rounds 3 --seconds 0.5`` takes ten minutes.",
    (
        Layout(
            "attacks",
            "Hello while another client attacks",
            (
                Measure("p99", "p99 ms", 1),
                Measure("more", "p99 more ms", 1),
                Measure("p50", "p50 ms", 1),
                Measure("calm_p99", "without, p99", 1),
                Measure("calm_p50", "without, p50", 1),
                Measure("lag", "hub lag ms", 1),
                Measure("busy", "hub CPU ms", 1),
                Measure("kept", "kept", 0, less_is_better=False),
                Measure("kept_cpu", "kept, CPU", 0, less_is_better=False),
            ),
        ),
    ),
    _trials,
)
