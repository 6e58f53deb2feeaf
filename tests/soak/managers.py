"""The ways to run a server: its own master, Circus, systemd's sockets, and a test that holds the socket itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.support.certificates import issue
from tests.support.ports import free_port

from .load import PATIENCE, Target, wait_until

if TYPE_CHECKING:
    from .sites import Site

ROOT = Path(__file__).resolve().parents[2]
GREENDAPHNE = [sys.executable, "-m", "greendaphne"]
#: Options of every server here.
OPTIONS = ["--access-log", os.devnull]
#: A server logs this when it is about to serve.
STARTED = "Using .* on channel layer"


class Process:
    """A process whose lines on standard error are collected."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        directory: Path = ROOT,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            pass_fds=pass_fds,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, ``None`` while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def count(self, pattern: str) -> int:
        """How many lines contain ``pattern``."""
        return sum(re.search(pattern, line) is not None for line in list(self.lines))

    def find(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """The first match of ``pattern`` in the lines, which is waited for."""

        def look() -> re.Match[str] | None:
            return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

        return self.until(look, repr(pattern), timeout)  # type: ignore[return-value]

    def until(self, condition: object, what: str, timeout: float = PATIENCE) -> object:
        """Wait for ``condition``, as long as the process lives."""

        def look() -> object:
            value = condition()  # type: ignore[operator]
            if not value and self.code is not None:
                self._thread.join(PATIENCE)
                value = condition()  # type: ignore[operator]
                assert value, f"{what}: the process has ended with {self.code}\n{self.log}"
            return value

        try:
            return wait_until(look, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, which is waited for."""
        code = self._process.wait(timeout)
        self._thread.join(timeout)
        return code

    def end(self) -> None:
        """End it in good order, or after a while at once."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    pass_fds: Sequence[int] = (),
    directory: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Process]:
    """A process while the block runs.

    :param environment: variables besides those of this process.
    """
    process = Process(command, pass_fds=pass_fds, directory=directory, environment=environment)
    try:
        yield process
    finally:
        process.end()


def certificates(directory: Path) -> Path:
    """A directory with a certificate for every name, as ``txsni:`` takes it."""
    path = directory / "certificates"
    path.mkdir(exist_ok=True)
    issue("localhost", names=["localhost"]).write(path / "DEFAULT.pem")
    return path


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that live."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in listed.split()]


# ---- The server's own master


@contextlib.contextmanager
def workers(site: Site, directory: Path, number: int = 2, *options: str) -> Iterator[tuple[Process, Target]]:
    """``--workers``; what the block gets is the master."""
    plain, tls = "tcp:0:interface=127.0.0.1", f"txsni:{certificates(directory)}:tcp:0:interface=127.0.0.1"
    command = [
        site.python,
        *GREENDAPHNE[1:],
        "-w",
        str(number),
        "-e",
        plain,
        "-e",
        tls,
        *OPTIONS,
        *site.options,
        *options,
        site.application,
    ]
    with running(command, environment=site.environment) as process:
        process.until(lambda: process.count(r"Worker .* serves") >= number, "all workers serve")
        ports = [int(process.find(rf"Port 0 of endpoint {re.escape(endpoint)} is (\d+)").group(1)) for endpoint in (plain, tls)]
        yield process, Target(("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]))


# ---- Sockets that the test holds


class Held:
    """One process at a time on two sockets that stay open."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._environment = site.environment
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2)]
        plain, tls = (sock.fileno() for sock in self._sockets)
        self._command = [
            *(site.python, *GREENDAPHNE[1:]),
            *("-e", f"fd:fileno={plain}", "-e", f"txsni:{certificates(directory)}:fd:fileno={tls}"),
            *(*OPTIONS, *site.options, site.application),
        ]
        self.target = Target(self._sockets[0].getsockname(), self._sockets[1].getsockname())

    def start(self) -> Process:
        return Process(self._command, pass_fds=[sock.fileno() for sock in self._sockets], environment=self._environment)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


# ---- systemd


class Notifications:
    """What processes tell the service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._sock.settimeout(PATIENCE)

    def receive(self, timeout: float = PATIENCE) -> dict[str, str]:
        """The next notification, as a dict."""
        self._sock.settimeout(timeout)
        return dict(line.split("=", 1) for line in self._sock.recv(4096).decode().split("\n"))

    def wait_for(self, **expected: object) -> dict[str, str]:
        """The next notification with these values; others are passed over."""
        while True:
            found = self.receive()
            if all(found.get(name) == str(value) for name, value in expected.items()):
                return found

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def socket_activated(site: Site, directory: Path, *options: str, held: bool = False) -> Iterator[tuple[Process, Target, Notifications]]:
    """systemd-socket-activate, with ``options`` of the server; where the server is to end, ``held`` keeps the sockets."""
    notifications = Notifications(str(directory / "notify"))
    ports = [free_port(), free_port()]
    listen = [option for port in ports for option in ("-l", f"127.0.0.1:{port}")]
    endpoints = [
        *("-e", "systemd:domain=INET:index=0"),
        *("-e", f"txsni:{certificates(directory)}:systemd:domain=INET:index=1"),
    ]
    holder = [sys.executable, "-m", "tests.soak.holder"] if held else []
    activate = shutil.which("systemd-socket-activate") or "/usr/bin/systemd-socket-activate"
    passed = [f"-E{name}" for name in ("NOTIFY_SOCKET", "PATH", "HOME", *site.environment)]
    command = [activate, *listen, *passed, *holder, *GREENDAPHNE, *endpoints, *OPTIONS, *site.options, *options, site.application]
    try:
        with running(command, environment={**site.environment, "NOTIFY_SOCKET": notifications.address}) as process:
            process.find("Listening on")
            # It starts the server when somebody connects.
            socket.create_connection(("127.0.0.1", ports[0]), timeout=PATIENCE).close()
            notifications.wait_for(READY=1)
            yield process, Target(("127.0.0.1", ports[0]), ("127.0.0.1", ports[1])), notifications
    finally:
        notifications.close()


# ---- Circus

_CIRCUS = """
[circus]
endpoint = ipc://{directory}/control
pubsub_endpoint = ipc://{directory}/events
check_delay = 1

[env]
PYTHONPATH = {root}

[socket:web]
host = 127.0.0.1
port = 0

[socket:tls]
host = 127.0.0.1
port = 0

[watcher:web]
cmd = {command} -e fd:fileno=$(circus.sockets.web) -e txsni:{certificates}:fd:fileno=$(circus.sockets.tls) {options} {application}
working_dir = {root}
use_sockets = True
copy_env = True
numprocesses = 2
# Longer than --graceful-timeout.
graceful_timeout = 45
"""


class Circus:
    """A circusd with one watcher, ``web``."""

    def __init__(self, directory: Path, process: Process) -> None:
        self._endpoint = f"ipc://{directory}/control"
        self._process = process

    def control(self, *command: str) -> str:
        """Run ``circusctl`` and return what it prints."""
        program = [sys.executable, "-c", "from circus.circusctl import main; main()", "--endpoint", self._endpoint, "--timeout", "60"]
        result = subprocess.run([*program, *command], capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, f"circusctl {command}: {result.stdout}{result.stderr}\n{self._process.log}"
        return result.stdout

    def pids(self) -> list[int]:
        """The servers' processes."""
        listed = self.control("list", "web").partition("\n")[0]
        return [int(number) for number in re.findall(r"\d+", listed)]

    def target(self) -> Target:
        reply = json.loads(self.control("--json", "listsockets"))
        ports = {item["name"]: item["port"] for item in reply["sockets"]}
        return Target(("127.0.0.1", ports["web"]), ("127.0.0.1", ports["tls"]))


@contextlib.contextmanager
def circus(site: Site, directory: Path, *options: str) -> Iterator[tuple[Process, Circus]]:
    """circusd with two servers."""
    settings = directory / "circus.ini"
    settings.write_text(
        _CIRCUS.format(
            directory=directory,
            root=ROOT,
            command=" ".join(GREENDAPHNE),
            certificates=certificates(directory),
            options=" ".join([*OPTIONS, *site.options, *options]),
            application=site.application,
        )
    )
    with running([sys.executable, "-c", "from circus.circusd import main; main()", str(settings)], environment=site.environment) as process:
        manager = Circus(directory, process)
        process.until(lambda: process.count(STARTED) >= 2, "both servers listen")
        yield process, manager


def signal_of(process: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
