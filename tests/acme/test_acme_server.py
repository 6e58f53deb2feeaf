"""Certificates from an authority through whole servers: in a thread, and as processes that share a directory."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from cryptography import x509

from greendaphne.acme import AcmeOptions, issuing, manager
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.endpoints import EndpointError, quote
from greendaphne.net.tls import TLSOptions
from greendaphne.server import Server
from tests.support.acme import PATIENCE, Between, Pebble, Reply, between, pebble
from tests.support.certificates import Authority
from tests.support.server import Client, RunningServer, serve

HOST = "www.example.test"


class Lines(logging.Handler):
    """What is logged, to be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.queue: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put(record.getMessage())

    def wait_for(self, text: str) -> str:
        """The next line that contains ``text``."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self.queue.get(timeout=max(0.01, deadline - time.monotonic()))
            if text in line:
                return line


@pytest.fixture
def log() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("greendaphne.acme")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "WATCH_INTERVAL", 0.05)
    monkeypatch.setattr(issuing, "FIRST_LOOK", 0.02)


@contextmanager
def served(authority: Pebble, directory: Path, *plain: str, url: str | None = None, **options: Any) -> Iterator[RunningServer]:
    """A server whose challenges come to the authority's sockets; the ``fd`` is a duplicate, since it closes it."""
    acme = {"agree_tos": True, "ca": str(authority.ca), **options.pop("acme", {})}
    endpoint = f"acme:{quote(url or authority.url)}:{quote(str(directory))}:fd:{os.dup(authority.https.fileno())}"
    with serve(endpoints=[endpoint, *plain], acme=AcmeOptions(**acme), **options) as server:
        yield server


def plain(authority: Pebble) -> str:
    return f"fd:{os.dup(authority.http.fileno())}"


def connect(authority: Pebble, server: RunningServer, host: str = HOST) -> Client:
    client = server.connect()
    client.sock = authority.client_context().wrap_socket(client.sock, server_hostname=host)
    return client


def get(server: RunningServer, client: Client, path: str = "/") -> bytes:
    client.send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    server.app.answer(b"from the application")
    return client.read_response().body


def serial(directory: Path, host: str = HOST) -> int:
    return x509.load_pem_x509_certificates((directory / f"{host}.pem").read_bytes())[0].serial_number


@pytest.mark.parametrize("challenge", ["tls-alpn-01", "http-01"])
def test_a_server_obtains_its_certificates(authority: Pebble, tmp_path: Path, log: Lines, challenge: str) -> None:
    directory = tmp_path / "certs"
    with served(authority, directory, plain(authority), acme={"domains": (HOST,), "challenge": challenge}) as server:
        log.wait_for(f"A new certificate for {HOST} is in service")
        with connect(authority, server) as client:
            assert get(server, client) == b"from the application"
        # The application has seen nothing of it.
        assert server.app.drain("http.request") == []
        certificates = server.server.certificates
        assert certificates is not None
        assert [status.host for each in certificates.managers for status in each.statuses()] == [HOST]


