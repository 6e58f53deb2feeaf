"""What the machine does to a server: no descriptors, no disk, a clock that jumps, places that cannot be listened on.  All as processes."""

from __future__ import annotations

import glob
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.server import PATIENCE, Client, Response
from tests.support.websocket import frame

KIB = 1024
MIB = 1024 * KIB
CHECKOUT = Path(__file__).resolve().parents[2]

APPLICATION = """
import os

import greendaphne.logs.sink
from gevent import monkey
from gevent.event import Event

from greendaphne.layers.memory import MemoryChannelLayer

# libfaketime 0.9 makes clock_nanosleep() fail, with which Python sleeps in a thread.
if "LD_PRELOAD" in os.environ:
    select = monkey.get_original("select", "select")
    greendaphne.logs.sink._sleep = lambda seconds: select([], [], [], seconds)

released = Event()


def request(message):
    path = message.content["path"]
    if path == "/hold":
        released.wait()
    elif path == "/release":
        released.set()
    elif path.startswith("/large/"):
        piece = b"x" * 65536
        message.reply({"status": 200, "content": b"", "more_content": True})
        for _ in range(int(path[7:]) // len(piece)):
            message.reply({"content": piece, "more_content": True})
        message.reply({"content": b""})
        return
    message.reply({"status": 200, "content": b"%d" % len(message.read_body())})


def echo(message):
    message.reply({"text": message.content["text"]})


channel_layer = MemoryChannelLayer(channel_capacity={"daphne.response.*": 100000})
channel_layer.routes = {
    "http.request": request,
    "websocket.connect": lambda message: message.reply({"accept": True}),
    "websocket.receive": echo,
}
"""


class Command:
    """The command on the UNIX socket ``s`` in ``path``, with an application of its own."""

    def __init__(self, path: Path, *options: str, environment: dict[str, str] | None = None, wrapper: tuple[str, ...] = ()) -> None:
        (path / "app.py").write_text(APPLICATION, encoding="utf-8")
        self.path = path
        with (path / "access.log").open("wb") as access_log:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "greendaphne", "-u", "s", "--inline-workers=2", *options, "app:channel_layer"],
                cwd=path,
                env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"} | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=access_log,
                stderr=subprocess.PIPE,
                text=True,
            )
        #: What the log said so far.
        self.log: list[str] = []
        self.wait_for("Listening on channels")

    def wait_for(self, *texts: str) -> str:
        """The next line of the log with one of ``texts``."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if any(text in line for text in texts):
                return line
        raise AssertionError(f"the log ended without {texts!r}: {''.join(self.log)}")

    def connect(self) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.path / "s"))
        return Client(sock)

    def request(self, path: str = "/", body: bytes = b"") -> Response:
        with self.connect() as client:
            client.send(head(path, len(body)))
            try:
                client.send(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # answered already
            return client.read_response()

    def stop(self) -> str:
        """End it in good order and return the rest of the log."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.communicate(timeout=PATIENCE)[1]
        self.log.append(rest)
        assert self.process.returncode == 0, self.log
        assert "Traceback" not in "".join(self.log)
        return rest


@contextmanager
def command(path: Path, *options: str, environment: dict[str, str] | None = None, wrapper: tuple[str, ...] = ()) -> Iterator[Command]:
    running = Command(path, *options, environment=environment, wrapper=wrapper)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def head(path: str, length: int = 0) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def shell(script: str) -> tuple[str, ...]:
    """What runs the command behind ``script`` in a shell."""
    return ("sh", "-c", f'{script}; exec "$@"', "sh")


# --- Descriptors ---


def test_no_descriptors_left(tmp_path: Path) -> None:
    """Open connections are served, further ones wait, and what needs a file is refused; all of it ends when there is room again."""
    with command(tmp_path, "--limit-inline-body=64K", "--limit-connections=1000", wrapper=shell("ulimit -n 48")) as server:
        first = server.connect()
        first.send(head("/"))
        assert first.read_response().body == b"0"
        clients = [server.connect() for _ in range(60)]
        server.wait_for("Cannot accept connections for now: [Errno 24] Too many open files")
        first.send(head("/"))
        assert first.read_response().body == b"0"
        # There is no descriptor for the file that it would go to.
        first.send(head("/", 200 * KIB) + bytes(200 * KIB))
        assert first.read_response().status == 503
        assert "Too many open files" in server.wait_for("Cannot store a large body or reply")
        first.close()
        for client in clients[:50]:
            client.close()
        server.wait_for("Accepting connections again")
        for client in clients[50:]:
            client.send(head("/", 200 * KIB) + bytes(200 * KIB))
            assert client.read_response().body == b"%d" % (200 * KIB)
            client.close()
        server.stop()
    assert len([line for line in server.log if "Cannot accept" in line]) == 1


# --- Disk ---


