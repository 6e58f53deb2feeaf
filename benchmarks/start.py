"""From the command to the first connection that is accepted, beside uvicorn: seconds, and the CPU time that they took.

``python -m benchmarks.start [--quick] [--json FILE]``.  The servers alternate, round by round; there is no TLS.  The seconds suffer on a
busy machine, the CPU time less so.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from statistics import median

from . import environment
from .environment import CHECKOUT, BenchmarkError, bound_to, progress
from .http2 import python_of
from .report import Column, Figures, Row, command
from .servers import START_LIMIT, STOP_LIMIT, Server

ROUNDS, QUICK_ROUNDS = 7, 2
COLUMNS = (
    Column("server", "server"),
    Column("seconds_least", "seconds, least", ratio=True),
    Column("seconds", "median", ratio=True),
    Column("seconds_spread", "spread"),
    Column("cpu_least", "CPU ms, least", ratio=True),
    Column("cpu", "median", ratio=True),
    Column("cpu_spread", "spread"),
)


def peers() -> dict[str, list[str]]:
    """Command lines by name; the port is filled in."""
    layer = [sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "-v", "0", "-b", "127.0.0.1", "-p", "{port}"]
    uvicorn = [str(python_of("uvicorn") / "uvicorn"), "--host", "127.0.0.1", "--port", "{port}", "--log-level", "error"]
    return {
        "greendaphne, channel layer": [*layer, "--inline-workers", "1", "benchmarks.apps.on_greendaphne:channel_layer"],
        "uvicorn 0.38": [*uvicorn, "benchmarks.apps.asgi_hello:app"],
    }


def start(line: list[str], core: int) -> tuple[float, float]:
    """Start a server and end it; the seconds until it accepted a connection, and its CPU time in milliseconds."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    variables = dict(os.environ, PYTHONPATH=str(CHECKOUT), BENCH_CAPACITY="100")
    with bound_to(core):
        started = time.monotonic()
        process = subprocess.Popen(
            [part.format(port=port) for part in line],
            cwd=CHECKOUT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return time.monotonic() - started, 1e3 * Server(process, port).cpu()
            except OSError:
                if time.monotonic() > started + START_LIMIT or process.poll() is not None:
                    raise BenchmarkError(f"{line[0]} did not start") from None
                time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(rounds: int) -> list[Figures]:
    """Run the rounds."""
    servers = peers()
    core = environment.cores().server
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    for line in servers.values():
        # The first start compiles.
        start(line, core)
    for number in range(1, rounds + 1):
        progress(f"start: round {number} of {rounds}")
        for name, line in servers.items():
            samples[name].append(start(line, core))
    rows = [_row(name, found) for name, found in samples.items()]
    conditions: Row = {"time": time.strftime("%Y-%m-%d %H:%M"), "server_core": core, "rounds": rounds}
    return [Figures("start", "Start to listening", "case", COLUMNS, rows, conditions)]


def _row(name: str, found: list[tuple[float, float]]) -> Row:
    seconds, cpu = [each[0] for each in found], [each[1] for each in found]
    return {
        "server": name,
        "case": "start",
        "seconds_least": round(min(seconds), 3),
        "seconds": round(median(seconds), 3),
        "seconds_spread": round(max(seconds) - min(seconds), 3),
        "cpu_least": round(min(cpu)),
        "cpu": round(median(cpu)),
        "cpu_spread": round(max(cpu) - min(cpu)),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.start``."""
    return command(argv, __doc__ or "", lambda quick: measure(QUICK_ROUNDS if quick else ROUNDS))


if __name__ == "__main__":
    raise SystemExit(main())
