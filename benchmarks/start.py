"""From the command to the first response."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from . import candidates
from .environment import BenchmarkError
from .family import Family, Layout, Plan, Sample, Trial
from .results import Measure
from .servers import START_LIMIT, Command, running

_CASE: Final = "hello"
_SERVERS: Final[dict[str, Callable[[], Command]]] = {
    candidates.LAYER: candidates.layer,
    candidates.ASGI: candidates.asgi,
    candidates.ASYNCIO: lambda: candidates.uvicorn("asyncio"),
    candidates.UVLOOP: lambda: candidates.uvicorn("uvloop"),
    candidates.GRANIAN: candidates.granian,
    candidates.HYPERCORN: candidates.hypercorn,
    candidates.DAPHNE4: candidates.daphne4,
    candidates.DAPHNE1: candidates.daphne1,
}


def _run(name: str, command: Callable[[], Command], cases: Sequence[str], plan: Plan) -> Iterator[tuple[str, Sample]]:
    made = command()
    for case in cases:
        begun = time.monotonic()
        with running(name, made, pause=0.002) as server:
            listening = time.monotonic() - begun
            _get(server.port)
            yield case, {"response": time.monotonic() - begun, "listening": listening, "cpu_ms": 1e3 * server.cpu()}


def _get(port: int) -> None:
    """Wait for a response; a supervisor accepts connections before its workers have loaded the application."""
    with socket.create_connection(("127.0.0.1", port), START_LIMIT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not sock.recv(100).startswith(b"HTTP/1.1 200"):
            raise BenchmarkError("the first response is no success")


def _trials(plan: Plan) -> list[Trial]:
    return [Trial("start", name, (_CASE,), partial(_run, name, command)) for name, command in _SERVERS.items()]


FAMILY: Final = Family(
    "start",
    "Start",
    "From the command to the first response and to the first connection that is accepted, without TLS, with the application of a hello. A "
    "supervisor such as granian's accepts connections before its worker has loaded the application. A first start, which writes Python's "
    "bytecode, is not counted. The seconds suffer on a busy machine, the CPU time less so.",
    (
        Layout(
            "start",
            "Start",
            (Measure("response", "s to the response", 3), Measure("listening", "s to listening", 3), Measure("cpu_ms", "CPU ms", 0)),
        ),
    ),
    _trials,
    rehearse=True,
)
