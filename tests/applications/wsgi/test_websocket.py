"""WebSockets of WSGI applications: gevent-websocket's interface, its libraries, and libraries that speak the protocol themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import h2.events
import pytest
from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]
from geventwebsocket.resource import Resource, WebSocketApplication  # type: ignore[import-untyped]
from geventwebsocket.websocket import WebSocket as GeventWebSocket  # type: ignore[import-untyped]
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from greendaphne.config import ApplicationOptions, Limits, Timeouts
from greendaphne.core.observer import Observer
from greendaphne.websocket.handshake import accept_value
from tests.support.http2 import Peer
from tests.support.server import PATIENCE, LiveServer
from tests.support.websocket import BINARY, CLOSE, TEXT, close_payload, frame
from tests.support.websocket_cases import SMALL_CASES, Case, play
from tests.support.wsgi import serve_wsgi

LAZY = ApplicationOptions(interface="wsgi", wsgi_websocket="lazy")
EAGER = ApplicationOptions(interface="wsgi")
Environ = dict[str, Any]


def echo(environ: Environ, start_response: Any) -> list[bytes]:
    """Echoes until the client closes."""
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []


@contextmanager
def client_of(application: Callable[..., Any], path: str = "/", *, tls: bool = False, **keywords: Any) -> Iterator[ClientConnection]:
    """A client of ``application``."""
    options = {name: keywords.pop(name) for name in ("subprotocols", "compression", "origin") if name in keywords}
    options.setdefault("compression", None)
    with serve_wsgi(application, validate=False, **keywords) as server:  # noqa: SIM117 - two lines are easier to read
        with connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=PATIENCE, **options) as client:
            yield client


class Sink:
    """What an application leaves for the test."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.ended = threading.Event()

    def put(self, event: Any) -> None:
        self.events.append(event)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *details: object) -> None:
        self.ended.set()


def closed_with(client: ClientConnection) -> tuple[int, str]:
    """Wait for the end; code and reason of the server's close frame."""
    with pytest.raises(ConnectionClosed) as info:
        client.recv(PATIENCE)
    received = info.value.rcvd
    return (received.code, received.reason) if received is not None else (1006, "")


@pytest.mark.parametrize("options", [EAGER, LAZY], ids=["eager", "lazy"])
def test_echo(options: ApplicationOptions) -> None:
    with client_of(echo, options=options) as client:
        for message in ("text é日本", b"\x00binary\xff", "", b"", "x" * 70000, bytes(70000)):
            client.send(message)
            assert client.recv(PATIENCE) == message


def test_compression() -> None:
    with client_of(echo, compression="deflate", websocket_compression=True) as client:
        assert client.protocol.extensions
        client.send("a" * 5000)
        assert client.recv(PATIENCE) == "a" * 5000


def test_attributes() -> None:
    sink = Sink()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        assert isinstance(ws, GeventWebSocket)
        ws.accept()
        clients = ws.handler.server.clients
        sink.put(
            (ws.origin, ws.protocol, ws.version, ws.path, ws.closed, ws.environ is environ, environ["wsgi.websocket_version"], len(clients))
        )
        assert ws.handler.active_client.ws is ws
        assert ws.stream.handler is ws.handler
        assert next(iter(clients.values())).ws is ws
        assert (environ["HTTP_UPGRADE"], environ["HTTP_CONNECTION"], environ["REQUEST_METHOD"]) == ("websocket", "Upgrade", "GET")
        ws.current_app.on_close("reason")
        ws.logger.debug("x")
        assert environ["wsgi.input"].read() == b""
        ws.send("done")
        sink.put(ws)
        return []

    with client_of(application, "/caf%C3%A9", origin="http://a", subprotocols=["p", "q"], ws_protocols=["q"]) as client:
        assert client.recv(PATIENCE) == "done"
        assert closed_with(client) == (1000, "")
    attributes, ws = sink.events
    assert attributes == ("http://a", "q", "13", "/cafÃ©", False, True, "13", 1)
    assert not ws.handler.server.clients


