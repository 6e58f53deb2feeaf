"""systemd: its sockets, what it is told, its unit files.  systemd-socket-activate and systemd-analyze are the real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from greendaphne.processes.systemd import ServiceManager, service_manager
from tests.soak.managers import GREENDAPHNE, ROOT, Notifications, Process, children, running
from tests.support.ports import free_port
from tests.support.processes import APPLICATION, command, write
from tests.support.server import PATIENCE, Client

#: One that also stands still, with its whole hub, for as long as anybody waits.
BLOCKING = APPLICATION.replace(
    "    else:",
    '    elif message.content["path"] == "/block":\n        gevent.monkey.get_original("time", "sleep")(1000)\n    else:',
).replace("import gevent\n", "import gevent.monkey\n")


@contextmanager
def notifications(tmp_path: Path, abstract: bool = False) -> Iterator[Notifications]:
    address = f"@greendaphne-test-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    receiver = Notifications(address)
    try:
        yield receiver
    finally:
        receiver.close()


def assert_silent(told: Notifications) -> None:
    """Nothing comes any more, but for what was on its way."""
    for _ in range(3):
        try:
            told.receive(timeout=2)
        except TimeoutError:
            return
    raise AssertionError("the watchdog still hears of a process whose hub stands still")


def ask(address: tuple[str, int] | str) -> dict[str, object]:
    """What a server says of itself."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(address)
        client = Client(sock)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer: dict[str, object] = json.loads(client.read_response().body)
        return answer


# ---- Notifications


@pytest.mark.parametrize("abstract", [False, True])
def test_one_process_tells_of_its_life(tmp_path: Path, abstract: bool) -> None:
    write(tmp_path)
    with (
        notifications(tmp_path, abstract) as told,
        running(command("-u", "s"), directory=tmp_path, environment={"NOTIFY_SOCKET": told.address}) as process,
        ExitStack() as stack,
    ):
        ready = told.receive()
        assert ready == {"READY": "1", "MAINPID": str(process.pid), "STATUS": "Serving unix:s"}
        # It listens by then, and its children do not speak in its name.
        client = Client(stack.enter_context(socket.socket(socket.AF_UNIX)))
        client.sock.settimeout(PATIENCE)
        client.sock.connect(str(tmp_path / "s"))
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        environment = json.loads(client.read_response().body)["environment"]
        assert isinstance(environment, dict)
        assert "NOTIFY_SOCKET" not in environment
        process.send(signal.SIGHUP)
        reloading = told.receive()
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert told.receive()["READY"] == "1"
        process.send(signal.SIGTERM)
        # That of the request above is kept open, so that the number does not depend on when the server reads its end.
        assert told.receive() == {"STOPPING": "1", "STATUS": "Stopping; 1 connections are open"}
        assert process.wait() == 0


def test_a_master_tells_of_its_workers(tmp_path: Path) -> None:
    write(tmp_path)
    with (
        notifications(tmp_path) as told,
        running(command("-u", "s", "-w", "2"), directory=tmp_path, environment={"NOTIFY_SOCKET": told.address}) as process,
    ):
        assert told.receive() == {"READY": "1", "MAINPID": str(process.pid), "STATUS": "2 workers serve"}
        process.until(lambda: process.count(r"Worker \d+ \(process \d+\) serves") == 2, "both workers serve")
        process.send(signal.SIGTTIN)
        assert told.receive() == {"STATUS": "3 workers serve"}
        write(tmp_path, "broken(\n", version=2)
        process.send(signal.SIGHUP)
        assert told.receive()["RELOADING"] == "1"
        assert told.receive()["STATUS"] == "Not reloaded: the previous workers continue to serve"
        assert process.count("The next worker starts in") == 0
        process.send(signal.SIGTERM)
        assert told.receive()["STOPPING"] == "1"
        assert process.wait() == 0


