"""What happens to the Redis layer when Redis crashes, hangs, is emptied, fails over, refuses: with real servers, killed for real."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer, thread_lane
from tests.support.redis_server import PATIENCE, RedisServer, in_hub, redis_server, redis_servers
from tests.support.sentinels import Sentinels, wait_until

#: Short, so that a server that hangs is noticed soon.
TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
SENDERS = 30


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Watched:
    """A layer and the events it reported."""

    def __init__(self, *servers: RedisServer, **options: Any) -> None:
        self.layer = RedisChannelLayer(hosts=[server.url for server in servers], connection_kwargs=TIMEOUTS, capacity=100000, **options)
        self.layer.blpop_timeout = 1
        self.events: list[tuple[str, bool]] = []
        self.layer.add_listener(lambda event, data_lost: self.events.append((event, data_lost)))

    def wait_for(self, *events: tuple[str, bool]) -> None:
        """Wait until exactly these events were reported, and forget them."""
        wait_until(lambda: len(self.events) >= len(events), self.events)
        assert self.events == list(events)
        self.events.clear()

    def send(self, channel: str = "reply!a", timeout: float = PATIENCE) -> None:
        """Send until it succeeds."""
        end = time.monotonic() + timeout
        while True:
            try:
                self.layer.send(channel, {})
            except LayerUnavailable:
                assert time.monotonic() < end, "the layer does not come back"
                gevent.sleep(0.01) if gevent.getcurrent().parent is not None else time.sleep(0.01)
            else:
                return


class Load:
    """A server with many clients and its router, in a hub, and a worker in a thread; every message is numbered."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.front = Watched(server)
        self.back = Watched(server)
        self.sent: Counter[int] = Counter()
        self.failed = 0
        self.received: Counter[int] = Counter()
        self.stopping = threading.Event()
        self.errors: list[BaseException | None] = []
        self._thread = threading.Thread(target=in_hub, args=(self._serve,))
        self._worker = threading.Thread(target=self._work)

    def __enter__(self) -> Load:
        self._thread.start()
        self._worker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in (self._thread, self._worker):
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert self.errors == []
        assert max(self.received.values(), default=0) <= 1, "a message was delivered twice"
        assert set(self.received) <= set(self.sent)

    def wait_for_traffic(self) -> None:
        """Wait until messages pass in both directions again."""
        goal = len(self.received) + SENDERS
        wait_until(lambda: len(self.received) >= goal or bool(self.errors), self.errors)

    def _serve(self) -> None:
        layer = self.front.layer
        number = 0

        def client(name: int) -> None:
            nonlocal number
            while not self.stopping.is_set():
                number += 1
                mine = number
                self.sent[mine] += 1
                try:
                    layer.send("http.request", {"reply_channel": f"server!{name}", "n": mine})
                    layer.send_later("http.disconnect", {"n": mine})
                except LayerUnavailable:
                    self.failed += 1
                gevent.sleep(0.005)

        def route() -> None:
            while not self.stopping.is_set():
                for _, message in layer.receive_batch(["server!"], 100, 1):
                    self.received[message["n"]] += 1

        greenlets = [gevent.spawn(client, name) for name in range(SENDERS)] + [gevent.spawn(route)]
        gevent.joinall(greenlets)
        self.errors += [greenlet.exception for greenlet in greenlets if greenlet.exception is not None]
        lanes_used = layer._lanes()
        layer.close()
        assert not any(lane._owned or lane._queue for lane in lanes_used)  # type: ignore[attr-defined]

    def _work(self) -> None:
        layer = self.back.layer
        while not self.stopping.is_set():
            channel, message = layer.receive(["http.request", "http.disconnect"], block=True)
            if channel == "http.request" and message is not None:
                try:
                    layer.send(message["reply_channel"], {"n": message["n"]})
                except LayerUnavailable:
                    pass
                except Exception as error:  # noqa: BLE001  # any other is what the test looks for
                    self.errors.append(error)
        layer.close()


