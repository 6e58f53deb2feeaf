"""The numbers are true: known traffic over HTTP/1, HTTP/2, TLS and WebSocket, failures, outages, and several workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from greendaphne.config import Config, Limits, Timeouts
from greendaphne.core.causes import CAUSES
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.monitoring.families import Family, Histogram, Sample, gauge
from greendaphne.monitoring.metrics import PRIVATE_CODES, Metrics
from greendaphne.monitoring.workers import Workers, decode, encode, merge
from greendaphne.processes import control
from greendaphne.server import Server
from greendaphne.threaded import ServerThread
from tests.support.bridge import handshake, open_websocket, read_frame
from tests.support.certificates import Authority
from tests.support.http2 import GET as GET2
from tests.support.http2 import Peer
from tests.support.monitoring import GET, connect, endpoint, fetch, health, read, scrape, wait_until
from tests.support.processes import master
from tests.support.redis_server import redis_server
from tests.support.server import PATIENCE, Client, RunningServer, serve
from tests.support.tls import client_context
from tests.support.websocket import frame

SEPARATE = "tcp:0:interface=127.0.0.1"
TEXT, CLOSE = 1, 8


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with serve(metrics=SEPARATE, http2_cleartext=True) as running:
        yield running


def settled(server: RunningServer) -> None:
    """Wait until nothing is being served, so that everything has been counted."""
    wait_until(lambda: scrape(server)("requests_in_progress") == 0)


# ---- HTTP


def test_requests_by_method_status_and_protocol(server: RunningServer) -> None:
    sent = received = 0
    with server.connect() as client:
        for method, status in ((b"GET", 200), (b"GET", 200), (b"POST", 404), (b"BREW", 418), (b"HEAD", 200)):
            request = method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
            client.send(request)
            server.app.answer(b"content", status, [(b"Content-Length", b"7")])
            response = client.read_response(method.decode())
            assert response.status == status
            sent += len(request)
            received += len(response.head) + len(response.body)
        client.send(request := b"GET / HTTP/1.0\r\n\r\n")
        server.app.answer(b"old")
        response = client.read_response()
        sent, received = sent + len(request), received + len(response.head) + len(response.body)
        assert client.at_eof()
    settled(server)
    numbers = scrape(server)
    assert numbers("requests_total", method="GET", status="200", protocol="1.1") == 2
    assert numbers("requests_total", method="POST", status="404", protocol="1.1") == 1
    assert numbers("requests_total", method="HEAD", status="200", protocol="1.1") == 1
    assert numbers("requests_total", method="GET", status="200", protocol="1.0") == 1
    # A client may send any method, and Prometheus keeps every label for ever.
    assert numbers("requests_total", method="other", status="418", protocol="1.1") == 1
    assert numbers.sum("requests_total") == 6
    assert numbers("request_duration_seconds_count", protocol="1.1") == 5
    assert numbers("request_duration_seconds_bucket", protocol="1.1", le="+Inf") == 5
    assert numbers("request_duration_seconds_sum", protocol="1.1") > 0
    assert numbers("received_bytes_total") == sent
    assert numbers("sent_bytes_total") == received
    assert numbers("connections_accepted_total", protocol="http/1") == 1
    assert numbers.sum("failures_total") == 0
    assert numbers("layer_messages_sent_total", channel="http.request") == 6
    assert numbers("layer_messages_received_total") == 6
    assert numbers("layer_send_duration_seconds_count") >= 6


def test_what_is_open(server: RunningServer) -> None:
    with server.connect() as idle, server.connect() as busy, Peer(server) as peer:
        idle.send(b"GET")
        busy.send(GET)
        first = server.app.request()
        stream = peer.request(GET2)
        second = server.app.request()
        wait_until(lambda: scrape(server)("connections", protocol="http/1") == 2)
        numbers = scrape(server)
        assert numbers("connections", protocol="http/2") == 1
        assert numbers("http2_streams") == 1
        assert numbers("requests_in_progress") == 2
        assert numbers("reply_channels") == 2
        assert numbers("greenlets", purpose="connection") == 3
        server.app.reply(first, status=200)
        server.app.reply(second, status=200)
        assert busy.read_response().status == 200
        assert peer.response(stream)[0] == 200
        settled(server)
    wait_until(lambda: scrape(server).sum("connections") == 0)
    numbers = scrape(server)
    assert numbers("http2_streams") == numbers("reply_channels") == numbers("requests_in_progress") == 0
    assert numbers("connections_accepted_total", protocol="http/2") == 1
    assert numbers("requests_total", method="GET", status="200", protocol="2") == 1


def test_a_connection_that_says_nothing_has_no_protocol(server: RunningServer) -> None:
    with server.connect():
        wait_until(lambda: scrape(server)("connections", protocol="none") == 1)
    wait_until(lambda: scrape(server)("connections_accepted_total", protocol="none") == 1)


def test_replies_and_bodies_that_wait() -> None:
    limits = Limits(inline_body=1000, body_chunk=1000)
    with serve(metrics=SEPARATE, limits=limits) as server, server.connect() as client, server.connect() as upload:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(GET)
        message = server.app.request()
        server.app.reply(message, status=200, content=b"x" * 8_000_000, more_content=True)
        server.app.reply(message, content=b"x" * 40_000, more_content=True)
        wait_until(lambda: scrape(server)("replies_waiting_bytes") >= 40_000)
        numbers = scrape(server)
        assert numbers("replies_waiting_max_bytes") == numbers("replies_waiting_bytes")
        server.app.reply(message, content=b"x" * 5_000_000, more_content=True)
        wait_until(lambda: scrape(server)("replies_disk_bytes") == 5_000_000)
        upload.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + b"b" * 50_500)
        wait_until(lambda: scrape(server)("bodies_disk_bytes") >= 50_000)
        assert scrape(server)("bodies_disk_bytes") <= scrape(server)("bodies_disk_limit_bytes")


# ---- causes


def test_failures_by_cause() -> None:
    layer = MemoryChannelLayer(capacity=1)
    with serve(layer, metrics=SEPARATE, http_timeout=0.3) as server:
        with server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
            assert client.read_response().status == 400
        with server.connect() as slow, server.connect() as refused:
            slow.send(GET)
            wait_until(lambda: scrape(server)("requests_in_progress") == 1)
            refused.send(GET)
            assert refused.read_response().status == 503
            # Nobody answers the first one, which also fills the channel.
            assert slow.read_response().status == 503
        server.app.drain("http.request")
        with server.connect() as leaving:
            leaving.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        wait_until(lambda: scrape(server)("failures_total", cause="client-gone", protocol="http") == 1)
        numbers = scrape(server)
        assert numbers("failures_total", cause="bad-request", protocol="http") == 1
        assert numbers("failures_total", cause="layer-full", protocol="http") == 1
        assert numbers("failures_total", cause="worker-timeout", protocol="http") == 1
        assert numbers.sum("failures_total") == 4
        assert numbers("layer_full_total", channel="http.request") == 1
        assert numbers("requests_total", method="GET", status="503", protocol="1.1") == 2
        assert numbers("requests_total", method="POST", status="none", protocol="1.1") == 1
        # All of them are there before they happen, or their first time would show no increase.
        causes = {dict(labels)["cause"] for name, labels in numbers.values if name == "greendaphne_failures_total"}
        assert causes == set(CAUSES)


def test_outages_of_redis() -> None:
    # The test plays the application, over connections of its own.
    with (
        redis_server() as redis,
        closing(RedisChannelLayer(hosts=[redis.url])) as layer,
        serve(layer, metrics=SEPARATE) as server,
        server.connect() as client,
    ):
        client.send(GET)
        server.app.answer(b"ok")
        assert client.read_response().status == 200
        assert scrape(server)("layer_up") == 1
        redis.kill()
        wait_until(lambda: scrape(server)("layer_up") == 0)
        client.send(GET)
        assert client.read_response().status == 503
        settled(server)
        numbers = scrape(server)
        assert numbers("layer_outages_total") == 1
        assert numbers("layer_losses_total") == 0
        assert numbers("failures_total", cause="layer-down", protocol="http") == 1
        assert numbers("layer_send_failures_total", channel="http.request") == 1
        assert health(server)[0] == 503
        redis.restart()
        wait_until(lambda: scrape(server)("layer_up") == 1)
        wait_until(lambda: scrape(server)("layer_losses_total") == 1)
        assert scrape(server)("layer_outages_total") == 1


# ---- WebSocket


def test_websockets(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(handshake())
        message = server.app.receive("websocket.connect")[1]
        wait_until(lambda: scrape(server)("websockets", state="connecting") == 1)
        server.app.reply(message, accept=True)
        assert client.read_head().status == 101
        wait_until(lambda: scrape(server)("websockets", state="open") == 1)
        assert scrape(server)("requests_in_progress") == 0
        client.send(frame(TEXT, b"hello") + frame(TEXT, "grün".encode()))
        for _ in range(2):
            server.app.receive("websocket.receive")
        server.app.reply(message, text="ä")
        server.app.reply(message, bytes=b"12345")
        assert read_frame(client) == (TEXT, "ä".encode())
        assert read_frame(client)[1] == b"12345"
        client.send(frame(CLOSE, (4001).to_bytes(2, "big")))
        assert server.app.receive("websocket.disconnect")[1]["code"] == 4001
    wait_until(lambda: scrape(server)("websockets", state="open") == 0)
    numbers = scrape(server)
    assert numbers("websockets", state="connecting") == 0
    assert numbers("websocket_messages_received_total") == 2
    assert numbers("websocket_received_bytes_total") == 5 + 5
    assert numbers("websocket_messages_sent_total") == 2
    assert numbers("websocket_sent_bytes_total") == 2 + 5
    assert numbers("websocket_handshakes_total", outcome="accepted") == 1
    assert numbers("websocket_handshakes_total", outcome="rejected") == 0
    assert numbers("websockets_closed_total", code="4001") == 1
    assert numbers("layer_messages_sent_total", channel="websocket.receive") == 2


def test_websockets_that_are_refused(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(handshake())
        server.app.reply(server.app.receive("websocket.connect")[1], accept=False)
        assert client.read_head().status == 403
    with server.connect() as client:
        client.send(handshake(version=b"12"))
        assert client.read_head().status == 426
    wait_until(lambda: scrape(server).sum("failures_total") == 2)
    numbers = scrape(server)
    assert numbers("websocket_handshakes_total", outcome="rejected") == 1
    assert numbers("websockets", state="connecting") == numbers("websockets", state="open") == 0
    assert numbers("failures_total", cause="rejected", protocol="websocket") == 1
    assert numbers("failures_total", cause="bad-request", protocol="websocket") == 1


def test_websockets_of_a_drain_have_their_code() -> None:
    timeouts = Timeouts(graceful=PATIENCE, linger=0.1)
    with serve(metrics=SEPARATE, timeouts=timeouts) as server, server.connect() as client, server.connect() as busy:
        busy.send(GET)
        message = server.app.request()
        open_websocket(server, client)
        server.server.stop()
        assert read_frame(client) == (CLOSE, (1012).to_bytes(2, "big"))
        client.send(frame(CLOSE, (1012).to_bytes(2, "big")))
        wait_until(lambda: scrape(server).sum("websockets_closed_total", code="1012") == 1)
        assert scrape(server)("failures_total", cause="draining", protocol="websocket") == 1
        server.app.reply(message, status=200)
        assert busy.read_response().status == 200


def test_close_codes_are_bounded() -> None:
    metrics = Metrics()
    for code in range(3000, 5000):
        metrics.websocket_closed(code)
    metrics.websocket_closed(1000)
    metrics.websocket_closed(3000)
    codes = metrics.websocket_codes
    assert len(codes) == PRIVATE_CODES + 2
    assert (codes["1000",], codes["3000",], codes["other",]) == (1, 2, 2000 - PRIVATE_CODES)


# ---- TLS


def test_handshakes_and_certificates(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    issued = authority.server("localhost", "127.0.0.1")
    pem = issued.write(tmp_path / "server.pem")
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"], metrics=SEPARATE, timeouts=Timeouts(tls_handshake=2)) as server:
        plain = socket.create_connection(server.address, timeout=PATIENCE)
        with Client(client_context(authority).wrap_socket(plain, server_hostname="localhost")) as client:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().status == 200
        with server.connect() as client:
            client.send(GET)
            assert client.read_response().status == 400
        with server.connect() as silent:
            assert silent.at_eof()
        with socket.create_connection(server.address, timeout=PATIENCE) as plain, pytest.raises(ssl.SSLError):
            # It does not know the authority.
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
        wait_until(lambda: scrape(server).sum("tls_handshake_failures_total") == 3)
        numbers = scrape(server)
        assert numbers("tls_handshakes_total", version="TLSv1.3") == 1
        for reason in ("plain-http", "timeout", "failed"):
            assert numbers("tls_handshake_failures_total", reason=reason) == 1
        name = "greendaphne_certificate_not_after_timestamp_seconds"
        ((labels, value),) = [(dict(labels), value) for (other, labels), value in numbers.values.items() if other == name]
        assert value == issued.certificate.not_valid_after_utc.timestamp()
        assert labels == {"file": pem.name, "name": "localhost"}


# ---- the process


def test_the_process_and_its_hub(server: RunningServer) -> None:
    wait_until(lambda: scrape(server)("hub_lag_seconds_count") > 0)
    numbers = scrape(server)
    assert numbers("hub_lag_max_seconds") >= 0
    assert numbers("draining") == 0
    ((labels, value),) = [(dict(labels), value) for (name, labels), value in numbers.values.items() if name == "greendaphne_build_info"]
    assert value == 1
    assert labels["python"] == ".".join(map(str, sys.version_info[:3]))
    assert labels.keys() == {"version", "python", "gevent"}
    assert numbers.values["process_open_fds", frozenset()] >= 5
    assert numbers.values["process_resident_memory_bytes", frozenset()] > 1_000_000


def test_sources_of_others(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    metrics = server.server.metrics
    assert metrics is not None

    def broken() -> list[Family]:
        raise RuntimeError("no numbers today")

    metrics.add_source(broken)
    metrics.add_source(lambda: [gauge("greendaphne_something", "A further one.", 7)])
    for _ in range(2):
        assert scrape(server)("something") == 7
    assert caplog.text.count("it is left out") == 1


# ---- the page


def test_on_ordinary_endpoints(tmp_path: Path) -> None:
    with serve(metrics_path="/numbers", health_path="/alive", metrics=f"unix:{tmp_path / 'm'}") as server:
        with server.connect() as client:
            client.send(b"GET /numbers HTTP/1.1\r\nHost: a\r\n\r\n")
            response = client.read_response()
            assert response.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
            assert response.header("Cache-Control") == "no-store"
            numbers = read("", response.body.decode())
            # The request that asks is being served; it is not counted as answered.
            assert numbers("requests_in_progress") == 1
            client.send(b"GET /numbers HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read("", client.read_response().body.decode()).sum("requests_total") == 0
        assert fetch(*server.address, path="/alive")[0] == 200
        # The endpoint of its own has the same paths.
        for path, status in (("/numbers", 200), ("/alive", 200), ("/metrics", 404), ("/", 404)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(tmp_path / "m"))
                client = Client(sock)
                client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert client.read_response().status == status
    assert not (tmp_path / "m").exists()


def test_openmetrics_for_whoever_asks(server: RunningServer) -> None:
    place = endpoint(server)
    _, content_type, text = fetch(*place, accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert families["greendaphne_requests"].type == "counter"
    assert text.endswith("# EOF\n")
    for nonsense in ("application/openmetrics-text; version=x", "text/plain; version=1.é", "\xff", ",;=,", "text/plain;version=9.9.9"):
        with connect(place) as client:
            client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: " + nonsense.encode("latin-1") + b"\r\n\r\n")
            assert client.read_response().status == 200


def test_a_stranger_gets_nothing_out_of_the_endpoint(server: RunningServer) -> None:
    place = endpoint(server)
    for request in (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde", b"GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n"):
        with connect(place) as client:
            client.send(request)
            assert client.read_response().status in (404, 405)
    with connect(place) as client:
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000)
        assert client.read_response().status == 431


def test_who_is_idle_does_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.monitoring.endpoint._LIMITS", Limits(connections=2))
    monkeypatch.setattr("greendaphne.monitoring.endpoint._TIMEOUTS", Timeouts(keep_alive=0.1))
    with serve(metrics=SEPARATE) as server:
        place = endpoint(server)
        with connect(place) as asked, connect(place), connect(place) as later:
            asked.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert asked.read_response().status == 200
            later.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert later.read_response().status == 200


async def answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""


def test_every_family_is_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.make(tmp_path)
    pem = authority.server("localhost").write(tmp_path / "server.pem")
    monkeypatch.setenv(control.RUN_DIR, str(tmp_path))
    monkeypatch.setenv(control.WORKER, "0")
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"], metrics=SEPARATE, watchdog=5) as server:
        kinds = {name: kind for name, kind in scrape(server).kinds.items() if name.startswith("greendaphne_")}
    # An application of another interface has families of its own.
    config = Config().changed({"application.concurrency": 2, "application.request_timeout": 5, "asgi.lifespan": "off"})
    config = config.changed({"monitoring.metrics_path": "/metrics"})
    with (
        ServerThread(Server(application=answer_nothing, endpoints=["tcp:0:interface=127.0.0.1"], config=config)) as other,
        Client(socket.create_connection(("127.0.0.1", other.port), timeout=PATIENCE)) as client,
    ):
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        text = client.read_response().body.decode()
    kinds |= dict(re.findall(r"^# TYPE (greendaphne_\w+?)(?:_total)? (\w+)$", text, re.MULTILINE))
    page = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.rst").read_text()
    rows = re.findall(r"^``(greendaphne_\w+)`` +(counter|gauge|histogram)  ", page, re.MULTILINE)
    documented = {name.removesuffix("_total"): kind for name, kind in rows}
    assert documented == kinds
    # Queries and alerts are about what there is.
    rules = Path(__file__).resolve().parents[2] / "examples" / "prometheus" / "greendaphne.rules.yml"
    for name in re.findall(r"\bgreendaphne_[a-z0-9_]+[a-z0-9]\b(?!_)", page + rules.read_text()):
        known = name.removesuffix("_total").removesuffix("_bucket")
        assert known in kinds or name == "greendaphne_acme", name


@pytest.mark.parametrize("options", [{"health_path": "health"}, {"metrics_path": "/m?x"}, {"health_path": "/a", "metrics_path": "/a"}])
def test_paths_that_cannot_be(options: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a path that begins with a slash|has a page already"):
        Server(MemoryChannelLayer(), endpoints=["tcp:0"], **options)


# ---- nothing where it was not asked for


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE * 3, check=False)


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    code = """
import sys
import threading
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.server import Server
server = Server(MemoryChannelLayer(), endpoints=["tcp:0"])
assert server.metrics is None
assert not [name for name in sys.modules if name.startswith(("prometheus_client", "greendaphne.monitoring"))], sys.modules
Server(MemoryChannelLayer(), endpoints=["tcp:0"], health_path="/h", watchdog=1)
assert not [name for name in sys.modules if name.startswith("prometheus_client")]
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", ["--metrics-path=/m", "--metrics=tcp:0"])
def test_without_prometheus_client_there_is_one_line(tmp_path: Path, option: str) -> None:
    (tmp_path / "app.py").write_text("from greendaphne.layers.memory import MemoryChannelLayer\nlayer = MemoryChannelLayer()\n")
    code = "import sys; sys.modules['prometheus_client'] = None; from greendaphne.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "0", "-v", "0", option, "app:layer"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Metrics need prometheus_client" in done.stderr
    assert "it comes with greendaphne[metrics]" in done.stderr


