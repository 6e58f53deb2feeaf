"""The Redis channel layer against real Redis servers: conformance, the wire, waiting, pipelines, connections, options."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import msgpack  # type: ignore[import-untyped]
import pytest
from asgiref import conformance
from gevent._hub_local import get_hub_if_exists
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer, exchange, hubs, scripts, thread_lane, wire
from greendaphne.layers.redis.connection import Link
from greendaphne.layers.redis.resp import ErrorReply, ReplyReader
from greendaphne.layers.redis.shard import Shard
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.redis_server import PATIENCE, RedisServer, in_hub, redis_server, redis_servers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ring() -> Iterator[list[RedisServer]]:
    with redis_servers(3) as servers:
        yield servers


@pytest.fixture
def server(ring: list[RedisServer]) -> RedisServer:
    """One server, empty."""
    ring[0].client.flushall()
    return ring[0]


@pytest.fixture
def layer(server: RedisServer) -> Iterator[RedisChannelLayer]:
    layer = RedisChannelLayer(hosts=[server.url])
    yield layer
    layer.close()


@pytest.fixture
def sharded(ring: list[RedisServer]) -> Iterator[RedisChannelLayer]:
    """A layer on three empty servers."""
    for server in ring:
        server.client.flushall()
    layer = RedisChannelLayer(hosts=[server.url for server in ring])
    yield layer
    layer.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    """The connections that layers have opened since the test began."""
    links: list[Link] = []
    opens = Shard.open

    def open_(shard: Shard, *arguments: Any) -> Link:
        links.append(opens(shard, *arguments))
        return links[-1]

    monkeypatch.setattr(Shard, "open", open_)
    return links


# Conformance


class Conformance(conformance.ConformanceTestCase):  # type: ignore[misc]
    """asgiref's suite; the variants differ in the layer."""

    expiry_delay = 1.1
    capacity_limit = 5
    shards = 1
    keys: tuple[str, ...] = ()

    @pytest.fixture(autouse=True)
    def _layer(self, ring: list[RedisServer]) -> Iterator[None]:
        layer = RedisChannelLayer(
            expiry=1, group_expiry=1, capacity=5, hosts=[server.url for server in ring[: self.shards]], symmetric_encryption_keys=self.keys
        )
        self.channel_layer = self.wrap(layer)
        yield
        layer.close()

    def wrap(self, layer: RedisChannelLayer) -> Any:
        return layer


class TestConformance(Conformance):
    pass


class TestConformanceEncrypted(Conformance):
    keys = ("secret",)


class TestConformanceSharded(Conformance):
    shards = 3

    def test_capacity(self) -> None:
        """Each shard holds as many messages of a normal channel as the capacity allows."""
        for _ in range(self.capacity_limit * self.shards):
            self.channel_layer.send("cap_test", {"hey": "there"})
        with pytest.raises(self.channel_layer.ChannelFull):
            self.channel_layer.send("cap_test", {"hey": "there"})


class TestConformanceShardedEncrypted(TestConformanceSharded):
    keys = ("secret", "older")