def test_killed_and_restarted_under_load(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with Load(server) as load:
        for _ in range(3):
            load.wait_for_traffic()
            server.kill()
            load.front.wait_for(("lost", False))
            load.back.wait_for(("lost", False))
            assert not load.front.layer.available
            server.restart()
            load.front.wait_for(("restored", True))
            load.back.wait_for(("restored", True))
            assert load.front.layer.available
        load.wait_for_traffic()
        assert load.front.layer.epoch() == 3
        assert server.connections() <= 2 + thread_lane.THREAD_CONNECTIONS
    # What could not be put back meanwhile has a line of its own.
    lines = [text for record in caplog.records if "could not be put back" not in (text := record.getMessage())]
    assert sum("out of reach" in line for line in lines) == 6
    assert sum("is back; its data may be lost" in line for line in lines) == 6
    assert len(lines) == 12


@pytest.mark.parametrize("kept", [False, True])
def test_a_server_that_was_restarted_between_two_messages(server: RedisServer, caplog: pytest.LogCaptureFixture, kept: bool) -> None:
    """The layer learns of it from the next connection, without an outage; it says so only if the data is gone."""
    layer = RedisChannelLayer(hosts=[server.url])
    try:
        layer.send("before", {"a": 1})
        if kept:
            server.client.client_kill_filter(_type="normal", skipme=True)
        else:
            server.kill()
            server.restart()
        layer.send("after", {"a": 2})
        assert layer.receive(["before"]) == (("before", {"a": 1}) if kept else (None, None))
        lines = [record.getMessage() for record in caplog.records]
        expected = f"Redis 127.0.0.1:{server.port} was restarted, replaced or emptied; its data may be lost"
        assert lines == ([] if kept else [expected])
    finally:
        layer.close()


def test_connections_killed_under_load(server: RedisServer) -> None:
    """A broken connection is replaced without an outage, and nothing is sent twice."""
    with Load(server) as load:
        for _ in range(5):
            load.wait_for_traffic()
            server.client.client_kill_filter(_type="normal", skipme=True)
        load.wait_for_traffic()
        assert load.front.events == load.back.events == []
        assert load.front.layer.epoch() == 0


def test_scripts_flushed_under_load(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody notices."""
    with Load(server) as load:
        for _ in range(5):
            load.wait_for_traffic()
            server.client.script_flush()
        load.wait_for_traffic()
        assert load.failed == 0
        assert load.front.events == load.back.events == []
    assert not caplog.records


def test_emptied_under_load(server: RedisServer) -> None:
    """The server, which reads its own list, learns of it at once or with its next wait."""
    with Load(server) as load:
        for epoch in range(1, 4):
            load.wait_for_traffic()
            server.client.flushall()
            load.front.wait_for(("restored", True))
            assert load.front.layer.epoch() == epoch
        load.wait_for_traffic()
        assert load.failed == 0


def test_hung_under_load(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server that does not answer is found out by the time limit of a command; its data is still there afterwards."""
    with Load(server) as load:
        load.wait_for_traffic()
        server.pause()
        load.front.wait_for(("lost", False))
        load.back.wait_for(("lost", False))
        failed = load.failed
        wait_until(lambda: load.failed > failed + SENDERS * 2)
        server.resume()
        load.front.wait_for(("restored", False))
        load.back.wait_for(("restored", False))
        load.wait_for_traffic()
        assert load.front.layer.epoch() == 0
    assert len(caplog.records) == 4


@pytest.mark.parametrize("hub", [False, True])
def test_out_of_memory(server: RedisServer, caplog: pytest.LogCaptureFixture, hub: bool) -> None:
    """Nothing can be sent, all that is there can be received, also by those who wait."""

    def run() -> None:
        watched = Watched(server)
        layer = watched.layer
        layer.send("reply!a", {"n": 1})
        layer.send("reply!a", {"n": 2})
        assert layer.receive_batch(["reply!"], 1, 1) == [("reply!a", {"n": 1})]
        redis = server.client
        redis.config_set("maxmemory", 1)
        for _ in range(3):
            with pytest.raises(LayerUnavailable):
                layer.send("reply!a", {"n": 3})
        assert layer.receive_batch(["reply!"], 10, 1) == [("reply!a", {"n": 2})]
        assert layer.receive_batch(["reply!"], 10, 0.1) == []
        redis.config_set("maxmemory", 0)
        layer.send("reply!a", {"n": 4})
        assert layer.receive_batch(["reply!"], 10, 1) == [("reply!a", {"n": 4})]
        assert watched.events == []
        layer.close()

    in_hub(run) if hub else run()
    refused, accepted = [record.getMessage() for record in caplog.records]
    assert "refuses commands: OOM" in refused
    assert "accepts commands again" in accepted


def test_demoted_and_promoted(caplog: pytest.LogCaptureFixture) -> None:
    """A server that becomes a read-only replica is out of reach until it is the master again."""
    with redis_servers(2) as (server, other):
        watched = Watched(server)
        watched.send()
        server.client.replicaof("127.0.0.1", other.port)
        wait_until(lambda: server.info("replication")["master_link_status"] == "up")
        with pytest.raises(LayerUnavailable):
            watched.layer.send("reply!a", {})
        watched.wait_for(("lost", False))
        assert watched.layer.receive(["reply!"], block=True) == (None, None)
        server.client.replicaof("NO", "ONE")
        watched.send()
        watched.wait_for(("restored", False))
        watched.layer.close()
    assert len(caplog.records) == 2


def test_loading() -> None:
    """A server that reads its data from disk accepts connections, and cannot serve them yet."""
    with redis_server(key_load_delay="1000", **{"loading-process-events-interval-bytes": "1024"}) as server:
        watched = Watched(server)
        watched.send()
        server.client.mset({f"key{number}": b"x" * 100 for number in range(1000)})
        server.client.save()
        server.kill()
        with pytest.raises(LayerUnavailable):
            watched.layer.send("reply!a", {})
        restart = threading.Thread(target=server.restart)
        restart.start()
        reasons: set[str] = set()
        end = time.monotonic() + PATIENCE
        while "LOADING" not in reasons:
            assert time.monotonic() < end, reasons
            try:
                watched.layer.send("reply!a", {})
            except LayerUnavailable as error:
                reasons |= set(str(error).replace(":", " ").split())
            time.sleep(0.01)
        restart.join(PATIENCE)
        watched.send()
        watched.wait_for(("lost", False), ("restored", True))
        watched.layer.close()


def test_one_shard_of_three_fails() -> None:
    """Normal channels live on with the other two; those that are bound to a shard fail."""
    with redis_servers(3) as servers:
        watched = Watched(*servers)
        layer = watched.layer
        bound = next(name for name in (f"reply{number}!" for number in range(100)) if layer.consistent_hash(name) == 1)
        free = next(name for name in (f"reply{number}!" for number in range(100)) if layer.consistent_hash(name) == 2)
        for _ in range(6):
            layer.send("normal", {})
        while layer.receive(["normal"]) != (None, None):
            pass
        servers[1].kill()
        with pytest.raises(LayerUnavailable):
            layer.send(f"{bound}a", {})
        watched.wait_for(("lost", False))
        delivered = 0
        for _ in range(20):
            try:
                layer.send("normal", {})
            except LayerUnavailable:
                continue
            delivered += 1
        assert delivered >= 15
        for _ in range(delivered):
            assert layer.receive(["normal"], block=True) == ("normal", {})
        layer.send(f"{free}a", {})
        assert layer.receive_batch([free], 10, 5) == [(f"{free}a", {})]
        assert layer.receive([bound], block=True) == (None, None)
        with pytest.raises(LayerUnavailable):
            wait_until(lambda: layer.receive([bound]) is None)
        layer.group_add("g", f"{free}b")
        servers[1].restart()
        watched.send(f"{bound}a")
        watched.wait_for(("restored", True))
        assert layer.receive_batch([bound], 10, 5) == [(f"{bound}a", {})]
        layer.close()


def test_never_reached() -> None:
    """A layer can be made, and says so, before its Redis is there; receivers wait, senders fail."""
    with redis_server() as server:
        server.kill()
        watched = Watched(server)
        for attempt in range(5):
            if attempt % 2:
                assert watched.layer.receive(["reply!"], block=True) == (None, None)
                assert watched.layer.receive_batch(["reply!"], 10, None) == []
            else:
                with pytest.raises(LayerUnavailable):
                    watched.layer.send("reply!a", {})
        watched.wait_for(("lost", False))
        server.restart()
        watched.send()
        watched.wait_for(("restored", False))
        watched.layer.close()


def test_listeners_that_fail_or_leave(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(server)

    def broken(event: str, data_lost: bool) -> None:
        raise RuntimeError("not mine to keep")

    watched.layer.add_listener(broken)
    watched.send()
    server.kill()
    with pytest.raises(LayerUnavailable):
        watched.layer.send("n", {})
    wait_until(lambda: bool(watched.events))
    assert "A listener to the channel layer's state failed" in caplog.text
    watched.layer.remove_listener(broken)
    server.restart()
    caplog.clear()
    watched.send()
    watched.wait_for(("lost", False), ("restored", True))
    assert "A listener" not in caplog.text
    watched.layer.close()


def test_nothing_leaks(server: RedisServer) -> None:
    """Connections that break again and again leave neither descriptors nor greenlets, and the memory stays as it is."""
    watched = Watched(server)
    layer = watched.layer

    def breakage() -> None:
        reader = gevent.spawn(layer.receive_batch, ["reply!"], 10, None)
        watched.send("normal")
        wait_until(lambda: server.info("clients")["blocked_clients"] > 0)
        server.client.client_kill_filter(_type="normal", skipme=True)
        watched.send("normal")
        watched.send("reply!a")
        assert reader.get() or layer.receive_batch(["reply!"], 10, 5)

    def count() -> tuple[int, int, int]:
        gc.collect()
        greenlets = sum(isinstance(item, gevent.Greenlet) and not item.dead for item in gc.get_objects())
        return len(os.listdir("/proc/self/fd")), greenlets, len(layer._shards[0]._links)

    def run() -> None:
        for _ in range(5):
            breakage()
        before = count()
        objects = len(gc.get_objects())
        for _ in range(50):
            breakage()
        descriptors, *others = count()
        # Fewer where something of an earlier test was still to be closed.
        assert descriptors <= before[0]
        assert others == list(before[1:])
        assert len(gc.get_objects()) < objects + 500
        assert server.connections() == 2
        layer.close()
        assert count()[2] == 0

    in_hub(run)
    wait_until(lambda: server.connections() == 0)


def test_hubs_come_and_go(server: RedisServer) -> None:
    """Threads that end without closing the layer leave nothing that the next one does not clear away."""
    layer = RedisChannelLayer(hosts=[server.url])
    for number in range(20):
        in_hub(lambda number=number: layer.send("reply!a", {"n": number}))  # type: ignore[misc]
    assert len(layer._hub_lanes) <= 2
    gc.collect()
    wait_until(lambda: server.connections() <= 2)
    assert len(layer.receive_batch(["reply!"], 100, 5)) == 20
    layer.close()


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    with redis_servers(2) as (master, replica):
        running = Sentinels(master, replica)
        try:
            yield running
        finally:
            running.sentinel.stop()


@pytest.mark.parametrize("hub", [False, True])
def test_the_master_fails(sentinels: Sentinels, hub: bool) -> None:
    """The sentinel makes the replica the master, and the layer follows, as soon as it is one."""

    def run() -> None:
        layer = RedisSentinelChannelLayer(
            hosts=[("127.0.0.1", 1), ("127.0.0.1", sentinels.sentinel.port)], services=["chat"], connection_kwargs=TIMEOUTS
        )
        events: list[tuple[str, bool]] = []
        layer.add_listener(lambda event, data_lost: events.append((event, data_lost)))
        layer.send("reply!a", {"n": 1})
        assert layer.receive_batch(["reply!"], 1, 5) == [("reply!a", {"n": 1})]
        sentinels.master.kill()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                layer.send("reply!a", {"n": 2})
                break
            except LayerUnavailable:
                assert time.monotonic() < end
                assert layer.receive(["other!"], block=True) == (None, None)
        assert events == [("lost", False), ("restored", True)]
        assert layer.receive_batch(["reply!"], 1, 5) == [("reply!a", {"n": 2})]
        assert sentinels.replica.connections() >= 1
        layer.close()

    in_hub(run) if hub else run()


def test_the_master_hands_over(sentinels: Sentinels) -> None:
    """An ordered failover, while a reader waits: the old master lives on as a replica, and nobody talks to it any more."""
    layer = RedisSentinelChannelLayer(
        hosts=[("127.0.0.1", sentinels.sentinel.port)], connection_kwargs=TIMEOUTS, sentinel_refresh_interval=1
    )
    assert layer.services == ["chat"]
    layer.blpop_timeout = 1
    layer.send("reply!a", {"n": 1})
    assert layer.receive_batch(["reply!"], 1, 5) == [("reply!a", {"n": 1})]
    received: list[Any] = []
    stopping = threading.Event()

    def read() -> None:
        while not stopping.is_set():
            received.extend(layer.receive_batch(["reply!"], 10, 1))

    reader = threading.Thread(target=read)
    reader.start()
    sentinels.fail_over()
    wait_until(lambda: sentinels.replica.info("replication")["role"] == "master")
    end = time.monotonic() + PATIENCE
    while not received:
        assert time.monotonic() < end
        try:
            layer.send("reply!a", {"n": 2})
        except LayerUnavailable:
            pass
        time.sleep(0.05)
    stopping.set()
    reader.join(PATIENCE)
    wait_until(lambda: sentinels.master.connections() == 0)
    layer.close()