def test_none_once_and_then_an_error() -> None:
    sink = Sink()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        with sink:
            sink.put(ws.receive())
            sink.put(ws.receive())
            for call in (ws.receive, ws.read_message, lambda: ws.send("x"), lambda: ws.send_frame("x", 1)):
                with pytest.raises(WebSocketError, match=r"dead|closed"):
                    call()
            sink.put(ws.closed)
            ws.close()
            ws.close(1001, "again")
            assert ws.stream is None
        return []

    with client_of(application) as client:
        client.send("one")
    assert sink.ended.wait(PATIENCE)
    assert sink.events == ["one", None, True]


def test_current_app_hears_of_the_end() -> None:
    class App:
        def __init__(self) -> None:
            self.closed: list[Any] = []
            self.current_app = self

        def on_close(self, *arguments: Any) -> None:
            self.closed.append(arguments)

        def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
            assert environ["wsgi.websocket"].receive() is None
            done.set()
            return []

    done = threading.Event()
    app = App()
    with client_of(app):
        pass
    assert done.wait(PATIENCE)
    assert app.closed == [("Connection closed",)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1000, "")),
        ((1001, "bye"), (1001, "bye")),
        ((4000, b"bytes"), (4000, "bytes")),
        ((1005, "no such code"), (1000, "no such code")),
        ((1000, "é" * 100), (1000, "é" * 61)),
        ((1000, None), (1000, "")),
    ],
)
def test_close(arguments: Any, expected: tuple[int, str]) -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        ws.close(*arguments)
        assert ws.closed
        with pytest.raises(WebSocketError):
            ws.send("x")
        return []

    with client_of(application) as client:
        assert closed_with(client) == expected


@pytest.mark.parametrize(
    ("message", "binary", "expected"),
    [
        ("t", None, "t"),
        ("t", True, b"t"),
        (b"b", None, b"b"),
        (b"b", False, "b"),
        (bytearray(b"a"), None, b"a"),
        (memoryview(b"m"), None, b"m"),
        (5, False, "5"),
    ],
)
def test_send(message: Any, binary: bool | None, expected: Any) -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send(message, binary)
        return []

    with client_of(application) as client:
        assert client.recv(PATIENCE) == expected


def test_send_frame_and_surrogates() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        with pytest.raises(ValueError, match="surrogates"):
            ws.send("\ud800")
        ws.send_frame(b"x" * 100, ws.OPCODE_PING)
        ws.send_frame("text", ws.OPCODE_TEXT)
        ws.send_frame(b"bye", ws.OPCODE_CLOSE)
        return []

    with client_of(application, compression="deflate", websocket_compression=True) as client:
        assert client.recv(PATIENCE) == "text"
        assert closed_with(client) == (1000, "bye")


def test_broadcast_from_other_greenlets() -> None:
    sockets: list[Any] = []

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        ws = environ["wsgi.websocket"]
        sockets.append(ws)
        while (message := ws.receive()) is not None:
            for client in list(ws.handler.server.clients.values()):
                for _ in range(5):
                    gevent.spawn(client.ws.send, message)
        return []

    with serve_wsgi(application, validate=False) as server:
        url = f"ws://127.0.0.1:{server.port}"
        with connect(url, compression=None) as first, connect(url, compression=None) as second:
            second.ping().wait(PATIENCE)
            first.send("x" * 100_000)
            for client in (first, second):
                assert [client.recv(PATIENCE) for _ in range(5)] == ["x" * 100_000] * 5


# --- acceptance ---


def test_eager_acceptance_does_not_wait_for_the_first_message() -> None:
    proceed = threading.Event()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        while not proceed.is_set():
            gevent.sleep(0.005)
        environ["wsgi.websocket"].send("late")
        return []

    with client_of(application) as client:
        proceed.set()
        assert client.recv(PATIENCE) == "late"


def denial(environ: Environ, start_response: Any) -> list[bytes]:
    write = start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Basic")])
    write(b"who ")
    return [b"are you?"]


@pytest.mark.parametrize("http2", [False, True])
def test_lazy_denial(http2: bool) -> None:
    with serve_wsgi(denial, validate=False, options=LAZY, http2_cleartext=True) as server:
        if http2:
            with Peer(server) as peer:
                status, fields, body = peer.response(peer.request(connect_fields(), end=False))
                assert (status, body) == (401, b"who are you?")
                assert (b"www-authenticate", b"Basic") in fields
        else:
            with pytest.raises(InvalidStatus) as info, connect(f"ws://127.0.0.1:{server.port}", compression=None):
                pass
            response = info.value.response
            assert (response.status_code, response.body) == (401, b"who are you?")
            assert response.headers["WWW-Authenticate"] == "Basic"


