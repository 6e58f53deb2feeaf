"""ASGI applications beside other servers: ``python -m benchmarks.asgi [--quick] [--only TEXT]``.

As ``benchmarks.wsgi``; what is printed is the CPU time of each request or message, and greendaphne's as a part of each peer's.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import Final

from .wsgi import FULL, MODERN, QUICK, Case, measure

_OURS, _UVICORN, _UVLOOP, _DAPHNE, _HYPERCORN = "greendaphne", "uvicorn asyncio", "uvicorn uvloop", "daphne 4", "hypercorn"

#: For each peer the ratio that is the goal.
CASES: Final = (
    Case("hello", "hello", 0, {_UVICORN: 0.95, _UVLOOP: 1.25, _DAPHNE: 0.5, _HYPERCORN: 0.35}),
    Case("hello after a wait", "sleeping", 0, {_UVICORN: 1.05}),
    Case("Starlette hello", "starlette", 0, {_UVICORN: 1.0}),
    Case("stream, 64 x 16 KiB", "stream", 0, {_UVICORN: 1.1}),
    Case("WebSocket echo, 16 B", "echo", 16, {_UVICORN: 0.55, _UVLOOP: 1.0}),
)


def command(server: str, python: str, port: int, application: str) -> list[str]:
    """The command line of ``server``."""
    place = f"benchmarks.apps.asgi:{application}"
    uvicorn = [python, "-m", "uvicorn", "--http", "httptools", "--ws", "websockets", "--no-access-log", "--log-level", "warning"]
    return {
        _OURS: [python, "-m", "greendaphne", "--asgi", "-v", "0", "-p", str(port), place],
        _UVICORN: [*uvicorn, "--loop", "asyncio", "--port", str(port), place],
        _UVLOOP: [*uvicorn, "--loop", "uvloop", "--port", str(port), place],
        _DAPHNE: [python, "-m", "daphne", "-v", "0", "-p", str(port), place],
        _HYPERCORN: [python, "-m", "hypercorn", "--log-level", "warning", "-b", f"127.0.0.1:{port}", place],
    }[server]


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.asgi``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--python", default=str(MODERN), help="interpreter with the peers and frameworks")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this")
    options = parser.parse_args(argv)
    for case in CASES:
        if options.only.lower() not in case.name.lower():
            continue
        samples = measure(case, QUICK if options.quick else FULL, options.python, command)
        ours = 1e6 / median(samples[_OURS])
        print(f"{case.name}: {_OURS} {ours:,.1f} µs")
        for peer, goal in case.peers.items():
            theirs = 1e6 / median(samples[peer])
            print(f"  {peer}: {theirs:,.1f} µs, {ours / theirs:.2f} × (goal {goal:g})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
