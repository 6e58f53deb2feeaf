"""Hello over HTTP/2 beside hypercorn, granian and both generations of daphne: what a request costs the server, at 1 and 32 streams.

``python -m benchmarks.http2 [--quick] [--json FILE]``.  h2load (Debian's ``nghttp2-client``) makes the load, with few header fields and
with the 19 of a browser, over TLS and, where a server can, over cleartext with prior knowledge.  The servers alternate, round by round,
each new in every round; figures are medians over the rounds.  CPU time is user and system time of the server's whole process tree.

greendaphne is there twice: answering on the stream itself, as the ASGI servers' application does, and through its in-memory channel layer
with inline workers, as daphne 1.4.2 does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from . import environment
from .candidates import INLINE_WORKERS
from .environment import CACHE, CHECKOUT, BenchmarkError, bound_to, progress
from .report import Column, Figures, Row, command
from .servers import START_LIMIT, START_PAUSE, STOP_LIMIT, Server

#: Pinned, so that figures of different days compare.  HTTP/2 is an extra of Twisted's, which daphne leaves to its users.
TWISTED_HTTP2 = ("Twisted[tls,http2]==26.10.0",)
ENVIRONMENTS = {
    "hypercorn": ("hypercorn==0.18.0",),
    "granian": ("granian==2.8.7",),
    "uvicorn": ("uvicorn==0.38.0",),
    "daphne4": ("daphne==4.2.3", *TWISTED_HTTP2),
    "daphne1": ("daphne==1.4.2", *TWISTED_HTTP2, "autobahn==24.4.2", "asgiref==1.1.2", "setuptools<81"),
}
CONNECTIONS = 8
STREAMS = (1, 32)
WARM_UP_REQUESTS = 2000
CAPACITY = 1000
#: What Chromium sends with a navigation.
BROWSER = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "accept-encoding: gzip, deflate, br, zstd",
    "accept-language: en-US,en;q=0.9",
    "cache-control: max-age=0",
    'sec-ch-ua: "Chromium";v="126", "Not.A/Brand";v="24"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "sec-fetch-dest: document",
    "sec-fetch-mode: navigate",
    "sec-fetch-site: same-origin",
    "sec-fetch-user: ?1",
    "upgrade-insecure-requests: 1",
    "referer: https://localhost/a/page/before",
    "cookie: sessionid=abcdefghijklmnopqrstuvwxyz012345",
    "cookie: csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    "priority: u=0, i",
    "dnt: 1",
    'if-none-match: "33a64df551425fcc55e4d42a148795d9"',
)


class Plan(NamedTuple):
    """How long to measure: rounds, and requests of each run within a round."""

    rounds: int
    requests: int


FULL = Plan(7, 20_000)
QUICK = Plan(1, 3_000)


class Peer(NamedTuple):
    """A server: its command line, in which ``{port}``, ``{key}`` and ``{cert}`` are filled in, over TLS and over cleartext."""

    name: str
    tls: tuple[str, ...]
    cleartext: tuple[str, ...] | None


class Sample(NamedTuple):
    """One run."""

    rate: float
    cpu_us: float


def python_of(name: str) -> Path:
    """The directory of programs of a peer's environment, which is made where it is missing."""
    home = CACHE / f"{name}-http2-py{sys.version_info.major}{sys.version_info.minor}"
    mark = home / "complete"
    wanted = "\n".join(ENVIRONMENTS[name])
    if not mark.exists() or mark.read_text() != wanted:
        progress(f"preparing {name} in {home.relative_to(CHECKOUT)} (once)")
        shutil.rmtree(home, ignore_errors=True)
        base = getattr(sys, "_base_executable", None) or sys.executable
        for step in (
            [base, "-m", "venv", str(home)],
            [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVIRONMENTS[name]],
        ):
            done = subprocess.run(step, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                raise BenchmarkError(f"{' '.join(step)} failed: {(done.stderr or done.stdout).strip()}")
        mark.write_text(wanted)
    return home / "bin"


def peers() -> list[Peer]:
    """All servers; the first is the one that the others are compared with."""
    stream = (sys.executable, "-m", "benchmarks.apps.stream_hello")
    ssl = "ssl:{port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    tcp = "tcp:{port}:interface=127.0.0.1"
    layer = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "-v", "0", "--inline-workers", str(INLINE_WORKERS))
    ours = "benchmarks.apps.on_greendaphne:channel_layer"
    app = "benchmarks.apps.asgi_hello:app"
    hypercorn = (str(python_of("hypercorn") / "hypercorn"), "--bind", "127.0.0.1:{port}", "--log-level", "error")
    listen = ("--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}")
    granian = (str(python_of("granian") / "granian"), *listen, "--http", "2", "--no-ws", "--log-level", "error")
    return [
        Peer("greendaphne, on the stream", (*stream, ssl), (*stream, tcp)),
        Peer("greendaphne, channel layer", (*layer, "-e", ssl, ours), (*layer, "--http2-cleartext", "-e", tcp, ours)),
        Peer("hypercorn 0.18", (*hypercorn, "--certfile", "{cert}", "--keyfile", "{key}", app), (*hypercorn, app)),
        Peer("granian 2.8", (*granian, "--ssl-certificate", "{cert}", "--ssl-keyfile", "{key}", app), (*granian, app)),
        Peer("daphne 4.2", (str(python_of("daphne4") / "daphne"), "-v", "0", "-e", ssl, app), None),
        Peer("daphne 1.4.2", (str(python_of("daphne1") / "daphne"), "-v", "0", "-e", ssl, "benchmarks.apps.on_daphne:channel_layer"), None),
    ]


