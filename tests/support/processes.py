"""Masters with workers, started as the command starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.managers import GREENDAPHNE, Process, running

APPLICATION = """
import json, os
import gevent
from greendaphne.layers.memory import MemoryChannelLayer

VERSION = 1
channel_layer = MemoryChannelLayer()

def request(message):
    if message.content["path"] == "/slow":
        message.reply({"status": 200, "content": b"begun", "more_content": True})
        gevent.sleep(float(message.content["query_string"]))
        message.reply({"content": b" and done"})
    else:
        about = {"pid": os.getpid(), "version": VERSION, "environment": dict(os.environ), "directory": os.getcwd()}
        message.reply({"status": 200, "content": json.dumps(about).encode()})

channel_layer.routes = {"http.request": request}
"""


SERVES = r"Worker \d+ \(process (\d+)\) serves"


def write(directory: Path, text: str = APPLICATION, version: int = 1) -> None:
    """The application, as a file that is newer than any compiled form of it."""
    path = directory / "app.py"
    path.write_text(text.replace("VERSION = 1", f"VERSION = {version}"))
    # Bytecode is told to be out of date by the whole second and the size.
    os.utime(path, (time.time() + 10 * version, time.time() + 10 * version))


def command(*options: str) -> list[str]:
    return [*GREENDAPHNE, "--inline-workers", "2", "--access-log", os.devnull, *options, "app:channel_layer"]


@contextmanager
def master(directory: Path, *options: str, text: str = APPLICATION, number: int = 2, wait: bool = True) -> Iterator[Process]:
    """A master with ``number`` workers on the UNIX socket ``s``."""
    write(directory, text)
    with running(command("-w", str(number), "-u", "s", *options), directory=directory) as process:
        if wait:
            process.until(lambda: process.count(SERVES) >= number, "all workers serve")
        yield process