def test_the_watchdog_hears_of_one_process_in_its_hubs_turn(tmp_path: Path) -> None:
    write(tmp_path, BLOCKING)
    with (
        notifications(tmp_path) as told,
        running(command("-u", "s"), directory=tmp_path, environment={"NOTIFY_SOCKET": told.address, "WATCHDOG_USEC": "1000000"}) as process,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        assert told.receive()["READY"] == "1"
        for _ in range(3):
            assert told.receive() == {"WATCHDOG": "1"}
        sock.connect(str(tmp_path / "s"))
        sock.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        assert_silent(told)
        process.send(signal.SIGKILL)


def test_a_master_replaces_a_worker_that_stands_still(tmp_path: Path) -> None:
    write(tmp_path, BLOCKING)
    with (
        notifications(tmp_path) as told,
        running(
            command("-u", "s", "-w", "1"), directory=tmp_path, environment={"NOTIFY_SOCKET": told.address, "WATCHDOG_USEC": "3000000"}
        ) as process,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        assert told.receive()["READY"] == "1"
        told.wait_for(WATCHDOG=1)
        (worker,) = children(process.pid)
        sock.connect(str(tmp_path / "s"))
        sock.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        process.find("has given no sign of life for 3 seconds and is killed")
        process.find(rf"process {worker}\) was ended by SIGABRT")
        process.until(lambda: process.count("serves") == 2, "another worker")
        told.wait_for(WATCHDOG=1)


def test_a_watchdog_of_another_process_is_none_of_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    manager = service_manager(environment)
    assert manager is not None
    assert manager.watchdog == 0
    assert environment == {}
    own = service_manager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())})
    assert own is not None
    assert own.watchdog == 0.5
    assert service_manager({}) is None
    # Neither a path nor abstract: nothing that a datagram could be sent to.
    assert service_manager({"NOTIFY_SOCKET": "relative"}) is None
    bad = service_manager({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"})
    assert bad is not None
    assert bad.watchdog == 0


def test_nobody_has_to_listen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager(str(tmp_path / "nobody"))
    manager.ready("fine")
    manager.stopping("bye")
    assert [record.getMessage() for record in caplog.records] == ["Cannot notify the service manager: [Errno 2] No such file or directory"]


# ---- Sockets


@contextmanager
def activated(tmp_path: Path, *options: str, environment: tuple[str, ...] = ()) -> Iterator[tuple[Process, int, str]]:
    """The command behind systemd-socket-activate, with a TCP and a UNIX socket and no option that names either."""
    write(tmp_path)
    port, path = free_port(), str(tmp_path / "web.sock")
    program = shutil.which("systemd-socket-activate")
    assert program is not None
    passed = [f"-E{name}" for name in ("PATH", "HOME", "PYTHONPATH", *environment)]
    with running([program, "-l", f"127.0.0.1:{port}", "-l", path, *passed, *command(*options)], directory=tmp_path) as process:
        process.find(r"Listening on .* as 4")
        yield process, port, path


def test_sockets_of_systemd_are_served_without_any_option(tmp_path: Path) -> None:
    with activated(tmp_path) as (process, port, path):
        # The first connection starts the server, and waits until it serves.
        first = ask(("127.0.0.1", port))
        assert first["pid"] == process.pid
        environment = first["environment"]
        assert isinstance(environment, dict)
        assert not [name for name in environment if name.startswith("LISTEN_")]
        assert ask(path)["pid"] == process.pid
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        # It is systemd's, also the file.
        assert Path(path).exists()


def test_workers_share_the_sockets_of_systemd(tmp_path: Path) -> None:
    with activated(tmp_path, "-w", "2") as (process, port, path):
        assert ask(("127.0.0.1", port))["pid"] in children(process.pid)
        process.until(lambda: process.count(r"Worker \d+ \(process \d+\) serves") == 2, "both workers serve")
        assert ask(path)["pid"] in children(process.pid)
        before = set(children(process.pid))
        process.send(signal.SIGHUP)
        process.find("All workers are replaced")
        process.until(lambda: not before & set(children(process.pid)), "the end of the old workers")
        assert ask(("127.0.0.1", port))["pid"] in children(process.pid)
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert Path(path).exists()


# ---- Unit files


def test_the_unit_files_are_right(tmp_path: Path) -> None:
    for name in ("mysite.service", "mysite.socket"):
        text = (ROOT / "examples" / "systemd" / name).read_text()
        # The program is somewhere else here, and systemd-analyze looks whether it is there.
        (tmp_path / name).write_text(re.sub(r"/srv/mysite/venv/bin/greendaphne", shutil.which("true") or "/bin/true", text))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "mysite.service"), str(tmp_path / "mysite.socket")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


UNITS = sorted((ROOT / "examples").rglob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_service_may_do_little_beyond_serving(unit: Path) -> None:
    """systemd rates what a unit leaves open from 0.0 to 10.0; ``threshold`` is ten times that."""
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Overall exposure level" in result.stdout


def test_the_service_s_command_and_configuration_are_right(tmp_path: Path) -> None:
    directory = ROOT / "examples" / "systemd"
    line = next(line for line in (directory / "mysite.service").read_text().splitlines() if line.startswith("ExecStart="))
    assert line.split()[1:] == ["--config", "/srv/mysite/greendaphne.toml"]
    write(tmp_path)
    # The address for metrics is taken where the site runs already.
    settings = (directory / "greendaphne.toml").read_text().replace("project.asgi", "app").replace("tcp:9100", "tcp:0")
    (tmp_path / "greendaphne.toml").write_text(settings)
    with running([*GREENDAPHNE, "--config", "greendaphne.toml", "--check-config"], directory=tmp_path) as process:
        assert process.wait() == 0
        assert process.count("workers = 2  # greendaphne.toml") == 1
        # The application of the test has its channel layer in memory, which does not suit two workers.
        assert process.count("WARNING") == process.count("in each process' own memory") == 1
        assert process.count("Nothing else is wrong") == 1
