"""The servers that are compared, each with the settings that its documentation recommends for speed, one process, and no access log."""

from __future__ import annotations

import sys

from . import peers
from .environment import CHECKOUT
from .peers import CHANNELS1, TODAY
from .servers import Command

#: Worker greenlets in greendaphne's process; daphne's application has one thread in daphne's process.
INLINE_WORKERS = 4

LAYER = "greendaphne, channel layer"
STREAM = "greendaphne, on the stream"
ASGI = "greendaphne, ASGI"
GRANIAN = "granian"
UVLOOP = "uvicorn, uvloop"
ASYNCIO = "uvicorn, asyncio"
HYPERCORN = "hypercorn, uvloop"
DAPHNE4 = "daphne 4"
DAPHNE1 = "daphne 1.4.2"

HELLO = "benchmarks.apps.asgi_hello:app"


def layer(*options: str, application: str = "benchmarks.apps.on_greendaphne:channel_layer") -> Command:
    """greendaphne with inline workers on its in-memory layer; with ``options`` that name an endpoint it listens there."""
    place = () if "-e" in options else ("-b", "127.0.0.1", "-p", "{port}")
    program = (sys.executable, str(CHECKOUT / "bin" / "greendaphne"), "-v", "0", "--inline-workers", str(INLINE_WORKERS))
    return Command((*program, *place, *options, application))


def stream(endpoint: str = "tcp:{port}:interface=127.0.0.1") -> Command:
    """greendaphne's protocol code with a handler that answers on the stream itself."""
    return Command((sys.executable, "-m", "benchmarks.apps.stream_hello", endpoint))


def asgi(application: str = HELLO, *options: str, python: str = sys.executable) -> Command:
    """greendaphne as an ASGI server; with ``options`` that name an endpoint it listens there."""
    place = () if "-e" in options else ("-b", "127.0.0.1", "-p", "{port}")
    return Command((python, "-m", "greendaphne", "--asgi", "-v", "0", *place, *options, application))


def granian(application: str = HELLO, *options: str) -> Command:
    """granian with one worker and uvloop."""
    listen = ("--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "--loop", "uvloop")
    return Command((peers.program(TODAY, "granian"), *listen, "--log-level", "error", *options, application))


def uvicorn(loop: str, application: str = HELLO, *options: str) -> Command:
    """uvicorn with httptools and the sans-I/O protocol of websockets."""
    protocols = ("--loop", loop, "--http", "httptools", "--ws", "websockets-sansio", "--no-access-log", "--log-level", "error")
    return Command((peers.program(TODAY, "uvicorn"), "--host", "127.0.0.1", "--port", "{port}", *protocols, *options, application))


def hypercorn(application: str = HELLO, *options: str) -> Command:
    """hypercorn with uvloop."""
    listen = ("--bind", "127.0.0.1:{port}", "--worker-class", "uvloop", "--log-level", "error")
    return Command((peers.program(TODAY, "hypercorn"), *listen, *options, application))


def daphne4(application: str = HELLO, *options: str) -> Command:
    """daphne of today."""
    place = options or ("-b", "127.0.0.1", "-p", "{port}")
    return Command((peers.program(TODAY, "daphne"), "-v", "0", *place, application))


def daphne1(*options: str) -> Command:
    """daphne 1.4.2 with one worker thread in its process."""
    place = () if "-e" in options else ("-b", "127.0.0.1", "-p", "{port}")
    return Command((peers.program(CHANNELS1, "daphne"), "-v", "0", *place, *options, "benchmarks.apps.on_daphne:channel_layer"))
