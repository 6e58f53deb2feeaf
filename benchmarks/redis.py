"""Hello, echo and a group message through Redis."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple

from . import environment, peers
from .candidates import DAPHNE1
from .environment import CHECKOUT, BenchmarkError, bound_to
from .family import Family, Layout, Plan, Sample, Trial
from .http1 import MEASURES, requests
from .load import warm_up
from .peers import CHANNELS1
from .results import Measure
from .servers import CAPACITY, Command, Server, free_port, listens, running
from .websocket import ECHO_MEASURES, GROUP_CAPACITY, GROUP_MEASURES, MESSAGES, SPARE_FILES, echo, group

_CASES: Final = {"1 connection": 1, "32 connections": 32, "256 connections": 256}
_SIZES: Final = {"16 B": 16}
ECHO_CONNECTIONS: Final = 32
WORKERS: Final = 3
#: Round trips of a worker on asgi_redis: BLPOP, GET and DEL for each message, two scripts for each reply.
ROUND_TRIPS_PER_RECEIVE: Final = 3
ROUND_TRIPS_PER_REPLY: Final = 2
#: Seconds for redis-server to start.
START_LIMIT: Final = 10.0

OUR_LAYER: Final = "greendaphne.layers.redis.RedisChannelLayer"
LEGACY_LAYER: Final = "asgi_redis.RedisChannelLayer"
APPLICATION: Final = "benchmarks.apps.on_redis:channel_layer"


class Deployment(NamedTuple):
    """A server, its layer, and its workers' interpreter and layer."""

    server: Command
    layer: str
    worker_python: str
    worker_layer: str


class Counters(NamedTuple):
    """What Redis counted since it started."""

    commands: int
    reads: int
    blpops: int
    #: Bytes in and out.
    bytes: int
    #: Seconds of CPU time.
    cpu: float


def _ours(*, own_workers: bool) -> Deployment:
    line = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "-v", "0", "-b", "127.0.0.1", "-p", "{port}", APPLICATION)
    if own_workers:
        return Deployment(Command(line), OUR_LAYER, sys.executable, OUR_LAYER)
    return Deployment(Command(line), OUR_LAYER, peers.python(CHANNELS1), LEGACY_LAYER)


def _daphne() -> Deployment:
    python = peers.python(CHANNELS1)
    code = "import sys; from daphne.cli import CommandLineInterface as C; C().run(sys.argv[1:])"
    line = (python, "-c", code, "-v", "0", "-b", "127.0.0.1", "-p", "{port}", APPLICATION)
    return Deployment(Command(line), LEGACY_LAYER, python, LEGACY_LAYER)


_DEPLOYMENTS: Final[dict[str, Callable[[], Deployment]]] = {
    "greendaphne": partial(_ours, own_workers=False),
    "greendaphne, own workers": partial(_ours, own_workers=True),
    DAPHNE1: _daphne,
}


class Redis:
    """A redis-server for one run; asked over its own protocol, without a client library."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"

    def counters(self) -> Counters:
        """Commands and reads so far, this question's among them."""
        facts = self._info("stats")
        spent = self._info("cpu")
        blpop = self._info("commandstats").get("cmdstat_blpop", "calls=0").partition(",")[0]
        return Counters(
            int(facts["total_commands_processed"]),
            int(facts["total_reads_processed"]),
            int(blpop.partition("=")[2]),
            int(facts["total_net_input_bytes"]) + int(facts["total_net_output_bytes"]),
            float(spent["used_cpu_sys"]) + float(spent["used_cpu_user"]),
        )

    def _info(self, section: str) -> dict[str, str]:
        with socket.create_connection(("127.0.0.1", self.port), START_LIMIT) as sock, sock.makefile("rb") as replies:
            sock.sendall(f"INFO {section}\r\n".encode())
            size = int(replies.readline()[1:])
            lines = replies.read(size).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def redis_process() -> Iterator[Redis]:
    """A redis-server of its own, on the core of the load."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as directory, bound_to(environment.cores().client):
        process = subprocess.Popen([environment.tool("redis-server", "redis-server"), *options], cwd=directory, stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + START_LIMIT
            while not listens(port):
                if time.monotonic() > end or process.poll() is not None:
                    raise BenchmarkError("redis-server did not start")
                time.sleep(0.02)
            yield Redis(port)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _deployed(name: str, deployment: Deployment, capacity: int) -> Iterator[tuple[Server, Redis]]:
    """Redis and the workers share the load generator's core: what is measured is the server on the other."""
    with redis_process() as redis:
        variables = {"BENCH_REDIS_URL": redis.url, "BENCH_CAPACITY": str(capacity), "PYTHONPATH": str(CHECKOUT)}
        worker_variables = {**os.environ, **variables, "BENCH_REDIS_LAYER": deployment.worker_layer}
        worker = [deployment.worker_python, "-W", "ignore", "-m", "benchmarks.apps.on_redis", "1"]
        workers: list[subprocess.Popen[bytes]] = []
        try:
            with bound_to(environment.cores().client):
                workers += [subprocess.Popen(worker, cwd=CHECKOUT, env=worker_variables) for _ in range(WORKERS)]
            server = deployment.server._replace(variables={**variables, "BENCH_REDIS_LAYER": deployment.layer})
            with running(name, server) as started:
                yield started, redis
        finally:
            for process in workers:
                process.kill()
                process.wait()


