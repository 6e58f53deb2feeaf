"""Hello over HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from . import candidates, environment
from .environment import BenchmarkError
from .family import Family, Layout, Plan, Sample, Trial, cpu_us
from .load import generate, warm_up
from .results import Measure
from .servers import Command, Server, running

_CASES: Final = {"1 connection": 1, "64 connections": 64}
MEASURES: Final = (
    cpu_us("request"),
    Measure("rate", "requests/s", 0, less_is_better=False),
    Measure("median_ms", "median ms", 3),
    Measure("p99_ms", "p99 ms", 3),
)
_SERVERS: Final[dict[str, Callable[[], Command]]] = {
    candidates.LAYER: candidates.layer,
    candidates.STREAM: candidates.stream,
    candidates.ASGI: candidates.asgi,
    candidates.GRANIAN: lambda: candidates.granian(candidates.HELLO, "--http", "1", "--no-ws"),
    candidates.UVLOOP: lambda: candidates.uvicorn("uvloop"),
    candidates.ASYNCIO: lambda: candidates.uvicorn("asyncio"),
    candidates.HYPERCORN: candidates.hypercorn,
    candidates.DAPHNE4: candidates.daphne4,
    candidates.DAPHNE1: candidates.daphne1,
}


class Answers(NamedTuple):
    """The number of requests, and the figures."""

    number: int
    sample: Sample


def requests(server: Server, connections: int, seconds: float, *, fresh: bool = False) -> Answers:
    """Load ``server`` over keep-alive connections, each with one request in flight.

    :param fresh: send a header section that is new in each request.
    :raises BenchmarkError: for an answer that is no success.
    """
    core = environment.cores().client
    before = server.cpu()
    load = generate(environment.wrk(), server.port, connections=connections, seconds=seconds, core=core, fresh=fresh)
    cpu = server.cpu() - before
    if load.errors:
        raise BenchmarkError(f"{load.errors} of {load.requests} requests failed")
    sample = {"cpu_us": 1e6 * cpu / load.requests, "rate": load.rate, "median_ms": load.median_ms, "p99_ms": load.p99_ms}
    return Answers(load.requests, sample)


def _run(name: str, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    with running(name, command()) as server:
        warm_up(server.port, environment.cores().client)
        for case in cases:
            yield case, requests(server, _CASES[case], plan.seconds).sample


def _trials(plan: Plan) -> list[Trial]:
    return [Trial("hello", name, tuple(_CASES), partial(_run, name, command)) for name, command in _SERVERS.items()]


FAMILY: Final = Family(
    "http1",
    "HTTP/1.1",
    "wrk asks for 13 bytes over keep-alive connections, each with one request in flight. The channel layer is the whole way to a consumer "
    "and back: greendaphne with its in-memory layer and four inline workers, daphne 1.4.2 with asgiref's in-memory layer and one worker "
    "thread, which waits for 10 ms when there is no message, as the worker of Channels 1.1.8 does. On the stream is the protocol with a "
    "trivial handler. The other servers run the same hello as an ASGI application.",
    (Layout("hello", "Hello over HTTP/1.1", MEASURES),),
    _trials,
)
