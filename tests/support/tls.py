"""A TLS echo server in a thread with its own hub, and the clients that talk to it."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
from gevent import get_hub
from gevent import socket as cooperative
from gevent.event import Event

from greendaphne.net.tls import Contexts, TLSTransport, handshake
from tests.support.certificates import Authority
from tests.support.readiness import readable

#: Seconds after which a test's own waiting is an error.
PATIENCE = 20.0
MIB = 1024 * 1024

Serve = Callable[[TLSTransport], None]
AnyContexts = TypeVar("AnyContexts", bound=Contexts)


def echo(transport: TLSTransport) -> None:
    """Send back what comes, until the client says that nothing more follows."""
    while data := transport.recv(65536, PATIENCE):
        transport.sendall(data)
    transport.close()


class EchoServer:
    """Accepts TLS connections in a thread of its own, with its own hub.

    :param listener: a cooperative listening socket, or ``None`` for a TCP port of the kernel's choice.
    """

    def __init__(
        self,
        certificates: Contexts,
        serve: Serve = echo,
        *,
        timeout: float = PATIENCE,
        send_timeout: float = PATIENCE,
        bind: Callable[[], Any] | None = None,
    ) -> None:
        self.certificates = certificates
        self.serve = serve
        self.timeout = timeout
        self.send_timeout = send_timeout
        self.bind = bind or self._bind
        #: One entry per connection that has ended: ``None``, or what its handshake or service raised.
        self.ended: queue.Queue[BaseException | None] = queue.Queue()
        #: One entry per handshake that succeeded.
        self.accepted: queue.Queue[TLSTransport] = queue.Queue()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _bind() -> Any:
        listener = cooperative.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        return listener

    def __enter__(self) -> EchoServer:
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(self, *exc: object) -> None:
        self.call(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def call(self, function: Callable[[], object]) -> None:
        """Run ``function`` in the server's hub."""
        self._hub.loop.run_callback_threadsafe(function)

    def _run(self) -> None:
        self._hub = get_hub()
        self._stop = Event()
        listener = self.bind()
        self.address = listener.getsockname()
        connections: set[gevent.Greenlet[..., None]] = set()

        def accept() -> None:
            while True:
                sock, _ = listener.accept()
                connection = gevent.spawn(self._connection, sock)
                connections.add(connection)
                connection.link(connections.discard)

        acceptor = gevent.spawn(accept)
        self._started.set()
        self._stop.wait()
        gevent.killall([acceptor, *connections])
        listener.close()
        self._hub.destroy(destroy_loop=True)

    def _connection(self, sock: Any) -> None:
        result: BaseException | None = None
        transport = None
        try:
            transport = handshake(sock, self.certificates, timeout=self.timeout, send_timeout=self.send_timeout)
            self.accepted.put(transport)
            self.serve(transport)
        except (Exception, gevent.Timeout) as error:  # noqa: BLE001 - the test looks at it
            result = error
        finally:
            if transport is not None:
                transport.close()
            self.ended.put(result)
            # The traceback refers to this frame: an exception kept here would keep itself alive, and the connection with it.
            result = None

    @property
    def port(self) -> int:
        return int(self.address[1])

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(self.address[:2], timeout=PATIENCE)


def loaded(certificates: AnyContexts) -> AnyContexts:
    certificates.load()
    return certificates


def client_context(authority: Authority, *, alpn: tuple[str, ...] = (), version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def connect(
    server: EchoServer, context: ssl.SSLContext, host: str | None = "localhost", session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    if host is None:
        context.check_hostname = False
    return context.wrap_socket(server.connect(), server_hostname=host, session=session, suppress_ragged_eofs=False)


def exchange(tls: ssl.SSLSocket, data: bytes = b"ping") -> bytes:
    tls.sendall(data)
    return read(tls, len(data))


def read(tls: ssl.SSLSocket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = tls.recv(size - len(received))
        assert chunk, "the server closed the connection"
        received += chunk
    return received


def read_to_end(tls: ssl.SSLSocket) -> bytes:
    received = bytearray()
    while chunk := tls.recv(MIB):
        received += chunk
    return bytes(received)


def common_name(tls: ssl.SSLSocket) -> str:
    certificate = tls.getpeercert()
    assert certificate is not None
    subject: Any = certificate["subject"]
    return str(subject[0][0][1])


def s_client(server: EchoServer, *arguments: str, data: bytes = b"Q\n", host: str = "localhost") -> str:
    """Run OpenSSL's client; ``Q`` ends it."""
    program = shutil.which("openssl")
    assert program, "the tests need the openssl command"
    result = subprocess.run(
        [program, "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", host, *arguments],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return (result.stdout + result.stderr).decode("utf-8", "replace")


def s_client_talk(server: EchoServer, *arguments: str) -> str:
    """Run OpenSSL's client until an echo is back."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"marco polo\n")
        process.stdin.flush()
        output = b""
        deadline = time.monotonic() + PATIENCE
        while b"marco polo\n" not in output:
            assert readable(process.stdout.fileno(), deadline - time.monotonic()), output
            chunk = os.read(process.stdout.fileno(), 65536)
            assert chunk, output
            output += chunk
        rest, _ = process.communicate(b"Q\n", timeout=PATIENCE)
        return (output + rest).decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def skip_a_second(certificates: Contexts) -> None:
    """Have the next handshake look at the files, as it does once a second."""
    certificates._check_after = 0.0
    for entry in getattr(certificates, "_entries", {}).values():
        entry.checked = float("-inf")


def pump(tls: ssl.SSLSocket, data: bytes, size: int) -> bytes:
    """Send ``data`` and receive ``size`` bytes at the same time; one thread, as Python's ssl is not safe in two."""
    tls.setblocking(False)
    view = memoryview(data)
    received = bytearray()
    while view or len(received) < size:
        busy = False
        wants_write = False
        if view:
            try:
                view = view[tls.send(view[:77_777]) :]
                busy = True
            except ssl.SSLWantWriteError:
                wants_write = True
            except ssl.SSLWantReadError:
                pass
        if len(received) < size:
            try:
                chunk = tls.recv(65536)
                assert chunk
                received += chunk
                busy = True
            except ssl.SSLWantReadError:
                pass
        if not busy:
            assert readable(tls.fileno(), PATIENCE, or_writable=wants_write), "nothing moves any more"
    tls.settimeout(PATIENCE)
    return bytes(received)


@contextmanager
def s_client_pipes(server: EchoServer, *arguments: str) -> Iterator[tuple[Callable[[bytes], None], Callable[[], bytes]]]:
    """OpenSSL's client, to write to and to read from."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin.fileno(), process.stdout.fileno()

    def write(data: bytes) -> None:
        os.write(stdin, data)

    def read_some() -> bytes:
        assert readable(stdout, PATIENCE), "nothing comes any more"
        return os.read(stdout, 4096)

    try:
        yield write, read_some
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


class MemoryClient:
    """A TLS client whose records pass through the test's hands."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing.read())
                self.incoming.write(sock.recv(65536))
        sock.sendall(self.outgoing.read())