@contextmanager
def certificate() -> Iterator[dict[str, str]]:
    """A key and a certificate for localhost."""
    with tempfile.TemporaryDirectory() as directory:
        key, cert = str(Path(directory) / "key.pem"), str(Path(directory) / "cert.pem")
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
        subprocess.run([*make, "-days", "1", "-keyout", key, "-out", cert], check=True, capture_output=True)
        yield {"key": key, "cert": cert}


@contextmanager
def running(peer: Peer, line: tuple[str, ...], files: dict[str, str], core: int) -> Iterator[Server]:
    """Run a server on ``core`` while the block runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    arguments = [part.format(port=port, **files) for part in line]
    variables = dict(os.environ, PYTHONPATH=str(CHECKOUT), BENCH_CAPACITY=str(CAPACITY), PYTHONDONTWRITEBYTECODE="1")
    with tempfile.TemporaryFile() as output:
        with bound_to(core):
            process = subprocess.Popen(
                arguments, cwd=CHECKOUT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            end = time.monotonic() + START_LIMIT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > end or process.poll() is not None:
                        output.seek(0)
                        said = output.read().decode(errors="replace").strip() or "it said nothing"
                        raise BenchmarkError(f"{peer.name} did not start: {said}") from None
                    time.sleep(START_PAUSE)
            yield Server(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def load(server: Server, scheme: str, streams: int, fields: tuple[str, ...], requests: int, core: int) -> float:
    """Make ``requests`` requests; returns how many a second were answered."""
    program = shutil.which("h2load")
    if program is None:
        raise BenchmarkError("h2load is missing: apt-get install nghttp2-client")
    line = [program, "-n", str(requests), "-c", str(CONNECTIONS), "-m", str(streams)]
    for field in fields:
        line += ["-H", field]
    with bound_to(core):
        done = subprocess.run([*line, f"{scheme}://127.0.0.1:{server.port}/"], capture_output=True, text=True, check=False)
    rate = re.search(r"finished in [^,]*, ([0-9.]+) req/s", done.stdout)
    succeeded = re.search(r"status codes: ([0-9]+) 2xx", done.stdout)
    if rate is None or succeeded is None or int(succeeded[1]) != requests or "Application protocol: h2" not in done.stdout:
        raise BenchmarkError(f"h2load: {done.stdout}{done.stderr}")
    return float(rate[1])


COLUMNS = (
    Column("server", "server"),
    Column("case", "case"),
    Column("requests_per_second", "requests/s"),
    Column("cpu_us_per_request", "CPU µs/request"),
    Column("cpu_us_least", "least"),
    Column("cpu_us_spread", "spread"),
    Column("per_cpu_second", "requests/CPU-second"),
    Column("ratio", "first server's work per CPU-second, ×"),
)


def measure(plan: Plan) -> list[Figures]:
    """Run the plan."""
    servers = peers()
    cores = environment.cores()
    conditions: Row = {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "load": "h2load",
        "connections": CONNECTIONS,
        "server_core": cores.server,
        "client_core": cores.client,
        "rounds": plan.rounds,
        "requests": plan.requests,
    }
    cases = [(streams, fields) for fields in ((), BROWSER) for streams in STREAMS]
    figures = []
    with certificate() as files:
        for scheme in ("https", "http"):
            samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
            for number in range(1, plan.rounds + 1):
                for peer in servers:
                    line = peer.tls if scheme == "https" else peer.cleartext
                    if line is None:
                        continue
                    progress(f"http2: round {number} of {plan.rounds}, {scheme}, {peer.name}")
                    with running(peer, line, files, cores.server) as server:
                        load(server, scheme, 1, (), WARM_UP_REQUESTS, cores.client)
                        for streams, fields in cases:
                            before = server.cpu()
                            rate = load(server, scheme, streams, fields, plan.requests, cores.client)
                            cpu = (server.cpu() - before) / plan.requests
                            samples[peer.name, _case(streams, fields)].append(Sample(rate, 1e6 * cpu))
            rows = [row for case in cases for row in _rows(_case(*case), [peer.name for peer in servers], samples)]
            title = "Hello over HTTP/2, TLS" if scheme == "https" else "Hello over HTTP/2, cleartext with prior knowledge"
            figures.append(Figures(f"http2-{scheme}", title, "case", COLUMNS, rows, conditions))
    return figures


def _case(streams: int, fields: tuple[str, ...]) -> str:
    return f"{streams} stream{'s' * (streams > 1)}, {'browser' if fields else 'plain'}"


def _rows(case: str, names: list[str], samples: dict[tuple[str, str], list[Sample]]) -> list[Row]:
    rows: list[Row] = []
    first = 0.0
    for name in names:
        mine = samples.get((name, case))
        if not mine:
            continue
        cpu = median(sample.cpu_us for sample in mine)
        first = first or cpu
        rows.append(
            {
                "server": name,
                "case": case,
                "requests_per_second": round(median(sample.rate for sample in mine)),
                "cpu_us_per_request": round(cpu, 1),
                "cpu_us_least": round(min(s.cpu_us for s in mine), 1),
                "cpu_us_spread": round(max(s.cpu_us for s in mine) - min(s.cpu_us for s in mine), 1),
                "cpu_us_per_request_range": [round(min(s.cpu_us for s in mine), 1), round(max(s.cpu_us for s in mine), 1)],
                "per_cpu_second": round(1e6 / cpu),
                "ratio": round(cpu / first, 2),
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.http2``."""
    return command(argv, __doc__ or "", lambda quick: measure(QUICK if quick else FULL))


if __name__ == "__main__":
    raise SystemExit(main())
