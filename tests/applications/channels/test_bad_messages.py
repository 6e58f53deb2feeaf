"""What comes out of a channel layer and is no message: it is dropped and counted, and everything else goes on."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent
import msgpack  # type: ignore[import-untyped]
import pytest
from asgiref import inmemory

from greendaphne.layers import tally, unreadable
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer, wire
from greendaphne.worker import Message, Worker
from tests.support import asgi_redis, legacy
from tests.support.monitoring import GET, health, scrape, wait_until
from tests.support.redis_server import RedisServer, in_hub, redis_server
from tests.support.server import PATIENCE, Client, RunningServer, serve

SECRET = "a secret that must not be logged"
#: A msgpack map whose key is an array.
ARRAY_KEY = b"\x81\x90\x01"


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(shared: RedisServer) -> RedisServer:
    shared.client.flushall()
    return shared


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def plant(redis: RedisServer, channel: str, *bodies: bytes) -> None:
    """Store ``bodies`` as messages on ``channel``, as any writer to Redis could."""
    pipeline = redis.client.pipeline()
    for body in bodies:
        key = f"asgi:{random.getrandbits(128):032x}"
        pipeline.set(key, body, ex=60)
        pipeline.rpush(f"asgi:{channel}", key)
    pipeline.execute()


def take(layer: RedisChannelLayer, *channels: str, timeout: float = 5) -> list[tuple[str, dict[str, Any]]]:
    """Wait as a server does."""

    def wait() -> list[tuple[str, dict[str, Any]]]:
        try:
            return layer.receive_batch(channels, 10, timeout)
        finally:
            layer.close()

    return in_hub(wait)


def reply_list(server: RunningServer) -> str:
    return server.channels.router.channels.prefixes[0]


def hello(message: Message) -> None:
    path = message.content.get("path")
    if isinstance(path, str):
        message.reply({"status": 200, "content": path.encode()})


def ask(client: Client, path: str = "/") -> None:
    client.send(GET.replace(b" / ", f" {path} ".encode()))


BAD = {
    "list": pack({wire.FULL_NAME: [1], "text": SECRET}),
    "map": pack({wire.FULL_NAME: {"a": SECRET}}),
    "another": pack({wire.FULL_NAME: "another.list!x", "text": SECRET}),
    "none": pack({wire.FULL_NAME: None}),
    "array-key": ARRAY_KEY,
    "no-map": pack([1, SECRET]),
    "text": pack(SECRET),
    "nil": b"\xc0",
    "empty": b"",
    "reserved": b"\xc1",
    "cut": pack({"text": SECRET})[:-3],
    "more": pack({"text": SECRET}) + b"\x01",
    "utf-8": b"\x81\xa4text\xa2\xff\xfe",
    "utf-8-key": b"\x81\xa2\xff\xfe\x01",
    "timestamp": b"\x81\xa1a\xc7\x03\xff\x00\x00\x00",
    "deep": b"\x91" * 100_000 + b"\xc0",
    "deep-map": b"\x81\xa1a" * 5000 + b"\xc0",
    "huge-array": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "huge-map": b"\xdf\xff\xff\xff\xff",
}


@pytest.mark.parametrize("key", BAD)
def test_a_bad_message_costs_itself_alone(key: str, redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    layer = RedisChannelLayer(hosts=[redis.url])
    good = [pack({wire.FULL_NAME: f"reply!{n}", "n": n}) for n in range(3)]
    plant(redis, "reply!", good[0], BAD[key], good[1], BAD[key], good[2])
    assert take(layer, "reply!") == [(f"reply!{n}", {"n": n}) for n in range(3)]
    plant(redis, "http.request", BAD[key], pack({"n": 1}))
    assert take(layer, "http.request") == [("http.request", {"n": 1})]
    assert layer.tally.bad == {"reply": 2, "http.request": 1}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Dropped 1 message that cannot be used, the last on reply!",
        "Dropped 1 message that cannot be used, the last on http.request",
    ]
    assert SECRET[:10] not in caplog.text


def test_encrypted_under_another_key_or_damaged(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    ours = RedisChannelLayer(hosts=[redis.url], symmetric_encryption_keys=["ours"])
    theirs = RedisChannelLayer(hosts=[redis.url], symmetric_encryption_keys=["theirs"])
    theirs.send("reply!1", {"text": SECRET})
    token = ours.serialize({"text": SECRET})
    plant(redis, "reply!", token[:-5], b"", b"\xff" * 100, token[:8] + b"!" + token[9:], pack({"text": SECRET}))
    ours.send("reply!1", {"n": 1})
    assert ours.receive_batch(["reply!"], 10, 5) == [("reply!1", {"n": 1})]
    assert ours.tally.bad == {"reply": 6}
    assert SECRET[:10] not in caplog.text
    for layer in (ours, theirs):
        layer.close()


def test_a_key_that_is_no_list_is_deleted(redis: RedisServer) -> None:
    """Its name is the layer's, and as long as it is there every message to that channel is refused."""
    layer = RedisChannelLayer(hosts=[redis.url])
    for name, arguments in (("set", ("x",)), ("hset", ("a", "b")), ("sadd", ("x",))):
        for channels in (["reply!"], ["normal", "other"]):
            getattr(redis.client, name)(f"asgi:{channels[0]}", *arguments)
            assert take(layer, *channels, timeout=0.3) == []
            assert redis.client.exists(f"asgi:{channels[0]}") == 0
            layer.send(channels[0], {"n": 1})
            assert layer.receive_batch(channels, 1, 5)[0][1] == {"n": 1}
    assert layer.tally.bad == {"reply": 3, "normal": 3}
    assert layer.available
    layer.close()


