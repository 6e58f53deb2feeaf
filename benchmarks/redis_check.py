"""What a request through Redis costs in the working tree, beside another commit: server, workers and Redis apart.

``python -m benchmarks.redis_check [--base COMMIT] [--rounds N] [--seconds S] [--only CASE] [--own-workers]``.
Each commit has a Redis, a server and three worker processes of its own, all of which run all the time; the loads take turns, so that
whatever else the machine does falls on both alike.  The workers are asgi_redis' for both, or with ``--own-workers`` each commit's own.

CPU time is that of the server's process, that of the worker processes together, and that of Redis.  Wake-ups are the server's voluntary
context switches.  Round trips are reads that Redis counted, the workers' included; commands are those that it executed, Lua's among them;
bytes are what it received and sent.  Exit code 1 says that a case costs the server more than ``--threshold`` times as much CPU time, by
the minima and by the medians, or more round trips, by the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from . import environment, peers, wsclient
from .check import Case, base_tree, load
from .environment import CHECKOUT, BenchmarkError, bound_to, progress
from .load import warm_up
from .peers import CHANNELS1
from .redis import APPLICATION, LEGACY_LAYER, OUR_LAYER, WORKERS, Redis, redis_process
from .servers import Command, Server, running
from .text import grid

ROUNDS: Final = 7
SECONDS: Final = 1.0
CAPACITY: Final = 4096
#: Seconds for a server to listen, and to end; under valgrind it takes that long.
LIMIT: Final = 180.0
#: Requests of the two runs under valgrind.
FEW, MANY = 300, 900
#: Connections of each case, and requests of a run; 0 for WebSockets, which are counted.
CASES: Final = {
    "hello, 1 connection": (1, 600),
    "hello, 32 connections": (32, 1600),
    "hello, 256 connections": (256, 2048),
    "echo, 32 WebSockets": (32, 0),
}
FIGURES: Final = ("server µs", "workers µs", "Redis µs", "wake-ups", "round trips", "commands", "bytes", "rate")


class Deployed(NamedTuple):
    """One commit at work."""

    server: Server
    workers: list[Server]
    redis: Redis


@contextmanager
def deployed(tree: Path, *, own_workers: bool, tool: tuple[str, ...] = ()) -> Iterator[Deployed]:
    """Redis, workers and the server of ``tree``, this under ``tool``; Redis and the workers share the core of the load."""
    with redis_process() as redis, ExitStack() as stack:
        variables = {"BENCH_REDIS_URL": redis.url, "BENCH_CAPACITY": str(CAPACITY), "PYTHONPATH": str(tree)}
        python, layer = (sys.executable, OUR_LAYER) if own_workers else (peers.python(CHANNELS1), LEGACY_LAYER)
        workers = []
        with bound_to(environment.cores().client):
            for _ in range(WORKERS):
                process = subprocess.Popen(
                    [python, "-W", "ignore", "-m", "benchmarks.apps.on_redis", "1"],
                    cwd=tree,
                    env={**os.environ, **variables, "BENCH_REDIS_LAYER": layer},
                )
                stack.callback(process.wait)
                stack.callback(process.kill)
                workers.append(Server(process, 0))
        line = (*tool, sys.executable, str(tree / "bin" / "greendaphne"), "-v", "0", "-b", "127.0.0.1", "-p", "{port}", APPLICATION)
        command = Command(line, {**variables, "BENCH_REDIS_LAYER": OUR_LAYER, "PYTHONHASHSEED": "0"})
        server = stack.enter_context(running(tree.name, command, start_limit=LIMIT, stop_limit=LIMIT))
        warm_up(server.port, environment.cores().client)
        yield Deployed(server, workers, redis)


def instructions(tree: Path, case: str, *, own_workers: bool) -> float:
    """Thousands of instructions of the server for each request: the difference between a longer and a shorter run under valgrind.

    The server is so slow there that messages always travel together: what is counted is the work, not the wake-ups.
    """
    counts = []
    for requests in (FEW, MANY):
        with tempfile.NamedTemporaryFile() as log:
            tool = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={log.name}")
            with deployed(tree, own_workers=own_workers, tool=tool) as target:
                load(target.server, Case(case, True, False, CASES[case][0], 1, requests), requests, environment.cores().client)
            total = re.search(r"I +refs: +([0-9,]+)", Path(log.name).read_text())
        if total is None:
            raise BenchmarkError("valgrind counted nothing")
        counts.append(int(total[1].replace(",", "")))
    return (counts[1] - counts[0]) / (MANY - FEW) / 1e3


def measure(target: Deployed, case: str, seconds: float) -> list[float]:
    """The figures of one run, per request or message."""
    connections, count = CASES[case]
    before, begun = _totals(target), time.perf_counter()
    if count:
        # A number of requests, not of seconds: those that are on their way at the end would be paid for and not counted.
        load(target.server, Case(case, True, False, connections, 1, count), count, environment.cores().client)
    else:
        with bound_to(environment.cores().client):
            count = asyncio.run(_echo(target.server, connections, seconds))
    taken = time.perf_counter() - begun
    return [(now - then) / count for now, then in zip(_totals(target), before, strict=True)] + [count / taken]


async def _echo(server: Server, connections: int, seconds: float) -> int:
    clients = await wsclient.connect(server.port, connections)
    echoes = await wsclient.echo(clients, b"x" * 16, seconds)
    wsclient.close(clients)
    return echoes.messages


def _totals(target: Deployed) -> list[float]:
    counted = target.redis.counters()
    workers = sum(worker.cpu() for worker in target.workers)
    return [
        1e6 * target.server.cpu(),
        1e6 * workers,
        1e6 * counted.cpu,
        _wake_ups(target.server.process.pid),
        counted.reads,
        counted.commands,
        counted.bytes,
    ]


def _wake_ups(pid: int) -> int:
    """How often the process has waited: each wait costs the kernel's work, and caches that others used meanwhile."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split(None, 1)[0])


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.redis_check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", metavar="COMMIT", help="what to compare with; HEAD~1 by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"rounds; {ROUNDS} by default")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"seconds of a run of WebSockets; {SECONDS:g} by default"
    )
    parser.add_argument("--only", action="append", metavar="CASE", help=f"cases whose names contain this: {'; '.join(CASES)}")
    parser.add_argument("--own-workers", action="store_true", help="workers on each commit's own layer, not on asgi_redis")
    parser.add_argument("--threshold", type=float, default=1.03, metavar="RATIO", help="how much more a case may cost; 1.03 by default")
    parser.add_argument("--instructions", action="store_true", help="count the server's instructions under valgrind instead; no echo")
    options = parser.parse_args(argv)
    cases = [case for case in CASES if not options.only or any(part in case for part in options.only)]
    failed = False
    try:
        trees = [base_tree(options.base), CHECKOUT]
        if options.instructions:
            return _compare_instructions(trees, [case for case in cases if CASES[case][1]], options)
        found: dict[str, list[list[list[float]]]] = {case: [[], []] for case in cases}
        with ExitStack() as stack:
            targets = [stack.enter_context(deployed(tree, own_workers=options.own_workers)) for tree in trees]
            for number in range(options.rounds):
                progress(f"redis_check: round {number + 1} of {options.rounds}")
                for case in cases:
                    for index in (0, 1) if number % 2 else (1, 0):
                        found[case][index].append(measure(targets[index], case, options.seconds))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    rows = []
    for case, (base, now) in found.items():
        for index, figure in enumerate(FIGURES):
            before, after = [run[index] for run in base], [run[index] for run in now]
            minima, medians = min(after) / min(before), median(after) / median(before)
            judged = {"server µs": min(minima, medians), "round trips": medians}.get(figure)
            verdict = "" if judged is None else "ok" if judged <= options.threshold else "MORE"
            failed = failed or verdict == "MORE"
            values = [f"{value:.2f}" for value in (min(before), min(after), median(before), median(after))]
            rows.append([case if not index else "", figure, *values, f"{minima:.3f}", f"{medians:.3f}", verdict])
    header = ["case", "figure", "base, least", "now, least", "base, median", "now, median", "× of minima", "× of medians", "verdict"]
    print(grid(header, rows, 2))
    print(f"\nbase: {trees[0].name}; now: {environment.revision()}; threshold: {options.threshold:g}; load: {environment.load_average()}")
    return int(failed)


def _compare_instructions(trees: list[Path], cases: list[str], options: argparse.Namespace) -> int:
    rows = []
    for case in cases:
        progress(f"redis_check: {case}")
        base, now = (instructions(tree, case, own_workers=options.own_workers) for tree in trees)
        rows.append([case, f"{base:.1f}", f"{now:.1f}", f"{now / base:.3f}", "ok" if now / base <= options.threshold else "MORE"])
    print(grid(["case", "base, 1000 instructions", "now", "ratio", "verdict"], rows, 1))
    return int(any(row[-1] == "MORE" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
