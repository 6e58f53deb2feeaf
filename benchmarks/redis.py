"""Hello and a group message through Redis: greendaphne on its own layer against daphne 1.4.2 on asgi_redis, with the same workers.

``python -m benchmarks.redis [--quick] [--only http|group] [--json FILE]``; all of it takes five minutes.  The workers are asgi_redis' for
both servers, so that the difference is the server's; a third row shows greendaphne with workers on its own layer.  A new, empty Redis
serves each run.  Commands and round trips are Redis' own counters per request, workers included; the server's share is what remains
beside workers on asgi_redis, which are known by their commands.  Needs redis-server.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan, nan
from statistics import median
from typing import NamedTuple

from . import environment, wsclient
from .apps.consumers import TO_EVERYONE
from .environment import CHECKOUT, COMPLETE, BenchmarkError, bound_to, progress
from .load import generate
from .report import Column, Figures, Row, command
from .servers import Candidate, Server, running

CAPACITY = 1000
#: The default of asgi_redis, under which a group message is measured.
GROUP_CAPACITY = 100
CONNECTIONS = (1, 32, 256)
WORKERS = 3
WARM_UP = 1.0
#: Round trips of a worker on asgi_redis: BLPOP, GET and DEL for each message, two scripts for each reply.
ROUND_TRIPS_PER_RECEIVE = 3
ROUND_TRIPS_PER_REPLY = 2
#: Seconds for redis-server to start.
START_LIMIT = 10.0
#: Seconds without another arrival after which a message to the group counts as lost for the rest.
GROUP_LIMIT = 3.0
REST = 2.0
#: File descriptors beyond the group's connections.
SPARE_FILES = 300

#: The newest set on which daphne 1.4.2 runs with asgi_redis.
REQUIREMENTS = (
    "daphne==1.4.2",
    "Twisted==26.10.0",
    "autobahn==24.4.2",
    "asgiref==1.1.2",
    "asgi_redis==1.4.3",
    "redis==2.10.6",
    "msgpack-python==0.5.6",
    "setuptools<81",
)
OUR_LAYER = "greendaphne.layers.redis.RedisChannelLayer"
LEGACY_LAYER = "asgi_redis.RedisChannelLayer"
APPLICATION = "benchmarks.apps.on_redis:channel_layer"


class Plan(NamedTuple):
    """Rounds of requests, seconds of each run; members of the group, messages to it, seconds of idling."""

    rounds: int
    seconds: float
    members: int
    messages: int
    idle_seconds: float


FULL = Plan(7, 4.0, 1000, 5, 11.0)
QUICK = Plan(1, 2.0, 200, 2, 6.0)
HTTP, GROUP = PARTS = ("http", "group")


class Deployment(NamedTuple):
    """A server, its layer, and its workers' interpreter and layer."""

    server: Candidate
    layer: str
    worker_python: str
    worker_layer: str


class Counters(NamedTuple):
    """What Redis counted since it started."""

    commands: int
    reads: int
    blpops: int


