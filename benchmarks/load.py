"""HTTP load: a number of keep-alive connections, each sending its next request when the answer to the last has come.

wrk where it is installed; otherwise a generator in plain Python, which itself costs about as much CPU as the server under test.
"""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import time
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from .environment import CHECKOUT, BenchmarkError, bound_to

SCRIPT = Path(__file__).with_name("latency.lua")
FRESH = Path(__file__).with_name("fresh.lua")
MARK = "RESULT "
READ_SIZE = 65536
#: Seconds beyond its duration that wrk gets before it counts as stuck.
GRACE = 30.0
WARM_UP, WARM_UP_CONNECTIONS = 0.4, 8


class Load(NamedTuple):
    """What one run gave; latencies in milliseconds."""

    requests: int
    seconds: float
    errors: int
    median_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def warm_up(port: int, core: int) -> None:
    """Let the server on ``port`` do everything for the first time."""
    with bound_to(core):
        _own(port, WARM_UP_CONNECTIONS, WARM_UP, GRACE)


def generate(wrk: str | None, port: int, *, connections: int, seconds: float, core: int, fresh: bool = False) -> Load:
    """Load the server on ``port`` for ``seconds`` from ``core``.

    :param fresh: send a header section that is new in each request, instead of always the same.
    :raises BenchmarkError: where nothing was answered, or ``fresh`` requests are wanted without wrk.
    """
    if wrk is None:
        if fresh:
            raise BenchmarkError("new header sections need wrk")
        with bound_to(core):
            return _own(port, connections, seconds)
    line = [wrk, "-t", "1", "-c", str(connections), "-d", f"{seconds + GRACE:.0f}s", "-s", str(FRESH if fresh else SCRIPT)]
    line.append(f"http://127.0.0.1:{port}/")
    with bound_to(core), subprocess.Popen(line, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            # It takes whole seconds; at SIGINT it ends early, with the figures so far.
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=GRACE)
    for said in output.splitlines():
        if said.startswith(MARK):
            requests, micros, errors, median, p99 = (float(word) for word in said.removeprefix(MARK).split())
            if not requests:
                raise BenchmarkError(f"no answer over {connections} connections in {seconds:g} s")
            return Load(int(requests), micros / 1e6, int(errors), median / 1e3, p99 / 1e3)
    raise BenchmarkError(f"wrk gave no result: {output.strip()}")


class _Client:
    """One connection of the generator in Python."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.sent_at = 0.0
        self._received = b""

    def send(self) -> None:
        """Send the next request; it is so short that the socket's buffer takes it whole."""
        self._received = b""
        self.sent_at = time.perf_counter()
        self.sock.sendall(self.request)

    def answered(self) -> bool | None:
        """Read what has come: ``None`` while the answer is incomplete, else whether it is a 200."""
        data = self.sock.recv(READ_SIZE)
        if not data:
            raise BenchmarkError("the server closed a connection under load")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        lowered = head.lower()
        if b"content-length:" in lowered:
            complete = len(body) >= int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        else:
            complete = body.endswith(b"0\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200") if complete else None


def _own(port: int, connections: int, seconds: float, patience: float = 0.0) -> Load:
    """Load from this process for ``seconds``, or until two answers have come, for at most ``patience`` longer."""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
    selector = selectors.DefaultSelector()
    clients = [_Client(port, request) for _ in range(connections)]
    latencies: list[float] = []
    errors = 0
    try:
        begun = time.perf_counter()
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
            client.send()
        while (now := time.perf_counter()) < begun + seconds + (patience if len(latencies) < 2 else 0):
            for key, _ in selector.select(0.1):
                client = key.data
                good = client.answered()
                if good is None:
                    continue
                latencies.append(time.perf_counter() - client.sent_at)
                errors += not good
                client.send()
        taken = now - begun
    finally:
        selector.close()
        for client in clients:
            client.sock.close()
    if len(latencies) < 2:
        raise BenchmarkError("no answer came within the time of a run")
    cuts = quantiles(latencies, n=100)
    return Load(len(latencies), taken, errors, cuts[49] * 1e3, cuts[98] * 1e3)
