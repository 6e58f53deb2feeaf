"""Whether a change made the server slower: the working tree beside another commit, by ratio.

``python -m benchmarks.check [--base COMMIT] [--threshold RATIO] [--only CASE] [--instructions] [--json FILE]``, or ``make bench-check``.
The base is checked out into a work tree below ``.cache/bench``; both run under the same interpreter with the same libraries.  Exit code 1
says that a case costs more than ``--threshold`` times what it costs at the base.

By default the measure is CPU time: both servers run all the time, the loads take turns, in seven rounds.  A case fails where both the
ratio of the minima and the ratio of the medians are beyond the threshold, since on a busy machine one of them alone may be.  With
``--instructions`` the measure is what valgrind counts (``--tool=cachegrind``): slower to take, and the same within about 1 % however
busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from . import environment
from .environment import CACHE, CHECKOUT, BenchmarkError, bound_to, progress
from .servers import STOP_LIMIT, Server, certificate
from .text import grid

ROUNDS = 7
#: Seconds for a server to listen; under valgrind it takes that long.
START_LIMIT = 120.0
WARM_UP = 1000
CAPACITY = 4096


class Case(NamedTuple):
    """What is measured: the application, TLS with HTTP/2 or plain HTTP/1.1, connections, streams of each, and requests of a run.

    Without connections it is the start: from the command to the first connection that is accepted.
    """

    name: str
    layer: bool
    http2: bool
    connections: int
    streams: int
    requests: int


CASES = (
    Case("stream, 1 connection", False, False, 1, 1, 4000),
    Case("stream, 64 connections", False, False, 64, 1, 12_000),
    Case("layer, 1 connection", True, False, 1, 1, 3000),
    Case("layer, 64 connections", True, False, 64, 1, 8000),
    Case("HTTP/2, 1 stream", False, True, 8, 1, 4000),
    Case("HTTP/2, 32 streams", False, True, 8, 32, 12_000),
    Case("HTTP/2 through the layer, 32 streams", True, True, 8, 32, 8000),
    Case("start", True, False, 0, 0, 0),
)
Row = dict[str, object]
COLUMNS = {
    "case": "case",
    "unit": "unit",
    "base_minimum": "base, least",
    "minimum": "now, least",
    "base_median": "base, median",
    "median": "now, median",
    "spread": "spread",
    "ratio_of_minima": "× of minima",
    "ratio_of_medians": "× of medians",
    "verdict": "verdict",
}


def base_tree(commit: str) -> Path:
    """A work tree of ``commit``, made where it is missing."""
    name = _git("rev-parse", "--short=12", f"{commit}^{{commit}}")
    tree = CACHE / f"base-{name}"
    if not (tree / "greendaphne").exists():
        shutil.rmtree(tree, ignore_errors=True)
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", "--force", str(tree), name)
    return tree


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def running(tree: Path, case: Case, files: dict[str, str], core: int, tool: tuple[str, ...] = ()) -> Iterator[Server]:
    """Run the server of ``tree`` on ``core``."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    endpoint = f"ssl:{port}:privateKey={files['key']}:certKey={files['cert']}" if case.http2 else f"tcp:{port}"
    endpoint += ":interface=127.0.0.1"
    if case.layer:
        line = [
            str(tree / "bin" / "greendaphne"),
            "-v",
            "0",
            "--inline-workers",
            "4",
            "-e",
            endpoint,
            "benchmarks.apps.on_greendaphne:channel_layer",
        ]
    else:
        line = ["-m", "benchmarks.apps.stream_hello", endpoint]
    variables = dict(os.environ, PYTHONPATH=str(tree), BENCH_CAPACITY=str(CAPACITY), PYTHONHASHSEED="0")
    with tempfile.TemporaryFile() as output:
        with bound_to(core):
            process = subprocess.Popen(
                [*tool, sys.executable, *line], cwd=tree, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
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
                        raise BenchmarkError(f"{tree.name} did not start: {output.read().decode(errors='replace').strip()}") from None
                    time.sleep(0.005)
            yield Server(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT if not tool else START_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def load(server: Server, case: Case, requests: int, core: int) -> None:
    """Make ``requests`` requests."""
    program = shutil.which("h2load")
    if program is None:
        raise BenchmarkError("h2load is missing: apt-get install nghttp2-client")
    line = [program, "-n", str(requests), "-c", str(case.connections), "-m", str(case.streams)]
    line += [f"https://127.0.0.1:{server.port}/"] if case.http2 else ["--h1", f"http://127.0.0.1:{server.port}/"]
    with bound_to(core):
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    succeeded = re.search(r"status codes: ([0-9]+) 2xx", done.stdout)
    if succeeded is None or int(succeeded[1]) != requests:
        raise BenchmarkError(f"h2load: {done.stdout}{done.stderr}")


def cpu_times(trees: list[Path], case: Case, files: dict[str, str], rounds: int) -> list[list[float]]:
    """Microseconds of CPU time per request for each tree and round; of a start, milliseconds."""
    cores = environment.cores()
    found: list[list[float]] = [[] for _ in trees]
    order = list(range(len(trees)))
    if not case.connections:
        for number in range(rounds):
            for index in order[:: 1 if number % 2 else -1]:
                with running(trees[index], case, files, cores.server) as server:
                    found[index].append(1e3 * server.cpu())
        return found
    with ExitStack() as stack:
        servers = [stack.enter_context(running(tree, case, files, cores.server)) for tree in trees]
        for server in servers:
            load(server, case, WARM_UP, cores.client)
        for number in range(rounds):
            for index in order[:: 1 if number % 2 else -1]:
                before = servers[index].cpu()
                load(servers[index], case, case.requests, cores.client)
                found[index].append(1e6 * (servers[index].cpu() - before) / case.requests)
    return found


def instructions(trees: list[Path], case: Case, files: dict[str, str]) -> list[list[float]]:
    """Thousands of instructions per request for each tree: the difference between a longer and a shorter run.  Of a start, millions."""
    if shutil.which("valgrind") is None:
        raise BenchmarkError("valgrind is missing: apt-get install valgrind")
    cores = environment.cores()
    few, many = (0, 0) if not case.connections else (300, 900) if case.connections * case.streams < 32 else (600, 1600)
    found = []
    for tree in trees:
        counts = []
        for requests in sorted({few, many}):
            with tempfile.NamedTemporaryFile() as log:
                tool = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={log.name}")
                with running(tree, case, files, cores.server, tool) as server:
                    if requests:
                        load(server, case, requests, cores.client)
                total = re.search(r"I +refs: +([0-9,]+)", Path(log.name).read_text())
            if total is None:
                raise BenchmarkError("valgrind counted nothing")
            counts.append(int(total[1].replace(",", "")))
        found.append([counts[0] / 1e6 if not many else (counts[1] - counts[0]) / (many - few) / 1e3])
    return found


def judge(case: Case, base: list[float], now: list[float], threshold: float, unit: str) -> Row:
    """The row of one case."""
    minima, medians = min(now) / min(base), median(now) / median(base)
    return {
        "case": case.name,
        "unit": unit,
        "base_minimum": round(min(base), 1),
        "minimum": round(min(now), 1),
        "base_median": round(median(base), 1),
        "median": round(median(now), 1),
        "spread": round(max(now) - min(now), 1),
        "ratio_of_minima": round(minima, 3),
        "ratio_of_medians": round(medians, 3),
        "verdict": "SLOWER" if min(minima, medians) > threshold else "ok",
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", metavar="COMMIT", help="what to compare with; HEAD~1 by default")
    parser.add_argument("--threshold", type=float, default=1.05, metavar="RATIO", help="how much more a case may cost; 1.05 by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="rounds of CPU times; 7 by default")
    parser.add_argument("--only", action="append", metavar="CASE", help="cases whose names contain this; may be repeated")
    parser.add_argument("--instructions", action="store_true", help="count instructions under valgrind instead of CPU time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    try:
        trees = [base_tree(options.base), CHECKOUT]
        files = certificate()
        for case in CASES:
            if options.only and not any(part in case.name for part in options.only):
                continue
            progress(f"check: {case.name}")
            if options.instructions:
                base, now = instructions(trees, case, files)
                unit = "1000 instructions" if case.connections else "million instructions"
            else:
                base, now = cpu_times(trees, case, files, options.rounds)
                unit = "µs CPU" if case.connections else "ms CPU"
            rows.append(judge(case, base, now, options.threshold, unit))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(grid(list(COLUMNS.values()), [[str(row[key]) for key in COLUMNS] for row in rows], 2))
    print(f"\nbase: {trees[0].name}; now: {environment.revision()}; threshold: {options.threshold:g}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["verdict"] != "ok" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
