"""ASGI applications and their WebSockets."""

from __future__ import annotations

from functools import partial
from typing import Final

from . import candidates, peers
from .applications import CONNECTIONS, WEBSOCKETS, Application, Commands, trials
from .candidates import ASYNCIO, DAPHNE4, GRANIAN, HYPERCORN, UVLOOP
from .family import Family, Layout, Plan, Trial
from .http1 import MEASURES
from .peers import TODAY
from .servers import Command
from .websocket import ECHO_MEASURES

_OURS: Final = "greendaphne"
_MODULE: Final = "benchmarks.apps.asgi"
_ALL: Final = (_OURS, GRANIAN, UVLOOP, ASYNCIO, HYPERCORN, DAPHNE4)
_FAST: Final = (_OURS, GRANIAN, UVLOOP, ASYNCIO)

_CASES: Final = {
    "hello": Application(f"{_MODULE}:hello", _ALL),
    "hello, new header section": Application(f"{_MODULE}:hello", _FAST, fresh=True),
    "hello after a wait of 1 ms": Application(f"{_MODULE}:sleeping", _FAST),
    "Starlette hello": Application(f"{_MODULE}:starlette", _FAST),
    "stream, 64 x 16 KiB": Application(f"{_MODULE}:stream", _FAST),
    "16 B": Application(f"{_MODULE}:echo", _ALL, 16),
}


def _ours(application: str) -> Command:
    return candidates.asgi(application, python=peers.python(TODAY))


_COMMANDS: Final[Commands] = {
    _OURS: _ours,
    GRANIAN: candidates.granian,
    UVLOOP: partial(candidates.uvicorn, "uvloop"),
    ASYNCIO: partial(candidates.uvicorn, "asyncio"),
    HYPERCORN: candidates.hypercorn,
    DAPHNE4: candidates.daphne4,
}


def _trials(plan: Plan) -> list[Trial]:
    return trials(_CASES, _COMMANDS)


FAMILY: Final = Family(
    "asgi",
    "ASGI",
    f"The same application in each server, with one process: {CONNECTIONS} connections of wrk, or {WEBSOCKETS} WebSockets with one message "
    "in flight over each. The header section is the same in all requests, which greendaphne looks up, or new in each request.",
    (Layout("http", "ASGI applications", MEASURES), Layout("echo", "WebSocket echo through ASGI", ECHO_MEASURES)),
    _trials,
)
