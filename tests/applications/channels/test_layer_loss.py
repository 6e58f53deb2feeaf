"""What the server does when its channel layer fails: a layer that fails on demand, and a real Redis that is killed, stopped and emptied."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from greendaphne.applications.channels import notifier, watch
from greendaphne.layers import LayerUnavailable
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer
from tests.support.bridge import handshake, open_websocket, read_frame
from tests.support.redis_load import GET, PATIENCE, TIMEOUTS, Layer, Load, Worker, make_layer, under_load, wait_until
from tests.support.redis_server import redis_server, redis_servers
from tests.support.sentinels import Sentinels
from tests.support.server import Client, serve
from tests.support.websocket import CLOSE, TEXT, frame


class Unsteady(MemoryChannelLayer):
    """A layer whose sends fail with ``error`` while it is set; it counts the attempts."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        #: Whether what fails is stored all the same.
        self.stores = False
        self.attempts: Counter[str] = Counter()
        self.reached = threading.Event()

    def send(self, channel: str, message: Any) -> None:
        if channel.startswith("daphne.response"):
            super().send(channel, message)
            return
        self.attempts[channel] += 1
        if self.error is None or self.stores:
            super().send(channel, message)
        if self.error is not None:
            self.reached.set()
            raise self.error


class Reporting(Unsteady):
    """The same, and it tells of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[str, bool], None]] = []

    def add_listener(self, listener: Callable[[str, bool], None]) -> None:
        self.listeners.append(listener)

    def remove_listener(self, listener: Callable[[str, bool], None]) -> None:
        self.listeners.remove(listener)

    def report(self, event: str, data_lost: bool) -> None:
        for listener in list(self.listeners):
            listener(event, data_lost)


def close_code(client: Client) -> int:
    opcode, payload = read_frame(client)
    assert opcode == CLOSE, (opcode, payload)
    return int.from_bytes(payload[:2], "big")


def shut(client: Client, code: int = 1012) -> None:
    """Take the server's close frame and answer it."""
    assert close_code(client) == code
    client.send(frame(CLOSE, code.to_bytes(2, "big")))
    assert client.at_eof()


# ---- what may have been stored is not sent again


def test_message_that_may_have_been_stored_is_sent_once() -> None:
    layer = Reporting()
    with serve(layer) as server, server.connect() as client:
        open_websocket(server, client)
        layer.error = LayerUnavailable("no answer")
        layer.stores = True
        client.send(frame(TEXT, b"one"))
        assert close_code(client) == 1012
        layer.error = None
        client.send(frame(CLOSE, b"\x03\xf4"))
        assert server.app.receive("websocket.disconnect")[1]["order"] == 1
        assert [message["text"] for message in server.app.drain("websocket.receive")] == ["one"]
    assert layer.attempts["websocket.receive"] == layer.attempts["websocket.disconnect"] == 1


def test_message_that_was_not_stored_is_sent_when_the_layer_is_back() -> None:
    layer = Reporting()
    with serve(layer) as server, server.connect() as client:
        open_websocket(server, client)
        layer.error = LayerUnavailable("refused", maybe_stored=False)
        client.send(frame(TEXT, b"one"))
        assert layer.reached.wait(PATIENCE)
        layer.error = None
        assert server.app.receive("websocket.receive")[1]["order"] == 1
    assert layer.attempts["websocket.receive"] > 1