def small_disk(path: Path) -> tuple[str, ...]:
    """A wrapper under which ``path`` is a file system of 1 MiB; files of at most 1 MiB where that is not allowed."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {path}"
    probe = subprocess.run(["unshare", "--mount", "--map-root-user", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode == 0:
        return ("unshare", "--mount", "--map-root-user", *shell(mount))
    return (*shell("ulimit -f 1024"),)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Command]:
    """A server whose disk is small."""
    (tmp_path / "disk").mkdir()
    environment = {"TMPDIR": str(tmp_path / "disk")}
    with command(tmp_path, "--limit-inline-body=64K", environment=environment, wrapper=small_disk(tmp_path / "disk")) as server:
        yield server


# The server asks the file system for its free room, and refuses what has none.  A limit on the size of files shows only when it writes.
FULL_DISK = ("MiB of disk", "Cannot store")
FULL = re.compile(
    r"Overload: clients hold \d+ of \d+ MiB of disk; .*\n"
    r"|Cannot store a large body or reply \(TMPDIR is .*\): \[Errno \d+\] (No space left on device|File too large)\n"
)


def test_full_disk_and_request_bodies(small: Command) -> None:
    for _ in range(2):
        response = small.request(body=bytes(3 * MIB))
        assert response.status == 503
        assert response.header("Retry-After") is not None
    assert FULL.search(small.wait_for(*FULL_DISK))
    # What fits goes on, also on the disk: the room of refused bodies is free again.
    assert small.request(body=bytes(KIB)).body == b"1024"
    assert small.request(body=bytes(800 * KIB)).body == b"%d" % (800 * KIB)
    small.stop()
    assert len([line for line in small.log if FULL.search(line)]) == 1
    access = (small.path / "access.log").read_text().splitlines()
    assert [line.split('"')[2].split()[0] for line in access] == ["503", "503", "200", "200"]


def test_full_disk_and_replies(small: Command) -> None:
    """A download that its client does not read can be kept no longer: the client is dropped, and nobody else notices."""
    with small.connect() as slow:
        slow.send(head("/large/33554432"))
        slow.read_head()
        assert FULL.search(small.wait_for(*FULL_DISK))
        assert small.request().body == b"0"
        with pytest.raises((EOFError, ConnectionResetError)):
            read_chunks(slow)
    small.stop()


def read_chunks(client: Client) -> None:
    while client.read_chunk():
        pass


# --- Clock ---


def faketime() -> str:
    """The library that changes a process' wall clock (Debian: ``faketime``)."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    assert found, "libfaketime is missing: apt-get install faketime"
    return found[0]


@pytest.mark.parametrize("jump", [timedelta(days=2), timedelta(days=-2)], ids=["forwards", "backwards"])
def test_clock_jumps(tmp_path: Path, jump: timedelta) -> None:
    """Time limits do not see the wall clock; dates do."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with command(tmp_path, environment=environment) as server:
        idle, held, websocket, typing = (server.connect() for _ in range(4))
        idle.send(head("/"))
        before = date(idle.read_response())
        held.send(head("/hold"))
        typing.send(head("/", 10) + b"12345")
        websocket.send(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert websocket.read_head().status == 101

        clock.write_text(f"{jump.total_seconds():+.0f}")
        after = date(server.request())
        assert abs(after - before - jump) < timedelta(minutes=5)
        # Nothing has ended, neither now nor once every timer had its turn.
        for _ in range(2):
            idle.send(head("/"))
            assert abs(date(idle.read_response()) - before - jump) < timedelta(minutes=5)
            websocket.send(frame(1, b"hello"))
            assert websocket.read_exactly(7) == b"\x81\x05hello"
        typing.send(b"67890")
        assert typing.read_response().body == b"10"
        assert server.request("/release").status == 200
        assert held.read_response().status == 200

        clock.write_text("+0")
        assert abs(date(server.request()) - before) < timedelta(minutes=5)
        idle.send(head("/"))
        assert idle.read_response().status == 200
        for client in (idle, held, websocket, typing):
            client.close()
        server.stop()
    days = {line.split("[")[1][:11] for line in (tmp_path / "access.log").read_text().splitlines() if "[" in line}
    expected = {(datetime.now(timezone.utc).astimezone() + offset).strftime("%d/%b/%Y") for offset in (timedelta(0), jump)}
    assert expected <= days


def date(response: Response) -> datetime:
    value = response.header("Date")
    assert value is not None
    return parsedate_to_datetime(value)


# --- Places to listen on ---


def refused(path: Path, *options: str, pass_fds: tuple[int, ...] = ()) -> str:
    """The one line of a server that does not start."""
    (path / "app.py").write_text(APPLICATION, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "greendaphne", "-v", "0", *options, "app:channel_layer"],
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=False,
        pass_fds=pass_fds,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.partition("Couldn't listen on ")[2].strip()


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(tmp_path, "-p", str(port)) == f"127.0.0.1:{port}: [Errno 98] Address already in use; another program listens there."


def test_unix_sockets_that_are_somebody_elses(tmp_path: Path) -> None:
    with command(tmp_path) as server:
        assert refused(tmp_path, "-u", "s") == "s: [Errno 98] Address already in use; another program listens there."
        assert server.request().status == 200
        server.process.kill()
        server.process.wait(PATIENCE)
    # The next one replaces what a killed server left, and leaves nothing itself.
    assert (tmp_path / "s").is_socket()
    with command(tmp_path) as server:
        assert server.request().status == 200
        server.stop()
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").write_text("precious")
    assert refused(tmp_path, "-u", "s") == "s: a file that is not a socket is there."
    assert (tmp_path / "s").read_text() == "precious"


def closed() -> tuple[int, Callable[[], object]]:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return writer, lambda: None


def a_file() -> tuple[int, Callable[[], object]]:
    number = os.open(__file__, os.O_RDONLY)
    return number, lambda: os.close(number)


def datagram() -> tuple[int, Callable[[], object]]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return sock.fileno(), sock.close


@pytest.mark.parametrize(
    ("make", "reason"), [(closed, "it is not open"), (a_file, "it is not a socket"), (datagram, "it is not a stream socket")]
)
def test_descriptors_that_cannot_be_listened_on(tmp_path: Path, make: Callable[[], tuple[int, Callable[[], object]]], reason: str) -> None:
    number, close = make()
    try:
        passed = () if make is closed else (number,)
        assert refused(tmp_path, "--fd", str(number), pass_fds=passed) == f"fd {number}: {reason}."
    finally:
        close()
