"""What tests share: a server on an ephemeral port in a thread of its own, and a client that sees every byte.

The test process is not monkey-patched.  The server under test runs in a native thread with its own hub, so a test may block as it likes,
and plays the application itself through the channel layer, or leaves that to inline workers.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gevent

from greendaphne.applications.channels.application import ChannelLayerApplication
from greendaphne.config import Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.server import Server

#: Seconds after which a test's own waiting is an error.
PATIENCE = 20.0

Message = dict[str, Any]


class Application:
    """Plays the worker: takes messages from the layer and answers them."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def receive(self, *channels: str, timeout: float = PATIENCE) -> tuple[str, Message]:
        """The next message on one of ``channels``."""
        batch = self.layer.receive_batch(list(channels), 1, timeout)
        if not batch:
            raise AssertionError(f"nothing came on {channels} within {timeout} seconds")
        channel, message = batch[0]
        return channel, message

    def request(self, timeout: float = PATIENCE) -> Message:
        """The next ``http.request``."""
        return self.receive("http.request", timeout=timeout)[1]

    def drain(self, channel: str) -> list[Message]:
        """Everything that waits on ``channel`` now."""
        messages = []
        while (item := self.layer.receive([channel]))[0] is not None:
            messages.append(item[1])
        return messages

    def reply(self, message: Message, **content: Any) -> None:
        """Send ``content`` to the reply channel of ``message``."""
        self.layer.send(message["reply_channel"], content)

    def answer(self, content: bytes = b"", status: int = 200, headers: Any = (), timeout: float = PATIENCE) -> Message:
        """Answer the next request and return it."""
        message = self.request(timeout)
        self.reply(message, status=status, headers=list(headers), content=content)
        return message


class LiveServer:
    """A server that a test talks to; ``asgi`` and ``wsgi`` in this folder, and :class:`RunningServer`, know more of its application."""

    def __init__(self, server: Server) -> None:
        self.server = server
        first = server.listeners[0].getHost()
        self.host = first.host
        #: 0 for a UNIX socket.
        self.port = first.port or 0

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = PATIENCE) -> Client:
        """A new connection."""
        return Client(socket.create_connection(self.address, timeout=timeout))


class RunningServer(LiveServer):
    """A server of a channel layer, and the application that the test plays on the same layer."""

    def __init__(self, server: Server, layer: Any) -> None:
        super().__init__(server)
        self.layer = layer
        self.app = Application(layer)
        # The test is the worker, and the server is told that there is one.
        if isinstance(layer, MemoryChannelLayer):
            layer.unserved = False

    @property
    def channels(self) -> ChannelLayerApplication:
        """The application of the server, with its parts."""
        application = self.server._application
        assert isinstance(application, ChannelLayerApplication)
        return application

    @property
    def inline_workers(self) -> list[Any]:
        """The workers inside the server."""
        workers = self.channels.workers
        return [] if workers is None else workers._workers


@contextmanager
def in_thread(layer: Any = None, endpoints: list[str] | None = None, **options: Any) -> Iterator[Server]:
    """Run a server in a thread with a hub of its own while the block runs; what its start raises is raised here.

    :param endpoints: a port of 127.0.0.1 unless given.
    :param options: those of ``Server``.
    """
    # A test that fails leaves requests unanswered; it need not wait for them as a deployment does.
    options.setdefault("timeouts", Timeouts(graceful=2))
    started = threading.Event()
    servers: list[Server] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            try:
                server = Server(layer, endpoints=endpoints or ["tcp:0:interface=127.0.0.1"], signal_handlers=False, **options)
                server.start()
                servers.append(server)
            except BaseException as error:  # noqa: BLE001 - raised in the test's thread
                errors.append(error)
                return
            finally:
                started.set()
            server.serve_forever()
        finally:
            # Its threads would keep the hub, and the hub its descriptors, for as long as the tests run.
            hub = gevent.get_hub()
            hub.threadpool.kill()
            hub.destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    assert started.wait(PATIENCE), "the server did not start"
    if errors:
        thread.join(PATIENCE)
        raise errors[0]
    try:
        yield servers[0]
    finally:
        servers[0].stop()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def serve(layer: Any = None, endpoints: list[str] | None = None, **options: Any) -> Iterator[RunningServer]:
    """Run a server in a thread while the block runs: of a channel layer, unless ``application`` is among the options."""
    layer = MemoryChannelLayer() if layer is None and "application" not in options else layer
    with in_thread(layer, endpoints, **options) as server:
        yield RunningServer(server, layer)


@dataclass
class Response:
    """One response as it was on the wire."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    #: The head's bytes, with the empty line.
    head: bytes

    def header(self, name: str) -> str | None:
        """The value of the first field ``name``, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Client:
    """A raw connection that parses responses strictly by the rules and nothing else."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            raise EOFError(f"the connection was reset behind {self.buffer[:200]!r}") from None
        self.buffer += data
        return bool(data)

    def read_exactly(self, n: int) -> bytes:
        while len(self.buffer) < n:
            if not self._more():
                raise EOFError(f"{len(self.buffer)} of {n} bytes came: {self.buffer[:200]!r}")
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            if not self._more():
                raise EOFError(f"the connection ended in {self.buffer[:200]!r}")
        data, _, self.buffer = self.buffer.partition(end)
        return data + end

    def read_to_eof(self) -> bytes:
        while self._more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def read_head(self) -> Response:
        """A response's head."""
        head = self.read_until(b"\r\n\r\n")
        lines = head[:-4].decode("latin-1").split("\r\n")
        version, status, *reason = lines[0].split(" ", 2)
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(": ")
            assert colon, line
            headers.append((name, value))
        return Response(version, int(status), reason[0] if reason else "", headers, b"", head)

    def read_chunk(self) -> bytes:
        """One chunk of a body; ``b""`` is the last."""
        size = int(self.read_until(b"\r\n")[:-2], 16)
        data = self.read_exactly(size + 2)
        assert data.endswith(b"\r\n"), data[-20:]
        return data[:-2]

    def read_response(self, method: str = "GET") -> Response:
        """A whole response to a request with ``method``."""
        response = self.read_head()
        length = response.header("Content-Length")
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            return response
        if response.header("Transfer-Encoding") == "chunked":
            assert length is None
            while chunk := self.read_chunk():
                response.body += chunk
        elif length is not None:
            response.body = self.read_exactly(int(length))
        else:
            response.body = self.read_to_eof()
        return response

    def at_eof(self) -> bool:
        """Whether the server has closed the connection in good order and sent nothing more; waits for it."""
        if self.buffer:
            return False
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return False
