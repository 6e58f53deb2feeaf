"""What signals mean in each phase, alone, under a master, and for the first process of a namespace."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import FIRST_PROCESS, LAYER, PATIENCE, Command, connect, environment, get, may_unshare, write

SLOW = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
BUSY = "import sys\nprint('importing', file=sys.stderr, flush=True)\nwhile True: pass\n"
#: Alone, or as the first process.
PLACES = [pytest.param((), id="alone"), pytest.param(FIRST_PROCESS, id="first")]
needs_unshare = pytest.mark.skipif(not may_unshare(), reason="PID namespaces are not allowed here")
INLINE = ("-p", "0", "--inline-workers", "1", LAYER)


@needs_unshare
@pytest.mark.parametrize("before", PLACES)
@pytest.mark.parametrize("text", [SLOW, BUSY], ids=["slow", "busy"])
@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_sigterm_during_the_import_ends_at_once(tmp_path: Path, before: tuple[str, ...], text: str, workers: tuple[str, ...]) -> None:
    write(tmp_path, text)
    with Command(tmp_path, *workers, *INLINE, before=before) as command:
        command.wait_for("importing")
        command.signal(signal.SIGTERM)
        code = command.wait()
    # unshare passes the code on, and the master ends well once its workers have.
    assert code == (0 if workers else 128 + signal.SIGTERM if before else -signal.SIGTERM), command.output


@needs_unshare
@pytest.mark.parametrize("before", PLACES)
def test_sighup_and_sigusr1_during_the_import_do_nothing(tmp_path: Path, before: tuple[str, ...]) -> None:
    write(
        tmp_path,
        SLOW.replace("600", "1") + "from greendaphne.layers.memory import MemoryChannelLayer\nchannel_layer = MemoryChannelLayer()\n",
    )
    with Command(tmp_path, "-p", "0", LAYER, before=before) as command:
        command.wait_for("importing")
        command.signal(signal.SIGHUP)
        command.signal(signal.SIGUSR1)
        command.wait_for("Serving at")
        command.signal(signal.SIGTERM)
        assert command.wait() == 0


IMPATIENT = """
import logging, os, signal


class Impatient(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("Serving at"):
            os.kill(os.getpid(), signal.SIGTERM)


logging.getLogger("daphne.server").addHandler(Impatient())
from greendaphne.layers.memory import MemoryChannelLayer
channel_layer = MemoryChannelLayer()
"""


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_sigterm_as_soon_as_the_address_is_logged_drains(tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path, IMPATIENT)
    with Command(tmp_path, "-p", "0", *workers, LAYER) as command:
        command.wait_for("connections have 30 seconds to finish")
        if workers:
            command.wait_for("ended with exit code 0")
            command.signal(signal.SIGTERM)
        assert command.wait() == 0, command.output


@needs_unshare
@pytest.mark.parametrize("before", PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_second_ends_at_once(tmp_path: Path, before: tuple[str, ...], number: int) -> None:
    write(tmp_path)
    with Command(tmp_path, *INLINE, before=before) as command:
        port = command.port()
        with connect(port, "/slow"):
            assert b"hello" in get(port)
            command.signal(number)
            command.wait_for("connections have 30 seconds to finish")
            command.signal(number)
            command.wait_for("Stopping at once")
            assert command.wait() == 0


@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_sigquit_ends_at_once(tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path)
    with Command(tmp_path, *workers, *INLINE) as command:
        port = command.port()
        with connect(port, "/slow"):
            assert b"hello" in get(port)
            command.signal(signal.SIGQUIT)
            assert command.wait() == 0


@needs_unshare
@pytest.mark.parametrize("before", PLACES)
def test_a_second_sigterm_ends_a_process_whose_hub_is_deaf(tmp_path: Path, before: tuple[str, ...]) -> None:
    write(tmp_path)
    with Command(tmp_path, "--watchdog", "0.2", *INLINE, before=before) as command, connect(command.port(), "/busy"):
        command.wait_for("The hub has been blocked")
        command.signal(signal.SIGTERM)
        # Two signals of one kind that wait are one.
        time.sleep(0.2)
        command.signal(signal.SIGTERM)
        assert command.wait() == 128 + signal.SIGTERM
    assert "The hub does not react, because other code is running; SIGTERM ends the process now\n" in command.output


def test_a_second_sigterm_ends_a_master_whose_worker_is_deaf(tmp_path: Path) -> None:
    write(tmp_path)
    with Command(tmp_path, "-w", "1", "--watchdog", "0.2", *INLINE) as command, connect(command.port(), "/busy"):
        command.wait_for("The hub has been blocked")
        command.signal(signal.SIGTERM)
        command.wait_for("Stopping 1 workers")
        command.signal(signal.SIGTERM)
        assert command.wait() == 0


@needs_unshare
@pytest.mark.parametrize("workers", [(), ("-w", "1")], ids=["single", "master"])
def test_the_first_process_reaps_orphans(tmp_path: Path, workers: tuple[str, ...]) -> None:
    write(tmp_path)
    with Command(tmp_path, *workers, *INLINE, before=FIRST_PROCESS) as command:
        port = command.port()
        orphans = [get(port, "/orphan") for _ in range(3)]
        assert all(orphans)
        deadline = time.monotonic() + PATIENCE
        while zombies(command):
            assert time.monotonic() < deadline, zombies(command)
            get(port)
            time.sleep(0.05)
        command.signal(signal.SIGTERM)
        assert command.wait() == 0


def zombies(command: Command) -> list[int]:
    """The children of the first process that have ended and were not waited for."""
    found = []
    for number in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split():
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state == "Z":
            found.append(int(number))
    return found


def test_children_that_the_application_forks_have_signals_of_their_own(tmp_path: Path) -> None:
    script = """
import os, signal, sys
import gevent
from greendaphne.processes.signals import handle_signals

told = []
with handle_signals({signal.SIGTERM: lambda: told.append(1)}):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    gevent.sleep(0.1)
    assert (os.WTERMSIG(status), told) == (signal.SIGTERM, []), (status, told)
    os.kill(os.getpid(), signal.SIGTERM)
    gevent.sleep(0.1)
    assert told == [1], told
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), cwd=tmp_path, timeout=PATIENCE, check=True)


