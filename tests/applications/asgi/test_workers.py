"""ASGI applications under the master: exit codes of starts that fail, and lifespan in every worker."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak.managers import GREENDAPHNE, Process, children, running
from tests.support.processes import SERVES
from tests.support.server import PATIENCE, Client

APPLICATION = """
import asyncio, os
from pathlib import Path

VERSION = 1

def note(stage):
    Path(f"{stage}-{os.getpid()}").write_text(str(VERSION))

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        note("startup")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await asyncio.sleep(0.05)
        note("shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while not Path("go").exists():
            await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"%d %d" % (VERSION, os.getpid())})
"""
FAILING = """
async def application(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
RAISING = """
async def application(scope, receive, send):
    raise OSError("no database")
"""


def write(directory: Path, text: str = APPLICATION, version: int = 1) -> None:
    """The application, as a file that is newer than any compiled form of it."""
    path = directory / "app.py"
    path.write_text(text.replace("VERSION = 1", f"VERSION = {version}"))
    os.utime(path, (time.time() + 10 * version, time.time() + 10 * version))


@contextmanager
def master(directory: Path, *options: str, text: str = APPLICATION, wait: bool = True) -> Iterator[Process]:
    """A master with two workers on the UNIX socket ``s``."""
    write(directory, text)
    with running([*GREENDAPHNE, "--asgi", "-w", "2", "-u", "s", "-v", "1", *options, "app:application"], directory=directory) as process:
        if wait:
            process.until(lambda: process.count(SERVES) >= 2, "all workers serve")
        yield process


def connect(directory: Path) -> Client:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(directory / "s"))
    return Client(sock)


def noted(directory: Path, stage: str) -> set[int]:
    """The processes that have reached a stage."""
    return {int(path.name.partition("-")[2]) for path in directory.glob(f"{stage}-*")}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (FAILING, (), "The application could not start: no database"),
        (RAISING, ("--lifespan", "on"), "The application does not support lifespan: OSError('no database')."),
        ("import nothing_of_this_name\n", (), "No module named 'nothing_of_this_name'"),
        ("application = None\n", (), "app:application"),
        ("", (), "Cannot find the application app:application"),
    ],
    ids=["failed", "lifespan-on", "import", "none", "missing"],
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_start_that_fails_is_exit_code_1(tmp_path: Path, text: str, options: tuple[str, ...], message: str, workers: str) -> None:
    with master(tmp_path, "-w", workers, *options, text=text, wait=False) as process:
        assert process.wait() == 1
        assert process.count(re.escape(message)) == 1, process.log
        if workers == "2":
            assert process.count(r"The first worker ended with exit code 1; the reason is above") == 1
            assert process.count("starts$") == 1
        assert process.count("Traceback") == (1 if text.startswith("import") else 0), process.log
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_taken_port_is_exit_code_1_before_the_application_starts(tmp_path: Path, workers: str) -> None:
    write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*GREENDAPHNE, "--asgi", "-w", workers, "-p", port, "app:application"]
        with running(command, directory=tmp_path) as process:
            assert process.wait() == 1
            assert process.count(f"Couldn't listen on 127.0.0.1:{port}: .*Address already in use") == 1
            assert process.count("Traceback") == 0
    assert not noted(tmp_path, "startup")


def test_a_worker_that_fails_later_does_not_end_the_master(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        write(tmp_path, FAILING, 2)
        before = children(process.pid)
        process.send(signal.SIGHUP)
        process.find("The application could not start: no database")
        process.find("Not reloaded")
        process.until(lambda: children(process.pid) == before, "the end of the new workers")
        with connect(tmp_path) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().body.startswith(b"1 ")
        assert not noted(tmp_path, "shutdown")
        process.send(signal.SIGTERM)
        assert process.wait() == 0
    assert noted(tmp_path, "shutdown") == {*before}


def test_every_worker_hears_of_its_end_at_reload_and_stop(tmp_path: Path) -> None:
    with master(tmp_path) as process:
        generations = [{*children(process.pid)}]
        assert noted(tmp_path, "startup") == generations[0]
        for version in (2, 3):
            write(tmp_path, version=version)
            process.send(signal.SIGHUP)
            process.until(lambda: process.count(SERVES) >= 2 * version, "new workers serve")  # noqa: B023
            old = set().union(*generations)
            process.until(lambda: noted(tmp_path, "shutdown") == old, "old workers have shut down")  # noqa: B023
            process.until(lambda: len(children(process.pid)) == 2, "old workers have ended")
            generations.append({*children(process.pid)})
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert process.count("ended with exit code 0") == 6
    assert noted(tmp_path, "startup") == noted(tmp_path, "shutdown") == set().union(*generations)
    assert len(noted(tmp_path, "shutdown")) == 6


def test_shutdown_comes_after_the_last_response(tmp_path: Path) -> None:
    with master(tmp_path) as process, connect(tmp_path) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.read_until(b"begun")
        assert head.startswith(b"HTTP/1.1 200 ")
        (serving, other) = children(process.pid)
        process.send(signal.SIGTERM)
        process.until(lambda: noted(tmp_path, "shutdown"), "the idle worker has shut down")
        idle = noted(tmp_path, "shutdown")
        assert len(idle) == 1
        (tmp_path / "go").touch()
        assert client.read_until(b"0\r\n\r\n").count(b"1 ") == 1
        assert process.wait() == 0
        assert noted(tmp_path, "shutdown") == {serving, other}


def test_a_second_signal_ends_without_waiting_for_shutdown(tmp_path: Path) -> None:
    slow = APPLICATION.replace("asyncio.sleep(0.05)", "asyncio.sleep(1000)")
    with master(tmp_path, "--graceful-timeout", "1000", text=slow) as process:
        process.send(signal.SIGTERM)
        process.find("Stopping")
        time.sleep(0.3)
        process.send(signal.SIGTERM)
        assert process.wait() == 0
    assert not noted(tmp_path, "shutdown")