def test_a_key_that_becomes_no_list_while_it_is_waited_for(redis: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[redis.url])
    with serve(layer, health_path="/health") as server, server.connect() as client:
        # The router waits; what ends its wait is a list, which the key is not.
        redis.client.set(f"asgi:{reply_list(server)}", "x")
        for number in range(3):
            ask(client)
            request = server.app.request()
            wait_until(lambda: not redis.client.exists(f"asgi:{reply_list(server)}"), "the key to be deleted")
            server.app.reply(request, status=200, content=b"%d" % number)
            assert client.read_response().body == b"%d" % number
    assert layer.tally.bad == {"reply": 1}
    layer.close()


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}])
def test_members_of_a_group_that_are_no_channels(options: dict[str, Any], redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    layer = RedisChannelLayer(hosts=[redis.url], **options)
    layer.group_add("g", "reply!1")
    layer.group_add("g", "normal")
    names = [b"", b"\xff\xfe", b"reply!\xff", b"a b", b"reply!1\r\nx", b"x" * 300, b"reply!" + b"y" * 100, b"a!b!c", "é!x".encode(), b"a\0"]
    redis.client.zadd("asgi::group:g", dict.fromkeys(names, time.time()))
    layer.send_group("g", {"n": 1})
    assert layer.receive(["reply!"]) == ("reply!1", {"n": 1})
    assert layer.receive(["normal"]) == ("normal", {"n": 1})
    assert layer.tally.bad == {"other": len(names)}
    assert sorted(layer.group_channels("g")) == ["normal", "reply!1"]
    assert redis.client.zcard("asgi::group:g") == 2
    # Nothing was stored under any of these names.
    assert {key for key in redis.client.keys("*") if b"asgi-meta:" not in key} == {b"asgi::group:g"}
    assert len(caplog.records) == 1
    layer.close()


# ---- replies of odd content


ODD_REPLIES: list[tuple[dict[str, Any], int]] = [
    ({"status": 200.0}, 500),
    ({"status": True}, 500),
    ({"status": 2**64 - 1}, 500),
    ({"status": -1}, 500),
    ({"status": "200"}, 500),
    ({"status": [200]}, 500),
    ({"status": 200, "headers": {"ab": 1}}, 500),
    ({"status": 200, "headers": "ab"}, 500),
    ({"status": 200, "headers": 1}, 500),
    ({"status": 200, "headers": [1]}, 500),
    ({"status": 200, "headers": [[b"a", b"b", b"c"]]}, 500),
    ({"status": 200, "headers": [[b"a", 1]]}, 500),
    ({"status": 200, "headers": [["a", SECRET + "\u20ac"]]}, 500),
    ({"status": 200, "content": SECRET}, 500),
    ({"status": 200, "content": [1]}, 500),
    ({"status": 200, "content": {"a": 1}}, 500),
    ({"status": 200, "more_content": []}, 200),
    ({"status": 200, "abort": True}, 200),
    ({"status": 200, "x": {"y": [{"z": None}] * 100}}, 200),
]


@pytest.mark.parametrize(("reply", "status"), ODD_REPLIES)
def test_an_odd_answer(server: RunningServer, caplog: pytest.LogCaptureFixture, reply: dict[str, Any], status: int) -> None:
    with server.connect() as client:
        ask(client)
        server.app.reply(server.app.request(), **reply)
        assert client.read_response().status == status
        ask(client)
        server.app.answer(b"next")
        assert client.read_response().body == b"next"
    assert SECRET[:10] not in caplog.text


@pytest.mark.parametrize("bad", [{"content": "text"}, {"content": [1]}, {"status": 500, "abort": True}])
def test_an_odd_rest_of_an_answer_cuts_it_off(server: RunningServer, bad: dict[str, Any]) -> None:
    with server.connect() as client:
        ask(client)
        request = server.app.request()
        server.app.reply(request, status=200, headers=[(b"Content-Length", b"100")], content=b"x", more_content=True)
        server.app.reply(request, **bad)
        data = b""
        # The end, by a reset or not, comes at once and not after the time limit of the application.
        try:
            while part := client.sock.recv(65536):
                data += part
        except ConnectionResetError:
            pass
        assert data.count(b"x") <= 1


# ---- layers that hand out anything


class Odd(MemoryChannelLayer):
    """Hands out what it is given, and raises what is an error, before its own messages."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: dict[str, deque[Any]] = {"reply": deque(), "http.request": deque()}

    def receive_batch(self, channels: Any, limit: int, timeout: float | None = None, wake: Any = None) -> list[Any]:
        odd = self.odd["reply" if channels[0].endswith("!") else "http.request"]
        if odd:
            if isinstance(odd[0], Exception):
                raise odd.popleft()
            items = [odd.popleft() for _ in range(min(len(odd), limit))]
            return items + super().receive_batch(channels, limit, 0)
        return super().receive_batch(channels, limit, min(timeout or 0.05, 0.05))


ODD_ITEMS: list[Any] = [
    None,
    1,
    (),
    ("a",),
    ("a", {}, 1),
    (["a"], {}),
    ({}, {}),
    (None, {}),
    (b"a", {}),
    ("a", [1]),
    ("a", None),
    ("http.request", SECRET),
    ("http.request", [SECRET]),
    ("http.request", {}),
    ("http.request", {"reply_channel": [1], "path": "/"}),
    ("http.request", {"reply_channel": {"a": 1}, "path": "/"}),
    ("http.request", {"reply_channel": SECRET, "path": 1}),
    ("http.request", {1: 2}),
]


def test_a_router_and_workers_outlive_whatever_a_layer_hands_out(caplog: pytest.LogCaptureFixture) -> None:
    layer = Odd()
    layer.routes = {"http.request": hello}
    with serve(layer, inline_workers=2, metrics="tcp:0:interface=127.0.0.1") as server, server.connect() as client:
        for number, item in enumerate(ODD_ITEMS * 2):
            layer.odd["reply"] += [item, item]
            layer.odd["http.request"].append(item)
            ask(client, f"/{number}")
            assert client.read_response().body == b"/%d" % number
        numbers = scrape(server)
        assert numbers("layer_bad_messages_total", channel="reply") > len(ODD_ITEMS)
        assert numbers.sum("part_failures_total") == 0
        assert health(server)[0] == 200
        workers: list[Any] = server.inline_workers
        assert [worker.deaths for worker in workers] == [0, 0]
    assert not [record for record in caplog.records if "dropped" in record.getMessage().lower() and SECRET[:10] in record.getMessage()]


ERRORS: list[Callable[[], Exception]] = [
    lambda: TypeError(SECRET),
    lambda: ValueError(SECRET),
    lambda: KeyError(SECRET),
    lambda: AttributeError(SECRET),
    lambda: RecursionError(SECRET),
    lambda: UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    lambda: msgpack.exceptions.ExtraData({"a": SECRET}, b""),
    lambda: msgpack.exceptions.OutOfData(SECRET),
]


def test_a_layer_that_raises_for_a_message_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """As asgi_redis does: the message is gone, and the next can be received."""
    layer = Odd()
    layer.routes = {"http.request": hello}
    lost: list[str] = []
    with serve(layer, inline_workers=1, metrics="tcp:0:interface=127.0.0.1", on_layer_loss="exit") as server, server.connect() as client:
        for number in range(40):
            layer.odd["reply"].append(ERRORS[number % len(ERRORS)]())
            layer.odd["http.request"].append(ERRORS[number % len(ERRORS)]())
            ask(client, f"/{number}")
            assert client.read_response().body == b"/%d" % number
        assert server.channels.watch.outages == 0
        assert health(server)[0] == 200
        lost += [str(worker.deaths) for worker in server.inline_workers]
    assert lost == ["0"]
    assert tally.tally_of(layer).bad == {"reply": 40, "http.request": 40}
    assert SECRET[:10] not in caplog.text


def test_errors_without_end_are_an_outage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("greendaphne.applications.channels.router.LIMIT", 5)
    layer = Odd()
    layer.odd["reply"] += [TypeError("broken") for _ in range(9)]
    with serve(layer) as server:
        wait_until(lambda: server.channels.watch.outages == 1)
    assert "Error trying to receive messages: broken" in caplog.text


def test_what_is_no_message_s_fault() -> None:
    assert not unreadable.is_unreadable(OSError())
    assert not unreadable.is_unreadable(ConnectionError())
    assert not unreadable.is_unreadable(RuntimeError())


def test_asgiref_s_layer() -> None:
    layer = inmemory.ChannelLayer()
    with serve(layer) as server, server.connect() as client:
        prefix = reply_list(server)
        for value in (1, [SECRET], None, {"status": "x"}):
            # It carries whatever can be copied.
            layer._channels.setdefault(prefix, deque()).append((time.time() + 60, "x", value))
        layer.send(prefix + "x", {"status": 200})
        ask(client)
        with gevent.Timeout(PATIENCE):
            while (received := layer.receive(["http.request"]))[0] is None:
                gevent.sleep(0.01)
        layer.send(received[1]["reply_channel"], {"status": 200, "content": b"ok"})
        assert client.read_response().body == b"ok"


LEGACY = """
import os
from asgi_redis import RedisChannelLayer
channel_layer = RedisChannelLayer(hosts=[os.environ["SITE_REDIS"]])
"""


def test_a_server_on_asgi_redis(redis: RedisServer, tmp_path: Path) -> None:
    """asgi_redis raises in the middle of receiving; neither is the router ended nor are WebSockets shed."""
    (tmp_path / "site_layer.py").write_text(LEGACY)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{legacy.ROOT}", "SITE_REDIS": redis.url}
    command = asgi_redis.command("-m", "greendaphne", "-b", "127.0.0.1", "-p", "0", "-v", "1", "site_layer:channel_layer")
    process = legacy.Process(command, tmp_path / "log", env, tmp_path)
    layer = RedisChannelLayer(hosts=[redis.url])
    try:
        with Client(socket.create_connection(("127.0.0.1", process.port()), timeout=PATIENCE)) as client:
            for number, body in enumerate(BAD.values()):
                ask(client, f"/{number}")
                [(_, request)] = layer.receive_batch(["http.request"], 1, PATIENCE)
                prefix = request["reply_channel"].partition("!")[0] + "!"
                plant(redis, prefix, body)
                layer.send(request["reply_channel"], {"status": 200, "content": b"%d" % number})
                assert client.read_response().body == b"%d" % number
    finally:
        assert process.stop() == 0
        layer.close()
    output = process.output()
    assert "cannot be used, the last on daphne.response." in output
    assert SECRET[:10] not in output
    assert "may be lost" not in output
    assert "Traceback" not in output


# ---- a worker of its own


def test_a_worker_outlives_all_of_it(redis: RedisServer) -> None:
    layer = RedisChannelLayer(hosts=[redis.url])
    worker = Worker(layer, {"http.request": hello}, concurrency=2)

    def run() -> None:
        greenlet = gevent.spawn(worker.run)
        for body in BAD.values():
            plant(redis, "http.request", body, pack({"reply_channel": "reply!1", "path": "/"}))
        received: list[Any] = []
        with gevent.Timeout(PATIENCE):
            while len(received) < len(BAD):
                received += layer.receive_batch(["reply!"], 100, 1)
        assert all(message == {"status": 200, "content": b"/"} for _, message in received)
        worker.stop()
        greenlet.get()
        layer.close()

    in_hub(run)
    assert layer.tally.bad == {"http.request": len(BAD)}


# ---- fuzz


class Fuzz:
    """Random and mutated messages from one seed."""

    KEYS = (
        "status", "headers", "content", "more_content", "text", "bytes", "close", "accept", "subprotocol", "request", "abort",
        "reply_channel", "path", "method", "body", "body_channel", "query_string", "order", "__retries__", wire.FULL_NAME,
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        r = self.random
        kind = r.randrange(12 if depth < 4 else 9)
        if kind == 0:
            return None
        if kind == 1:
            return r.choice((True, False))
        if kind == 2:
            return r.choice((0, 1, -1, 200, 404, 999, 1000, 2**31, 2**64 - 1, -(2**63)))
        if kind == 3:
            return r.choice((0.0, 1.5, float("inf"), float("nan"), 200.0))
        if kind == 4:
            return r.choice(("", "a", "http.request", "daphne.response.x!y", "é\n\r\0", "x" * r.choice((1, 100, 70_000))))
        if kind in (5, 6):
            return r.randbytes(r.choice((0, 1, 10, 1000)))
        if kind == 7:
            return msgpack.ExtType(r.randrange(128), r.randbytes(5))
        if kind == 8:
            return msgpack.Timestamp(r.randrange(2**33))
        if kind in (9, 10):
            return [self.value(depth + 1) for _ in range(r.randrange(4))]
        return {self.key(): self.value(depth + 1) for _ in range(r.randrange(4))}

    def key(self) -> Any:
        r = self.random
        return r.choice(self.KEYS) if r.random() < 0.9 else r.choice((1, None, b"x", "", "é", 1.5))

    def message(self, channel: str) -> bytes:
        """One body for the list of ``channel``."""
        r = self.random
        message = {self.key(): self.value() for _ in range(r.randrange(6))}
        if r.random() < 0.6:
            message[wire.FULL_NAME] = channel
        body = pack(message)
        mutation = r.random()
        if mutation < 0.2:
            body = r.randbytes(r.randrange(50))
        elif mutation < 0.5 and body:
            changed = bytearray(body)
            for _ in range(r.randrange(1, 4)):
                changed[r.randrange(len(changed))] = r.randrange(256)
            body = bytes(changed)
        elif mutation < 0.6:
            body = body[: r.randrange(len(body) + 1)]
        elif mutation < 0.65:
            body += r.randbytes(3)
        elif mutation < 0.67:
            body = bytes([0x91]) * r.choice((10, 600, 5000))
        return body


class Clients(threading.Thread):
    """Asks again and again, on one connection, and checks every answer."""

    def __init__(self, server: RunningServer, name: str) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.path = name
        self.answered = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            with self.server.connect() as client:
                while not self.ended.is_set():
                    path = f"/{self.path}/{self.answered}"
                    ask(client, path)
                    response = client.read_response()
                    assert (response.status, response.body) == (200, path.encode()), (response.status, response.body)
                    self.answered += 1
        except BaseException as error:  # noqa: BLE001 - raised in the test
            self.error = error


def progressed(clients: list[Clients]) -> None:
    """Wait for a further answer."""
    done = sum(client.answered for client in clients)
    wait_until(lambda: sum(client.answered for client in clients) > done or any(client.error for client in clients), "an answer")


def mutations(fuzz: Fuzz, number: int, channel: str) -> Iterable[bytes]:
    return (fuzz.message(channel) for _ in range(number))


def test_fuzz(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """10 000 messages on the reply list and on http.request, while clients work: no answer is lost, and nothing restarts."""
    layer = RedisChannelLayer(hosts=[redis.url], capacity=1000)
    layer.routes = {"http.request": hello}
    fuzz = Fuzz(20261128)
    caplog.set_level(logging.ERROR)
    with serve(layer, inline_workers=4, metrics="tcp:0:interface=127.0.0.1") as server:
        clients = [Clients(server, str(number)) for number in range(4)]
        for client in clients:
            client.start()
        prefix = reply_list(server)
        for _ in range(100):
            # The bad and the good ones are in the same batches.
            plant(redis, prefix, *mutations(fuzz, 50, prefix + "nobody"))
            plant(redis, "http.request", *mutations(fuzz, 50, "http.request"))
            progressed(clients)
        wait_until(lambda: not redis.client.exists(f"asgi:{prefix}", "asgi:http.request"), "the lists to be empty")
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(PATIENCE)
            assert client.error is None
        numbers = scrape(server)
        assert numbers.sum("part_failures_total") == 0
        assert numbers("layer_bad_messages_total", channel="reply") > 1000
        assert numbers("layer_bad_messages_total", channel="http.request") > 1000
        assert numbers("layer_losses_total") == numbers("layer_outages_total") == 0
        assert health(server) == (200, "ok\n")
        assert [worker.deaths for worker in server.inline_workers] == [0] * 4
    lines = [record for record in caplog.records if record.name == "greendaphne.layers"]
    assert len(lines) <= 4


def test_fuzz_of_one_client_s_replies(server: RunningServer) -> None:
    """Whatever is sent to a client itself, it is answered, and so is the next."""
    fuzz = Fuzz(7)
    for _ in range(300):
        with server.connect() as client:
            ask(client)
            channel = server.app.request()["reply_channel"]
            for _ in range(3):
                value = {fuzz.random.choice(Fuzz.KEYS[:11]): fuzz.value() for _ in range(4)}
                server.layer._put(channel.partition("!")[0] + "!", channel, value, 1000)
            server.layer.send(channel, {"status": 200, "content": b"ok"})
            try:
                assert client.sock.recv(1)
            except ConnectionResetError:
                pass
    assert server.channels.supervisor.down() == []
    assert not any(server.channels.supervisor.restarts.values())
