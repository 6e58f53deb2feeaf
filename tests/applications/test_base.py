"""An application interface of a few lines gets everything that the server has: limits, the drain, metrics, the access log."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from greendaphne.applications.base import Application
from greendaphne.config import Config, Limits, Listening, Monitoring, Timeouts, WebSockets
from greendaphne.core.causes import ACCEPT_TIMEOUT, LIFETIME
from greendaphne.core.message import Request, Stream
from greendaphne.core.observer import Observer
from greendaphne.server import Server
from greendaphne.serving.session import Session
from greendaphne.threaded import ServerThread
from tests.support.monitoring import wait_until
from tests.support.server import PATIENCE, Client
from tests.support.websocket import CLOSE, TEXT, frame

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


# ---- the interface: a function from a request and its body to an answer


class Functions(Application):
    """Answers with what ``function(method, path, body)`` returns; WebSockets are echoed, one message at a time."""

    interface = "functions"

    def __init__(self, function: Any) -> None:
        self.function = function

    def http(self, request: Request, stream: Stream) -> None:
        body = b"".join(iter(lambda: stream.read(65536), b""))
        answer = self.function(request.method, request.root_path + request.path.decode(), body)
        stream.start(200, [(b"Content-Length", b"%d" % len(answer))])
        stream.finish(answer)

    def websocket(self, request: Request, session: Session) -> None:
        if request.path == b"/never":
            while not release.is_set():
                gevent.sleep(0.01)
        elif request.path != b"/refused":
            session.accept()
            while True:
                session.send(session.receive())

    def health(self) -> str:
        return "" if self.function else "no function"


# ---- what it gets

release = threading.Event()


class Notes(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.over = threading.Event()

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        self.lines.append(f"{stream.request.method} {stream.status} {cause}".strip())

    def websocket_connected(self, stream: Stream, seconds: float) -> None:
        self.lines.append("connected")

    def websocket_rejected(self, stream: Stream, seconds: float, cause: str) -> None:
        self.lines.append(f"rejected {cause}")

    def websocket_disconnected(self, stream: Stream, seconds: float, cause: str, code: int | None) -> None:
        self.lines.append(f"disconnected {cause} {code}")
        self.over.set()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def server(notes: Notes) -> Iterator[Server]:
    config = Config(
        endpoints=("tcp:0:interface=127.0.0.1",),
        limits=Limits(request_body=10),
        timeouts=Timeouts(websocket_connect=0.2, websocket=0.3, graceful=5),
        monitoring=Monitoring(health_path="/health", metrics_path="/metrics"),
        root_path="/mnt",
        server_name="mine",
        listening=Listening(backlog=5),
        websockets=WebSockets(),
    )
    application = Functions(lambda method, path, body: f"{method} {path} {body.decode()}".encode())
    with ServerThread(Server(application=application, config=config, observers=[notes])) as running:
        yield running


def connect(server: Server) -> Client:
    return Client(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))


def test_requests(server: Server, notes: Notes) -> None:
    with connect(server) as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        response = client.read_response()
        assert response.body == b"POST /mnt/a body"
        assert response.header("server") == "mine"
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body == b"ok\n"
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b'greendaphne_requests_total{method="POST",protocol="1.1",status="200"} 1.0' in client.read_response().body
        for head in (b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"):
            with connect(server) as other:
                other.send(b"POST /b HTTP/1.1\r\nHost: a\r\n" + head)
                assert other.read_response().status == 413
    # The observer is told after the client has the answer.
    wait_until(lambda: len(notes.lines) == 3)
    assert notes.lines == ["POST 200", "POST 413 limit", "POST 413 limit"]


def test_websockets(server: Server, notes: Notes) -> None:
    with connect(server) as client:
        client.send(HANDSHAKE % b"/")
        assert client.read_head().status == 101
        client.send(frame(TEXT, b"hello"))
        assert client.read_exactly(7) == b"\x81\x05hello"
        # Its longest life is over.
        assert client.read_exactly(4) == b"\x88\x02\x03\xe8"
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.at_eof()
    assert notes.over.wait(PATIENCE)
    assert notes.lines == ["connected", f"disconnected {LIFETIME} 1000"]


def test_a_websocket_that_the_application_refuses(server: Server, notes: Notes) -> None:
    with connect(server) as client:
        client.send(HANDSHAKE % b"/refused")
        assert client.read_response().status == 403
    assert notes.over.wait(PATIENCE)
    assert notes.lines == ["rejected rejected", "disconnected rejected None"]


def test_a_websocket_that_the_application_does_not_accept_in_time(server: Server, notes: Notes) -> None:
    release.clear()
    with connect(server) as client:
        client.send(HANDSHAKE % b"/never")
        assert client.read_response().status == 403
    release.set()
    assert notes.over.wait(PATIENCE)
    assert notes.lines == [f"rejected {ACCEPT_TIMEOUT}", f"disconnected {ACCEPT_TIMEOUT} None"]


def test_the_drain_closes_websockets(server: Server, notes: Notes) -> None:
    with connect(server) as client:
        client.send(HANDSHAKE % b"/")
        assert client.read_head().status == 101
        server.stop()
        assert client.read_exactly(4) == b"\x88\x02\x03\xf4"
        client.send(frame(CLOSE, b"\x03\xf4"))
        assert client.at_eof()
    assert server.join(PATIENCE)
    assert notes.lines == ["connected", "disconnected draining 1012"]


def test_neither_or_both() -> None:
    for given in ({}, {"channel_layer": object(), "application": Application()}):
        with pytest.raises(TypeError, match="either a channel layer or an application"):
            Server(endpoints=["tcp:0"], **given)  # type: ignore[arg-type]
