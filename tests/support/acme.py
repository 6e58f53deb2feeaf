"""A certificate authority on loopback: Debian's pebble with its names, and what can be put between it and the server under test."""

from __future__ import annotations

import http.client
import json
import os
import queue
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import gevent
from cryptography import x509
from gevent import socket as cooperative

from greendaphne.acme import AcmeOptions
from greendaphne.acme.contexts import AcmeContexts
from greendaphne.acme.manager import Manager
from greendaphne.acme.options import TLS_ALPN_01
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.tls import EchoServer, exchange

#: Seconds after which a test's own waiting is an error.
PATIENCE = 30.0
#: Names below this one do not exist.
NOWHERE = "nowhere.test"
#: How often another port is tried; somebody may take the one that was free.
_TRIES = 5


class Names:
    """A name server that knows every name to be 127.0.0.1, but for those below :data:`NOWHERE`."""

    def __init__(self) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                try:
                    answer = _answer(data)
                except dns.exception.DNSException:
                    return
                sock.sendto(answer, self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


def _answer(data: bytes) -> bytes:
    query = dns.message.from_wire(data)
    response = dns.message.make_response(query)
    question = query.question[0]
    if question.name.to_text(omit_final_dot=True).lower().endswith(NOWHERE):
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", "127.0.0.1"))
    return response.to_wire()


def listening_socket() -> socket.socket:
    """A socket that listens on a port of the kernel's choice."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    return sock


class Pebble:
    """An authority whose challenges come to two listening sockets of the test's, ``https`` and ``http``.

    :param directory: for its files.
    :param bindings: external accounts that it wants, key identifiers to keys.
    :param environment: its variables.
    """

    def __init__(self, directory: Path, bindings: dict[str, str] | None = None, **environment: str) -> None:
        self.directory = directory
        self.https, self.http = listening_socket(), listening_socket()
        self._names = Names()
        authority = Authority.make(directory, "Pebble")
        #: What to trust for HTTPS to it.
        self.ca = authority.file
        self.certificate = authority.server("localhost", "127.0.0.1").write(directory / "pebble.pem")
        self._bindings = bindings
        self._environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "0", **environment}
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []
        self.port = self.management = 0
        self.start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/dir"

    @property
    def https_port(self) -> int:
        return int(self.https.getsockname()[1])

    def start(self) -> None:
        """Begin, with no memory of before; on the port that it had, if any."""
        for _ in range(_TRIES):
            port = self.port or free_port()
            self.management = free_port()
            if self._begin(port):
                self.port = port
                return
        raise AssertionError("pebble does not start:\n" + "".join(self._log))

    def _begin(self, port: int) -> bool:
        program = shutil.which("pebble")
        assert program is not None, "pebble is missing: apt-get install pebble"
        configuration = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.certificate),
            "privateKey": str(self.certificate),
            "httpPort": self.http.getsockname()[1],
            "tlsPort": self.https_port,
            "externalAccountBindingRequired": self._bindings is not None,
            "externalAccountMACKeys": self._bindings or {},
        }
        file = self.directory / "pebble.json"
        file.write_text(json.dumps({"pebble": configuration}))
        process = self._process = subprocess.Popen(
            [program, "-config", str(file), "-strict", "-dnsserver", self._names.address],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(process, ready), daemon=True).start()
        assert ready.wait(PATIENCE), "pebble does not start"
        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
                socket.create_connection(("127.0.0.1", self.management), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                threading.Event().wait(0.02)
            else:
                return True
        self.stop()
        return False

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if "ACME directory available at" in line:
                    ready.set()
        ready.set()

    def stop(self) -> None:
        """Be out of reach."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE)

    def close(self) -> None:
        self.stop()
        self._names.close()
        self.https.close()
        self.http.close()

    def log(self) -> str:
        return "".join(self._log)

    def get(self, path: str) -> bytes:
        """What the management interface says."""
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection("localhost", self.management, timeout=PATIENCE, context=context)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def roots(self) -> str:
        """The root that its certificates come from, as PEM."""
        return self.get("/roots/0").decode()

    def client_context(self, *alpn: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """For a client that trusts what pebble has issued, and what certifies pebble itself."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_verify_locations(cadata=self.roots())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def status(self, serial: int) -> dict[str, Any]:
        """What became of a certificate."""
        value: dict[str, Any] = json.loads(self.get(f"/cert-status-by-serial/{serial:x}"))
        return value


@contextmanager
def pebble(directory: Path, bindings: dict[str, str] | None = None, **environment: str) -> Iterator[Pebble]:
    """An authority for the length of a block."""
    authority = Pebble(directory, bindings, **environment)
    try:
        yield authority
    finally:
        authority.close()


@dataclass
class Reply:
    """What :class:`Between` answers itself; ``content`` is bytes, or becomes JSON."""

    status: int
    content: Any
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def problem(cls, status: int, kind: str, detail: str, **headers: str) -> Reply:
        """An ACME error."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status}, fields)


#: Given a method, a path and the body sent, answers itself or leaves the request to pebble with ``None``.
Rule = Callable[[str, str, bytes], Reply | None]


class Between:
    """Stands between a server and pebble, and answers some requests as pebble never would."""

    def __init__(self, authority: Pebble) -> None:
        self.pebble = authority
        #: Asked in order about each request.
        self.rules: list[Rule] = []
        #: Changes pebble's answers: beginnings of paths to what makes another body of one.
        self.changes: dict[str, Callable[[bytes], bytes]] = {}
        #: Further entries of the directory: their names to paths on this server.
        self.directory: dict[str, str] = {}
        #: Every request, as method and path.
        self.requests: queue.Queue[tuple[str, str]] = queue.Queue()
        self.seen: list[tuple[str, str]] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                between.requests.put((self.command, self.path))
                between.seen.append((self.command, self.path))
                reply = next((reply for rule in between.rules if (reply := rule(self.command, self.path, body)) is not None), None)
                if reply is not None:
                    kind = "application/problem+json" if reply.status >= 400 else "application/json"
                    body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
                    self.answer(reply.status, {"Content-Type": kind, **reply.headers}, body)
                    return
                self.answer(*between.forward(self.command, self.path, dict(self.headers.items()), body))

            do_GET = do_HEAD = do_POST = serve  # noqa: N815

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"https://localhost:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.origin}/dir"

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        context = ssl.create_default_context(cafile=str(self.pebble.ca))
        connection = http.client.HTTPSConnection("localhost", self.pebble.port, timeout=PATIENCE, context=context)
        try:
            # With the Host that the client sent: pebble makes its links of that.
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if path == "/dir" and self.directory:
            entries = {**json.loads(content), **{name: self.origin + place for name, place in self.directory.items()}}
            content = json.dumps(entries).encode()
        for beginning, change in self.changes.items():
            if path.startswith(beginning) and response.status < 300:
                content = change(content)
        return response.status, dict(response.getheaders()), content

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


@contextmanager
def between(authority: Pebble) -> Iterator[Between]:
    """A middleman for the length of a block."""
    middle = Between(authority)
    try:
        yield middle
    finally:
        middle.close()


class Clock:
    """Seconds since the epoch, as the test has them."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Site:
    """What a server has for one directory, without the rest of the server: contexts, a manager whose looks the test asks for, clients.

    Challenges reach it through the authority's ``https`` socket.
    """

    def __init__(
        self, authority: Pebble, directory: Path, options: AcmeOptions, clock: Clock, url: str, kinds: Sequence[str] = (TLS_ALPN_01,)
    ) -> None:
        self.pebble = authority
        self.directory = directory
        self.clock = clock
        self.contexts = AcmeContexts(str(directory), url)
        self.manager = Manager(self.contexts.store, url, options, [self.contexts], kinds, clock=clock)
        self.server = EchoServer(self.contexts, bind=self._bind)

    def _bind(self) -> Any:
        self.contexts.load()
        return cooperative.socket(fileno=os.dup(self.pebble.https.fileno()))

    def look(self) -> bool:
        """Have the manager look at its directory, in the server's hub; whether there was anything to do."""
        results: queue.Queue[tuple[bool, BaseException | None]] = queue.Queue()

        def work() -> None:
            try:
                results.put((self.manager.look(), None))
            except Exception as error:  # noqa: BLE001 - raised in the test
                results.put((False, error))

        self.server.call(lambda: gevent.spawn(work))
        worked, error = results.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return worked

    def file(self, host: str) -> Path:
        return self.directory / f"{host}.pem"

    def certificate(self, host: str) -> x509.Certificate:
        """The certificate in the file of ``host``."""
        return x509.load_pem_x509_certificates(self.file(host).read_bytes())[0]

    def connect(self, host: str, *alpn: str, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
        """A client's connection, verified."""
        return self.pebble.client_context(*alpn, version=version).wrap_socket(self.server.connect(), server_hostname=host)

    def served(self, host: str) -> int:
        """The serial number that a client is shown."""
        with self.connect(host) as tls:
            exchange(tls)
            data = tls.getpeercert(binary_form=True)
        assert data is not None
        return x509.load_der_x509_certificate(data).serial_number


@contextmanager
def site(
    authority: Pebble,
    directory: Path,
    *hosts: str,
    clock: Clock | None = None,
    url: str | None = None,
    kinds: Sequence[str] = (TLS_ALPN_01,),
    **options: Any,
) -> Iterator[Site]:
    """A site for the length of a block, with an empty file for each of ``hosts``."""
    directory.mkdir(exist_ok=True, mode=0o700)
    for host in hosts:
        (directory / f"{host}.pem").touch()
    given = {"agree_tos": True, "ca": str(authority.ca), **options}
    made = Site(authority, directory, AcmeOptions(**given), clock or Clock(time.time()), url or authority.url, kinds)
    with made.server:
        try:
            yield made
        finally:
            closed = threading.Event()
            made.server.call(lambda: gevent.spawn(made.manager.close).link(lambda _: closed.set()))
            assert closed.wait(PATIENCE)
