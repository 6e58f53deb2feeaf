"""WebSockets through each server's in-memory channel layer: echo, the cost of silent connections, a message to a large group.

``python -m benchmarks.websocket_layer [--quick] [--json FILE]``.  The servers alternate, round by round; the figures are medians over
the rounds.  Pings are off, so that the figures of silent connections show the connections alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from statistics import median
from typing import NamedTuple

from . import candidates, environment, wsclient
from .apps.consumers import TO_EVERYONE
from .environment import BenchmarkError, progress
from .report import Column, Figures, Row, command
from .servers import Candidate, Server, running

KIB = 1024
#: For echo and idle connections nothing is to be lost; the group runs at the default capacity of the usual layers.
AMPLE_CAPACITY = 10000
DEFAULT_CAPACITY = 100
NO_PINGS = ("--ping-interval", "86400")

ECHO_SIZES = (16, KIB)
ECHO_CONNECTIONS = 64
GROUP_SIZE = 1000
#: Seconds without another arrival after which a message to the group counts as lost for the rest.
GROUP_LIMIT = 3.0
#: Seconds for a server to come to rest after many handshakes.
REST = 3.0
#: File descriptors beyond the connections: of the server, its libraries and this process.
SPARE_FILES = 200


class Plan(NamedTuple):
    """How much to measure; seconds are those of each run."""

    rounds: int
    echo_seconds: float
    idle_connections: int
    idle_seconds: float
    group_messages: int


FULL = Plan(7, 5.0, 5000, 20.0, 5)
QUICK = Plan(1, 2.0, 500, 3.0, 2)

Measured = dict[str, float]


async def _echo(size: int, server: Server, plan: Plan) -> Measured:
    clients = await wsclient.connect(server.port, ECHO_CONNECTIONS)
    payload = b"x" * size
    await wsclient.echo(clients, payload, 1.0)
    await wsclient.settle(clients, 0.3)
    before = server.cpu()
    echoes = await wsclient.echo(clients, payload, plan.echo_seconds)
    cpu = server.cpu() - before
    wsclient.close(clients)
    return {
        "messages_per_second": echoes.messages / echoes.seconds,
        "messages_per_cpu_second": echoes.messages / cpu,
        "cpu_us_per_message": 1e6 * cpu / echoes.messages,
        "median_ms": median(echoes.trips_ms),
        "p99_ms": echoes.trips_ms[99 * len(echoes.trips_ms) // 100],
    }


async def _idle(server: Server, plan: Plan) -> Measured:
    warm = await wsclient.connect(server.port, 50)
    wsclient.close(warm)
    await asyncio.sleep(REST)
    empty, cpu_before = server.rss(), server.cpu()
    begun = time.perf_counter()
    clients = await wsclient.connect(server.port, plan.idle_connections)
    opening = time.perf_counter() - begun
    handshakes = server.cpu() - cpu_before
    await asyncio.sleep(REST)
    full, before = server.rss(), server.cpu()
    await asyncio.sleep(plan.idle_seconds)
    idle = server.cpu() - before
    lost = sum(client.closed for client in clients)
    wsclient.close(clients)
    if lost:
        raise BenchmarkError(f"{lost} silent connections were lost")
    return {
        "connections": len(clients),
        "kib_per_connection": (full - empty) / KIB / len(clients),
        "idle_core_percent": 100 * idle / plan.idle_seconds,
        "cpu_us_per_handshake": 1e6 * handshakes / len(clients),
        "opening_seconds": opening,
    }


async def _group(server: Server, plan: Plan) -> Measured:
    clients = await wsclient.connect(server.port, GROUP_SIZE)
    await asyncio.sleep(REST)
    spreads = [await wsclient.to_everyone(clients, TO_EVERYONE.encode(), GROUP_LIMIT) for _ in range(plan.group_messages)]
    wsclient.close(clients)
    return {
        "members": len(clients),
        "reached_least": min(spread.reached for spread in spreads),
        "reached_median": median(spread.reached for spread in spreads),
        "last_ms": median(spread.last_ms for spread in spreads),
    }


Run = Callable[[Server, Plan], Coroutine[None, None, Measured]]


class Part(NamedTuple):
    """One of the things measured: ``run`` gets a new server, whose layer has ``capacity``."""

    name: str
    case: str
    capacity: int
    run: Run


def _samples(servers: list[Candidate], plan: Plan, parts: list[Part]) -> dict[tuple[str, str, str], list[Measured]]:
    cores = environment.cores()
    found: dict[tuple[str, str, str], list[Measured]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for part in parts:
            for candidate in servers:
                progress(f"websocket_layer: round {number} of {plan.rounds}, {candidate.name}, {part.name} {part.case}")
                with (
                    running(candidate, core=cores.server, capacity=part.capacity, options=NO_PINGS) as server,
                    environment.bound_to(cores.client),
                ):
                    found[part.name, part.case, candidate.name].append(asyncio.run(part.run(server, plan)))
    return found


def measure(servers: list[Candidate], plan: Plan) -> list[Figures]:
    """Run the plan."""
    wanted = plan.idle_connections + SPARE_FILES
    allowed = environment.allow_open_files(wanted)
    if allowed < wanted:
        raise BenchmarkError(f"{plan.idle_connections} connections need {wanted} open files; the hard limit here is {allowed} (ulimit -Hn)")
    parts = [Part("echo", f"{size} B", AMPLE_CAPACITY, partial(_echo, size)) for size in ECHO_SIZES]
    parts.append(Part("idle", str(plan.idle_connections), AMPLE_CAPACITY, _idle))
    parts.append(Part("group", str(GROUP_SIZE), DEFAULT_CAPACITY, _group))
    found = _samples(servers, plan, parts)
    conditions: Row = {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "server_core": environment.cores().server,
        "client_core": environment.cores().client,
        "rounds": plan.rounds,
    }
    return [
        Figures(name, title, "case", columns, _rows(found, name), {**conditions, **_conditions(name, plan)})
        for name, title, columns in TABLES
    ]


def _conditions(name: str, plan: Plan) -> Row:
    if name == "echo":
        return {"connections": ECHO_CONNECTIONS, "seconds": plan.echo_seconds}
    if name == "idle":
        return {"seconds": plan.idle_seconds, "pings": "none"}
    return {"messages": plan.group_messages, "capacity_per_channel": DEFAULT_CAPACITY}


def _rows(found: dict[tuple[str, str, str], list[Measured]], name: str) -> list[Row]:
    rows: list[Row] = []
    for (part, case, server), samples in found.items():
        if part == name:
            row: Row = {"server": server, "case": case}
            row.update({key: round(median(sample[key] for sample in samples), 3) for key in samples[0]})
            rows.append(row)
    return rows


TABLES: list[tuple[str, str, list[Column]]] = [
    (
        "echo",
        "WebSocket echo through the channel layer",
        [
            Column("server", "server"),
            Column("case", "message"),
            Column("messages_per_second", "messages/s", ratio=True),
            Column("median_ms", "median ms", ratio=True),
            Column("p99_ms", "p99 ms", ratio=True),
            Column("cpu_us_per_message", "CPU µs/message", ratio=True),
            Column("messages_per_cpu_second", "messages/CPU s", ratio=True),
        ],
    ),
    (
        "idle",
        "Silent WebSockets",
        [
            Column("server", "server"),
            Column("case", "connections"),
            Column("kib_per_connection", "KiB each", ratio=True),
            Column("idle_core_percent", "idle, core %"),
            Column("cpu_us_per_handshake", "CPU µs/handshake", ratio=True),
            Column("opening_seconds", "opened in s", ratio=True),
        ],
    ),
    (
        "group",
        "One message to a group over one server",
        [
            Column("server", "server"),
            Column("case", "members"),
            Column("reached_least", "reached, least"),
            Column("reached_median", "reached, median"),
            Column("last_ms", "last ms", ratio=True),
        ],
    ),
]


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.websocket_layer``."""
    return command(argv, __doc__ or "", lambda quick: measure(candidates.both(), QUICK if quick else FULL), candidates.versions)


if __name__ == "__main__":
    raise SystemExit(main())