class InHub:
    """A layer whose methods are called in a greenlet."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.layer, name)
        if not callable(value) or isinstance(value, type):
            return value

        def call(*arguments: Any) -> Any:
            def run() -> Any:
                try:
                    return value(*arguments)
                finally:
                    self.layer.close()

            return in_hub(run)

        return call


class TestConformanceInHub(Conformance):
    def wrap(self, layer: RedisChannelLayer) -> Any:
        return InHub(layer)


del Conformance


# The wire

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
messages = st.dictionaries(st.text(max_size=5), values, max_size=20)


@given(messages)
def test_messages_survive_the_wire(message: dict[str, Any]) -> None:
    assert wire.unpack_message(wire.pack_message(message)) == message


@given(messages, st.from_regex(r"[a-z]{1,40}![a-z]{1,50}", fullmatch=True))
def test_an_open_body_takes_a_name(message: dict[str, Any], name: str) -> None:
    packed = wire.open_body(message, wire.pack_message(message)) + msgpack.packb(name)
    assert packed == wire.pack_message({**message, wire.FULL_NAME: name})


@pytest.mark.parametrize("size", [0, 14, 15, 16, 65534, 65535, 65536])
def test_an_open_body_of_any_size(size: int) -> None:
    message = {str(number): number for number in range(size)}
    packed = wire.open_body(message, wire.pack_message(message)) + msgpack.packb("a!b")
    assert wire.unpack_message(packed) == {**message, wire.FULL_NAME: "a!b"}


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01", msgpack.packb([1]), msgpack.packb({}) + b"x", b"\x81" * 2000])
def test_what_is_no_message_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        wire.unpack_message(data)


@given(st.text(max_size=20))
def test_shards_are_on_the_ring(name: str) -> None:
    for shards in range(1, 9):
        assert 0 <= wire.shard_of(name, shards) < shards


def encode(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, str):
        return f"-{reply}\r\n".encode()
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))


def plain(reply: Any) -> Any:
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return str(reply) if isinstance(reply, ErrorReply) else reply


replies = st.recursive(
    st.none() | st.integers(-(2**63), 2**63) | st.binary(max_size=300) | st.from_regex(r"[A-Z]{3,8} [a-z ]{0,9}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(replies, max_size=5), st.integers(1, 400))
def test_replies_are_read_however_they_arrive(expected: list[Any], piece: int) -> None:
    source = io.BytesIO(b"".join(map(encode, expected)))
    reader = ReplyReader(lambda size, timeout: source.read(min(size, piece)))
    assert [plain(reader.read()) for _ in expected] == expected
    with pytest.raises(EOFError):
        reader.read()


@given(st.binary(max_size=100))
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    source = io.BytesIO(data)
    reader = ReplyReader(lambda size, timeout: source.read(size))
    try:
        while True:
            reader.read()
    except (EOFError, ValueError):
        pass


def members_of(server: RedisServer, channel: str) -> list[bytes]:
    """The keys of the messages on ``channel``."""
    keys: Any = server.client.lrange(f"asgi:{channel}", 0, -1)
    return list(keys)


def test_lives_are_those_of_the_specification(server: RedisServer, layer: RedisChannelLayer) -> None:
    layer.send("normal", {"a": 1})
    layer.group_add("g", "normal")
    redis = server.client
    [key] = members_of(server, "normal")
    assert re.fullmatch(rb"asgi:[0-9a-f]{32}", key)
    assert msgpack.unpackb(redis.get(key), raw=False) == {"a": 1}
    assert 58 < redis.ttl(key) <= 60
    assert redis.ttl(key) + 1 >= redis.ttl("asgi:normal") > 59
    assert 86390 < redis.ttl("asgi::group:g") <= 86400
    assert redis.get("asgi-meta:normal:messages_count") == redis.get("asgi-meta:#global#:messages_count") == b"1"
    assert 3590 < redis.ttl("asgi-meta:normal:messages_count") <= 3600
    assert 86390 < redis.ttl("asgi-meta:#global#:messages_count") <= 86400
    with pytest.raises(TypeError):
        layer.send("normal", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reserved"):
        layer.send("normal", {wire.FULL_NAME: "x"})


def test_a_group_message_looks_like_any_other(server: RedisServer, layer: RedisChannelLayer) -> None:
    members = ["normal", "short!a", "long.process-specific.channel!" + "x" * 60, "full"]
    layer.capacity = 2
    for member in members:
        layer.group_add("g", member)
    for _ in range(2):
        layer.send("full", {})
    layer.send_group("g", {"text": "é"})
    redis = server.client
    for member in members[:3]:
        [key] = members_of(server, layer.non_local_name(member))
        assert re.fullmatch(rb"asgi:[0-9a-f]{32}", key)
        assert 58 < redis.ttl(key) <= 60
        assert 59 < redis.ttl("asgi:" + layer.non_local_name(member)) <= 61
        assert layer.receive([layer.non_local_name(member)]) == (member, {"text": "é"})
    assert layer.channel_statistics("full") == {
        "messages_count": 2,
        "messages_pending": 2,
        "messages_max_age": 0,
        "channel_full_count": 1,
    }
    assert layer.channel_statistics("normal")["messages_count"] == 1
    assert layer.global_statistics() == {"messages_count": 5, "channel_full_count": 1}
    assert 3590 < redis.ttl("asgi-meta:full:channel_full_count") <= 3600


# Receiving


def test_a_batch(layer: RedisChannelLayer) -> None:
    for number in range(50):
        layer.send(f"reply!{number}", {"n": number})
    first = layer.receive_batch(["reply!"], 30, 5)
    assert first == [(f"reply!{number}", {"n": number}) for number in range(30)]
    assert len(layer.receive_batch(["reply!"], 100, None)) == 20
    assert layer.receive_batch(["reply!"], 100, 0.05) == []
    assert layer.receive_batch(["reply!"], 100, 0) == []
    assert layer.receive_batch([], 100, None) == []
    assert layer.receive([], block=True) == (None, None)


def test_a_batch_is_bounded_in_bytes(layer: RedisChannelLayer) -> None:
    body = b"x" * 1024 * 1024
    for _ in range(40):
        layer.send("reply!a", {"body": body})
    sizes = []
    while batch := layer.receive_batch(["reply!"], 100, 0):
        sizes.append(len(batch))
        assert all(message == {"body": body} for _, message in batch)
    assert sum(sizes) == 40
    assert max(sizes) <= 16


def test_lists_do_not_starve_each_other(layer: RedisChannelLayer) -> None:
    for number in range(100):
        layer.send("a", {"n": number})
        layer.send("b", {"n": number})
    assert {layer.receive(["a", "b"])[0] for _ in range(50)} == {"a", "b"}


def test_expired_and_unreadable_messages_are_passed_over(
    server: RedisServer, layer: RedisChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    redis = server.client
    for channel in ("reply!", "normal"):
        redis.rpush(f"asgi:{channel}", *(f"asgi:gone{number}" for number in range(40)), "asgi:bad")
        redis.set("asgi:bad", b"\xc1")
        layer.send(channel + "x" * channel.endswith("!"), {"n": 1})
        assert layer.receive([channel])[1] == {"n": 1}
        assert redis.keys("asgi:*") == []
    assert [record.getMessage() for record in caplog.records] == [
        "Dropped 1 message that cannot be used, the last on reply!: not msgpack (FormatError)",
        "Dropped 1 message that cannot be used, the last on normal: not msgpack (FormatError)",
    ]
    assert layer.tally.bad == {"reply": 1, "normal": 1}


def test_a_waiting_reader_takes_nothing_before_it_is_there(server: RedisServer, layer: RedisChannelLayer) -> None:
    """A reader that goes away while it waits loses no message, even one that arrives at the same moment."""

    def wait_and_die() -> None:
        reader = gevent.spawn(layer.receive_batch, ["reply!"], 10, None)
        while server.info("clients")["blocked_clients"] == 0:
            gevent.sleep(0.01)
        reader.kill()
        layer.send("reply!a", {"n": 1})
        layer.close()

    in_hub(wait_and_die)
    assert layer.receive_batch(["reply!"], 10, 5) == [("reply!a", {"n": 1})]


@pytest.mark.parametrize("channels", [["reply!"], ["http.request"], ["http.request", "reply!", "other"]])
@pytest.mark.parametrize("hub", [False, True])
def test_a_message_wakes_the_reader(server: RedisServer, layer: RedisChannelLayer, channels: list[str], hub: bool) -> None:
    received: list[Any] = []

    def read() -> None:
        for _ in range(3):
            while (item := layer.receive(channels, block=True)) == (None, None):
                pass
            received.append(item)
        layer.close()

    thread = threading.Thread(target=(lambda: in_hub(read)) if hub else read)
    thread.start()
    channel = channels[0] + "x" * channels[0].endswith("!")
    for number in range(3):
        while server.info("clients")["blocked_clients"] == 0:
            time.sleep(0.005)
        layer.send(channel, {"n": number})
        while len(received) <= number:
            time.sleep(0.005)
    thread.join(PATIENCE)
    assert received == [(channel, {"n": number}) for number in range(3)]


@pytest.mark.parametrize("hub", [False, True])
def test_a_reader_waits_on_all_shards_at_once(ring: list[RedisServer], sharded: RedisChannelLayer, hub: bool) -> None:
    received: list[Any] = []
    sharded.blpop_timeout = 60

    def read() -> None:
        while len(received) < 30:
            received.extend(item for item in [sharded.receive(["normal", "other"], block=True)] if item[0])
        sharded.close()

    thread = threading.Thread(target=(lambda: in_hub(read)) if hub else read)
    thread.start()
    for number in range(30):
        while number % 3 == 0 and len(received) < number:
            time.sleep(0.002)
        sharded.send("normal", {"n": number})
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert sorted(message["n"] for _, message in received) == list(range(30))
    assert all(server.client.keys("asgi:*") == [] for server in ring)


def test_a_wait_on_reachable_shards_is_a_single_one(ring: list[RedisServer], sharded: RedisChannelLayer) -> None:
    """Only where a shard is out of reach, a reader looks every half second whether it is back."""
    before = ring[0].calls("blpop")
    assert sharded.receive_batch(["normal"], 10, 2) == []
    # What is left of the two seconds may be a second wait.
    assert 1 <= ring[0].calls("blpop") - before <= 2


def test_what_a_wait_brought_too_much_goes_back(ring: list[RedisServer], sharded: RedisChannelLayer) -> None:
    """Readers on several shards may be given several messages at a time; those that were not asked for are not lost."""
    total = 300
    received: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            _, message = sharded.receive(["normal"], block=True)
            if message is not None:
                received.append(message["n"])
                if len(received) == total:
                    done.set()

    sharded.blpop_timeout = 1
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(total):
        sharded.send("normal", {"n": number})
    assert done.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(received) == list(range(total))


class TestOldServers:
    """What older servers lack, and what access control may forbid."""

    @pytest.fixture(autouse=True)
    def _old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("WATCH_VERSION", "FRACTION_VERSION", "UNBLOCK_VERSION"):
            monkeypatch.setattr(exchange, name, (99,))

    def test_one_shard(self, layer: RedisChannelLayer) -> None:
        timer = threading.Timer(0.1, layer.send, ("reply!a", {"n": 1}))
        timer.start()
        assert layer.receive_batch(["reply!"], 10, 10) == [("reply!a", {"n": 1})]
        assert layer.receive_batch(["reply!"], 10, 0.05) == []
        timer.join()

    def test_three_shards(self, sharded: RedisChannelLayer) -> None:
        for number in range(2):
            timer = threading.Timer(0.05, sharded.send, ("normal", {"n": number}))
            timer.start()
            assert sharded.receive_batch(["normal"], 10, 10) == [("normal", {"n": number})]
            timer.join()


def test_a_server_that_forbids_to_wait_and_to_store(caplog: pytest.LogCaptureFixture) -> None:
    """A reader does not hurry from one refusal to the next."""
    with redis_server() as server:
        layer = RedisChannelLayer(hosts=[server.url])
        server.client.execute_command("ACL", "SETUSER", "default", "-blpop", "-evalsha")  # type: ignore[no-untyped-call]
        assert layer.receive_batch(["n", "m"], 10, 0.3) == []
        assert server.calls("blpop") == 0
        assert server.info("commandstats")["cmdstat_blpop"]["rejected_calls"] <= 2
        with pytest.raises(LayerUnavailable, match="NOPERM"):
            layer.send("n", {})
        server.client.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]
        layer.send("n", {})
        assert layer.receive_batch(["n", "m"], 10, 5) == [("n", {})]
        layer.close()
    assert [("refuses" in record.getMessage(), "accepts" in record.getMessage()) for record in caplog.records] == [
        (True, False),
        (False, True),
    ]


def test_a_server_that_forbids_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(user="default on nopass ~* &* +@all -blmove -client -info") as server:
        layer = RedisChannelLayer(hosts=[server.url])
        for number in range(2):
            timer = threading.Timer(0.1, layer.send, ("reply!a", {"n": number}))
            timer.start()
            assert layer.receive_batch(["reply!"], 10, 10) == [("reply!a", {"n": number})]
            timer.join()
        layer.close()
    assert not caplog.records


# Waiting together


def test_a_blocked_greenlet_holds_up_nobody(layer: RedisChannelLayer) -> None:
    def run() -> int:
        reader = gevent.spawn(layer.receive, ["never"], block=True)
        turns = 0
        while not reader.ready():
            layer.send("turn!a", {"n": turns})
            assert layer.receive_batch(["turn!"], 1, 5)
            turns += 1
        layer.close()
        return turns

    layer.blpop_timeout = 0.5
    assert in_hub(run) > 5


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, sys, threading
from greendaphne.layers.redis import RedisChannelLayer
layer = RedisChannelLayer(hosts=[sys.argv[1]])
layer.blpop_timeout = 0.5
reader = gevent.spawn(layer.receive, ["never"], block=True)
turns = 0
while not reader.ready():
    layer.send("turn!a", {"n": turns})
    assert layer.receive_batch(["turn!"], 1, 5)
    turns += 1
print(turns, flush=True)
"""

