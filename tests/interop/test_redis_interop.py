"""asgi_redis 1.4.3 itself, in an environment of its own, and this layer share a Redis: each takes what the other sends."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greendaphne.layers.redis import RedisChannelLayer, wire
from tests.support import asgi_redis
from tests.support.redis_server import PATIENCE, RedisServer, redis_servers

# One JSON object per line: {"call": name, "arguments": [...]} in, {"result": ...} or {"error": class} out.
PEER = """
import json, sys
from asgi_redis import RedisChannelLayer

def load(value):
    if isinstance(value, dict):
        return value["bytes"].encode("latin-1") if set(value) == {"bytes"} else {k: load(v) for k, v in value.items()}
    return [load(v) for v in value] if isinstance(value, list) else value

def dump(value):
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {k: dump(v) for k, v in value.items()}
    return [dump(v) for v in value] if isinstance(value, (list, tuple)) else value

layer = RedisChannelLayer(**json.loads(sys.argv[1]))
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"result": dump(getattr(layer, request["call"])(*load(request["arguments"])))}
    except Exception as error:
        answer = {"error": type(error).__name__}
    print(json.dumps(answer), flush=True)
"""


def load(value: Any) -> Any:
    if isinstance(value, dict):
        return value["bytes"].encode("latin-1") if set(value) == {"bytes"} else {name: load(item) for name, item in value.items()}
    return [load(item) for item in value] if isinstance(value, list) else value


def dump(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {name: dump(item) for name, item in value.items()}
    return [dump(item) for item in value] if isinstance(value, (list, tuple)) else value


class Legacy:
    """asgi_redis' channel layer in another process; its methods are called by name."""

    def __init__(self, python: Path, arguments: dict[str, Any]) -> None:
        command = [str(python), "-W", "ignore", "-c", PEER, json.dumps(arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"call": name, "arguments": dump(arguments)}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
            if "error" in answer:
                raise LegacyError(answer["error"])
            return load(answer["result"])

        return call

    def stop(self) -> None:
        self._process.communicate(timeout=PATIENCE)


class LegacyError(Exception):
    """What the other layer raised."""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment with asgi_redis."""
    return asgi_redis.interpreter()


@pytest.fixture(scope="module")
def ring() -> Iterator[list[RedisServer]]:
    with redis_servers(3) as servers:
        yield servers


Pair = tuple[RedisChannelLayer, Legacy]

VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "sharded": (3, {}),
    "encrypted": (1, {"symmetric_encryption_keys": ["first", "second"]}),
    "sharded-encrypted": (3, {"symmetric_encryption_keys": ["first"]}),
    "prefixed": (1, {"prefix": "other:", "stats_prefix": "count:", "channel_capacity": {"small*": 2}}),
}


@pytest.fixture(params=VARIANTS, scope="module")
def peers(request: pytest.FixtureRequest, python: Path, ring: list[RedisServer]) -> Iterator[Pair]:
    shards, options = VARIANTS[request.param]
    arguments: dict[str, Any] = {"hosts": [server.url for server in ring[:shards]], "capacity": 5, **options}
    ours = RedisChannelLayer(**arguments)
    legacy = Legacy(python, arguments)
    yield ours, legacy
    legacy.stop()
    ours.close()


@pytest.fixture
def pair(peers: Pair, ring: list[RedisServer]) -> Pair:
    """Both layers on empty servers."""
    for server in ring:
        server.client.flushall()
    return peers


REQUEST = {
    "reply_channel": "daphne.response.AbCd!xyz",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/é/\x00",
    "query_string": b"a=%20\xff",
    "root_path": "",
    "headers": [[b"host", b"example"], [b"x-\xff", b""]],
    "body": bytes(range(256)),
    "body_channel": None,
    "client": ["127.0.0.1", 65535],
    "server": None,
}
MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("http.request", REQUEST),
    ("http.request.body?AbCdEfGhIjKl", {"content": b"x" * 300000, "more_content": True}),
    ("daphne.response.AbCd!xyz", {"status": 200, "headers": [[b"Content-Type", b"text/plain"]], "content": b"", "more_content": False}),
    ("websocket.receive", {"reply_channel": "daphne.response.AbCd!xyz", "path": "/", "text": "\U0001f600", "order": 2**40}),
    ("websocket.receive", {"reply_channel": "daphne.response.AbCd!xyz", "path": "/", "bytes": b"", "order": -1}),
    ("values", {"float": 0.5, "none": None, "true": True, "nested": {"list": [1, [2, {"three": b"3"}]]}, "big": 2**63}),
]


def receive(layer: Any, channel: str, block: bool = False) -> tuple[str, dict[str, Any]]:
    """The next message; the other layer looks at one shard at a time only."""
    for _ in range(3):
        name, message = layer.receive([layer.non_local_name(channel)], block)
        if name is not None:
            return name, message
    raise AssertionError(f"nothing came on {channel}")


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize(("channel", "message"), MESSAGES)
def test_messages_both_ways(pair: Pair, channel: str, message: dict[str, Any], block: bool) -> None:
    ours, legacy = pair
    ours.send(channel, message)
    assert receive(legacy, channel, block and ours.ring_size == 1) == (channel, message)
    legacy.send(channel, message)
    assert receive(ours, channel, block) == (channel, message)
    legacy.send(channel, message)
    assert ours.receive_batch([ours.non_local_name(channel)], 10, 5) == [(channel, message)]


def test_groups_both_ways(pair: Pair) -> None:
    ours, legacy = pair
    members = ["one!a", "one!" + "b" * 40, "two!c", "three", "four?d"]
    for number, member in enumerate(members):
        (ours if number % 2 else legacy).group_add("room", member)
    ours.group_add("room", "gone!a")
    legacy.group_add("room", "gone!b")
    legacy.group_discard("room", "gone!a")
    ours.group_discard("room", "gone!b")
    assert sorted(ours.group_channels("room")) == sorted(legacy.group_channels("room")) == sorted(members)
    for sender, receiver in ((ours, legacy), (legacy, ours)):
        sender.send_group("room", {"text": "hello", "bytes": b"\xff"})
        received = [receive(receiver, member) for member in members]
        assert sorted(name for name, _ in received) == sorted(members)
        assert all(message == {"text": "hello", "bytes": b"\xff"} for _, message in received)


def test_capacity_is_one(pair: Pair) -> None:
    ours, legacy = pair
    channels = [("reply!", 5), ("small!", 2 if ours.channel_capacity else 5)]
    for name, capacity in channels:
        for number in range(capacity):
            (ours if number % 2 else legacy).send(f"{name}{number}", {})
        with pytest.raises(ours.ChannelFull):
            ours.send(f"{name}x", {})
        with pytest.raises(LegacyError, match="ChannelFull"):
            legacy.send(f"{name}x", {})
        legacy.group_add("g", f"{name}x")
        legacy.send_group("g", {})
        assert len(ours.receive_batch([name], 100, 0)) == capacity


def test_statistics_are_shared(pair: Pair) -> None:
    ours, legacy = pair
    for number in range(6):
        try:
            (ours if number % 2 else legacy).send("reply!a", {"n": number})
        except (ours.ChannelFull, LegacyError):
            pass
    ours.send("normal", {})
    legacy.send("normal", {})
    legacy.group_add("g", "reply!b")
    legacy.send_group("g", {})
    assert ours.global_statistics() == legacy.global_statistics() == {"messages_count": 7, "channel_full_count": 2}
    for channel in ("reply!", "normal", "nothing"):
        assert ours.channel_statistics(channel) == legacy.channel_statistics(channel)
    assert ours.channel_statistics("reply!") == {
        "messages_count": 5,
        "messages_pending": 5,
        "messages_max_age": 0,
        "channel_full_count": 2,
    }


def test_keys_have_the_same_form_and_life(pair: Pair, ring: list[RedisServer]) -> None:
    """The keys that each layer writes, with their lives and types, are the same but for the random part."""
    seen = []
    for layer in pair:
        for server in ring:
            server.client.flushall()
        layer.send("reply!a", {"n": 1})
        layer.group_add("room", "reply!a")
        layer.send_group("room", {"n": 2})
        keys = []
        for shard, server in enumerate(ring):
            redis: Any = server.client
            for key in redis.keys("*"):
                life = redis.ttl(key)
                # A second may pass between writing and looking.
                life = min((known for known in (60, 61, 3600, 86400) if known - 2 < life <= known), default=life)
                name = key.decode()
                hexadecimal = name.rpartition(":")[2]
                random = len(hexadecimal) == 32 and set(hexadecimal) <= set("0123456789abcdef")
                keys.append((shard, name.replace(hexadecimal, "<hex>") if random else name, redis.type(key), life // 2))
        seen.append(sorted(keys))
    assert seen[0] == seen[1]


def test_flush_empties_for_both(pair: Pair, ring: list[RedisServer]) -> None:
    ours, legacy = pair
    for flusher in pair:
        for layer in pair:
            layer.send("reply!a", {})
            layer.group_add("room", "reply!a")
        flusher.flush()
        assert all(server.client.keys("*") == [] for server in ring)
    assert ours.receive(["reply!"]) == (None, None)
    assert legacy.receive(["reply!"]) == [None, None]


def test_both_agree_on_shards(pair: Pair) -> None:
    ours, legacy = pair
    for number in range(200):
        assert ours.consistent_hash(f"channel{number}!") == legacy.consistent_hash(f"channel{number}!")
    assert wire.shard_of("x", 3) in range(3)


def test_a_legacy_worker_serves_our_requests(pair: Pair) -> None:
    """Many requests, each answered by the worker's layer to the server's reply channel."""
    ours, legacy = pair
    end = time.monotonic() + PATIENCE
    for number in range(20):
        ours.send("http.request", {**REQUEST, "reply_channel": f"server.response.X!{number}"})
        message = None
        while message is None and time.monotonic() < end:
            _, message = legacy.receive(["http.request", "websocket.receive"])
        assert message is not None
        legacy.send(message["reply_channel"], {"status": 200, "content": message["body"]})
        assert ours.receive_batch(["server.response.X!"], 100, 5) == [
            (f"server.response.X!{number}", {"status": 200, "content": REQUEST["body"]})
        ]
