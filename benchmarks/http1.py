"""Hello over HTTP/1.1 through each server's in-memory channel layer: requests a second, latency and the server's CPU time per request.

``python -m benchmarks.http1 [--quick] [--json FILE]``.  The servers alternate, round by round, each new in every round; the figures are
medians over the rounds.  CPU time is user and system time of the server's whole process, the worker that runs the application included.
"""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import NamedTuple

from . import candidates, environment
from .environment import progress
from .load import Load, generate
from .report import Column, Figures, Row, command
from .servers import Candidate, running

#: Well above the number of connections: what is measured is the servers, not how they refuse.
CAPACITY = 1000
CONNECTIONS = (1, 32, 64)
WARM_UP = 1.0


class Plan(NamedTuple):
    """How long to measure: rounds, and seconds of each run within a round."""

    rounds: int
    seconds: float


FULL = Plan(7, 3.0)
QUICK = Plan(1, 2.0)


class Sample(NamedTuple):
    """One run: the load's own figures and the server's CPU seconds meanwhile."""

    load: Load
    cpu: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time per request."""
        return 1e6 * self.cpu / self.load.requests

    @property
    def busy(self) -> float:
        """The share of a core that the server used, in per cent."""
        return 100 * self.cpu / self.load.seconds


COLUMNS = (
    Column("server", "server"),
    Column("connections", "connections"),
    Column("requests_per_second", "requests/s", ratio=True),
    Column("median_ms", "median ms", ratio=True),
    Column("p99_ms", "p99 ms", ratio=True),
    Column("cpu_us_per_request", "CPU µs/request", ratio=True),
    Column("cpu_us_least", "least", ratio=True),
    Column("cpu_us_spread", "spread"),
    Column("core_percent", "core %"),
    Column("errors", "errors"),
)


def measure(servers: list[Candidate], plan: Plan) -> Figures:
    """Run the plan."""
    wrk = environment.wrk()
    cores = environment.cores()
    samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for candidate in servers:
            with running(candidate, core=cores.server, capacity=CAPACITY) as server:
                for connections in CONNECTIONS:
                    progress(f"http1: round {number} of {plan.rounds}, {candidate.name}, {connections} connections")
                    generate(wrk, server.port, connections=connections, seconds=WARM_UP, core=cores.client)
                    before = server.cpu()
                    load = generate(wrk, server.port, connections=connections, seconds=plan.seconds, core=cores.client)
                    samples[candidate.name, connections].append(Sample(load, server.cpu() - before))
    conditions: Row = {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "load": "wrk" if wrk else "benchmarks.load",
        "server_core": cores.server,
        "client_core": cores.client,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
    }
    rows = [_row(candidate.name, n, samples[candidate.name, n]) for n in CONNECTIONS for candidate in servers]
    return Figures("http1", "Hello over HTTP/1.1", "connections", COLUMNS, rows, conditions)


def _row(name: str, connections: int, samples: list[Sample]) -> Row:
    return {
        "server": name,
        "connections": connections,
        "requests_per_second": round(median(s.load.rate for s in samples), 1),
        "median_ms": round(median(s.load.median_ms for s in samples), 3),
        "p99_ms": round(median(s.load.p99_ms for s in samples), 3),
        "cpu_us_per_request": round(median(s.cpu_us for s in samples), 1),
        "cpu_us_least": round(min(s.cpu_us for s in samples), 1),
        "cpu_us_spread": round(max(s.cpu_us for s in samples) - min(s.cpu_us for s in samples), 1),
        "cpu_us_per_request_range": [round(min(s.cpu_us for s in samples), 1), round(max(s.cpu_us for s in samples), 1)],
        "core_percent": round(median(s.busy for s in samples), 1),
        "errors": sum(s.load.errors for s in samples),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.http1``."""
    return command(argv, __doc__ or "", lambda quick: [measure(candidates.both(), QUICK if quick else FULL)], candidates.versions)


if __name__ == "__main__":
    raise SystemExit(main())
