"""What the HTTP/2 tests share: connections served in a thread with a hub of its own, and peers that speak frames.

:func:`serve_http2` runs nothing but :class:`~greendaphne.http2.Http2Connection` behind a listening socket, so a test says by a function
what a stream is answered with.  :class:`Peer` is the ``h2`` package's client; :class:`RawPeer` sends whatever frames a test makes up and
reads what comes back.
"""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, final

import gevent
import h2.config
import h2.connection
import h2.events
import h2.settings
from gevent import get_hub
from gevent import socket as gsocket
from gevent.event import Event
from gevent.pool import Group
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from greendaphne.config import Limits, Timeouts
from greendaphne.core.message import ClientDisconnected, ConnectionInfo, HTTPError, ResponseError
from greendaphne.http2 import PREFACE, Http2Connection, Http2Limits, Http2Stream
from greendaphne.net.service import Service
from greendaphne.net.transport import Transport

#: Seconds after which a test's own waiting is an error.
PATIENCE = 20.0

Fields = list[tuple[bytes, bytes]]
T = TypeVar("T", bound=h2.events.Event)
F = TypeVar("F", bound=Frame)

#: A plain request.
GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"localhost")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]


def eventually(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not become true"
        time.sleep(0.005)


def hello(stream: Http2Stream) -> None:
    """The simplest application."""
    stream.start(200, [(b"content-type", b"text/plain")])
    stream.finish(b"hello")


def echo(stream: Http2Stream) -> None:
    """Answers with the request's body."""
    stream.start(200, [])
    while data := stream.read(65536):
        stream.write(data)
    stream.finish()


def forever(stream: Http2Stream) -> None:
    """Never answers; ends when the client gives the request up."""
    gone = Event()
    stream.watch(gone.set)
    gone.wait()
    raise ClientDisconnected


class Http2Server:
    """A listening socket whose connections speak HTTP/2, in a native thread."""

    def __init__(
        self,
        application: Callable[[Http2Stream], None],
        limits: Limits,
        timeouts: Timeouts,
        http2_limits: Http2Limits,
    ) -> None:
        self.application = application
        self.limits = limits
        self.timeouts = timeouts
        self.http2_limits = http2_limits
        self.port = 0
        #: Connections being served, in order; and exceptions that should not have been.
        self.connections: list[Http2Connection] = []
        self.errors: list[BaseException] = []
        #: Requests given to the application, and how many of them ended by the client's leaving.
        self.served = 0
        self.disconnected = 0
        self._hub: Any = None
        self._ready = threading.Event()
        self._stopped: Any = None
        self._thread = threading.Thread(target=self._run, name="http2", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self) -> None:
        self.call(self._stopped.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"

    def call(self, function: Callable[[], Any]) -> None:
        """Run ``function`` in the server's thread, in its hub."""
        self._hub.loop.run_callback_threadsafe(function)

    def _run(self) -> None:
        self._hub = get_hub()
        self._stopped = Event()
        listener = gsocket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        greenlets = Group()

        def accept() -> None:
            while True:
                sock, address = listener.accept()
                greenlets.spawn(self._connection, sock, address)

        acceptor = gevent.spawn(accept)
        self._ready.set()
        self._stopped.wait()
        acceptor.kill()
        listener.close()
        greenlets.kill(timeout=PATIENCE)
        self._hub.destroy(destroy_loop=True)

    def _connection(self, sock: Any, address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        info = ConnectionInfo("http", list(address), list(sock.getsockname()))
        service = Service(self.limits, self.timeouts, self._serve, self._refuse)
        connection = Http2Connection(Transport(sock, self.timeouts.send), info, service, self.http2_limits)
        self.connections.append(connection)
        try:
            connection.run()
        except gevent.GreenletExit:
            raise
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)
        finally:
            self.connections.remove(connection)

    def _serve(self, stream: Http2Stream) -> None:
        self.served += 1
        try:
            self.application(stream)
        except ClientDisconnected:
            self.disconnected += 1
        except HTTPError as error:
            self._refuse(stream, error)
        except ResponseError as error:
            if stream.status:
                stream.reset()
            else:
                self._refuse(stream, HTTPError(500, str(error)))
        except gevent.GreenletExit:
            raise
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)

    @staticmethod
    def _refuse(stream: Http2Stream, error: HTTPError) -> None:
        if stream.status:
            stream.reset()
            return
        stream.start(error.status, error.headers)
        stream.finish(error.detail.encode())


@contextmanager
def serve_http2(
    application: Callable[[Http2Stream], None] = hello,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    **http2_limits: Any,
) -> Iterator[Http2Server]:
    """Serve ``application`` while the block runs; every exception that reached a connection's greenlet fails the test."""
    server = Http2Server(application, limits or Limits(), timeouts or Timeouts(), Http2Limits(**http2_limits))
    server.start()
    try:
        yield server
    finally:
        server.stop()
    assert server.errors == []


class Addressed(Protocol):
    """A server that can be connected to."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""


@final
class Peer:
    """A client on the ``h2`` package's state machine."""

    def __init__(self, server: Addressed, **settings: int) -> None:
        self.sock = socket.create_connection(server.address, timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        )
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({getattr(h2.settings.SettingCodes, name.upper()): value for name, value in settings.items()})
        self.events: list[h2.events.Event] = []
        #: Whether received bodies are acknowledged as they arrive.
        self.acknowledge = True
        self.flush()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def flush(self) -> None:
        """Send what the state machine has."""
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def request(self, fields: Fields = GET, body: bytes | None = None, *, end: bool = True) -> int:
        """Send a request; returns its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, fields, end_stream=end and body is None)
        self.flush()
        if body is not None:
            self.send(stream_id, body, end=end)
        return stream_id

    def send(self, stream_id: int, body: bytes, *, end: bool = False) -> None:
        """Send body bytes as the windows allow."""
        position = 0
        while True:
            n = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size, len(body) - position)
            if n or position == len(body):
                last = position + n == len(body)
                self.h2.send_data(stream_id, body[position : position + n], end_stream=end and last)
                self.flush()
                position += n
                if last:
                    return
            else:
                self.receive()

    def receive(self) -> None:
        """Wait for bytes and process them."""
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.acknowledge and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()

    def wait(self, kind: type[T], stream_id: int | None = None) -> T:
        """The first event of ``kind``, of a stream where one is given; it is taken out."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and (stream_id is None or getattr(event, "stream_id", None) == stream_id):
                    self.events.remove(event)
                    return event
            self.receive()

    def response(self, stream_id: int) -> tuple[int, Fields, bytes]:
        """Status, fields and body of a complete response."""
        while not any(
            isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and event.stream_id == stream_id for event in self.events
        ):
            self.receive()
        mine = [event for event in self.events if getattr(event, "stream_id", None) == stream_id]
        self.events = [event for event in self.events if event not in mine]
        resets = [event for event in mine if isinstance(event, h2.events.StreamReset)]
        assert any(isinstance(event, h2.events.StreamEnded) for event in mine), f"stream reset: {resets}"
        (head,) = (event for event in mine if isinstance(event, h2.events.ResponseReceived))
        fields = [(bytes(name), bytes(value)) for name, value in head.headers]
        body = b"".join(event.data for event in mine if isinstance(event, h2.events.DataReceived))
        return int(fields[0][1]), fields[1:], body

    def get(self, fields: Fields = GET, body: bytes | None = None) -> tuple[int, Fields, bytes]:
        """Request and response."""
        return self.response(self.request(fields, body))


@final
class RawPeer:
    """A client that follows no rules: frames in, frames out."""

    def __init__(self, server: Addressed, *, preface: bool = True, settings: dict[int, int] | None = None) -> None:
        self.sock = socket.create_connection(server.address, timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder = Encoder()
        self.decoder = Decoder()
        self._buffer = b""
        #: Frames received and not taken yet, and all resets and the GOAWAY frames seen.
        self.frames: list[Frame] = []
        if preface:
            self.sock.sendall(PREFACE)
            self.send(SettingsFrame(settings=settings or {}))
            self.wait(SettingsFrame, lambda frame: "ACK" in frame.flags)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, *frames: Frame) -> None:
        self.sock.sendall(b"".join(frame.serialize() for frame in frames))

    def try_send(self, *frames: Frame) -> bool:
        """Send; false when the server has ended the connection."""
        try:
            self.send(*frames)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def headers(self, stream_id: int, fields: Fields = GET, flags: tuple[str, ...] = ("END_STREAM", "END_HEADERS")) -> HeadersFrame:
        """A HEADERS frame, without Huffman code so that anything goes."""
        return HeadersFrame(stream_id, self.encoder.encode(fields, huffman=False), flags=flags)

    def recv(self) -> Frame | None:
        """The next frame, ``None`` at the end of the connection."""
        while True:
            if len(self._buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
                if len(self._buffer) >= 9 + length:
                    frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
                    self._buffer = self._buffer[9 + length :]
                    return frame
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._buffer += data

    def wait(self, kind: type[F], condition: Callable[[F], bool] = lambda frame: True) -> F:
        """The next frame of ``kind`` that meets ``condition``; others are kept."""
        for frame in self.frames:
            if isinstance(frame, kind) and condition(frame):
                self.frames.remove(frame)
                return frame
        while True:
            next_frame = self.recv()
            assert next_frame is not None, f"the connection ended before {kind.__name__}; kept: {self.frames}"
            if isinstance(next_frame, kind) and condition(next_frame):
                return next_frame
            self.frames.append(next_frame)

    def reset(self, stream_id: int) -> int:
        """The error code with which the server resets a stream."""
        return self.wait(RstStreamFrame, lambda frame: frame.stream_id == stream_id).error_code

    def goaway(self) -> GoAwayFrame:
        """The GOAWAY with which the server ends the connection, which it then closes."""
        frame = self.wait(GoAwayFrame)
        self.sock.shutdown(socket.SHUT_WR)
        while self.recv() is not None:
            pass
        return frame

    def fields(self, stream_id: int) -> Fields:
        """The next header section on a stream."""
        frame = self.wait(HeadersFrame, lambda frame: frame.stream_id == stream_id)
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(frame.data, raw=True)]

    def status(self, stream_id: int) -> int:
        """The status of a response."""
        return int(self.fields(stream_id)[0][1])

    def alive(self) -> None:
        """Check that the connection still works."""
        self.send(PingFrame(opaque_data=b"are you?"))
        pong = self.wait(PingFrame, lambda frame: "ACK" in frame.flags)
        assert pong.opaque_data == b"are you?"


class Census:
    """Counts objects of some classes that came to exist after this one was made.

    Objects of tests before, which a greenlet of a thread that has ended may hold for ever, are kept and not counted.
    """

    def __init__(self, *kinds: type) -> None:
        gc.collect()
        self._before = [item for item in gc.get_objects() if type(item) in kinds]
        self._known = {id(item) for item in self._before}

    def new(self, kind: type) -> int:
        """How many objects of ``kind`` are new."""
        gc.collect()
        return sum(type(item) is kind and id(item) not in self._known for item in gc.get_objects())


__all__ = [
    "GET",
    "PATIENCE",
    "POST",
    "Census",
    "ContinuationFrame",
    "DataFrame",
    "ExtensionFrame",
    "Fields",
    "Http2Server",
    "Peer",
    "RawPeer",
    "RstStreamFrame",
    "WindowUpdateFrame",
    "echo",
    "eventually",
    "forever",
    "hello",
    "serve_http2",
]
