"""Real Redis servers and sentinels for tests, each a process of its own on the loopback interface with a port that was free."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import gevent
import redis

from tests.support.ports import free_port

T = TypeVar("T")

#: Seconds for a server to start or to end, on a busy machine.
PATIENCE = 30.0
#: Attempts to start where another process takes the port in between.
ATTEMPTS = 5
READY = ("Ready to accept connections", "+monitor master", "Running mode=sentinel")


class RedisServer:
    """A redis-server without persistence; it keeps its port over restarts.

    :param options: further configuration, such as ``{"requirepass": "x"}``.
    """

    def __init__(self, options: dict[str, str] | None = None, *, sentinel: bool = False) -> None:
        self.options = options or {}
        self.sentinel = sentinel
        self.directory = Path(tempfile.mkdtemp(prefix="gd-redis-"))
        self.socket = self.directory / "redis.sock"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._log: list[str] = []
        self._client: redis.Redis | None = None
        for _ in range(ATTEMPTS):
            self.port = free_port()
            try:
                self.start()
                return
            except RuntimeError:
                continue
        raise AssertionError("redis-server does not start:\n" + "".join(self._log))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A connection of the test's own, to look at the server and to disturb it."""
        if self._client is None:
            self._client = redis.Redis(port=self.port, password=self.options.get("requirepass"), protocol=2)
        return self._client

    def start(self) -> None:
        """Start and wait until the server answers."""
        command = shutil.which("redis-server")
        assert command is not None, "redis-server is missing: apt-get install redis-server"
        lines = [f"{name} {value}" for name, value in self.options.items()]
        lines += ["bind 127.0.0.1", f"dir {self.directory}", "logfile ''", "daemonize no"]
        if "port" not in self.options:
            lines.append(f"port {self.port}")
        if not self.sentinel:
            lines += ["save ''", "appendonly no", f"unixsocket {self.socket}", "repl-diskless-sync-delay 0", "enable-debug-command local"]
        # A sentinel rewrites its file.
        configuration = self.directory / "redis.conf"
        configuration.write_text("\n".join(lines) + "\n")
        arguments = [command, str(configuration), *(["--sentinel"] if self.sentinel else [])]
        process = self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        ready = threading.Event()
        reader = threading.Thread(target=self._read, args=(process, ready), daemon=True)
        reader.start()
        assert ready.wait(PATIENCE), "redis-server does not start"
        if process.poll() is not None or not any(text in line for line in self._log for text in READY):
            self._reap()
            raise RuntimeError("redis-server does not start")

    def _read(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        assert process.stdout is not None
        self._log.clear()
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            self._log.append(line)
            if any(text in line for text in READY):
                ready.set()
        process.stdout.close()
        process.wait()
        ready.set()

    def log(self) -> str:
        """What the server printed since its last start."""
        return "".join(self._log)

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """End the process and remove its files."""
        if self.process is not None:
            self.resume()
            self.process.kill()
            self._reap()
        if self._client is not None:
            self._client.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self) -> None:
        """Come back, empty."""
        self.start()

    def pause(self) -> None:
        """Let the server hang: connections are open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Take back :meth:`pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def info(self, section: str) -> dict[str, Any]:
        """A section of ``INFO``."""
        facts: dict[str, Any] = self.client.info(section)
        return facts

    def calls(self, command: str) -> int:
        """How many times ``command`` was called since the last ``CONFIG RESETSTAT``."""
        return int(self.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))

    def connections(self, name: str = "greendaphne") -> int:
        """The open connections whose name contains ``name``."""
        return sum(name in client["name"] for client in self.client.client_list())

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(PATIENCE)
        self.process = None


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """A server for the length of a block."""
    server = RedisServer({name.replace("_", "-"): value for name, value in options.items()})
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def redis_servers(number: int) -> Iterator[list[RedisServer]]:
    """Several servers for the length of a block."""
    servers: list[RedisServer] = []
    try:
        for _ in range(number):
            servers.append(RedisServer())
        yield servers
    finally:
        for server in servers:
            server.stop()


def in_hub(function: Callable[[], T]) -> T:
    """Run ``function`` in a native thread that has a gevent hub, as servers do, and return what it returns."""
    done: list[gevent.Greenlet[[], T]] = []

    def run() -> None:
        hub = gevent.get_hub()
        try:
            greenlet = gevent.spawn(function)
            greenlet.join()
            done.append(greenlet)
        finally:
            hub.destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(PATIENCE * 2)
    assert not thread.is_alive(), "the hub did not come to an end"
    assert done, "the hub failed"
    if done[0].exception is not None:
        raise done[0].exception
    value: T = done[0].value  # type: ignore[assignment]
    return value
