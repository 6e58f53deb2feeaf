"""Health checks: with traffic and without, in a drain, and with a channel layer that is gone, hangs, refuses or blocks."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from greendaphne.applications.channels import probe as module
from greendaphne.applications.channels import watch
from greendaphne.config import Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from tests.support.http2 import Peer
from tests.support.monitoring import GET, connect, endpoint, fetch, health, wait_until
from tests.support.redis_server import RedisServer, redis_server, redis_servers
from tests.support.server import PATIENCE, Client, Response, RunningServer, serve

CHECK = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
OK = (200, "ok\n")
DRAINING = (503, "draining\n")
OUT_OF_REACH = (503, "channel layer out of reach\n")


def check(client: Client) -> Response:
    client.send(CHECK)
    return client.read_response()


def answer(server: RunningServer) -> tuple[int, str]:
    """A health check on a connection of its own."""
    status, _, text = fetch(*server.address, path="/health")
    return status, text


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out holds for no time at all, so that tests need not wait."""
    monkeypatch.setattr(module, "FRESH", 0)
    monkeypatch.setattr(watch, "QUIET", 0.05)


# ---- the page


def test_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve(health_path="/health", endpoints=["tcp:0:interface=127.0.0.1", f"unix:{path}"], http2_cleartext=True) as server:
        with server.connect() as client:
            for _ in range(3):
                response = check(client)
                assert (response.status, response.body) == (200, b"ok\n")
                assert response.header("Content-Type") == "text/plain; charset=utf-8"
                assert response.header("Cache-Control") == "no-store"
            client.send(CHECK.replace(b"GET", b"HEAD"))
            assert client.read_response("HEAD").status == 200
        with Peer(server) as peer:
            fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/health")]
            assert peer.get(fields)[::2] == (200, b"ok\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            assert check(Client(sock)).body == b"ok\n"
        # No worker has seen any of it.
        assert server.app.drain("http.request") == []


def test_nobody_is_told() -> None:
    told: list[Any] = []

    def log(protocol: str, action: str, details: Mapping[str, Any]) -> None:
        told.append(details["path"])

    with serve(health_path="/health", action_logger=log) as server, server.connect() as client:
        check(client)
        client.send(GET)
        server.app.answer()
        client.read_response()
        check(client)
    assert told == ["/"]


def test_without_the_option_it_is_the_application_s_path() -> None:
    with serve() as server, server.connect() as client:
        client.send(CHECK)
        assert server.app.answer(b"mine")["path"] == "/health"
        assert client.read_response().body == b"mine"


# ---- a drain


def test_in_a_drain_open_connections_learn_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the machine is, the connection is still there.
    monkeypatch.setattr("greendaphne.http1.connection.DRAIN_MOMENT", PATIENCE)
    timeouts = Timeouts(graceful=PATIENCE, linger=0.1)
    with serve(health_path="/health", timeouts=timeouts) as server, server.connect() as checking, server.connect() as busy:
        assert check(checking).status == 200
        busy.send(GET)
        message = server.app.request()
        server.server.stop()
        while (response := check(checking)).status == 200:
            assert response.header("Connection") is None
        assert (response.status, response.body, response.header("Connection")) == (503, b"draining\n", "close")
        assert checking.at_eof()
        server.app.reply(message, status=200, content=b"done")
        assert busy.read_response().body == b"done"


def test_an_endpoint_without_an_interface_is_on_loopback() -> None:
    with serve(metrics="tcp:0") as server:
        assert endpoint(server)[0] == "127.0.0.1"


def test_in_a_drain_the_endpoint_of_its_own_stays_open() -> None:
    with serve(metrics="tcp:0:interface=127.0.0.1", timeouts=Timeouts(graceful=PATIENCE, linger=0.1)) as server:
        place = endpoint(server)
        with server.connect() as busy:
            busy.send(GET)
            message = server.app.request()
            assert health(server) == OK
            server.server.stop()
            wait_until(lambda: health(server) == DRAINING, "the drain")
            assert "greendaphne_draining 1.0" in fetch(*place)[2]
            server.app.reply(message, status=200, content=b"done")
            assert busy.read_response().body == b"done"
    with pytest.raises(ConnectionRefusedError):
        connect(place)


def test_a_shared_endpoint_is_left_to_the_others_in_a_drain() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        # The server closes what it is given.
        description = f"fd:fileno={os.dup(shared.fileno())}"
        with serve(metrics=description, timeouts=Timeouts(graceful=PATIENCE, linger=0.1)) as server, server.connect() as busy:
            host, port = shared.getsockname()
            with connect((host, port)) as kept:
                assert check(kept).status == 200
                busy.send(GET)
                message = server.app.request()
                server.server.stop()
                # It ends the connections that it has, ...
                while (response := check(kept)).status == 200:
                    pass
                assert (response.body, response.header("Connection")) == (b"draining\n", "close")
                # ... and takes no more: these wait for whoever else has the socket.
                with connect((host, port)) as waiting:
                    waiting.send(CHECK)
                    server.app.reply(message, status=200, content=b"done")
                    assert busy.read_response().body == b"done"
                    other, _ = shared.accept()
                    with other:
                        assert other.recv(1000) == CHECK


# ---- the channel layer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def layer_of(*servers: RedisServer, **options: Any) -> RedisChannelLayer:
    return RedisChannelLayer(hosts=[server.url for server in servers], **options)


def test_an_outage_shows_without_any_traffic(redis: RedisServer) -> None:
    with serve(layer_of(redis), health_path="/health") as server:
        assert answer(server) == OK
        redis.kill()
        wait_until(lambda: answer(server) == OUT_OF_REACH, "the outage")
        redis.restart()
        wait_until(lambda: answer(server) == OK, "the end of the outage")


def test_a_layer_that_hangs_holds_up_nobody(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with serve(layer_of(redis), health_path="/health", metrics_path="/metrics") as server:
        assert answer(server) == OK
        redis.pause()
        try:
            wait_until(lambda: answer(server) == OUT_OF_REACH, "the outage")
            with server.connect() as one, server.connect() as two:
                # Both wait for one probe, and what does not need the layer is answered meanwhile.
                for client in (one, two):
                    client.send(CHECK)
                assert fetch(*server.address)[0] == 200
                for client in (one, two):
                    response = client.read_response()
                    assert (response.status, response.body) == (503, b"channel layer out of reach\n")
        finally:
            redis.resume()
        wait_until(lambda: answer(server) == OK, "the end of the outage")


def test_a_redis_that_takes_nothing_is_no_help(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading works, and still every request fails."""
    monkeypatch.setattr(watch, "QUIET", PATIENCE)
    with serve(layer_of(redis), health_path="/health") as server, server.connect() as client:
        assert answer(server) == OK
        redis.client.config_set("maxmemory", 1)
        client.send(GET)
        assert client.read_response().status == 503
        assert answer(server) == OUT_OF_REACH
        monkeypatch.setattr(watch, "QUIET", 0.0)
        assert answer(server) == OK


def test_of_several_servers_the_one_with_the_replies_counts() -> None:
    with redis_servers(2) as servers:
        layer = layer_of(*servers)
        with serve(layer, health_path="/health") as server:
            application: Any = server.channels
            (prefix,) = application.router.channels.prefixes
            index = layer.consistent_hash(prefix)
            assert answer(server) == OK
            # Without this one, normal messages go through the other.
            servers[1 - index].kill()
            wait_until(lambda: not layer.available or answer(server) == OK)
            assert answer(server) == OK
            servers[index].kill()
            wait_until(lambda: answer(server) == OUT_OF_REACH, "the outage")


class Blocking(MemoryChannelLayer):
    """A layer of others: it blocks the whole thread that waits in it."""

    blocks_natively = True
    receive_batch = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None

    def receive(self, channels: Any, block: bool = False) -> Any:
        if not self.answers.wait(PATIENCE):
            raise TimeoutError("nobody let the layer answer")
        if self.error is not None:
            raise self.error
        return super().receive(channels, block=False)


def test_a_layer_that_blocks_natively_blocks_no_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    # The end of an outage shows when the reader comes back, if nothing else does.
    monkeypatch.setattr("greendaphne.layers.reader.IDLE_LIMIT", 0.1)
    layer = Blocking()
    with serve(layer, health_path="/health") as server:
        assert answer(server) == OK
        layer.answers.clear()
        for _ in range(3):
            assert answer(server) == OUT_OF_REACH
        layer.answers.set()
        wait_until(lambda: answer(server) == OK, "the layer's answer")
        layer.error = OSError("gone")
        wait_until(lambda: answer(server) == OUT_OF_REACH, "the outage")
        layer.error = None
        wait_until(lambda: answer(server) == OK, "the end of the outage")


def test_many_checks_cost_the_layer_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", PATIENCE)
    asked: list[list[str]] = []

    class Counting(MemoryChannelLayer):
        def receive(self, channels: Any, block: bool = False) -> Any:
            asked.append(list(channels))
            return super().receive(channels, block)

    with serve(Counting(), health_path="/health") as server, server.connect() as client:
        for _ in range(20):
            assert check(client).status == 200
    assert len(asked) == 1
    # It is nobody else's channel.
    assert asked[0][0].startswith("greendaphne.health.")


def test_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryChannelLayer):
        def receive(self, channels: Any, block: bool = False) -> Any:
            raise OSError("no such thing")

    with caplog.at_level(logging.DEBUG, "greendaphne.monitoring"), serve(Broken(), health_path="/health") as server:
        assert answer(server) == OUT_OF_REACH
    assert "The channel layer does not answer: no such thing" in caplog.text