# ---- several workers


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(control.RUN_DIR, str(tmp_path))
    return tmp_path


def answer(server: RunningServer, number: int) -> None:
    for _ in range(number):
        with server.connect() as client:
            client.send(GET)
            server.app.answer(b"ok")
            assert client.read_response().status == 200


def test_any_worker_answers_for_all(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(control.WORKER, "0")
    with serve(metrics=SEPARATE) as first:
        monkeypatch.setenv(control.WORKER, "7")
        with serve(metrics=SEPARATE) as second:
            answer(first, 2)
            answer(second, 3)
            wait_until(lambda: scrape(first).sum("requests_total") == 5)
            labels = {"method": "GET", "status": "200", "protocol": "1.1"}
            for server in (first, second):
                numbers = scrape(server)
                assert numbers("requests_total", worker="0", **labels) == 2
                assert numbers("requests_total", worker="7", **labels) == 3
                assert numbers("request_duration_seconds_count", worker="7", protocol="1.1") == 3
                assert numbers("draining", worker="0") == 0
                assert (numbers("workers"), numbers("workers_missing")) == (2, 0)
        # One that ends in good order is missed by nobody.
        numbers = scrape(first)
        assert (numbers("workers"), numbers("workers_missing")) == (1, 0)
        assert numbers.sum("requests_total") == 2
    assert list(run_directory.iterdir()) == []


def test_workers_that_do_not_answer_are_counted(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greendaphne.monitoring.workers.PATIENCE", 0.3)
    monkeypatch.setenv(control.WORKER, "0")
    (run_directory / "metrics-x.sock").touch()
    (run_directory / "other").touch()
    with serve(metrics=SEPARATE) as server, socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as wrong:
        hanging.bind(str(run_directory / "metrics-1.sock"))
        hanging.listen()
        numbers = scrape(server)
        assert (numbers("workers"), numbers("workers_missing")) == (1, 1)
        # One that was killed and left its socket behind is not there at all.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(run_directory / "metrics-2.sock"))
            dead.listen()
        assert scrape(server)("workers_missing") == 1
        wrong.bind(str(run_directory / "metrics-3.sock"))
        wrong.listen()
        with wrong.dup() as accepting:
            accepting.settimeout(PATIENCE)

            def speak() -> None:
                other, _ = accepting.accept()
                with other:
                    other.sendall(b'{"not": "families"}')

            thread = threading.Thread(target=speak)
            thread.start()
            assert scrape(server)("workers_missing") == 2
            thread.join(PATIENCE)


def test_many_who_ask_at_a_time_cost_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs must not collect what others want to know of it."""
    monkeypatch.setattr("greendaphne.monitoring.workers.PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "metrics-1.sock"))
        hanging.listen()
        hanging.setblocking(False)
        workers = Workers(str(tmp_path), 0, lambda: [gauge("g", "One.", 1)])
        for _ in range(2):
            asking = [gevent.spawn(workers.families) for _ in range(20)]
            gevent.joinall(asking, timeout=PATIENCE)
            assert [greenlet.get()[-1].samples[0].value for greenlet in asking] == [1] * 20, "one is missing"
            hanging.accept()[0].close()
            with pytest.raises(BlockingIOError):
                hanging.accept()


def test_a_new_worker_takes_the_place_of_a_dead_one(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(control.WORKER, "0")
    path = run_directory / "metrics-0.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serve(metrics=SEPARATE) as older:
        before = path.stat().st_ino
        with serve(metrics=SEPARATE):
            assert path.stat().st_ino != before
            scrape(older)
            older.server.stop()
            wait_until(lambda: not older.server.listeners)
            time.sleep(0.1)
            # It removes no socket but its own.
            assert path.exists()
    assert not path.exists()


def test_a_directory_that_is_gone_is_no_obstacle(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(control.WORKER, "0")
    monkeypatch.setenv(control.RUN_DIR, str(run_directory / "missing"))
    with serve(metrics=SEPARATE) as server:
        assert scrape(server)("draining") == 0
    assert "The metrics of this worker are its own only" in caplog.text


def test_a_real_master(tmp_path: Path) -> None:
    place = tmp_path / "m"
    with master(tmp_path, "--metrics", f"unix:{place}", "--health-path", "/alive", number=2) as process:

        def numbers() -> Any:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(place))
                client = Client(sock)
                client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return read("", client.read_response().body.decode())

        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(tmp_path / "s"))
                client = Client(sock)
                client.send(GET)
                assert client.read_response().status == 200
                client.send(b"GET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.read_response().body == b"ok\n"
        # Of one scrape: on a machine that is busy a worker may be missing from another.
        wait_until(lambda: (now := numbers()).sum("requests_total") == 10 and now("workers") == 2)
        # A reload leaves no gap in what can be asked.
        process.send(signal.SIGHUP)
        wait_until(lambda: (numbers(), process.count("workers are replaced"))[1])
        wait_until(lambda: numbers()("workers") == 2)
        process.send(signal.SIGTERM)
        assert process.wait() == 0
    assert not place.exists()


# ---- families


def test_families_go_from_process_to_process() -> None:
    histogram = Histogram((0.1, 1))
    for value in (0.05, 0.1, 0.5, 7):
        histogram.observe(value)
    assert histogram.count == 4
    family = Family("h", "histogram", 'Text with "quotes" and\nlines.', histogram.samples({"a": 'b"\n\\'}))
    assert [sample.value for sample in family.samples] == [2, 3, 4, 4, 7.65]
    assert [sample.labels.get("le") for sample in family.samples] == ["0.1", "1.0", "+Inf", None, None]
    assert decode(encode([family])) == [family]
    for wrong in (b"", b"{", b"[1]", b"[[1, 2, 3, 4]]", b'[["a", "b", "c", [1]]]', b"\xff", b"null"):
        with pytest.raises(ValueError):  # noqa: PT011 - any text will do
            decode(wrong)


def test_merging_keeps_apart_what_means_different_things() -> None:
    counter = Family("n", "counter", "One.", [Sample("_total", {"x": "1"}, 1.0)])
    merged = merge({"0": [counter], "1": [counter, gauge("g", "Two.", 2)], "2": [counter._replace(kind="gauge")]})
    assert merged == [
        Family(
            "n", "counter", "One.", [Sample("_total", {"x": "1", "worker": "0"}, 1.0), Sample("_total", {"x": "1", "worker": "1"}, 1.0)]
        ),
        Family("g", "gauge", "Two.", [Sample("", {"worker": "1"}, 2)]),
    ]
    # What was merged is not what was given.
    assert counter.samples == [Sample("_total", {"x": "1"}, 1.0)]
