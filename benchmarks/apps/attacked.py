"""What servers run while one of their clients attacks: hello, after the whole body was read, and WebSockets that take everything.

``layer`` is for greendaphne, which also answers ``/lag`` with two numbers in milliseconds: by how much its hub was late, at the most since
it was asked last, and the most CPU time that passed meanwhile, which other processes on the machine do not change.  ``asgi`` and ``wsgi``
are the same for other servers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from time import monotonic, thread_time
from typing import Any

from benchmarks.apps.asgi_hello import HEADERS, HELLO

#: Seconds between two looks at the clock.
PERIOD = 0.001


async def asgi(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """An ASGI 3 application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": HELLO})


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """A WSGI application."""
    while environ["wsgi.input"].read(65536):
        pass
    start_response("200 OK", [(name.decode(), value.decode()) for name, value in HEADERS])
    return [HELLO]


class _Lag:
    """How late the hub is."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.busiest = 0.0
        self._running = False

    def take(self) -> tuple[float, float]:
        """The longest lag since the last call, and the most CPU time between two looks, in seconds."""
        import gevent

        if not self._running:
            self._running = True
            gevent.spawn(self._watch)
        taken = self.longest, self.busiest
        self.longest = self.busiest = 0.0
        return taken

    def _watch(self) -> None:
        import gevent

        while True:
            due = monotonic() + PERIOD
            used = thread_time()
            gevent.sleep(PERIOD)
            self.longest = max(self.longest, monotonic() - due)
            self.busiest = max(self.busiest, thread_time() - used)


def _make_layer() -> Any:
    from greendaphne.layers.memory import MemoryChannelLayer
    from greendaphne.worker import Message

    lag = _Lag()

    def http(message: Message) -> None:
        content = message.content
        body = b" ".join(b"%.3f" % (seconds * 1e3) for seconds in lag.take()) if content["path"] == "/lag" else HELLO
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        message.layer.send(content["reply_channel"], {"status": 200, "headers": headers, "content": body})

    def connect(message: Message) -> None:
        message.layer.send(message.content["reply_channel"], {"accept": True})

    def nothing(message: Message) -> None:
        pass

    layer = MemoryChannelLayer(capacity=1000)
    layer.routes = {
        "http.request": http,
        "http.disconnect": nothing,
        "websocket.connect": connect,
        "websocket.receive": nothing,
        "websocket.disconnect": nothing,
    }
    return layer


def __getattr__(name: str) -> Any:
    # Other servers' environments have no greendaphne.
    if name == "layer":
        return globals().setdefault("layer", _make_layer())
    raise AttributeError(name)