def legacy_python() -> str:
    """The interpreter of the environment with daphne and asgi_redis, which is made where it is missing."""
    home = environment.CACHE / f"daphne-redis-py{sys.version_info.major}{sys.version_info.minor}"
    python = home / "bin" / "python"
    mark = home / COMPLETE
    wanted = "\n".join(REQUIREMENTS)
    if not mark.exists() or mark.read_text() != wanted:
        progress(f"preparing daphne 1.4.2 with asgi_redis in {home.relative_to(CHECKOUT)} (once)")
        shutil.rmtree(home, ignore_errors=True)
        for arguments in (
            [getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
        ):
            done = subprocess.run(arguments, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                raise BenchmarkError(f"{' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
        mark.write_text(wanted)
    return str(python)


def deployments() -> list[Deployment]:
    """Ours first, then the same with workers of its own layer, then daphne."""
    legacy = legacy_python()
    ours = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"))
    daphne = (legacy, "-c", "import sys; from daphne.cli import CommandLineInterface as C; C().run(sys.argv[1:])")
    return [
        Deployment(Candidate("greendaphne", ours, APPLICATION), OUR_LAYER, legacy, LEGACY_LAYER),
        Deployment(Candidate("daphne 1.4.2", daphne, APPLICATION), LEGACY_LAYER, legacy, LEGACY_LAYER),
        Deployment(Candidate("greendaphne, own workers", ours, APPLICATION), OUR_LAYER, sys.executable, OUR_LAYER),
    ]


class Redis:
    """A redis-server for one run; asked over its own protocol, without a client library."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"

    def counters(self) -> Counters:
        """Commands and reads so far, this question's among them."""
        facts = self._info("stats")
        blpop = self._info("commandstats").get("cmdstat_blpop", "calls=0").partition(",")[0]
        return Counters(int(facts["total_commands_processed"]), int(facts["total_reads_processed"]), int(blpop.partition("=")[2]))

    def _info(self, section: str) -> dict[str, str]:
        with socket.create_connection(("127.0.0.1", self.port), START_LIMIT) as sock, sock.makefile("rb") as replies:
            sock.sendall(f"INFO {section}\r\n".encode())
            size = int(replies.readline()[1:])
            lines = replies.read(size).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def _redis(core: int) -> Iterator[Redis]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise BenchmarkError("redis-server is missing: apt-get install redis-server")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as directory, bound_to(core):
        process = subprocess.Popen([binary, *options], cwd=directory, stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + START_LIMIT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > end or process.poll() is not None:
                        raise BenchmarkError("redis-server does not start") from None
                    time.sleep(0.05)
            yield Redis(port)
        finally:
            process.kill()
            process.wait()


@contextmanager
def _deployed(deployment: Deployment, capacity: int) -> Iterator[tuple[Server, Redis]]:
    """Redis and the workers share the load generator's core: what is measured is the server on the other."""
    cores = environment.cores()
    with _redis(cores.client) as redis:
        variables = {"BENCH_REDIS_URL": redis.url, "BENCH_CAPACITY": str(capacity), "PYTHONPATH": str(CHECKOUT)}
        worker_environment = {**os.environ, **variables, "BENCH_REDIS_LAYER": deployment.worker_layer}
        worker = [deployment.worker_python, "-W", "ignore", "-m", "benchmarks.apps.on_redis", "1"]
        workers = []
        os.environ.update(variables, BENCH_REDIS_LAYER=deployment.layer)
        try:
            with bound_to(cores.client):
                workers += [subprocess.Popen(worker, cwd=CHECKOUT, env=worker_environment) for _ in range(WORKERS)]
            with running(deployment.server, core=cores.server, capacity=capacity) as server:
                yield server, redis
        finally:
            for process in workers:
                process.kill()
                process.wait()


Sample = dict[str, float]


def _http(deployment: Deployment, plan: Plan, wrk: str | None) -> Iterator[tuple[int, Sample]]:
    """A sample for each number of connections."""
    client = environment.cores().client
    with _deployed(deployment, CAPACITY) as (server, redis):
        for connections in CONNECTIONS:
            progress(f"redis: {deployment.server.name}, {connections} connections")
            generate(wrk, server.port, connections=connections, seconds=WARM_UP, core=client)
            cpu, counted = server.cpu(), redis.counters()
            load = generate(wrk, server.port, connections=connections, seconds=plan.seconds, core=client)
            used, now = server.cpu() - cpu, redis.counters()
            if not load.requests:
                raise BenchmarkError(f"{deployment.server.name} answered nothing over {connections} connections")
            round_trips = (now.reads - counted.reads) / load.requests
            yield (
                connections,
                {
                    "requests_per_second": load.rate,
                    "median_ms": load.median_ms,
                    "p99_ms": load.p99_ms,
                    "cpu_us_per_request": 1e6 * used / load.requests,
                    "round_trips": round_trips,
                    "server_round_trips": _share(deployment, round_trips, (now.blpops - counted.blpops) / load.requests),
                    "commands": (now.commands - counted.commands) / load.requests,
                    "errors": load.errors,
                },
            )


def _share(deployment: Deployment, round_trips: float, blpops: float) -> float:
    """The server's round trips per request, or NaN where its workers' cannot be told from them; no server here uses BLPOP."""
    if deployment.worker_layer != LEGACY_LAYER:
        return nan
    return round_trips - ROUND_TRIPS_PER_RECEIVE * blpops - ROUND_TRIPS_PER_REPLY


def _group(deployment: Deployment, plan: Plan) -> Sample:
    progress(f"redis: {deployment.server.name}, group of {plan.members}")
    with _deployed(deployment, GROUP_CAPACITY) as (server, redis), bound_to(environment.cores().client):
        return asyncio.run(_send_to_group(server, redis, plan))


async def _send_to_group(server: Server, redis: Redis, plan: Plan) -> Sample:
    clients = await wsclient.connect(server.port, plan.members)
    await asyncio.sleep(REST)
    before = redis.counters()
    await asyncio.sleep(plan.idle_seconds)
    idle = redis.counters()
    spreads = [await wsclient.to_everyone(clients, TO_EVERYONE.encode(), GROUP_LIMIT) for _ in range(plan.messages)]
    wsclient.close(clients)
    return {
        "reached_least": min(spread.reached for spread in spreads),
        "reached_median": median(spread.reached for spread in spreads),
        "last_ms": median(spread.last_ms for spread in spreads),
        "idle_commands": (idle.commands - before.commands) / plan.idle_seconds,
    }


def _row(name: str, case: int, samples: list[Sample]) -> Row:
    row: Row = {"server": name, "case": case}
    for key in samples[0]:
        value = median(sample[key] for sample in samples)
        row[key] = None if isnan(value) else round(value, 3)
    return row


def measure(plan: Plan, parts: Sequence[str] = PARTS) -> list[Figures]:
    """Run the plan."""
    found = deployments()
    conditions: Row = {"time": time.strftime("%Y-%m-%d %H:%M"), "workers": f"{WORKERS} processes"}
    figures = []
    if HTTP in parts:
        figures.append(_measure_http(found, plan, conditions))
    if GROUP in parts:
        figures.append(_measure_group(found, plan, conditions))
    return figures


def _measure_http(found: list[Deployment], plan: Plan, conditions: Row) -> Figures:
    wrk = environment.wrk()
    samples: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        progress(f"redis: round {number} of {plan.rounds}")
        for deployment in found:
            for connections, sample in _http(deployment, plan, wrk):
                samples[connections, deployment.server.name].append(sample)
    return Figures(
        "redis",
        "Hello over HTTP/1.1 through Redis; Redis' figures include the workers'",
        "case",
        HTTP_COLUMNS,
        [_row(name, connections, taken) for (connections, name), taken in sorted(samples.items(), key=lambda item: item[0][0])],
        {
            **conditions,
            "load": "wrk" if wrk else "benchmarks.load",
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "capacity": CAPACITY,
        },
    )


def _measure_group(found: list[Deployment], plan: Plan, conditions: Row) -> Figures:
    environment.allow_open_files(plan.members + SPARE_FILES)
    return Figures(
        "redis_group",
        "One message to a group through Redis",
        "case",
        GROUP_COLUMNS,
        [_row(deployment.server.name, plan.members, [_group(deployment, plan)]) for deployment in found],
        {**conditions, "messages": plan.messages, "capacity": GROUP_CAPACITY},
    )


HTTP_COLUMNS = (
    Column("server", "server"),
    Column("case", "connections"),
    Column("requests_per_second", "requests/s"),
    Column("median_ms", "median ms"),
    Column("p99_ms", "p99 ms"),
    Column("cpu_us_per_request", "CPU µs/request"),
    Column("round_trips", "round trips/request"),
    Column("server_round_trips", "the server's"),
    Column("commands", "commands/request"),
    Column("errors", "errors"),
)
GROUP_COLUMNS = (
    Column("server", "server"),
    Column("case", "members"),
    Column("reached_least", "reached, least"),
    Column("reached_median", "reached, median"),
    Column("last_ms", "last ms"),
    Column("idle_commands", "idle commands/s"),
)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.redis``."""
    return command(argv, __doc__ or "", lambda quick, parts: measure(QUICK if quick else FULL, parts), parts=PARTS)


if __name__ == "__main__":
    raise SystemExit(main())
