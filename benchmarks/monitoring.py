"""What metrics and the watchdog cost: CPU time of the server per request and while nothing happens, with and without them.

    python benchmarks/monitoring.py [--seconds 2] [--rounds 5] [--connections 16]

Servers of all kinds run side by side and are loaded in turn, round after round, so that whatever else the machine does hits all of them.
The unit is the CPU time that the server's process used, divided by the requests; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import generate  # noqa: E402

#: The kinds of servers by name: their options.
KINDS = {
    "nothing": ("--watchdog=0",),
    "watchdog": ("--watchdog=1",),
    "metrics": ("--watchdog=0", "--metrics-path=/metrics"),
    "both": ("--watchdog=1", "--metrics-path=/metrics"),
}
#: Seconds for a server to start and to end.
PATIENCE = 30.0
#: Scrapes that are timed.
SCRAPES = 50


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """CPU seconds that its process has used (the process's own clock, see clock_getres(2))."""
        return time.clock_gettime((~self.process.pid << 3) | 2)


@contextmanager
def serving(options: tuple[str, ...]) -> Iterator[Server]:
    command = [sys.executable, "-m", "greendaphne", "-p", "0", "--inline-workers", "1", "--access-log", os.devnull, *options]
    process = subprocess.Popen(
        [*command, "benchmarks.monitoring:channel_layer"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            if match := re.search(r"Port 0 of endpoint .* is (\d+)", line):
                port = int(match[1])
            if "Listening on channels" in line:
                break
        yield Server(process, port)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def scrape_ms(server: Server) -> float:
    """CPU milliseconds that a scrape costs the server."""
    before = server.cpu()
    for _ in range(SCRAPES):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=PATIENCE).read()
    return (server.cpu() - before) * 1000 / SCRAPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    arguments = parser.parse_args()
    wrk = shutil.which("wrk")
    per_request: dict[str, list[float]] = {name: [] for name in KINDS}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(options)) for name, options in KINDS.items()}
        # What is needed for the first time only is not counted.
        for server in servers.values():
            generate(wrk, server.port, connections=arguments.connections, seconds=1, core=0)
        for number in range(arguments.rounds):
            # In another order each time.
            for name in [*list(servers)[number % len(servers) :], *list(servers)[: number % len(servers)]]:
                server = servers[name]
                before = server.cpu()
                load = generate(wrk, server.port, connections=arguments.connections, seconds=arguments.seconds, core=0)
                per_request[name].append((server.cpu() - before) / load.requests * 1e6)
        cost = scrape_ms(servers["metrics"])
        before_idle = {name: server.cpu() for name, server in servers.items()}
        time.sleep(arguments.seconds * arguments.rounds)
        idle = {name: (server.cpu() - before_idle[name]) / (arguments.seconds * arguments.rounds) for name, server in servers.items()}
    print(f"{'':10} {'CPU µs/request':>15} {'more':>7} {'idle, CPU %':>12}")
    base = per_request["nothing"]
    for name, values in per_request.items():
        more = statistics.median(value - other for value, other in zip(values, base, strict=True))
        print(f"{name:10} {statistics.median(values):15.1f} {more:+7.1f} {idle[name] * 100:12.3f}")
    print(f"a scrape: {cost:.1f} ms")


if __name__ == "__main__":
    main()
else:
    from greendaphne.layers.memory import MemoryChannelLayer
    from greendaphne.worker import Message

    channel_layer = MemoryChannelLayer(capacity=10_000)

    def hello(message: Message) -> None:
        """The application under load."""
        message.reply({"status": 200, "headers": [(b"Content-Type", b"text/plain")], "content": b"Hello, world!"})

    channel_layer.routes = {"http.request": hello}
