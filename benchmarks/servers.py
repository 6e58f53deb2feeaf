"""Starts the servers under measurement, each in a process of its own on its own core, and reads what they cost from ``/proc``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from .environment import CHECKOUT, BenchmarkError, bound_to

#: Seconds for a server to listen, and to end.
START_LIMIT = 30.0
STOP_LIMIT = 10.0
START_PAUSE = 0.05

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Candidate(NamedTuple):
    """A server to measure: its name in the tables, and its command line without port and application."""

    name: str
    command: tuple[str, ...]
    application: str


class Server:
    """A running server: where it listens, and what its process and its children used."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Seconds of CPU time, user and system, of the process and its descendants so far."""
        return sum(_thread_seconds(task) for pid in self._tree() for task in Path(f"/proc/{pid}/task").iterdir())

    def rss(self) -> int:
        """Bytes of memory in use by the process and its descendants."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._tree()) * _PAGE

    def _tree(self) -> list[int]:
        pids = [self.process.pid]
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        return pids


def _thread_seconds(task: Path) -> float:
    try:
        # Nanoseconds on a core; ticks of 10 ms are too coarse for a server that is asked twenty times a second.
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        # The fields behind the command's name, which may hold blanks: utime is the 12th of them, stime the 13th (proc(5)).
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def running(candidate: Candidate, *, core: int, capacity: int, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """Run ``candidate`` on ``core`` with layers of ``capacity`` messages for each channel; it has ended when the block has.

    :raises BenchmarkError: for a server that does not come up; its output is part of the text.
    """
    port = _free_port()
    command = [*candidate.command, "-v", "0", "-b", "127.0.0.1", "-p", str(port), *options, candidate.application]
    environment = dict(os.environ, PYTHONPATH=str(CHECKOUT), BENCH_CAPACITY=str(capacity), PYTHONDONTWRITEBYTECODE="1")
    with tempfile.TemporaryFile() as output:
        with bound_to(core):
            process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _await_listening(candidate, process, port, output)
            yield Server(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_listening(candidate: Candidate, process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(START_PAUSE)
    output.seek(0)
    said = output.read().decode(errors="replace").strip() or "it said nothing"
    raise BenchmarkError(f"{candidate.name} did not start: {said}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port