def test_eager_responses_are_dropped() -> None:
    closed = threading.Event()

    class Response(list[bytes]):
        def close(self) -> None:
            closed.set()

    def application(environ: Environ, start_response: Any) -> Any:
        start_response("404 Not Found", [])
        return Response([b"x"])

    with client_of(application) as client:
        assert closed_with(client) == (1000, "")
    assert closed.is_set()


@pytest.mark.parametrize(
    ("after", "error"),
    [(False, LookupError), (True, LookupError), (True, SystemExit), (True, asyncio.CancelledError)],
)
def test_failures(after: bool, error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        if after:
            environ["wsgi.websocket"].send("x")
        raise error("in the application")

    with client_of(application) as client:
        if after:
            assert client.recv(PATIENCE) == "x"
        assert closed_with(client)[0] == 1011
    assert "in the application" in caplog.text


def test_lazy_failure_is_a_response(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        raise LookupError("in the application")

    with pytest.raises(InvalidStatus, match="500"), client_of(application, options=LAZY):
        pass
    assert "in the application" in caplog.text


def test_accept_deadline() -> None:
    sink = Sink()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        with sink:
            gevent.sleep(0.5)
            with pytest.raises(WebSocketError):
                environ["wsgi.websocket"].accept()
            sink.put(environ["wsgi.websocket"].receive())
        return []

    with pytest.raises(InvalidStatus, match="403"), client_of(application, options=LAZY, timeouts=Timeouts(websocket_connect=0.1)):
        pass
    assert sink.ended.wait(PATIENCE)
    assert sink.events == [None]


def test_sends_to_clients_that_left_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            for number in range(100_000):
                environ["wsgi.websocket"].send(str(number) * 1000)
                gevent.sleep(0)
        finally:
            ended.set()
        return []

    with client_of(application) as client:
        client.recv(PATIENCE)
        client.socket.close()
        assert ended.wait(PATIENCE)
    # The client's library logs that its socket is gone.
    found = [record for record in caplog.records if record.levelno >= logging.WARNING and not record.name.startswith("websockets.")]
    assert not found


# --- limits, lifetime, drain, observers ---


def test_message_limit() -> None:
    with client_of(echo, limits=Limits(websocket_message=100)) as client:
        client.send("x" * 101)
        assert closed_with(client)[0] == 1009


def test_lifetime() -> None:
    with client_of(echo, websocket_timeout=0.2) as client:
        assert closed_with(client)[0] == 1000


def test_ping_timeout() -> None:
    with serve_wsgi(echo, validate=False, ping_interval=0.1, ping_timeout=0.1) as server, server.connect() as client:
        client.send(handshake())
        assert client.read_head().status == 101
        data = client.read_to_eof()
    assert data[0] == 0x89
    assert (1011).to_bytes(2, "big") in data


def handshake(*fields: bytes) -> bytes:
    lines = [b"GET / HTTP/1.1", b"Host: a", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", *fields]
    return b"\r\n".join([*lines, b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", b"", b""])


@pytest.mark.parametrize("raw", [False, True])
def test_drain(raw: bool) -> None:
    opened = threading.Event()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        opened.set()
        if not raw:
            return echo(environ, start_response)
        sock = environ["gunicorn.socket"]
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        sock.sendall(b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(environ["HTTP_SEC_WEBSOCKET_KEY"].encode()))
        while sock.recv(1000)[:1] not in (b"", b"\x88"):
            pass
        sock.send(b"\x88\x00")  # dropped: the server has closed already
        raise StopIteration

    with serve_wsgi(application, validate=False) as server, connect(f"ws://127.0.0.1:{server.port}", compression=None) as client:
        assert opened.wait(PATIENCE)
        server.server.stop()
        assert closed_with(client)[0] == 1012


class Recorder(Observer):
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.done = threading.Event()

    def websocket_connecting(self, stream: Any) -> None:
        self.events.append("connecting")

    def websocket_connected(self, stream: Any, seconds: float) -> None:
        self.events.append("connected")

    def websocket_rejected(self, stream: Any, seconds: float, cause: str) -> None:
        self.events.append(("rejected", stream.status, cause))

    def websocket_disconnected(self, stream: Any, seconds: float, cause: str, code: int | None) -> None:
        self.events.append(("disconnected", cause, code))
        self.done.set()


def test_observers() -> None:
    recorder = Recorder()
    with client_of(echo, observers=[recorder]) as client:
        client.close(4000)
        assert recorder.done.wait(PATIENCE)
    assert recorder.events == ["connecting", "connected", ("disconnected", "", 4000)]
    recorder = Recorder()
    with pytest.raises(InvalidStatus), client_of(denial, options=LAZY, observers=[recorder]):
        pass
    assert recorder.done.wait(PATIENCE)
    assert recorder.events == ["connecting", ("rejected", 401, "rejected"), ("disconnected", "rejected", None)]


# --- HTTP/2 ---


def connect_fields(*fields: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    head = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/ws"), (b":authority", b"a")]
    return [*head, (b"sec-websocket-version", b"13"), *fields]


def test_http2() -> None:
    environs: list[Environ] = []

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        environs.append(dict(environ))
        return echo(environ, start_response)

    with serve_wsgi(application, validate=False, http2_cleartext=True) as server, Peer(server) as peer:
        stream = peer.request(connect_fields(), end=False)
        peer.wait(h2.events.ResponseReceived, stream)
        peer.send(stream, frame(TEXT, b"hello"))
        assert peer.wait(h2.events.DataReceived, stream).data == b"\x81\x05hello"
        peer.send(stream, frame(BINARY, b"\x00\x01"))
        assert peer.wait(h2.events.DataReceived, stream).data == b"\x82\x02\x00\x01"
        peer.send(stream, frame(CLOSE, close_payload(1000)))
        assert peer.wait(h2.events.DataReceived, stream).data == b"\x88\x02\x03\xe8"
    environ = environs[0]
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["HTTP_UPGRADE"] == "websocket"
    assert environ["HTTP_SEC_WEBSOCKET_KEY"]
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"


# --- gevent-websocket's own classes ---


class Chat(WebSocketApplication):  # type: ignore[misc]
    log: list[Any] = []  # noqa: RUF012 - shared with the test
    ended = threading.Event()

    def on_open(self, *arguments: Any, **keywords: Any) -> None:
        self.log.append("open")

    def on_message(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        if message is None:
            return
        for client in list(self.ws.handler.server.clients.values()):
            client.ws.send(f"all: {message}")

    def on_close(self, *arguments: Any, **keywords: Any) -> None:
        self.log.append("close")
        self.ended.set()

    @classmethod
    def protocol_name(cls) -> str:
        return "chat"


def test_resource() -> None:
    def page(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    application = Resource([("/chat", Chat), ("/.*", page)])
    with serve_wsgi(application, validate=False) as server:
        with connect(f"ws://127.0.0.1:{server.port}/chat", subprotocols=["x", "chat"], compression=None) as client:  # type: ignore[list-item]
            assert client.subprotocol == "chat"
            client.send("hi")
            assert client.recv(PATIENCE) == "all: hi"
        assert Chat.ended.wait(PATIENCE)
        with server.connect() as http:
            http.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert http.read_response().body == b"page"
    assert Chat.log == ["open", "close"]


# --- the raw socket ---


class Peerless:
    """A minimal library like simple-websocket: answers by itself and echoes frames that are shorter than 126 bytes."""

    def __init__(self, *, selector: bool = False, before: float | None = None, fail: type[BaseException] | None = StopIteration) -> None:
        self.selector = selector
        self.before = before
        self.fail = fail
        self.errors: list[BaseException] = []

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        if self.before is not None:
            gevent.sleep(self.before)
        sock = environ["gunicorn.socket"]
        sock.settimeout(PATIENCE)
        sock.setsockopt(6, 1, 1)
        assert sock.getpeername()[0] == "127.0.0.1"
        assert sock.getsockname()[1] > 0
        try:
            sock.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nX-Own: 1\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(environ["HTTP_SEC_WEBSOCKET_KEY"].encode())
            )
            while data := self.receive(sock):
                if data[0] == 0x88:
                    sock.sendall(b"\x88\x02\x03\xe8")
                    break
                size, mask = data[1] & 127, data[2:6]
                payload = bytes(octet ^ mask[index % 4] for index, octet in enumerate(data[6 : 6 + size]))
                sock.sendall(bytes((data[0], size)) + payload)
        except OSError as error:
            self.errors.append(error)
            raise
        finally:
            sock.close()
        if self.fail is not None:
            raise self.fail
        return []

    def receive(self, sock: Any) -> bytes:
        if self.selector:
            from gevent.select import select

            while not select([sock], [], [], 0.5)[0]:
                pass
            buffer = bytearray(1000)
            return bytes(buffer[: sock.recv_into(buffer)])
        data: bytes = sock.recv(1000)
        return data


@pytest.mark.parametrize("options", [EAGER, LAZY], ids=["eager", "lazy"])
@pytest.mark.parametrize(
    "library", [Peerless(), Peerless(selector=True), Peerless(before=0.05), Peerless(fail=None), Peerless(fail=ConnectionError)]
)
def test_raw_socket(options: ApplicationOptions, library: Peerless, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    with serve_wsgi(library, validate=False, options=options, observers=[recorder]) as server, server.connect() as client:
        client.send(handshake())
        head = client.read_head()
        assert head.status == 101
        assert head.header("Sec-WebSocket-Accept") == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
        for text in (b"one", b"two"):
            client.send(frame(TEXT, text))
            assert client.read_exactly(5) == b"\x81\x03" + text
        client.send(frame(CLOSE, close_payload(1000)))
        assert client.read_exactly(4) == b"\x88\x02\x03\xe8"
        assert client.at_eof()
        assert recorder.done.wait(PATIENCE)
    assert recorder.events == ["connecting", "connected", ("disconnected", "", 1000)]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_raw_socket_over_http2() -> None:
    with serve_wsgi(Peerless(), validate=False, http2_cleartext=True) as server, Peer(server) as peer:
        stream = peer.request(connect_fields(), end=False)
        response = peer.wait(h2.events.ResponseReceived, stream)
        fields = {bytes(name): bytes(value) for name, value in response.headers or ()}
        assert fields[b":status"] == b"200"
        assert fields[b"x-own"] == b"1"
        assert not fields.keys() & {b"upgrade", b"connection", b"sec-websocket-accept"}
        peer.send(stream, frame(TEXT, b"hello"))
        assert peer.wait(h2.events.DataReceived, stream).data == b"\x81\x05hello"
        peer.send(stream, frame(CLOSE, close_payload(1000)))
        assert peer.wait(h2.events.DataReceived, stream).data == b"\x88\x02\x03\xe8"


def test_raw_socket_after_acceptance_with_compression() -> None:
    library = Peerless(before=0.05)
    with client_of(library, compression="deflate", websocket_compression=True) as client:
        assert closed_with(client)[0] == 1011
    assert "--wsgi-websocket=lazy" in str(library.errors[0])


def test_raw_socket_lifetime() -> None:
    with client_of(Peerless(), websocket_timeout=0.2) as client:
        assert closed_with(client)[0] == 1000


def test_raw_socket_of_a_client_that_leaves() -> None:
    library = Peerless()
    with client_of(library) as client:
        client.socket.close()


def test_raw_socket_that_rejects() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        with pytest.raises(OSError, match="400"):
            environ["gunicorn.socket"].send(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
        return []

    with pytest.raises(InvalidStatus, match="400"), client_of(application, options=LAZY):
        pass


# --- conformance ---


@pytest.fixture(scope="module")
def echoing() -> Iterator[LiveServer]:
    with serve_wsgi(echo, validate=False, limits=Limits(websocket_message=0, websocket_frame=0)) as server:
        yield server


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.number)
def test_conformance(echoing: LiveServer, case: Case) -> None:
    """The cases of the Autobahn suite through ``wsgi.websocket``."""
    from tests.support.websocket import Client as FrameClient

    with echoing.connect() as raw:
        raw.send(handshake())
        assert raw.read_head().status == 101
        assert not raw.buffer
        play(FrameClient(raw.sock), case)
