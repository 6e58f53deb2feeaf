"""Runs clients in threads and counts what they meet."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Seconds after which a client's own waiting is a failure.
PATIENCE = 60.0
#: Failures that are kept in full; all are counted.
KEPT = 50


class Failed(Exception):
    """What a client met that it must not meet."""


@dataclass
class Target:
    """Where the server listens: without and with TLS."""

    plain: tuple[str, int]
    tls: tuple[str, int]


class Report:
    """What all clients met: requests and failures, by the kind of client."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        #: Other events worth a number, such as connections that a drain ended.
        self.events: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.kept: list[str] = []
        #: Seconds that something took, each time.
        self.times: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def request(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    def event(self, what: str) -> None:
        with self._lock:
            self.events[what] += 1

    def failure(self, kind: str, what: object) -> None:
        with self._lock:
            self.failures[kind] += 1
            if len(self.kept) < KEPT:
                self.kept.append(f"{time.strftime('%H:%M:%S')}.{int(time.time() * 1000) % 1000:03d} {kind}: {what}")

    def took(self, what: str, since: float) -> None:
        """Note that ``what`` took from ``since``, on the monotonic clock, until now."""
        self.lasted(what, time.monotonic() - since)

    def lasted(self, what: str, seconds: float) -> None:
        """Note that ``what`` took ``seconds``."""
        with self._lock:
            self.times.setdefault(what, []).append(seconds)

    @property
    def summary(self) -> str:
        """The totals, for one line."""
        with self._lock:
            return f"{sum(self.requests.values())} requests, {sum(self.failures.values())} failed"

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"  {kind:12} {self.requests[kind]:8} {self.failures[kind]:6} failed" for kind in sorted(self.requests | self.failures)]
        lines += [f"  {what}: {number}" for what, number in sorted(self.events.items())]
        for what, times in sorted(self.times.items()):
            lines.append(f"  {what}: {len(times)} times, median {statistics.median(times):.2f} s, longest {max(times):.2f} s")
        return "\n".join([*lines, *self.kept])


@dataclass
class Context:
    """What a client has to know: whether to go on, whom to tell, and chance of its own."""

    target: Target
    report: Report
    stop: threading.Event
    chance: random.Random = field(default_factory=random.Random)

    def token(self) -> str:
        """Something that no other request has."""
        return f"{self.chance.getrandbits(64):016x}"

    def pause(self, most: float) -> None:
        """Wait for up to ``most`` seconds."""
        self.stop.wait(self.chance.random() * most)


Client = Callable[[Context], None]


def default_clients() -> dict[str, tuple[Client, int]]:
    """Every kind of client, and how many of it there are."""
    from . import http1, http2, websockets

    return {
        "keep-alive": (http1.keep_alive, 4),
        "new": (http1.new_connections, 2),
        "upload": (http1.uploads, 2),
        "stream": (http1.streams, 2),
        "websocket": (websockets.echo, 3),
        "http2": (http2.concurrent_streams, 2),
    }


@contextlib.contextmanager
def load(target: Target, clients: Mapping[str, tuple[Client, int]] | None = None) -> Iterator[Report]:
    """Have clients ask the server at ``target`` while the block runs; each finishes what it has begun."""
    report, stop = Report(), threading.Event()
    threads = []
    for kind, (client, number) in (clients or default_clients()).items():
        for index in range(number):
            context = Context(target, report, stop, random.Random(f"{kind} {index}"))
            threads.append(threading.Thread(target=_run, args=(kind, client, context), name=f"{kind} {index}", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield report
        if clients is None:
            # On a loaded machine, a short block is over before the first request of some.
            wait_until(lambda: report.failures or all(report.requests[kind] for kind in default_clients()), "a request of each kind")
    finally:
        stop.set()
        deadline = time.monotonic() + PATIENCE + 10
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                report.failure(thread.name, "hangs")


def _run(kind: str, client: Client, context: Context) -> None:
    while not context.stop.is_set():
        try:
            client(context)
        except (Failed, OSError, EOFError, AssertionError, ValueError) as error:
            context.report.failure(kind, f"{type(error).__name__}: {error}")
            # Whatever is wrong need not be met a thousand times a second.
            context.stop.wait(0.1)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} seconds")
        time.sleep(0.02)
    return value