@pytest.mark.parametrize("interrupted", [False, True])
def test_sigint_does_not_end_the_hub_that_starts(tmp_path: Path, interrupted: bool) -> None:
    script = f"""
import os, signal
import gevent
from greendaphne.processes.signals import start_hub

signal.signal(signal.SIGINT, signal.default_int_handler)
hub = gevent.get_hub()
begin = hub.start_periodic_monitoring_thread
hub.start_periodic_monitoring_thread = lambda: (begin(), {interrupted} and os.kill(os.getpid(), signal.SIGINT))
told = []
try:
    start_hub()
except KeyboardInterrupt:
    told.append(1)
assert told == [1] * {interrupted}, told
assert hub and signal.getsignal(signal.SIGINT) is signal.default_int_handler
with gevent.Timeout(0.01, False):
    gevent.sleep(60)
assert gevent.get_hub() is hub and hub
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), cwd=tmp_path, timeout=PATIENCE, check=True)


def test_the_application_finds_a_hub_that_runs(tmp_path: Path) -> None:
    write(tmp_path, "import gevent, sys\nprint('the hub runs:', bool(gevent.get_hub()), file=sys.stderr)\nsys.exit(3)\n")
    with Command(tmp_path, *INLINE) as command:
        command.wait_for("the hub runs: True")
        command.wait()


# A library in a terminal, which runserver --noreload is: the end of the terminal is its end.  The command reloads.

LIBRARY = """
import sys
import gevent
sys.path.insert(0, ".")
from site_under_test import channel_layer
from greendaphne.server import Server
server = Server(channel_layer, endpoints=["unix:s"])
server.start()
# Once the server waits.
gevent.spawn(print, "ready", flush=True)
server.serve_forever(signal_handlers=True)
"""


def test_the_end_of_the_terminal_ends_a_library_but_not_the_command(tmp_path: Path) -> None:
    write(tmp_path)
    for argv, ends in ((["-c", LIBRARY], True), (["-m", "greendaphne", "-u", "s", "--inline-workers", "1", LAYER], False)):
        number, terminal = pty.fork()
        if number == 0:
            os.chdir(tmp_path)
            os.execve(sys.executable, [sys.executable, *argv], environment())
        try:
            output = b""
            while b"ready" not in output and b"Ctrl-C to stop" not in output:
                output += os.read(terminal, 4096)
            os.close(terminal)
            deadline = time.monotonic() + (PATIENCE if ends else 1)
            status: tuple[int, int] = (0, 0)
            while not status[0] and time.monotonic() < deadline:
                status = os.waitpid(number, os.WNOHANG)
                time.sleep(0.02)
            assert bool(status[0]) is ends, output
            if ends:
                assert os.waitstatus_to_exitcode(status[1]) == 0
            else:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "s"))
        finally:
            if not status[0]:
                os.kill(number, signal.SIGKILL)
                os.waitpid(number, 0)
