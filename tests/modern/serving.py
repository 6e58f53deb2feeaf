"""The ``greendaphne`` command, running while a test asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port
from tests.support.scripts import PATIENCE, ROOT


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
    port = free_port()
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
