"""A server in a process of its own that is attacked, and what of it can be measured: memory, descriptors, how soon others are answered."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

from tests.support.server import PATIENCE, Client

_CODE = """
import gevent.monkey
gevent.monkey.patch_all()
import logging, resource, sys
import gevent
from greendaphne.config import Config, ConfigurationError, Limits, Timeouts, WebSockets, Http2
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.server import Server

limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
# More than any attack sends: what the tests are about is the memory of requests, not the length of the queue.
layer = MemoryChannelLayer(channel_capacity={"http.request": 40_000})
layer.unserved = False
config = eval(sys.argv[1])
server = Server(layer, endpoints=["tcp:0:interface=127.0.0.1"], signal_handlers=False, config=config)
server.start()

def send(channel, message):
    while True:
        try:
            layer.send(channel, message)
            return
        except layer.ChannelFull:
            gevent.sleep(0.01)

def stream(channel, size):
    # As a worker does that reads a file: as fast as the layer takes it.
    while size > 0:
        size -= 262144
        send(channel, {"content": b"x" * 262144, "more_content": size > 0})

# With those of clients that left, as a worker has them: a message that nothing receives keeps an arena of the allocator until it expires.
CHANNELS = ["http.request", "http.disconnect", "websocket.connect", "websocket.disconnect"]

def work(channels):
    while True:
        for channel, message in layer.receive_batch(channels, 1, None):
            if not channel.endswith("disconnect"):
                answer(channel, message)
        # An object of a peak that stays keeps 1 MiB of Python's allocator; four workers that wait would keep many.
        channel = message = None

#: Seconds for a message, by its channel and path.
PAUSES = {("http.request", "/large"): 0.005, ("http.request", "/slow"): 0.02, ("websocket.receive", "/slow"): 0.1}

def answer(channel, message):
    reply = message["reply_channel"]
    gevent.sleep(PAUSES.get((channel, message.get("path")), 0))
    if channel == "websocket.connect":
        send(reply, {"accept": True})
    elif channel == "websocket.receive" and message["path"] == "/echo":
        send(reply, {"text": message["text"]})
    elif channel == "websocket.receive":
        send(reply, {"text": str(len(message.get("text") or message.get("bytes")))})
    elif message["path"] == "/state":
        overload = server._parts.overload
        state = [overload.memory.held, overload.disk.held, len(overload.accounts), overload.trims, overload.displaced]
        send(reply, {"status": 200, "headers": [], "content": repr(state).encode()})
    elif message["path"] == "/gc":
        import gc
        n = gc.collect()
        from greendaphne.serving.memory import trim
        trim()
        send(reply, {"status": 200, "headers": [], "content": b"%d" % n})
    elif message["path"] == "/large":
        send(reply, {"status": 200, "headers": [], "content": b"x" * 4_000_000})
    elif message["path"] == "/many":
        send(reply, {"status": 200, "headers": [], "content": b"", "more_content": True})
        gevent.spawn(stream, reply, 4_000_000)
    else:
        send(reply, {"status": 200, "headers": [], "content": b"%d" % len(message["body"])})

for _ in range(4):
    gevent.spawn(work, CHANNELS)
for _ in range(2):
    gevent.spawn(work, ["websocket.receive"])
print(server.port, flush=True)
server.serve_forever()
"""


class Victim:
    """The process."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: str) -> None:
        self._process = process
        self._log = log
        self.port = port

    @property
    def memory(self) -> int:
        """Bytes of resident memory."""
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        with open(self._log) as file:
            return file.read()

    def connect(self, timeout: float = PATIENCE) -> Client:
        """A new connection."""
        return Client(socket.create_connection(("127.0.0.1", self.port), timeout=timeout))

    def slow(self) -> socket.socket:
        """A new connection whose receive buffer is small, for a client that does not read."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def post(self, size: int = 10_000, patience: float = PATIENCE) -> tuple[int, float]:
        """Have another client send a body of ``size`` bytes; returns the status and the seconds that it took.

        :param patience: seconds after which it fails.
        """
        begun = monotonic()
        with self.connect(patience) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            response = client.read_response()
        assert response.status != 200 or response.body == b"%d" % size
        return response.status, monotonic() - begun

    def post_large(self, size: int) -> int:
        """The status of a body of ``size`` bytes that travels through the body channel."""
        with self.connect() as client:
            try:
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            except OSError:
                pass  # it was refused while it was sent
            return client.read_response().status

    def state(self) -> list[int]:
        """Bytes of memory and disk that clients hold, connections, times that memory was given back, and connections that made room."""
        with self.connect() as client:
            client.send(b"GET /state HTTP/1.1\r\nHost: a\r\n\r\n")
            numbers = client.read_response().body.strip(b"[]").split(b",")
        return [int(number) for number in numbers]

    def settles(self, within: float, below: int) -> float:
        """Wait until it has no more than ``below`` bytes; returns how many seconds that took, and fails after ``within``."""
        begun = monotonic()
        while self.memory > below:
            assert monotonic() - begun < within, f"{self.memory >> 20} MiB, not below {below >> 20} MiB"
            sleep(0.1)
        return monotonic() - begun


@contextmanager
def victim(log: str, config: str, descriptors: int = 0, **environment: str) -> Iterator[Victim]:
    """Run a server.

    :param log: file for its log.
    :param config: the expression of its :class:`greendaphne.config.Config`.
    :param descriptors: its limit of descriptors; 0 for this process'.
    """
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, config, str(descriptors)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        with open(log) as file:
            assert line, file.read()
        yield Victim(process, int(line), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def withstands(attack: Callable[[Victim], Iterator[socket.socket]], log: str, config: str, limit: int, stays: int) -> None:
    """Memory stays below 1.2 times ``limit`` bytes under ``attack``, and comes back to ``stays`` bytes above the start within a minute.

    Another client is served meanwhile.

    :param attack: yields its sockets, which stay open.
    """
    with victim(log, config) as target:
        assert target.post()[0] == 200
        start = peak = target.memory
        with ExitStack() as stack:
            for sock in attack(target):
                stack.enter_context(sock)
                peak = max(peak, target.memory)
            end = monotonic() + 2
            while monotonic() < end:
                # Of another client, which may wait behind thousands of requests: long on a busy machine.
                assert target.post(patience=5 * PATIENCE)[0] == 200
                peak = max(peak, target.memory)
        assert peak < limit * 1.2, f"{peak >> 20} MiB"
        target.settles(60, start + stays)
        assert "Traceback" not in target.log
