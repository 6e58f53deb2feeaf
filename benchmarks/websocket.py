"""WebSockets: echo, and a message to a large group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Final

from . import candidates, environment, wsclient
from .apps.consumers import TO_EVERYONE
from .environment import bound_to
from .family import Family, Layout, Plan, Sample, Trial, cpu_us
from .results import Measure
from .servers import Command, Server, running

_SIZES: Final = {"16 B": 16, "1 KiB": 1024}
CONNECTIONS: Final = 64
WARM_UP: Final = 0.3
#: Nothing is to be lost in an echo; the group runs at the default capacity of the usual layers.
_AMPLE, GROUP_CAPACITY = {"BENCH_CAPACITY": "10000"}, 100
#: Seconds without another arrival after which a message to the group counts as lost for the rest.
GROUP_LIMIT: Final = 2.0
#: Seconds for a server to come to rest after many handshakes, and messages of a round.
REST, MESSAGES = 1.0, 3
#: File descriptors beyond the connections: of the server, its libraries and this process.
SPARE_FILES: Final = 300

_ECHO: Final = "benchmarks.apps.asgi:echo"
_SERVERS: Final[dict[str, Callable[[], Command]]] = {
    candidates.LAYER: candidates.layer,
    candidates.ASGI: lambda: candidates.asgi(_ECHO),
    candidates.UVLOOP: lambda: candidates.uvicorn("uvloop", _ECHO),
    candidates.ASYNCIO: lambda: candidates.uvicorn("asyncio", _ECHO),
    candidates.GRANIAN: lambda: candidates.granian(_ECHO),
    candidates.HYPERCORN: lambda: candidates.hypercorn(_ECHO),
    candidates.DAPHNE4: lambda: candidates.daphne4(_ECHO),
    candidates.DAPHNE1: candidates.daphne1,
}
_WITH_GROUPS: Final = {name: _SERVERS[name] for name in (candidates.LAYER, candidates.DAPHNE1)}

ECHO_MEASURES: Final = (
    cpu_us("message"),
    Measure("rate", "messages/s", 0, less_is_better=False),
    Measure("median_ms", "median ms", 3),
    Measure("p99_ms", "p99 ms", 3),
)
GROUP_MEASURES: Final = (
    Measure("last_ms", "ms until the last", 1),
    Measure("reached", "members reached", 0, less_is_better=False),
)


def echo(server: Server, size: int, connections: int, seconds: float) -> Sample:
    """Echo messages of ``size`` bytes, one in flight over each of the connections."""
    return asyncio.run(_echo(server, size, connections, seconds))


async def _echo(server: Server, size: int, connections: int, seconds: float) -> Sample:
    clients = await wsclient.connect(server.port, connections)
    payload = b"x" * size
    await wsclient.echo(clients, payload, WARM_UP)
    await wsclient.settle(clients, 0.1)
    before = server.cpu()
    echoes = await wsclient.echo(clients, payload, seconds)
    cpu = server.cpu() - before
    wsclient.close(clients)
    return {
        "cpu_us": 1e6 * cpu / echoes.messages,
        "rate": echoes.messages / echoes.seconds,
        "median_ms": median(echoes.trips_ms),
        "p99_ms": echoes.trips_ms[99 * len(echoes.trips_ms) // 100],
    }


async def group(server: Server, members: int) -> Sample:
    """Have a message sent to a group of ``members``; the median of some messages, and the least number that one reached."""
    environment.allow_open_files(members + SPARE_FILES)
    clients = await wsclient.connect(server.port, members)
    await asyncio.sleep(REST)
    spreads = [await wsclient.to_everyone(clients, TO_EVERYONE.encode(), GROUP_LIMIT) for _ in range(MESSAGES)]
    wsclient.close(clients)
    return {"last_ms": median(spread.last_ms for spread in spreads), "reached": min(spread.reached for spread in spreads)}


def _echoes(name: str, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with running(name, command()._replace(variables=_AMPLE)) as server, bound_to(environment.cores().client):
        for case in cases:
            yield case, echo(server, _SIZES[case], CONNECTIONS, plan.seconds)


def _groups(name: str, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    environment.allow_open_files(plan.members + SPARE_FILES)
    for case in cases:
        made = command()._replace(variables={"BENCH_CAPACITY": str(GROUP_CAPACITY)})
        with running(name, made) as server, bound_to(environment.cores().client):
            yield case, asyncio.run(group(server, plan.members))


def _trials(plan: Plan) -> list[Trial]:
    return [
        *(Trial("echo", name, tuple(_SIZES), partial(_echoes, name, command)) for name, command in _SERVERS.items()),
        *(Trial("group", name, (f"{plan.members} members",), partial(_groups, name, c)) for name, c in _WITH_GROUPS.items()),
    ]


FAMILY: Final = Family(
    "websocket",
    "WebSocket",
    f"A client on asyncio sends text over {CONNECTIONS} WebSockets, with one message in flight over each, and takes the echoes. "
    "greendaphne with its channel layer and daphne 1.4.2 run a consumer, the others an ASGI application.",
    (
        Layout("echo", "WebSocket echo", ECHO_MEASURES),
        Layout(
            "group",
            "One message to a group over one server",
            GROUP_MEASURES,
            f"The layers hold {GROUP_CAPACITY} messages for each channel, which is the default. Of {MESSAGES} messages, the median of the "
            "times and the least number of members.",
        ),
    ),
    _trials,
)
