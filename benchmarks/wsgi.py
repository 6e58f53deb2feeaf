"""WSGI applications and their WebSockets beside other servers: ``python -m benchmarks.wsgi [--quick] [--json FILE]``.

Every server runs alone on one core, one process, warm; the load comes from the other core.  Rounds alternate between the servers of a
case.  What counts is requests, or messages, for each second of CPU time that the server used.  Peers run in the environment of the tests
with applications of today, ``.venv-modern``: gunicorn with its gevent worker, gevent-websocket's worker for gunicorn, gevent's pywsgi, and
waitress with four threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from . import wsclient
from .environment import CHECKOUT, BenchmarkError, bound_to
from .load import generate
from .servers import START_LIMIT, START_PAUSE, STOP_LIMIT, Server

MODERN: Final = CHECKOUT / ".venv-modern" / "bin" / "python"
_OURS, _GUNICORN, _WORKER, _PYWSGI, _WAITRESS = "greendaphne", "gunicorn gevent", "GeventWebSocketWorker", "pywsgi", "waitress"


class Case(NamedTuple):
    """What is measured: an attribute of ``benchmarks.apps.wsgi``, a WebSocket message's size or 0 for HTTP, and who takes part."""

    name: str
    application: str
    message: int
    #: Peers, each with the ratio that is the goal.
    peers: dict[str, float]


CASES: Final = (
    Case("hello", "hello", 0, {_GUNICORN: 3.0, _PYWSGI: 2.5, _WAITRESS: 1.8}),
    Case("Flask hello", "flask_application", 0, {_GUNICORN: 1.8, _PYWSGI: 0, _WAITRESS: 0}),
    Case("Django hello", "django_application", 0, {_GUNICORN: 1.6, _PYWSGI: 0, _WAITRESS: 0}),
    Case("WebSocket echo, 16 B", "echo", 16, {_WORKER: 2.0}),
    Case("WebSocket echo, 1 KiB", "echo", 1024, {_WORKER: 10.0}),
)


class Plan(NamedTuple):
    """How long and how often."""

    rounds: int
    seconds: float
    connections: int
    websockets: int


FULL: Final = Plan(9, 4.0, 64, 32)
QUICK: Final = Plan(3, 1.0, 64, 32)


def command(server: str, python: str, port: int, application: str) -> list[str]:
    """The command line of ``server``."""
    place = f"benchmarks.apps.wsgi:{application}"
    address = f"127.0.0.1:{port}"
    return {
        _OURS: [python, "-m", "greendaphne", "--wsgi", "-v", "0", "-p", str(port), place],
        _GUNICORN: [python, "-m", "gunicorn", "-k", "gevent", "-w", "1", "-b", address, "--log-level", "warning", place],
        _WORKER: [
            *(python, "-m", "gunicorn", "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
            *("-w", "1", "-b", address, "--log-level", "warning", place),
        ],
        _PYWSGI: [python, "-m", "benchmarks.apps.wsgi", str(port), application],
        _WAITRESS: [python, "-m", "waitress", f"--listen={address}", "--threads=4", place],
    }[server]


@contextmanager
def running(
    server: str, python: str, application: str, core: int, command: Callable[[str, str, int, str], list[str]] = command
) -> Iterator[Server]:
    """Run ``server`` on ``core`` while the block runs.

    :param command: makes the command line.
    :raises BenchmarkError: where it does not come up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, PYTHONPATH=str(CHECKOUT), PYTHONDONTWRITEBYTECODE="1")
    with tempfile.TemporaryFile() as output:
        with bound_to(core):
            arguments = command(server, python, port, application)
            process = subprocess.Popen(arguments, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + START_LIMIT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise BenchmarkError(f"{server} did not start: {output.read().decode(errors='replace')[-2000:]}") from None
                    time.sleep(START_PAUSE)
            yield Server(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _echo(port: int, sockets: int, size: int, seconds: float) -> int:
    """Messages that ``sockets`` WebSockets sent and got back in ``seconds``, each with one in flight."""
    data = wsclient.frame(b"x" * size)
    clients = await wsclient.connect(port, sockets)
    count = 0
    end = time.monotonic() + seconds

    def received(client: wsclient.Client, payload: bytes) -> None:
        nonlocal count
        count += 1
        if time.monotonic() < end:
            client.send(data)

    for client in clients:
        client.received = received
        client.send(data)
    await asyncio.sleep(seconds + 0.2)
    for client in clients:
        if client.transport is not None:
            client.transport.abort()
    return count


def measure_once(server: Server, case: Case, plan: Plan, core: int) -> float:
    """Requests or messages for each second of the server's CPU time."""
    before = server.cpu()
    if case.message:
        with bound_to(core):
            done = asyncio.run(_echo(server.port, plan.websockets, case.message, plan.seconds))
    else:
        load = generate(shutil.which("wrk"), server.port, connections=plan.connections, seconds=plan.seconds, core=core)
        if load.errors:
            raise BenchmarkError(f"{load.errors} of {load.requests} requests failed: {server.process.args!r}")
        done = load.requests
    return done / (server.cpu() - before)


def measure(case: Case, plan: Plan, python: str, command: Callable[[str, str, int, str], list[str]] = command) -> dict[str, list[float]]:
    """The rounds of one case, by server."""
    samples: dict[str, list[float]] = defaultdict(list)
    cores = sorted(os.sched_getaffinity(0))
    for number in range(plan.rounds + 1):
        for name in (_OURS, *case.peers):
            with running(name, python, case.application, cores[0], command) as server:
                measure_once(server, case, plan._replace(seconds=1.0), cores[-1])
                rate = measure_once(server, case, plan, cores[-1])
            if number:
                samples[name].append(rate)
    return samples


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.wsgi``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--python", default=str(MODERN), help="interpreter with the peers and frameworks")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name has this")
    options = parser.parse_args(argv)
    figures = []
    for case in CASES:
        if options.only.lower() not in case.name.lower():
            continue
        samples = measure(case, QUICK if options.quick else FULL, options.python)
        ours = samples[_OURS]
        print(f"{case.name}: {_OURS} {median(ours):,.0f} for each CPU-second (best {max(ours):,.0f})")
        for peer, goal in case.peers.items():
            ratio = median(ours) / median(samples[peer])
            aim = f", goal {goal:g}" if goal else ""
            print(f"  {peer}: {median(samples[peer]):,.0f} (best {max(samples[peer]):,.0f}), {ratio:.2f} ×{aim}", flush=True)
        figures.append({"case": case.name, "samples": samples})
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
