"""A server with an ASGI application, in a thread of its own, and an application that plays what a test tells it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

from greendaphne.aio import hub
from greendaphne.applications.asgi import ASGIApplication
from greendaphne.config import ApplicationOptions, AsgiOptions, Config

from .server import PATIENCE, LiveServer, in_thread
from .websocket import Client as WebSocketClient

Handler = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)


class ASGIServer(LiveServer):
    """A server of an ASGI application."""

    @property
    def application(self) -> ASGIApplication:
        """What serves the application."""
        application = self.server._application
        assert isinstance(application, ASGIApplication)
        return application

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        tasks = self.application._tasks
        return 0 if tasks is None else len(tasks)

    def get(self, path: str = "/", headers: str = "") -> Any:
        """The response to a GET on a connection of its own."""
        with self.connect() as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
            return client.read_response()

    @contextmanager
    def websocket(self, path: str = "/", headers: bytes = b"") -> Iterator[WebSocketClient]:
        """An open WebSocket."""
        with self.connect() as client:
            client.send(HANDSHAKE % (path.encode(), headers))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                # Byte by byte, as frames may follow at once.
                byte = client.sock.recv(1)
                assert byte, head
                head += byte
            assert head.startswith(b"HTTP/1.1 101 "), head
            websocket = WebSocketClient(client.sock)
            try:
                yield websocket
            finally:
                websocket.close()


@contextmanager
def serve_asgi(
    application: Any,
    *,
    interface: str = "asgi3",
    asgi: AsgiOptions | None = None,
    endpoints: list[str] | None = None,
    config: Config | None = None,
    **keywords: Any,
) -> Iterator[ASGIServer]:
    """Run a server in a thread while the block runs.

    :param asgi: how the application is started and ended.
    :param keywords: those of ``Server``.
    """
    # Before the thread has a hub.
    assert hub.install()
    changed = (config or Config()).changed(
        {"application": ApplicationOptions(interface=interface), "asgi": asgi or AsgiOptions(lifespan="off", close_timeout=1)}
    )
    with in_thread(endpoints=endpoints, application=application, config=changed, **keywords) as server:
        yield ASGIServer(server)


class Recorder:
    """Puts everything that an application tells it where the test can wait for it."""

    def __init__(self) -> None:
        self._queue: Queue[Any] = Queue()

    def __call__(self, item: Any) -> None:
        self._queue.put(item)

    def next(self) -> Any:
        """The next item; waits for it."""
        return self._queue.get(timeout=PATIENCE)

    @property
    def empty(self) -> bool:
        return self._queue.empty()


async def answer(send: Any, body: bytes = b"", status: int = 200, headers: Any = ()) -> None:
    """A whole response."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Any) -> bytes:
    """The whole body of a request."""
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise AssertionError("the client left in mid-body")
        parts.append(event["body"])
        if not event["more_body"]:
            return b"".join(parts)
