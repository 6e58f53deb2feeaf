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
_DJANGO: Final = "benchmarks.apps.wsgi:django_asgi_application"
_ALL: Final = (_OURS, GRANIAN, UVLOOP, ASYNCIO, HYPERCORN, DAPHNE4)
_FAST: Final = (_OURS, GRANIAN, UVLOOP, ASYNCIO)

_CASES: Final = {
    "hello": Application(f"{_MODULE}:hello", _ALL),
    "hello, new header section": Application(f"{_MODULE}:hello", _FAST, fresh=True),
    "hello after a wait of 1 ms": Application(f"{_MODULE}:sleeping", _FAST),
    "Starlette hello": Application(f"{_MODULE}:starlette", _FAST),
    "stream, 64 x 16 KiB": Application(f"{_MODULE}:stream", _FAST),
    "Django, synchronous view": Application(_DJANGO, (_OURS, UVLOOP, ASYNCIO, DAPHNE4)),
    "16 B": Application(f"{_MODULE}:echo", _ALL, 16),
}


def _ours(application: str) -> Command:
    if application == _DJANGO:
        # As a site with WebSockets serves its pages: by WSGI, beside an ASGI application.
        options = ("--interface", "wsgi", "--websocket-app", f"{_MODULE}:echo")
        line = (peers.python(TODAY), "-m", "greendaphne", "-v", "0", *options, "-b", "127.0.0.1", "-p", "{port}")
        return Command((*line, "benchmarks.apps.wsgi:django_application"))
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
    "in flight over each. The header section is the same in all requests, which greendaphne looks up, or new in each request. greendaphne "
    "serves Django's synchronous view by WSGI, with an ASGI application for WebSockets beside it (``--websocket-app``).",
    (Layout("http", "ASGI applications", MEASURES), Layout("echo", "WebSocket echo through ASGI", ECHO_MEASURES)),
    _trials,
)
