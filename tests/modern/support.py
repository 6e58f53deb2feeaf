"""What the tests of this folder share: programs in processes of their own, patched as the ``greendaphne`` command patches its process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds after which a test's own waiting is an error.
PATIENCE = 60.0
PATCH = "from greendaphne.cli import patch; patch()\n"


def run_script(source: str, *options: str, patched: bool = True, limit: float = 4 * PATIENCE, directory: Path = ROOT) -> str:
    """Run ``source`` in a process of its own, in which warnings are errors, and return what it prints; what it logs is an error.

    :param options: for the interpreter.
    :param patched: patch the process first.
    """
    code = (PATCH if patched else "") + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.strip()


class Running:
    """A command that serves."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def command(place: str, log: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """Run ``greendaphne`` with ``place`` while the block runs; it has to end in good order."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-m", "greendaphne", "-p", str(port), *options, place]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield Running(process, port, log)
    finally:
        process.terminate()
        try:
            assert process.wait(PATIENCE) == 0, log.read_text()
        finally:
            process.kill()