PLAIN = """
import sys, threading
from greendaphne.layers.redis import RedisChannelLayer
layer = RedisChannelLayer(hosts=[sys.argv[1]])
def work():
    for number in range(50):
        layer.send("turn", {"n": number})
        assert layer.receive(["turn"], block=True)[0]
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not any(name.partition(".")[0] == "gevent" for name in sys.modules), "gevent was imported"
print("done", flush=True)
"""


def run_python(source: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::DeprecationWarning:greendaphne", "-c", source, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE * 2).stdout


def test_a_patched_process(server: RedisServer) -> None:
    assert int(run_python(PATCHED, server.url)) > 5


def test_a_worker_does_without_gevent(server: RedisServer) -> None:
    assert run_python(PLAIN, server.url) == "done\n"


def test_threads_with_and_without_hubs_share_a_layer(layer: RedisChannelLayer) -> None:
    def echo() -> None:
        for _ in range(30):
            while not (batch := layer.receive_batch(["ask"], 1, 5)):
                pass
            layer.send(batch[0][1]["reply"], batch[0][1])

    def ask(client: int) -> None:
        for number in range(30):
            layer.send("ask", {"reply": f"client{client}!{number}", "n": number})
            assert layer.receive_batch([f"client{client}!"], 1, 10)[0][1]["n"] == number
        layer.close()

    threads = [threading.Thread(target=echo) for _ in range(3)]
    threads += [threading.Thread(target=in_hub, args=(lambda client=client: ask(client),)) for client in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_a_child_process_has_connections_of_its_own(layer: RedisChannelLayer, server: RedisServer) -> None:
    layer.send("parent", {"n": 1})
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks with threads about; this child only sends.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            if get_hub_if_exists() is not None:
                # What gevent asks of a child process; the hub is there where an earlier test had one in this thread.
                gevent.reinit()
            layer.send("child", {"n": 2})
        finally:
            # A missing message shows the failure.
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert layer.receive(["parent"]) == ("parent", {"n": 1})
    assert layer.receive(["child"]) == ("child", {"n": 2})


# Few connections, few round trips


def send_four(layer: RedisChannelLayer) -> None:
    for number in range(4):
        layer.send("n", {"n": number})


def reads(server: RedisServer) -> int:
    """How many times the server read from its clients: the round trips, plus one for asking."""
    return int(server.info("stats")["total_reads_processed"])


def test_five_hundred_senders(server: RedisServer, layer: RedisChannelLayer) -> None:
    """They share one connection, and far fewer round trips than messages."""
    layer.capacity = 10000

    def run() -> tuple[int, int, int]:
        layer.send("n", {})
        server.client.config_resetstat()
        before = reads(server)
        senders = [gevent.spawn(send_four, layer) for _ in range(500)]
        gevent.joinall(senders, raise_error=True)
        result = reads(server) - before, server.calls("evalsha"), server.connections()
        layer.close()
        return result

    round_trips, calls, connections = in_hub(run)
    # Those of a pipeline are one call.
    assert calls < 2000 / 10
    # A pipeline arrives in pieces of the server's read buffer, 16 KiB.
    assert round_trips < 2000 / 10
    assert connections == 1
    assert layer.channel_statistics("n")["messages_count"] == 2001


def test_five_hundred_threads_share_a_few_connections(server: RedisServer, layer: RedisChannelLayer) -> None:
    layer.capacity = 10000
    threads = [threading.Thread(target=send_four, args=(layer,)) for _ in range(500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert 1 <= server.connections() <= thread_lane.THREAD_CONNECTIONS
    assert layer.channel_statistics("n")["messages_pending"] == 2000


def test_a_request_takes_two_round_trips(server: RedisServer, layer: RedisChannelLayer) -> None:
    """The server's share: the request goes out, along with the disconnect of the request before; the reply comes in."""
    requests = 20
    worker = RedisChannelLayer(hosts=[server.url])
    replying = threading.Event()

    def answer() -> None:
        for _ in range(requests + 1):
            while not (batch := worker.receive_batch(["http.request"], 1, 5)):
                pass
            worker.send(batch[0][1]["reply_channel"], {"status": 200})
        replying.set()

    def serve() -> tuple[int, int]:
        def request() -> None:
            layer.send("http.request", {"reply_channel": "server!a"})
            assert layer.receive_batch(["server!"], 100, 5) == [("server!a", {"status": 200})]
            layer.send_later("http.disconnect", {"reply_channel": "server!a"})

        request()
        mine = {client["name"]: client for client in server.client.client_list()}
        assert {"greendaphne:send", "greendaphne:receive"} <= set(mine)
        before = commands()
        for _ in range(requests):
            request()
        result = commands() - before
        layer.close()
        return result, 0

    def commands() -> int:
        return server.calls("evalsha") + server.calls("blmove")

    thread = threading.Thread(target=answer)
    thread.start()
    used, _ = in_hub(serve)
    thread.join(PATIENCE)
    worker.close()
    # Per request: the server's send, disconnect, wait and take; the worker's two or three (take, or wait and take; send).
    assert used <= requests * 8
    assert layer.channel_statistics("http.disconnect")["messages_count"] == requests + 1


def test_posted_messages_wait_for_others(server: RedisServer, layer: RedisChannelLayer) -> None:
    layer.capacity = 3

    def run() -> int:
        layer.send("n", {})
        before = reads(server)
        for number in range(5):
            layer.send_later("later", {"n": number})
        layer.send("n", {})
        together = reads(server) - before
        layer.send_later("alone", {})
        while layer.channel_statistics("alone")["messages_count"] == 0:
            gevent.sleep(0.005)
        layer.send_later("closing", {})
        layer.close()
        return together

    # One for the pipeline, one for asking.
    assert in_hub(run) == 2
    assert layer.channel_statistics("later") == {"messages_count": 3, "messages_pending": 3, "messages_max_age": 0, "channel_full_count": 2}
    assert layer.receive(["closing"]) == ("closing", {})
    layer.send_later("thread", {"n": 1})
    assert layer.receive(["thread"]) == ("thread", {"n": 1})


def test_a_plain_thread_that_waits_gets_no_hub(layer: RedisChannelLayer) -> None:
    hubs: list[object] = []

    def run() -> None:
        layer.receive_batch(["n"], 1, 0.05)
        layer.send("n", {})
        layer.receive_batch(["n"], 1, 5)
        hubs.append(get_hub_if_exists())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert hubs == [None]


def test_a_pause_is_for_the_greenlet_or_thread_alone() -> None:
    def run() -> list[str]:
        seen = [gevent.spawn_later(0.01, lambda: None) for _ in range(3)]
        started = time.monotonic()
        hubs.sleep(0.05)
        assert time.monotonic() - started >= 0.05
        return ["done" for other in seen if other.ready()]

    assert in_hub(run) == ["done"] * 3
    thread = threading.Thread(target=hubs.sleep, args=(0.05,))
    started = time.monotonic()
    thread.start()
    thread.join(PATIENCE)
    assert time.monotonic() - started >= 0.05


def test_each_sender_has_its_own_outcome(layer: RedisChannelLayer) -> None:
    layer.capacity = 40

    def send(number: int) -> bool:
        try:
            layer.send(f"n{number % 2}", {"n": number})
        except layer.ChannelFull:
            return False
        return True

    def run() -> list[bool]:
        greenlets = [gevent.spawn(send, number) for number in range(100)]
        gevent.joinall(greenlets, raise_error=True)
        layer.close()
        return [bool(greenlet.value) for greenlet in greenlets]

    assert in_hub(run) == [True] * 80 + [False] * 20


def test_a_sender_that_gives_up_disturbs_no_other(layer: RedisChannelLayer) -> None:
    def run() -> None:
        greenlets = [gevent.spawn(layer.send, "n", {"n": number}) for number in range(20)]
        gevent.sleep(0)
        for greenlet in greenlets[::2]:
            greenlet.kill()
        gevent.joinall(greenlets[1::2], raise_error=True)
        layer.send("n", {"n": 20})
        layer.close()

    in_hub(run)
    assert {*range(1, 21, 2), 20} <= {message["n"] for _, message in layer.receive_batch(["n"], 100, 5)}


def test_a_lone_sender_gives_up_in_its_own_exchange(server: RedisServer, layer: RedisChannelLayer) -> None:
    """Its connection, on which an answer is still to come, is not used again; those who came meanwhile get theirs."""

    def run() -> None:
        layer.send("n", {"n": 0})
        server.pause()
        try:
            with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
                layer.group_channels("g")
            given_up = gevent.spawn(layer.group_channels, "g")
            waiting = [gevent.spawn(layer.channel_statistics, "n") for _ in range(3)]
            gevent.sleep(0.05)
            given_up.kill()
        finally:
            server.resume()
        for greenlet in waiting:
            assert greenlet.get(timeout=PATIENCE)["messages_pending"] == 1
        assert layer.group_channels("g") == []
        assert server.connections("greendaphne:send") == 1
        layer.close()

    in_hub(run)


def test_a_connection_knows_its_server(server: RedisServer, layer: RedisChannelLayer, opened: list[Link]) -> None:
    layer.send("n", {"n": 0})
    [link] = opened
    facts = server.info("server")
    assert link.identity.run_id.decode() == facts["run_id"]
    assert ".".join(map(str, link.identity.version)) == facts["redis_version"]
    assert link.identity.client_id in [int(client["id"]) for client in server.client.client_list()]
    assert not link.identity.read_only


@pytest.mark.parametrize("hub", [False, True])
def test_a_closed_layer_has_closed_each_connection(sharded: RedisChannelLayer, opened: list[Link], hub: bool) -> None:
    """Also those to which something else still refers."""

    def run() -> None:
        for number in range(3):
            sharded.send("n", {"n": number})
        assert len(sharded.receive_batch(["n"], 10, 10)) > 0
        assert sharded.receive_batch(["other"], 10, 0.01) == []
        sharded.close()

    if hub:
        in_hub(run)
    else:
        run()
    # Three that send and three that wait.
    assert len(opened) == 6
    assert [link.fileno() for link in opened] == [-1] * 6


def test_an_idle_reader_asks_for_next_to_nothing(server: RedisServer, layer: RedisChannelLayer) -> None:
    layer.blpop_timeout = 0.5
    layer.receive_batch(["reply!"], 10, 0.01)
    before = reads(server)
    assert layer.receive_batch(["reply!"], 10, 1) == []
    # Two waits of half a second, and one for asking.
    assert reads(server) - before <= 4


# Groups


@pytest.mark.parametrize("hub", [False, True])
def test_a_group_of_a_thousand_is_one_script(server: RedisServer, layer: RedisChannelLayer, hub: bool) -> None:
    redis = server.client
    redis.zadd("asgi::group:g", {f"server!{number}": time.time() for number in range(1000)})

    def run() -> None:
        layer.send("n", {})
        server.client.config_resetstat()
        layer.send_group("g", {"text": "hello"})
        assert server.calls("evalsha") == 1
        received: list[Any] = []
        while batch := layer.receive_batch(["server!"], 100, 0):
            received += batch
        assert sorted(received) == sorted((f"server!{number}", {"text": "hello"}) for number in range(1000))
        layer.close()

    if hub:
        in_hub(run)
    else:
        run()


def test_a_huge_group_is_sent_to_in_parts(server: RedisServer) -> None:
    members = scripts.GROUP_SCRIPT_LIMIT + 1
    layer = RedisChannelLayer(hosts=[server.url])
    server.client.zadd("asgi::group:g", {f"server!{number}": time.time() for number in range(members)})
    layer.send_group("g", {"text": "hello"})
    assert layer.channel_statistics("server!")["messages_pending"] == members
    assert layer.global_statistics()["messages_count"] == members
    layer.close()


@pytest.mark.parametrize("keys", [None, ["secret"]])
def test_groups_over_shards_and_capacities(ring: list[RedisServer], keys: list[str] | None) -> None:
    for server in ring:
        server.client.flushall()
    layer = RedisChannelLayer(
        hosts=[server.url for server in ring], capacity=4, channel_capacity={"small*": 1}, symmetric_encryption_keys=keys
    )
    members = [f"server{number}!{client}" for number in range(6) for client in range(3)] + ["small?a", "normal"]
    for member in members:
        layer.group_add("g", member)
    layer.group_add("g", "gone!a")
    layer.group_discard("g", "gone!a")
    layer.send("small?a", {"text": "hello"})
    assert set(layer.group_channels("g")) == set(members)
    layer.send_group("g", {"text": "hello"})
    received = [item for member in {layer.non_local_name(name) for name in members} for item in layer.receive_batch([member], 100, 0)]
    assert sorted(name for name, _ in received) == sorted(members)
    assert all(message == {"text": "hello"} for _, message in received)
    assert layer.channel_statistics("small?a")["channel_full_count"] == 1
    assert layer.global_statistics() == {"messages_count": 20, "channel_full_count": 1}
    layer.close()


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}, {"channel_capacity": {"other": 1}}])
def test_groups_go_beyond_the_capacity_within_bounds(server: RedisServer, options: dict[str, Any]) -> None:
    """All clients of a server share a list, so a group larger than its capacity is delivered; a server that is stuck has a limit."""
    layer = RedisChannelLayer(hosts=[server.url], capacity=5, **options)
    for number in range(20):
        layer.group_add("g", f"server!{number}")
    layer.group_add("g", "normal")
    for _ in range(60):
        layer.send_group("g", {})
    assert layer.channel_statistics("server!")["messages_pending"] == 5 + 20 * layer.group_headroom
    assert layer.channel_statistics("normal")["messages_pending"] == 5
    with pytest.raises(layer.ChannelFull):
        layer.send("server!0", {})
    layer.close()


def test_members_expire(server: RedisServer, layer: RedisChannelLayer) -> None:
    server.client.zadd("asgi::group:g", {"old!a": time.time() - 86401, "new!a": time.time()})
    layer.send_group("g", {})
    assert layer.receive(["old!"]) == (None, None)
    assert layer.receive(["new!"]) == ("new!a", {})
    assert layer.group_channels("g") == ["new!a"]
    layer.send_group("nobody", {})


# Flush, names, encryption


def test_flush_takes_prefixes_literally(server: RedisServer) -> None:
    server.client.set("aXb:other", 1)
    layer = RedisChannelLayer(hosts=[server.url], prefix="a*b:", stats_prefix="a?b-meta:", capacity=5000)
    for number in range(3000):
        layer.send_later("n", {"n": number})
    layer.flush()
    assert server.client.keys("*") == [b"aXb:other"]
    layer.close()


def test_new_channels(server: RedisServer, layer: RedisChannelLayer) -> None:
    names = {layer.new_channel("http.request.body?") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"http\.request\.body\?[a-zA-Z]{12}", name) for name in names)
    for pattern in ("a!", "a", "?"):
        with pytest.raises(TypeError):
            layer.new_channel(pattern)