def _hello(name: str, make: Callable[[], Deployment], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    deployment = make()
    with _deployed(name, deployment, CAPACITY) as (server, redis):
        warm_up(server.port, environment.cores().client)
        for case in cases:
            counted = redis.counters()
            count, sample = requests(server, _CASES[case], plan.seconds)
            now = redis.counters()
            round_trips = (now.reads - counted.reads) / count
            if deployment.worker_layer == LEGACY_LAYER:
                # No server here uses BLPOP.
                workers = ROUND_TRIPS_PER_RECEIVE * (now.blpops - counted.blpops) / count + ROUND_TRIPS_PER_REPLY
                sample["server_round_trips"] = max(0.0, round_trips - workers)
            yield case, sample | {"commands": (now.commands - counted.commands) / count}


def _echoes(name: str, make: Callable[[], Deployment], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with _deployed(name, make(), CAPACITY) as (server, _), bound_to(environment.cores().client):
        for case in cases:
            yield case, echo(server, _SIZES[case], ECHO_CONNECTIONS, plan.seconds)


def _groups(name: str, make: Callable[[], Deployment], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    environment.allow_open_files(plan.members + SPARE_FILES)
    for case in cases:
        with _deployed(name, make(), GROUP_CAPACITY) as (server, _), bound_to(environment.cores().client):
            yield case, asyncio.run(group(server, plan.members))


def _trials(plan: Plan) -> list[Trial]:
    found = []
    for name, make in _DEPLOYMENTS.items():
        found.append(Trial("hello", name, tuple(_CASES), partial(_hello, name, make)))
        found.append(Trial("echo", name, tuple(_SIZES), partial(_echoes, name, make)))
        found.append(Trial("group", name, (f"{plan.members} members",), partial(_groups, name, make)))
    return found


FAMILY: Final = Family(
    "redis",
    "Redis",
    f"A server, {WORKERS} worker processes and a Redis between them, new for each run; Redis and the workers share the core of the load. "
    "The workers are asgi_redis' for both servers, so that the difference is the server's; own workers are on the layer of this project. "
    "The CPU time is the server's alone.",
    (
        Layout(
            "hello",
            "Hello over HTTP/1.1 through Redis",
            (*MEASURES, Measure("server_round_trips", "server's round trips/request", 2), Measure("commands", "commands/request", 2)),
            "Commands are all that Redis executed for a request, the workers' included. A server's round trips are what remains beside "
            "those of workers on asgi_redis, which are known by their commands.",
        ),
        Layout(
            "echo", "WebSocket echo through Redis", ECHO_MEASURES, f"{ECHO_CONNECTIONS} WebSockets with one message in flight over each."
        ),
        Layout(
            "group",
            "One message to a group through Redis",
            GROUP_MEASURES,
            f"Of {MESSAGES} messages, the median of the times and the least number of members. asgi_redis sends to the members one by one "
            f"and drops a message where the server's list of {GROUP_CAPACITY} is full.",
        ),
    ),
    _trials,
)
