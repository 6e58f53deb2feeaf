"""Outages of Redis while a whole server is under load; ``tests.soak.redis`` repeats them for hours.

The server's own layer is a :class:`Recorder`, for Redis takes messages along when it crashes: what the server sent is known only there.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer
from tests.support import asgi_redis, legacy
from tests.support.redis_load import HTTP_TIMEOUT, PATIENCE, SUMMARY, Load, Worker, make_layer, under_load, wait_until
from tests.support.redis_server import RedisServer
from tests.support.server import Client

#: Seconds after which Redis counts as hanging.
REDIS_TIMEOUT = 0.5
#: State of an open connection in /proc/net/tcp.
ESTABLISHED = "01"

# A site on the layer of this project, or on asgi_redis without any time limit.  It counts its greenlets when it is told to.
SITE = f"""
import gc, os, signal
import gevent

if "SITE_IS_LEGACY" in os.environ:
    from asgi_redis import RedisChannelLayer
    timeouts = {{}}
else:
    from greendaphne.layers.redis import RedisChannelLayer
    timeouts = {{"socket_timeout": {REDIS_TIMEOUT}, "socket_connect_timeout": {REDIS_TIMEOUT}}}

channel_layer = RedisChannelLayer(hosts=[os.environ["SITE_REDIS"]], capacity=1000, connection_kwargs=timeouts)

def count(*_):
    gc.collect()
    number = sum(isinstance(item, gevent.Greenlet) and bool(item) and not item.dead for item in gc.get_objects())
    with open("greenlets.new", "w") as file:
        file.write(str(number))
    os.rename("greenlets.new", "greenlets")

signal.signal(signal.SIGRTMIN, count)
"""


class Recorder(RedisChannelLayer):
    """Keeps what was sent for each WebSocket: the channel, the order, and whether it is certain that Redis had it."""

    def __init__(self, redis_process: RedisServer) -> None:
        timeouts = {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}
        super().__init__(hosts=[redis_process.url], capacity=1000, connection_kwargs=timeouts)
        self.sent: defaultdict[str, list[tuple[str, int, bool]]] = defaultdict(list)

    def send(self, channel: str, message: dict[str, Any]) -> None:
        try:
            super().send(channel, message)
        except LayerUnavailable as error:
            if error.maybe_stored:
                self._record(channel, message, False)
            raise
        self._record(channel, message, True)

    def _record(self, channel: str, message: dict[str, Any], certain: bool) -> None:
        if channel.startswith("websocket."):
            self.sent[message["reply_channel"]].append((channel, message.get("order", 0), certain))

    def unfinished(self) -> list[str]:
        """The WebSockets without a disconnect."""
        return [name for name, sent in self.sent.items() if all(channel != "websocket.disconnect" for channel, _, _ in sent)]

    def check(self) -> None:
        """One connect and one disconnect each, which comes last; a number of its own for every message, without gaps."""
        for sent in self.sent.values():
            channels = [channel for channel, _, _ in sent]
            assert channels[0] == "websocket.connect", sent
            assert channels[-1] == "websocket.disconnect", sent
            assert set(channels[1:-1]) <= {"websocket.receive"}, sent
            # A number is used again where the first message with it may have been lost.
            certain = [order for _, order, known in sent if known]
            assert len(certain) == len(set(certain)), sent
            orders = {order for _, order, _ in sent}
            assert orders == set(range(max(orders) + 1)), sent


@contextmanager
def recorded_load(redis_process: RedisServer) -> Iterator[Load]:
    """A server under load on a layer that knows what it sent; afterwards that is complete."""
    layer = Recorder(redis_process)
    with under_load(redis_process, layer, Worker(make_layer(redis_process)), lambda: not layer.unfinished()) as load:
        yield load
    layer.check()


def crash_every(load: Load, seconds: float, rounds: int) -> None:
    """Kill Redis and start it again by the clock, whether or not everybody has come back meanwhile."""
    begun = time.monotonic()
    for number in range(1, rounds + 1):
        time.sleep(max(0.0, begun + number * seconds - time.monotonic()))
        load.redis.kill()
        load.redis.restart()


def hang(load: Load, seconds: float) -> None:
    """Stop Redis for so long; all requests meanwhile are answered."""
    load.redis.pause()
    try:
        goal = load.statuses[503] + 2 * load.REQUESTERS
        end = time.monotonic() + seconds
        wait_until(lambda: load.statuses[503] >= goal, load)
        time.sleep(max(0.0, end - time.monotonic()))
    finally:
        load.redis.resume()


class Footprint(NamedTuple):
    """What a server's process holds: bytes of memory, file descriptors, greenlets, connections to Redis."""

    memory: int
    descriptors: int
    greenlets: int
    connections: int

    def is_more(self, before: Footprint, growth: int) -> bool:
        """Whether this is more than ``before``, apart from ``growth`` bytes of memory."""
        return (
            self.memory > before.memory + growth
            or self.descriptors > before.descriptors
            or self.greenlets > before.greenlets + SUMMARY
            or self.connections > before.connections
        )