def test_passphrases_can_be_changed(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    old = RedisChannelLayer(hosts=[server.url], symmetric_encryption_keys=["old"])
    new = RedisChannelLayer(hosts=[server.url], symmetric_encryption_keys=["new", b"old"])
    old.send("n", {"n": 1})
    [key] = members_of(server, "n")
    assert bytes(server.client.get(key)).startswith(b"gAAA")  # type: ignore[arg-type]
    assert new.receive(["n"]) == ("n", {"n": 1})
    new.send("n", {"n": 2})
    assert old.receive(["n"]) == (None, None)
    assert "cannot be used, the last on n: not encrypted under a known key" in caplog.text
    for layer in (old, new):
        layer.close()


# Where the server is


def test_a_unix_socket_and_a_database(server: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[f"unix://{server.socket}?db=3"])
    layer.send("n", {"n": 1})
    assert server.info("keyspace")["db3"]["keys"] > 0

    def run() -> Any:
        try:
            return layer.receive(["n"])
        finally:
            layer.close()

    assert in_hub(run) == ("n", {"n": 1})
    layer.close()
    pair = RedisChannelLayer(hosts=[("127.0.0.1", server.port)])
    pair.send("n", {"n": 2})
    assert pair.receive(["n"]) == ("n", {"n": 2})
    pair.close()


def test_passwords(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(requirepass="s%3crt") as server:
        for options in (
            {"hosts": [f"redis://:s%253crt@127.0.0.1:{server.port}/0"]},
            {"hosts": [server.url], "connection_kwargs": {"password": "s%3crt", "socket_timeout": 10, "max_connections": 2}},
        ):
            layer = RedisChannelLayer(**options)
            layer.send("n", {"n": 1})
            assert layer.receive(["n"]) == ("n", {"n": 1})
            layer.close()
        for password in (":wrong@", ""):
            layer = RedisChannelLayer(hosts=[f"redis://{password}127.0.0.1:{server.port}/0"])
            with pytest.raises(LayerUnavailable):
                layer.send("n", {})
            assert str(layer) == f"RedisChannelLayer(hosts=['127.0.0.1:{server.port}'])"
            assert layer.receive(["n"], block=True) == (None, None)
        assert "s%3crt" not in caplog.text
        assert "wrong" not in caplog.text.replace("WRONGPASS", "").replace("wrong number", "")


def test_tls(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    authority.server("localhost", "127.0.0.1").write(tmp_path / "server.pem")
    port = free_port()
    options = {"tls-port": str(port), "tls-cert-file": str(tmp_path / "server.pem"), "tls-key-file": str(tmp_path / "server.pem")}
    with redis_server(**options, tls_ca_cert_file=str(authority.file), tls_auth_clients="no"):
        url = f"rediss://localhost:{port}/0"
        layer = RedisChannelLayer(hosts=[f"{url}?ssl_ca_certs={authority.file}"])

        def run() -> bool:
            for number in range(3):
                layer.send("n!a", {"n": number, "body": b"x" * 100000})
                assert layer.receive_batch(["n!"], 1, 5)[0][1]["n"] == number
            assert layer.receive_batch(["n!"], 1, 0.01) == []
            layer.close()
            return True

        run()
        in_hub(run)
        distrustful = RedisChannelLayer(hosts=[url])
        for attempt in (lambda send: send(), in_hub):
            with pytest.raises(LayerUnavailable, match="certificate"):
                attempt(lambda: distrustful.send("n", {}))
            # The next attempt is due after this.
            assert distrustful.receive(["n"], block=True) == (None, None)
        careless = RedisChannelLayer(hosts=[url], connection_kwargs={"ssl_cert_reqs": "none", "ssl_check_hostname": False})
        careless.send("n", {})
        in_hub(lambda: careless.send("n", {}))
        careless.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"hosts": "redis://localhost"}, ValueError),
        ({"hosts": ["http://localhost"]}, ValueError),
        ({"prefix": b"asgi:"}, TypeError),
        ({"symmetric_encryption_keys": "secret"}, ValueError),
        ({"connection_kwargs": {"no_such_option": 1}}, TypeError),
    ],
)
def test_mistakes_are_found_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisChannelLayer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"hosts": "localhost"}, ValueError),
        ({"hosts": ["redis://localhost"]}, ValueError),
        ({"services": "mymaster"}, ValueError),
        ({"services": [1]}, ValueError),
        ({"hosts": [("127.0.0.1", 1)]}, LayerUnavailable),
    ],
)
def test_mistakes_with_sentinels_are_found_at_once(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisSentinelChannelLayer(**arguments)


def test_both_constructors_take_the_arguments_of_asgi_redis() -> None:
    layer = RedisChannelLayer(30, [("::1", 6379)], "p:", 100, 10, {"http.*": 5}, ["k"], "s:", {"socket_keepalive": True})
    assert (layer.expiry, layer.group_expiry, layer.prefix, layer.stats_prefix, layer.ring_size) == (30, 100, "p:", "s:", 1)
    assert layer.hosts == ["redis://[::1]:6379/0"]
    assert (layer.get_capacity("http.request"), layer.get_capacity("other")) == (5, 10)
    sentinel = RedisSentinelChannelLayer(30, None, "p:", 100, 10, None, None, "s:", None, ["one", "two"], 5)
    assert str(sentinel) == "RedisSentinelChannelLayer(services=['one', 'two'])"
    assert sentinel.extensions == ["groups", "flush", "statistics"]
