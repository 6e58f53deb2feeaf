"""Starts the servers under measurement, each in a process of its own on its own core, and reads what they cost from ``/proc``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .environment import CHECKOUT, BenchmarkError, bound_to, cores

#: Seconds for a server to listen, and to end.
START_LIMIT = 30.0
STOP_LIMIT = 10.0
START_PAUSE = 0.02
#: Messages for each channel, well above the number of connections: what is measured is the servers, not how they refuse.
CAPACITY = 1000

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Command(NamedTuple):
    """A server's command line, in which ``{port}``, ``{key}`` and ``{cert}`` are filled in, and variables of its environment."""

    arguments: Sequence[str]
    variables: Mapping[str, str] = {}


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
                with suppress(FileNotFoundError):  # the thread has ended meanwhile
                    pids += map(int, (task / "children").read_text().split())
        return pids


def _thread_seconds(task: Path) -> float:
    try:
        # Nanoseconds on a core; ticks of 10 ms are too coarse for a server that is asked twenty times a second.
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        # A kernel without that file, or a thread that has ended meanwhile.
        try:
            stat = (task / "stat").read_text()
        except FileNotFoundError:
            return 0.0
        # The fields behind the command's name, which may hold blanks: utime is the 12th of them, stime the 13th (proc(5)).
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def running(
    name: str, command: Command, *, pause: float = START_PAUSE, start_limit: float = START_LIMIT, stop_limit: float = STOP_LIMIT
) -> Iterator[Server]:
    """Run a server on the servers' core; it has ended when the block has.

    :param pause: seconds between two attempts to connect.
    :param start_limit: seconds for it to listen.
    :param stop_limit: seconds for it to end, after which it is killed.
    :raises BenchmarkError: for a server that does not come up; its output is part of the text.
    """
    port = free_port()
    arguments = [part.format(port=port, **certificate()) for part in command.arguments]
    # Without bytecode on disk a start would be one of the compiler.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables = {**environ, "PYTHONPATH": str(CHECKOUT), "BENCH_CAPACITY": str(CAPACITY), **command.variables}
    with tempfile.TemporaryFile() as output:
        with bound_to(cores().server):
            process = subprocess.Popen(
                arguments, cwd=CHECKOUT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            end = time.monotonic() + start_limit
            while not listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip()[-500:] or "it said nothing"
                    raise BenchmarkError(f"{name} did not start: {said}")
                time.sleep(pause)
            yield Server(process, port)
            if process.poll() is not None:
                raise BenchmarkError(f"{name} ended under load, with {process.returncode}")
        finally:
            _end(process, stop_limit)


def listens(port: int) -> bool:
    """Whether a server accepts connections on ``port``."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port


@cache
def _certificate_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-certificate-")


@cache
def certificate() -> dict[str, str]:
    """Paths of a key and of a certificate for localhost, which exist as long as this process."""
    directory = _certificate_directory().name
    key, cert = f"{directory}/key.pem", f"{directory}/cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-days", "1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return {"key": key, "cert": cert}


def _end(process: subprocess.Popen[bytes], stop_limit: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(stop_limit)
    except subprocess.TimeoutExpired:
        # A supervisor would leave its workers behind.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
