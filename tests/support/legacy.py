"""The example site served as a legacy project is: commands in processes of their own, found by the port they listen on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import requests
import websocket

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "chat"
USERS = {"alice": "wonderland", "bob": "builder"}
#: Seconds for a process to start and for every answer, on a busy machine.
PATIENCE = 30.0
#: Seconds for a process to end; the server gives open requests half of it.
END_PATIENCE = 60.0
#: What Django's reloader says of a file that has changed, and seconds after which it would have said so.
RELOADING = " changed, reloading."
TOUCH = 3.0
#: State of a listening socket in /proc/net/tcp.
TCP_LISTEN = "0A"
GREENDAPHNE = (sys.executable, "-m", "greendaphne")
MANAGE = (sys.executable, "manage.py")


def environment(directory: Path, layer: str) -> dict[str, str]:
    """The variables that the example reads, its data in ``directory``."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "chat.settings",
        "CHAT_LAYER": layer,
        "CHAT_DATABASE": str(directory / "chat.sqlite3"),
        "CHAT_MEDIA": str(directory / "media"),
    }


@cache
def _prepared() -> bytes:
    """The database that ``manage.py demo`` makes; it takes a while and is always the same."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        subprocess.run(
            [*MANAGE, "demo"], cwd=EXAMPLE, env=environment(directory, "inmemory"), check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL
        )
        return (directory / "chat.sqlite3").read_bytes()


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))
    except FileNotFoundError:
        return


def links(pid: int) -> Iterator[str]:
    """What the file descriptors of a process and its descendants refer to; they may close while they are looked at."""
    for member in family(pid):
        directory = f"/proc/{member}/fd"
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        for name in names:
            try:
                yield os.readlink(f"{directory}/{name}")
            except FileNotFoundError:
                continue


def listening_port(pid: int) -> int | None:
    """The first TCP port of IPv4 that the process or a descendant listens on."""
    inodes = {match[1] for link in links(pid) if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[3] == TCP_LISTEN and columns[9] in inodes:
            return int(columns[1].rpartition(":")[2], 16)
    return None


class Process:
    """A command that runs until it is stopped; what it prints is kept."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str], directory: Path = EXAMPLE) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(errors="replace")

    def port(self) -> int:
        """The port the command listens on; waits until there is one."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise AssertionError(f"ended with code {self._process.returncode}:\n{self.output()}")
            port = listening_port(self._process.pid)
            if port is not None:
                return port
            time.sleep(0.02)
        raise AssertionError(f"does not listen:\n{self.output()}")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until ``text`` was printed so many times."""
        end = time.monotonic() + PATIENCE
        while self.output().count(text) < times:
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{text!r} was not printed:\n{self.output()}")
            time.sleep(0.02)

    def change(self, path: Path, text: str) -> None:
        """Write ``text`` to a file of the project and wait until Django's reloader has noticed.

        The reloader compares times of files once a second.  It takes the first time that it sees for the original, and looks for the first
        time when the server already answers; so a file that is not noticed is touched again.
        """
        before = self.output().count(RELOADING)
        path.write_text(text)
        end = time.monotonic() + PATIENCE
        touch = time.monotonic() + TOUCH
        while self.output().count(RELOADING) == before:
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{path} was not noticed:\n{self.output()}")
            if time.monotonic() > touch:
                os.utime(path)
                touch += TOUCH
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask the command to end and return its exit code; one that does not end is killed and an error."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end:\n{self.output()}") from None
        finally:
            # What it leaves behind in its session, such as the child of the automatic reloader.
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()


class Site:
    """The running site, as a visitor sees it."""

    def __init__(self, server: Process, port: int, directory: Path) -> None:
        self.server = server
        self.port = port
        self.directory = directory
        self.url = f"http://127.0.0.1:{port}"

    def login(self, user: str) -> requests.Session:
        """A client in which ``user`` is logged in."""
        session = requests.Session()
        session.trust_env = False
        token = csrf_token(session.get(f"{self.url}/accounts/login/", timeout=PATIENCE).text)
        answer = session.post(
            f"{self.url}/accounts/login/",
            {"username": user, "password": USERS[user], "csrfmiddlewaretoken": token},
            allow_redirects=False,
            timeout=PATIENCE,
        )
        assert answer.status_code == 302, answer.text
        return session

    def socket(self, room: str, session: requests.Session | None = None, since: int = 0) -> websocket.WebSocket:
        """The WebSocket of a room, with the cookies of ``session``."""
        cookies = "; ".join(f"{name}={value}" for name, value in (session.cookies.items() if session else ()))
        return websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/rooms/{room}/socket/?since={since}", timeout=PATIENCE, cookie=cookies or None
        )


def csrf_token(page: str) -> str:
    """The token in a page's form."""
    match = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert match is not None, page
    return match[1]


def assert_no_traceback(output: str, *excused: str) -> None:
    """Nothing went wrong, but for tracebacks whose last line begins with one of ``excused``.

    A consumer that was still at work when the server was stopped may say that it was cut off, and a worker on asgi_ipc that the signal
    found in that library's semaphore.
    """
    excused += ("greenlet.GreenletExit\n", "posix_ipc.SignalError: The wait was interrupted by a signal\n")
    assert output.count("Traceback") == sum(output.count("\n" + text) for text in excused), output


@contextmanager
def serve(
    directory: Path, layer: str, command: Sequence[str], workers: Sequence[Sequence[str]] = (), code: Path = EXAMPLE, redis: str = ""
) -> Iterator[Site]:
    """Serve the example in ``code`` by ``command`` and ``workers``; afterwards all of them must end without a traceback."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "chat.sqlite3").write_bytes(_prepared())
    env = {**environment(directory, layer), "CHAT_REDIS": redis}
    processes = [Process(command, directory / "server.log", env, code)]
    try:
        processes += [Process(worker, directory / f"worker{number}.log", env, code) for number, worker in enumerate(workers)]
        yield Site(processes[0], processes[0].port(), directory)
    finally:
        for process in processes:
            process.stop()
        shutil.rmtree(directory / "media", ignore_errors=True)
    for process in processes:
        assert_no_traceback(process.output())