def test_a_file_dropped_in_while_it_runs(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    directory = tmp_path / "certs"
    with served(authority, directory) as server:
        with pytest.raises(ssl.SSLError):
            connect(authority, server)
        (directory / f"{HOST}.pem").touch()
        log.wait_for(f"A new certificate for {HOST} is in service")
        first = serial(directory)
        with connect(authority, server) as client:
            assert get(server, client) == b"from the application"
            # Emptied where it is, it is replaced; connections stay.
            (directory / f"{HOST}.pem").write_bytes(b"")
            log.wait_for(f"A new certificate for {HOST} is in service")
            assert serial(directory) != first
            assert get(server, client) == b"from the application"


def test_the_hub_is_not_held_up(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    """What a hub is late by may be the machine's doing; but not more of it than the CPU time that the process used meanwhile is its own."""
    own: list[float] = []

    def probe() -> None:
        last, used = time.monotonic(), time.process_time()
        while True:
            gevent.sleep(0.001)
            now, computed = time.monotonic(), time.process_time()
            own.append(min(now - last, computed - used))
            last, used = now, computed

    hosts = tuple(f"host{number}.example.test" for number in range(3))
    # A full collection takes its time in a process that has run hundreds of tests.
    gc.disable()
    try:
        with served(authority, tmp_path / "certs") as server:
            probes: queue.Queue[Any] = queue.Queue()
            assert server.server._hub is not None
            server.server._hub.loop.run_callback_threadsafe(lambda: probes.put(gevent.spawn(probe)))
            for host in hosts:
                (tmp_path / "certs" / f"{host}.pem").touch()
                log.wait_for(f"A new certificate for {host} is in service")
            greenlet = probes.get(timeout=PATIENCE)
            server.server._hub.loop.run_callback_threadsafe(lambda: greenlet.kill(block=False))
    finally:
        gc.enable()
    assert len(own) > 10
    assert max(own) < 0.05


def test_metrics_tell_how_the_certificates_stand(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    directory = tmp_path / "certs"
    acme = {"domains": (HOST,)}
    with served(authority, directory, acme=acme, metrics_path="/metrics") as server:
        log.wait_for(f"A new certificate for {HOST} is in service")
        (directory / "gone.nowhere.test.pem").touch()
        log.wait_for("No certificate for gone.nowhere.test")
        with connect(authority, server) as client:
            client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            text = client.read_response().body.decode()
    labels = f'{{directory="{directory}",host="{HOST}"}}'
    assert f"greendaphne_acme_danger{labels} 0.0" in text
    assert f'greendaphne_acme_danger{{directory="{directory}",host="gone.nowhere.test"}} 1.0' in text
    assert f'greendaphne_acme_failures_in_a_row{{directory="{directory}",host="gone.nowhere.test"}} 1.0' in text
    assert f"greendaphne_acme_expiry_timestamp_seconds{labels} " in text
    assert f"greendaphne_acme_renewal_timestamp_seconds{labels} " in text
    assert f'greendaphne_acme_certificates_issued_total{{directory="{directory}"}} 1.0' in text
    assert f'greendaphne_acme_failures_total{{directory="{directory}"}} 1.0' in text
    assert f'greendaphne_acme_outages_in_a_row{{directory="{directory}"}} 0.0' in text


def test_what_is_there_is_served_while_the_authority_is_away(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    directory = tmp_path / "certs"
    directory.mkdir(mode=0o700)
    root = Authority.make(tmp_path)
    root.server("localhost").write(directory / "localhost.pem")
    root.server("other.example.test", kind="rsa").write(directory / "DEFAULT.pem")
    (directory / "new.example.test.pem").touch()
    with served(authority, directory, url="https://127.0.0.1:1/dir") as server:
        line = log.wait_for("No certificate for new.example.test")
        assert "https://127.0.0.1:1/dir cannot be reached: Connection refused; trying again in" in line
        context = ssl.create_default_context(cafile=str(root.file))
        context.check_hostname = False
        for asked, shown in (("localhost", "localhost"), ("new.example.test", "other.example.test"), ("x.test", "other.example.test")):
            with server.connect() as client:
                client.sock = context.wrap_socket(client.sock, server_hostname=asked)
                certificate = client.sock.getpeercert()
                assert certificate is not None
                assert certificate["subjectAltName"] == (("DNS", shown),)
                assert get(server, client) == b"from the application"


def test_challenges_need_no_client_certificate(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    root = Authority.make(tmp_path)
    options = TLSOptions(client_ca=str(root.file), verify="require")
    with served(authority, tmp_path / "certs", acme={"domains": (HOST,)}, tls_options=options) as server:
        log.wait_for(f"A new certificate for {HOST} is in service")
        with connect(authority, server) as client, pytest.raises((ssl.SSLError, ConnectionError)):
            # On TLS 1.3 a client hears of it with the first answer.
            client.sock.recv(1)


def test_challenges_of_others_go_to_the_application(authority: Pebble, tmp_path: Path) -> None:
    endpoint = "tcp:0:interface=127.0.0.1"
    acme = f"acme:letsencrypt:{tmp_path}:tcp:0:interface=127.0.0.1"
    with serve(endpoints=[endpoint, acme]) as server, server.connect() as client:
        client.send(b"GET /.well-known/acme-challenge/0123456789abcdef HTTP/1.1\r\nHost: x\r\n\r\n")
        assert server.app.answer(b"mine")["path"] == "/.well-known/acme-challenge/0123456789abcdef"
        assert client.read_response().body == b"mine"


def test_a_server_that_stops_in_the_middle_withdraws_its_challenge(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    directory = tmp_path / "certs"
    asked = threading.Event()

    def rule(method: str, path: str, body: bytes) -> Reply | None:
        # The challenge is open from its acceptance on; the authority does not come to a decision.
        if path.startswith("/chalZ/"):
            asked.set()
            return Reply(200, {"type": "tls-alpn-01", "status": "pending"}, {"Replay-Nonce": "bm9uY2U"})
        return None

    with between(authority) as middle:
        middle.rules.append(rule)
        with served(authority, directory, url=middle.url, acme={"domains": (HOST,)}):
            assert asked.wait(PATIENCE)
            assert os.listdir(directory / ".acme" / "challenges") == [f"tls-alpn-01.{HOST}.pem"]
        assert os.listdir(directory / ".acme" / "challenges") == []


def test_an_authority_that_hangs_holds_up_no_end(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    asked, release, late = threading.Event(), threading.Event(), threading.Event()

    def rule(method: str, path: str, body: bytes) -> None:
        asked.set()
        if not release.wait(PATIENCE):
            late.set()

    with between(authority) as middle:
        middle.rules.append(rule)
        try:
            with served(authority, tmp_path / "certs", url=middle.url, acme={"domains": (HOST,)}):
                assert asked.wait(PATIENCE)
            # Here it has stopped, and the request has no answer yet.
            assert not late.is_set()
        finally:
            release.set()


def test_a_server_starts_again(authority: Pebble, tmp_path: Path, log: Lines) -> None:
    """Another one on the same directory asks for nothing."""
    directory = tmp_path / "certs"
    with between(authority) as middle:
        for _ in range(2):
            with served(authority, directory, url=middle.url, acme={"domains": (HOST,)}) as server:
                if not (directory / f"{HOST}.pem").exists() or not (directory / f"{HOST}.pem").stat().st_size:
                    log.wait_for("is in service")
                with connect(authority, server) as client:
                    assert get(server, client) == b"from the application"
        assert orders(middle) == 1


def orders(middle: Between) -> int:
    return sum(path == "/order-plz" for _, path in middle.seen)


def test_domains_need_an_endpoint() -> None:
    with pytest.raises(EndpointError, match="no le:, lets: or acme: endpoint"):
        Server(MemoryChannelLayer(), endpoints=["tcp:0"], acme=AcmeOptions(domains=(HOST,)))


def test_a_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EndpointError, match="Cannot use the directory of certificates"):
        Server(MemoryChannelLayer(), endpoints=[f"le:{tmp_path}/file:tcp:0"]).check()


class Process:
    """The command, with certificates from ``url`` on the authority's sockets."""

    def __init__(self, authority: Pebble, directory: Path, url: str, *options: str) -> None:
        https = authority.https.fileno()
        command = [sys.executable, "-m", "greendaphne", "-e", f"acme:{quote(url)}:{directory}:fd:{https}", "--acme-agree-tos"]
        command += [f"--acme-ca={authority.ca}", f"--acme-domains={HOST}", *options, "--inline-workers=1"]
        command.append("greendaphne.demo:channel_layer")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, pass_fds=[https]
        )
        self.lines: list[str] = []
        self.new: queue.Queue[str] = queue.Queue()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            for line in self.process.stderr:
                self.lines.append(line)
                self.new.put(line)

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.new.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in:\n{''.join(self.lines)}") from None
            if text in line:
                return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self.thread.join(PATIENCE)
        return code


def test_several_processes_issue_once(authority: Pebble, tmp_path: Path) -> None:
    """The command itself, patched by gevent, by itself and with workers, on one socket and one directory."""
    directory = tmp_path / "certs"
    with between(authority) as middle:
        processes = [Process(authority, directory, middle.url), Process(authority, directory, middle.url, "--workers=2")]
        try:
            for process in processes:
                process.wait_for("Serving at")
            deadline = time.monotonic() + PATIENCE
            while not any("is in service" in line for process in processes for line in process.lines):
                assert time.monotonic() < deadline, [process.lines for process in processes]
                with contextlib.suppress(queue.Empty):
                    middle.requests.get(timeout=0.2)
            context = authority.client_context()
            shown = set()
            for _ in range(6):
                with context.wrap_socket(connection(authority), server_hostname=HOST) as tls:
                    data = tls.getpeercert(binary_form=True)
                    assert data is not None
                    shown.add(x509.load_der_x509_certificate(data).serial_number)
            assert shown == {serial(directory)}
        finally:
            codes = [process.stop() for process in processes]
        assert codes == [0, 0]
        assert orders(middle) == 1
        assert sum("is in service" in line for process in processes for line in process.lines) == 1
        assert [line for process in processes for line in process.lines if "ERROR" in line or "Traceback" in line] == []


def connection(authority: Pebble) -> Any:
    import socket

    return socket.create_connection(authority.https.getsockname(), timeout=PATIENCE)
