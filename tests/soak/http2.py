"""An HTTP/2 client over TLS with several streams at a time, which heeds GOAWAY (RFC 9113 section 6.8)."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from . import answers
from .load import PATIENCE, Context, Failed

#: Streams at a time.
STREAMS = 6


class _Client(h2.connection.H2Connection):
    """h2's connection, which after a GOAWAY would refuse the rest of the answers that the server still sends."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = h2.errors.ErrorCodes(frame.error_code)
        event.last_stream_id = frame.last_stream_id
        return [], [event]


@dataclass
class Stream:
    """One request and what of its answer is there."""

    path: str
    token: str
    status: str = ""
    body: list[bytes] = field(default_factory=list)

    def check(self) -> None:
        expected = answers.quick(self.token) if self.path == "/quick" else b"".join(answers.pieces(self.token))
        if self.status != "200" or b"".join(self.body) != expected:
            raise Failed(f"{self.path}: {self.status} {b''.join(self.body)[:100]!r} instead of {expected[:100]!r}")


class Connection:
    """One connection's life: requests until the server says that it is the last."""

    def __init__(self, context: Context) -> None:
        self._context = context
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        tls.set_alpn_protocols(["h2"])
        raw = socket.create_connection(context.target.tls, timeout=PATIENCE)
        try:
            self._sock = tls.wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise
        self._h2 = _Client(h2.config.H2Configuration(header_encoding=None))
        self._open: dict[int, Stream] = {}
        #: Requests that the server has not processed; they go to another connection.
        self.unprocessed: list[Stream] = []
        self._last: int | None = None

    def run(self, again: list[Stream]) -> None:
        context = self._context
        try:
            self._h2.initiate_connection()
            self._flush()
            while not context.stop.is_set() and self._last is None:
                while len(self._open) < STREAMS and self._last is None:
                    self._begin(again.pop() if again else Stream(context.chance.choice(("/quick", "/quick", "/stream")), context.token()))
                self._receive()
            while self._open:
                self._receive()
        finally:
            self._sock.close()

    def _begin(self, stream: Stream) -> None:
        number = self._h2.get_next_available_stream_id()
        target = f"{stream.path}?{stream.token}"
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", "soak"), (":path", target)]
        self._h2.send_headers(number, headers, end_stream=True)
        self._open[number] = stream
        try:
            self._flush()
        except OSError:
            pass  # the server's last words say what became of it

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._sock.sendall(data)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise Failed(f"{error!r} with {self._describe()}") from None
        if not data:
            if self._open:
                raise Failed(f"the connection ended with {self._describe()}")
            self._last = 0 if self._last is None else self._last
            self._context.report.event("idle connections closed by the server")
            return
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            raise Failed(f"{error!r} with {self._describe()}") from None
        for event in events:
            self._on_event(event)
        try:
            self._flush()
        except OSError:
            pass  # as above

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            stream = self._open.get(event.stream_id)
            if stream is not None:
                stream.status = dict(event.headers)[b":status"].decode()
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.stream_id in self._open:
                self._open[event.stream_id].body.append(event.data)
        elif isinstance(event, h2.events.StreamEnded):
            if event.stream_id in self._open:
                self._open.pop(event.stream_id).check()
                self._context.report.request("http2")
        elif isinstance(event, h2.events.StreamReset):
            stream = self._open.pop(event.stream_id, None)
            if stream is None:
                return
            if event.error_code != h2.errors.ErrorCodes.REFUSED_STREAM:
                raise Failed(f"a stream was reset with {event.error_code!r}")
            self._retry(stream)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._on_goaway(event)

    def _on_goaway(self, event: h2.events.ConnectionTerminated) -> None:
        if event.error_code != h2.errors.ErrorCodes.NO_ERROR:
            raise Failed(f"GOAWAY with {event.error_code!r}")
        self._context.report.event("GOAWAY")
        self._last = event.last_stream_id or 0
        for number in [number for number in self._open if number > self._last]:
            self._retry(self._open.pop(number))

    def _retry(self, stream: Stream) -> None:
        self._context.report.event("HTTP/2 requests sent again")
        self.unprocessed.append(Stream(stream.path, stream.token))

    def _describe(self) -> str:
        return f"{len(self._open)} open streams {sorted(self._open)}, last-stream-id {self._last}"


def concurrent_streams(context: Context) -> None:
    """Connection after connection; what one did not process goes to the next."""
    again: list[Stream] = []
    while not context.stop.is_set() or again:
        connection = Connection(context)
        connection.run(again)
        again = connection.unprocessed
        if context.stop.is_set():
            break