@pytest.mark.parametrize("maybe_stored", [True, False])
def test_kept_websocket_drops_what_cannot_be_sent(
    maybe_stored: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.websocket.RECEIVE_PATIENCE", 0.1)
    layer = Reporting()
    with serve(layer, on_layer_loss="keep") as server, server.connect() as client:
        open_websocket(server, client)
        client.send(frame(TEXT, b"one"))
        assert server.app.receive("websocket.receive")[1]["order"] == 1
        layer.error = LayerUnavailable("gone", maybe_stored=maybe_stored)
        client.send(frame(TEXT, b"two"))
        wait_until(lambda: "is dropped" in caplog.text)
        layer.error = None
        layer.report("restored", True)
        client.send(frame(TEXT, b"three"))
        message = server.app.receive("websocket.receive")[1]
        assert (message["text"], message["order"]) == ("three", 2)
        server.app.reply(message, text="still here")
        assert read_frame(client) == (TEXT, b"still here")
    assert "10.0.0.1" not in caplog.text


@pytest.mark.parametrize("maybe_stored", [True, False])
def test_disconnect_is_sent_once_or_given_up(maybe_stored: bool) -> None:
    """Where it may have been stored it is not sent again, and otherwise until the layer is back."""
    layer = Reporting()
    with serve(layer) as server, server.connect() as client:
        message = open_websocket(server, client)
        layer.error = LayerUnavailable("gone", maybe_stored=maybe_stored)
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert layer.reached.wait(PATIENCE)
        if not maybe_stored:
            wait_until(lambda: layer.attempts["websocket.disconnect"] > 2)
        layer.error = None
        if not maybe_stored:
            disconnect = server.app.receive("websocket.disconnect")[1]
            assert (disconnect["reply_channel"], disconnect["code"]) == (message["reply_channel"], 1000)
        assert server.app.drain("websocket.disconnect") == []
    if maybe_stored:
        assert layer.attempts["websocket.disconnect"] == 1


def test_disconnect_does_not_outlive_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Reporting()
    layer.group_expiry = 1
    with serve(layer) as server, server.connect() as client:
        open_websocket(server, client)
        layer.error = LayerUnavailable("gone", maybe_stored=False)
        client.send(frame(CLOSE, b"\x03\xe8"))
        pending = server.channels.notifier
        assert layer.reached.wait(PATIENCE)
        wait_until(lambda: not len(pending))
        assert layer.attempts["websocket.disconnect"] > 1


def test_too_many_disconnects_drop_the_oldest(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(notifier, "LIMIT", 10)
    layer = Reporting()
    with serve(layer) as server:
        clients = [server.connect() for _ in range(14)]
        for client in clients:
            open_websocket(server, client)
        layer.error = LayerUnavailable("gone", maybe_stored=False)
        for client in clients:
            client.send(frame(CLOSE, b"\x03\xe8"))
            assert close_code(client) == 1000
            assert client.at_eof()
            client.close()
        layer.error = None
        for _ in range(10):
            server.app.receive("websocket.disconnect")
        wait_until(lambda: not len(server.channels.notifier))
        assert server.app.drain("websocket.disconnect") == []
    assert "1 disconnect messages are given up" in caplog.text


def test_connect_that_may_have_been_stored_gets_its_disconnect() -> None:
    layer = Reporting()
    with serve(layer) as server, server.connect() as client:
        layer.stores = True
        layer.error = LayerUnavailable("no answer")
        client.send(handshake())
        assert client.read_response().status == 503
        wait_until(lambda: layer.attempts["websocket.disconnect"] == 1)
        layer.error = None
        connect = server.app.receive("websocket.connect")[1]
        disconnect = server.app.receive("websocket.disconnect")[1]
        assert (disconnect["reply_channel"], disconnect["order"]) == (connect["reply_channel"], 1)


def test_connect_that_was_not_stored_gets_none() -> None:
    layer = Reporting()
    with serve(layer) as server, server.connect() as client:
        layer.error = LayerUnavailable("refused", maybe_stored=False)
        client.send(handshake())
        response = client.read_response()
        assert (response.status, response.header("Retry-After")) == (503, "1")
        layer.error = None
    assert not layer.attempts["websocket.disconnect"]


# ---- what a loss means for those who are connected


@pytest.mark.parametrize("layer_type", [Reporting, Unsteady])
def test_shed(layer_type: type[Unsteady], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """All are closed, those that wait are refused, each is reported once; afterwards new ones stay."""
    monkeypatch.setattr(watch, "QUIET", 0.1)
    caplog.set_level(logging.WARNING)
    layer = layer_type()
    with serve(layer) as server:
        clients = [server.connect() for _ in range(5)]
        channels = {open_websocket(server, client)["reply_channel"] for client in clients}
        waiting = server.connect()
        waiting.send(handshake())
        channels.add(server.app.receive("websocket.connect")[1]["reply_channel"])
        if isinstance(layer, Reporting):
            layer.report("lost", False)
            layer.report("restored", False)
            layer.report("restored", True)
        else:
            # Two failures and two successes are one outage.
            with server.connect() as other:
                for error in (OSError("gone"), None, OSError("gone"), None):
                    layer.error = error
                    other.send(GET)
                    if error is None:
                        server.app.answer()
                    assert other.read_response().status == (200 if error is None else 503)
        for client in clients:
            shut(client)
            client.close()
        assert waiting.read_response().status == 503
        waiting.close()
        assert {server.app.receive("websocket.disconnect")[1]["reply_channel"] for _ in channels} == channels
        with server.connect() as client:
            open_websocket(server, client)
            client.send(frame(TEXT, b"again"))
            assert server.app.receive("websocket.receive")[1]["order"] == 1
        server.app.receive("websocket.disconnect")
        assert server.app.drain("websocket.disconnect") == []
    lines = [record.getMessage() for record in caplog.records if record.name == "daphne.server"]
    if isinstance(layer, Reporting):
        assert layer.listeners == []
    else:
        assert lines[:2] == ["Error trying to send messages: gone", "The channel layer is back; its data may be lost"]
        del lines[:2]
    assert lines == ["Messages and groups may be lost; 6 WebSockets are closed, for their clients to come back"]


def test_shedding_many_takes_its_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """They are closed one after the other; one that sends is closed at once, and what it sends is not passed on."""
    monkeypatch.setattr("greendaphne.serving.session.SPREAD_EACH", PATIENCE)
    monkeypatch.setattr("greendaphne.serving.session.SPREAD", 10 * PATIENCE)
    layer = Reporting()
    with serve(layer) as server:
        clients = [server.connect() for _ in range(10)]
        for client in clients:
            open_websocket(server, client)
        layer.report("restored", True)
        wait_until(lambda: "10 WebSockets are closed" in caplog.text)
        # One was closed, and the others still are open and closed by what they send.
        for client in clients:
            client.send(frame(TEXT, b"hello"))
            shut(client)
            client.close()
        assert server.app.drain("websocket.receive") == []


def test_exit(tmp_path: Path) -> None:
    """The process ends in good order, with an exit code and one line for whoever starts it again."""
    with redis_server() as server:
        (tmp_path / "site.py").write_text(
            f"from greendaphne.layers.redis import RedisChannelLayer\nchannel_layer = RedisChannelLayer(hosts=[{server.url!r}])\n"
        )
        command = [sys.executable, "-m", "greendaphne", "--on-layer-loss", "exit", "-v", "0", "-p", "0", "site:channel_layer"]
        (tmp_path / "site.py").rename(tmp_path / "project.py")
        command[-1] = "project:channel_layer"
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: server.info("clients")["blocked_clients"] > 0)
            server.kill()
            server.restart()
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1, errors
    lines = errors.splitlines()
    assert sum("ERROR" in line for line in lines) == 1, errors
    assert "Traceback" not in errors


# ---- replies over several lists


def test_reply_channels() -> None:
    with redis_server() as redis_process:
        layer = RedisChannelLayer(hosts=[redis_process.url], capacity=5)
        with serve(layer, reply_channels=3) as server:
            with server.connect() as client:
                prefixes = []
                for number in range(6):
                    client.send(GET)
                    message = server.app.answer(b"%d" % number)
                    assert client.read_response().body == b"%d" % number
                    prefixes.append(message["reply_channel"].partition("!")[0])
            assert len(set(prefixes)) == 3
            assert prefixes[:3] == prefixes[3:]
            # Beside the test's own connection, which plays the worker: one that sends and one that receives.
            assert redis_process.connections("greendaphne:receive") <= 2
        layer.close()


# ---- a real Redis, under load


@contextmanager
def chaos(on_layer_loss: str = "shed", sentinels: Sentinels | None = None) -> Iterator[Load]:
    """A server under load; afterwards nothing is missing, doubled or left."""

    def new_layer() -> Layer:
        if sentinels is None:
            return make_layer(redis_process)
        port = sentinels.sentinel.port
        return RedisSentinelChannelLayer(hosts=[("127.0.0.1", port)], services=["chat"], capacity=1000, connection_kwargs=TIMEOUTS)

    with redis_server() if sentinels is None else nullcontext(sentinels.replica) as redis_process:
        worker = Worker(new_layer())

        def has_ended() -> bool:
            return worker.connects.keys() <= worker.disconnects.keys()

        with under_load(redis_process, new_layer(), worker, has_ended, on_layer_loss=on_layer_loss) as load:
            yield load


def assert_no_gaps(worker: Worker) -> None:
    for orders in worker.orders.values():
        assert sorted(orders) == list(range(max(orders) + 1)), orders


def test_redis_is_killed_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    rounds = 4
    with chaos() as load:
        for _ in range(rounds):
            load.redis.kill()
            goal = load.statuses[503] + load.REQUESTERS
            wait_until(lambda goal=goal: load.statuses[503] >= goal, load)  # type: ignore[misc]
            load.redis.restart()
            load.wait_for_service()
        assert load.codes[1012] + load.codes[0] >= rounds * load.SOCKETS
    # Messages that were with Redis are gone, so that there may be gaps.
    for orders in load.worker.orders.values():
        assert len(set(orders)) == len(orders)
    lines = [record.getMessage() for record in caplog.records if record.name == "greendaphne.layers.redis"]
    # The server's and the worker's.
    outages = [line for line in lines if "is out of reach" in line and "a wait ended" not in line]
    # On a loaded machine an answer may be late as well.
    assert sum("Timeout reading" not in line for line in outages) == 2 * rounds
    assert sum("is back; its data may be lost" in line for line in lines) == 2 * rounds
    assert sum("for their clients to come back" in record.getMessage() for record in caplog.records) == rounds


def test_sentinel_fails_over() -> None:
    """The master crashes and its replica takes its place: it may lack the last messages, so that all are to connect again."""
    with redis_servers(2) as (master, replica):
        sentinels = Sentinels(master, replica)
        try:
            with chaos(sentinels=sentinels) as load:
                master.kill()
                wait_until(lambda: load.codes[1012] + load.codes[0] >= load.SOCKETS, load)
                load.wait_for_service()
        finally:
            sentinels.sentinel.stop()


@pytest.mark.parametrize("on_layer_loss", ["shed", "keep"])
def test_redis_is_emptied(on_layer_loss: str) -> None:
    with chaos(on_layer_loss) as load:
        load.redis.client.flushall()
        if on_layer_loss == "shed":
            wait_until(lambda: load.codes[1012] + load.codes[0] >= load.SOCKETS, load)
        load.wait_for_service()
        if on_layer_loss == "keep":
            assert not load.codes


def test_scripts_are_flushed() -> None:
    with chaos() as load:
        for _ in range(10):
            load.redis.client.script_flush()
            load.wait_for_service()
        assert not load.codes
        assert set(load.statuses) == {200}
    assert_no_gaps(load.worker)


def test_redis_is_out_of_memory() -> None:
    with chaos() as load:
        load.redis.client.config_set("maxmemory", 1)
        goal = load.statuses[503] + 5 * load.REQUESTERS
        wait_until(lambda: load.statuses[503] >= goal, load)
        load.redis.client.config_set("maxmemory", 0)
        load.wait_for_service()
    assert_no_gaps(load.worker)
