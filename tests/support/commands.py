"""The command in a directory of its own: small applications, and processes whose output and end tests wait for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.readiness import readable

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0

#: Paths: / answers, /busy never gives way, /orphan leaves a zombie of a stranger, /slow never answers.
APPLICATION = """
import os
from greendaphne.layers.memory import MemoryChannelLayer

gone = []


def http(message):
    path = message.content["path"]
    if path == "/busy":
        while True:
            pass
    if path == "/orphan":
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.write(writer, b"%d" % os.getpid())
            os._exit(0)
        message.reply({"status": 200, "content": os.read(reader, 64)})
    elif path == "/gone":
        message.reply({"status": 200, "content": b"%d" % len(gone)})
    elif path != "/slow":
        message.reply({"status": 200, "content": b"hello"})


channel_layer = MemoryChannelLayer()
channel_layer.routes = {"http.request": http, "http.disconnect": lambda message: gone.append(message.content)}
"""
LAYER = "site_under_test:channel_layer"
#: Words in front of a command that make it the first process of a namespace; empty where that is not allowed.
FIRST_PROCESS = ("unshare", "--pid", "--fork", "--mount-proc")


def may_unshare() -> bool:
    """Whether this process may make PID namespaces."""
    try:
        return subprocess.run([*FIRST_PROCESS, "true"], capture_output=True, timeout=PATIENCE, check=False).returncode == 0
    except OSError:
        return False


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: the package under test, warnings as errors."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1", **(extra or {})}


def write(directory: Path, text: str = APPLICATION) -> None:
    """Write the application into ``directory``."""
    (directory / "site_under_test.py").write_text(text, encoding="utf-8")


def run(directory: Path, *argv: str, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "greendaphne", *argv],
        cwd=directory,
        env=environment(extra),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Command:
    """A command that runs until it is told to stop; in a session of its own."""

    def __init__(
        self, directory: Path, *argv: str, before: Sequence[str] = (), extra: Mapping[str, str] | None = None, terminal: int | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "greendaphne", *argv],
            cwd=directory,
            env=environment(extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            start_new_session=True,
        )
        self.output = ""

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *details: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for number in (*self.descendants(), self.process.pid):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(PATIENCE)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def descendants(self) -> list[int]:
        """The processes below the one that was started."""
        found, new = [], [self.process.pid]
        while new:
            children = []
            for number in new:
                try:
                    children += [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
                except (FileNotFoundError, ProcessLookupError):
                    continue
            found += children
            new = children
        return found

    @property
    def pid(self) -> int:
        """The process of the command itself, which ``unshare`` is the parent of."""
        if self.process.args[0] != "unshare":  # type: ignore[index]
            return self.process.pid
        deadline = time.monotonic() + PATIENCE
        while not (children := self.descendants()):
            assert time.monotonic() < deadline, "the command does not start"
            time.sleep(0.01)
        return children[0]

    def wait_for(self, text: str) -> None:
        """Read the log until ``text`` was written."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE
        descriptor = self.process.stderr.fileno()
        while text not in self.output:
            data = os.read(descriptor, 65536) if readable(descriptor, deadline - time.monotonic()) else b""
            assert data, f"{text!r} did not come:\n{self.output}"
            self.output += data.decode(errors="replace")

    def port(self) -> int:
        """The port that it serves at, once it does."""
        self.wait_for("Serving at ")
        self.wait_for("Listening on channels")
        match = re.search(r"Serving at https?://[^/]*:(\d+)/", self.output)
        assert match is not None, self.output
        return int(match[1])

    def signal(self, number: int) -> None:
        """Send a signal to the command."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code."""
        assert self.process.stderr is None or not self.process.stderr.closed
        code = self.process.wait(PATIENCE)
        if self.process.stderr is not None:
            self.output += self.process.stderr.read().decode(errors="replace")
        return code


def get(port: int, path: str = "/") -> bytes:
    """The body of a response."""
    with connect(port, path) as client:
        data = b""
        while more := client.recv(65536):
            data += more
    return data.partition(b"\r\n\r\n")[2]


def connect(port: int, path: str) -> socket.socket:
    """A connection on which ``path`` is asked for."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    return client
