"""A server with a WSGI application, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.validate import validator

from greendaphne.config import ApplicationOptions, Config, Timeouts
from greendaphne.server import Server

from .server import PATIENCE, Client

Application = Callable[..., Any]


class WSGIServer:
    """A server that a test talks to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host = "127.0.0.1"
        self.port = server.listeners[0].getHost().port or 0

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = PATIENCE) -> Client:
        """A new connection."""
        import socket

        return Client(socket.create_connection(self.address, timeout=timeout))


@contextmanager
def serve_wsgi(
    application: Application,
    *,
    validate: bool = True,
    endpoints: list[str] | None = None,
    options: ApplicationOptions | None = None,
    config: Config | None = None,
    **keywords: Any,
) -> Iterator[WSGIServer]:
    """Run a server in a thread while the block runs.

    :param validate: whether ``wsgiref.validate`` watches both sides.
    :param options: how the application is called.
    :param keywords: those of ``Server``.
    """
    keywords.setdefault("timeouts", Timeouts(graceful=2))
    changed = (config or Config()).changed({"application": options or ApplicationOptions(interface="wsgi")})
    served = validator(application) if validate else application
    started = threading.Event()
    result: dict[str, Any] = {}

    def run() -> None:
        try:
            places = endpoints or ["tcp:0:interface=127.0.0.1"]
            server = Server(application=served, endpoints=places, signal_handlers=False, config=changed, **keywords)
            server.start()
            result["server"] = server
        except BaseException as error:
            result["error"] = error
            raise
        finally:
            started.set()
        server.serve_forever()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    assert started.wait(PATIENCE), "the server did not start"
    if "error" in result:
        thread.join(PATIENCE)
        raise result["error"]
    running = WSGIServer(result["server"])
    try:
        yield running
    finally:
        running.server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"