class ServerProcess:
    """The command on a site of its own, on the layer of this project or on asgi_redis."""

    def __init__(self, directory: Path, redis_process: RedisServer, *, is_legacy: bool = False) -> None:
        self._directory = directory
        self._redis = redis_process
        (directory / "site_layer.py").write_text(SITE)
        env = {**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{legacy.ROOT}", "SITE_REDIS": redis_process.url}
        if is_legacy:
            env["SITE_IS_LEGACY"] = "1"
        command = asgi_redis.command("-m", "greendaphne") if is_legacy else legacy.GREENDAPHNE
        options = ["-b", "127.0.0.1", "-p", "0", "-t", str(HTTP_TIMEOUT), "-v", "1"]
        self.process = legacy.Process([*command, *options, "site_layer:channel_layer"], directory / "server.log", env, directory)
        self.host = "127.0.0.1"
        self.port = self.process.port()

    def connect(self) -> Client:
        """A new connection."""
        return Client(socket.create_connection((self.host, self.port), timeout=PATIENCE))

    def clients(self) -> int:
        """The connections of clients that are open."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(line[3] == ESTABLISHED and int(line[1].rpartition(":")[2], 16) == self.port for line in lines)

    def footprint(self) -> Footprint:
        """What it holds now."""
        answer = self._directory / "greenlets"
        answer.unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGRTMIN)
        wait_until(answer.exists)
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return Footprint(
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir(f"/proc/{self.process.pid}/fd")),
            int(answer.read_text()),
            self._redis.connections(),
        )


def crash(redis_process: RedisServer) -> None:
    redis_process.kill()
    redis_process.restart()


def hang_for_a_moment(redis_process: RedisServer) -> None:
    redis_process.pause()
    time.sleep(2 * REDIS_TIMEOUT)
    redis_process.resume()


def break_connections(redis_process: RedisServer) -> None:
    redis_process.client.client_kill_filter(_type="normal", skipme=True)


OUTAGES: tuple[Callable[[RedisServer], None], ...] = (crash, break_connections, hang_for_a_moment, break_connections)


def outages(server: ServerProcess, redis_process: RedisServer, rounds: int) -> Footprint:
    """Load the server through so many rounds of outages; what it holds when all of its clients are gone again."""
    worker = Worker(make_layer(redis_process))
    load = Load(server, redis_process, worker)  # type: ignore[arg-type]  # a server is where clients connect to
    try:
        for _ in range(rounds):
            for outage in OUTAGES:
                outage(redis_process)
                load.wait_for_service()
    finally:
        load.stop()
    worker.stop()
    wait_until(lambda: server.clients() == 0)
    # The worker's are closed, and the server has what it keeps: one to send, and one to wait for replies, which it may be opening again.
    wait_until(lambda: redis_process.connections() == 2, "the connections to Redis")
    return server.footprint()
