"""Nothing that Redis has handed over is lost when its receiver ends: by a stop, a kill, a time limit, a signal, a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests

from greendaphne.layers.capabilities import Ending, capabilities
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.redis.resp import ReplyReader
from greendaphne.layers.wake import Wake
from tests.soak import losses as redis_losses
from tests.support import legacy
from tests.support.redis_load import wait_until
from tests.support.redis_server import PATIENCE, RedisServer, in_hub, redis_server

#: SIGTERMs for a ``runworker``.
STOPS = 20
#: Clients that ask meanwhile.
CLIENTS = 4
#: Seconds of a lease where a test waits for its end.
LEASE = 1.0

SETTINGS = """
import os
from chat.settings import *

_CONFIG = {"hosts": [os.environ["CHAT_REDIS"]], "capacity": 1000, "reliable": "CHAT_RELIABLE" in os.environ}
_LAYER = {"BACKEND": "greendaphne.layers.redis.RedisChannelLayer", "CONFIG": _CONFIG}
CHANNEL_LAYERS = {"default": {**_LAYER, "ROUTING": "chat.routing.channel_routing"}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


_made: list[RedisChannelLayer] = []


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> Iterator[None]:
    """An empty Redis, and no connection of a layer that is left."""
    server.client.flushall()
    yield
    while _made:
        _made.pop().close()


def make(server: RedisServer, **options: Any) -> RedisChannelLayer:
    layer = RedisChannelLayer(hosts=[server.url], capacity=1000, **options)
    _made.append(layer)
    return layer


def blocked(server: RedisServer) -> int:
    count: int = server.info("clients")["blocked_clients"]
    return count


def until(condition: Callable[[], object]) -> None:
    """Wait in a hub until ``condition`` holds."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.002)


# Many ends


@pytest.mark.parametrize("reliable", [False, True])
def test_workers_that_stop_and_are_killed_lose_nothing(server: RedisServer, reliable: bool) -> None:
    figures = redis_losses.run(
        server, messages=20_000 if not reliable else 5_000, seconds=10 if not reliable else 5, channels=3, reliable=reliable
    )
    assert figures.lost == figures.twice == 0, figures
    assert figures.stops > 50
    assert figures.kills > 20


# Single ends


@pytest.mark.parametrize("channels", [["reply!"], ["normal"], ["normal", "other", "reply!"]])
@pytest.mark.parametrize("hub", [True, False])
def test_a_wake_ends_a_wait_at_once(server: RedisServer, channels: list[str], hub: bool) -> None:
    layer = make(server)
    wake = Wake()
    ended: list[Any] = []

    def receive() -> None:
        ended.append(layer.receive_batch(channels, 1, 60, wake))
        layer.close()

    thread = threading.Thread(target=(lambda: in_hub(receive)) if hub else receive)
    thread.start()
    wait_until(lambda: blocked(server) == 1)
    begun = time.monotonic()
    wake.set()
    thread.join(PATIENCE)
    assert ended == [[]]
    assert time.monotonic() - begun < 5
    assert layer.receive_batch(channels, 1, 60, wake) == []
    assert layer.receive(channels, True, wake=wake) == (None, None)


def test_a_connection_that_a_thread_uses_while_the_layer_is_closed_is_closed_afterwards(server: RedisServer) -> None:
    """As the one that ends a wait: its thread may be behind the one that waited, and that one closes the layer."""
    before = server.connections()
    layer = make(server)
    layer.send("normal", {"n": 1})
    (lane,) = layer._thread_lanes
    server.pause()
    try:
        thread = threading.Thread(target=layer.send, args=("normal", {"n": 2}))
        thread.start()
        wait_until(lambda: not lane._free)
        layer.close()
    finally:
        server.resume()
    thread.join(PATIENCE)
    wait_until(lambda: server.connections() == before)
    assert layer.receive(["normal"])[1] == {"n": 1}
    assert layer.receive(["normal"])[1] == {"n": 2}


@pytest.mark.parametrize("thrown", [gevent.GreenletExit(), gevent.Timeout(None), RuntimeError("thrown")])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_what_redis_hands_over_while_an_exception_is_thrown_goes_back(server: RedisServer, thrown: BaseException, size: int) -> None:
    """The message arrives in the same turn of the hub as the exception, so that the wait has popped it already, or takes it just then."""
    layer = make(server)

    def run() -> None:
        for delay in (0, 0.0002, 0.0005, 0.001, 0.002, 0.004):
            reader = gevent.spawn(layer.receive_batch, ["normal", "other"], 1, None)
            until(lambda: blocked(server) == 1)
            layer.send("normal", {"n": 1, "body": b"x" * size})
            gevent.sleep(delay)
            reader.kill(thrown)
            if isinstance(reader.value, list):
                # It was quicker than the exception.
                assert reader.value[0][1]["n"] == 1
                continue
            [key] = server.client.lrange("asgi:normal", 0, -1)
            assert 0 < server.client.pttl(key) <= 60_000
            assert layer.receive_batch(["normal"], 1, 5)[0][1]["n"] == 1
        assert server.client.keys("asgi:*") == []
        layer.close()

    in_hub(run)


def test_messages_go_back_to_the_head_in_their_order(server: RedisServer) -> None:
    layer = make(server)

    def run() -> None:
        for _ in range(50):
            for n in range(10):
                layer.send("reply!a", {"n": n, "body": b"x" * 500_000})
            reader = gevent.spawn(layer.receive_batch, ["reply!"], 5, None)
            # The reply of 2.5 MB comes in many pieces.
            while server.client.llen("asgi:reply!") == 10:
                gevent.sleep(0)
            reader.kill()
            if not isinstance(reader.value, list):
                break
            # The whole reply was there before the kill.
            assert len(layer.receive_batch(["reply!"], 100, 5)) == 5
        else:
            raise AssertionError("no kill came before the end of a reply")
        assert [message["n"] for _, message in layer.receive_batch(["reply!"], 100, 5)] == list(range(10))
        layer.close()

    in_hub(run)


def test_a_signal_handler_that_raises_in_a_plain_thread(server: RedisServer, tmp_path: Path) -> None:
    """SystemExit out of a wait of the main thread that has a message already."""
    script = tmp_path / "receiver.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys
        from greendaphne.layers.redis import RedisChannelLayer

        layer = RedisChannelLayer(hosts=[sys.argv[1]], capacity=1000)
        other = RedisChannelLayer(hosts=[sys.argv[1]])

        def end(*_):
            # The wait below has popped it when this is over.
            other.send("n", {"n": int(sys.argv[2])})
            while other.channel_statistics("n")["messages_pending"]:
                pass
            raise SystemExit

        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        while True:
            layer.receive(["n", "m"], True)
        """)
    )
    layer = make(server)
    for number in range(5):
        command = [sys.executable, str(script), server.url, str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=legacy.ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                wait_until(lambda: blocked(server) == 1)
                process.terminate()
                process.wait(PATIENCE)
            finally:
                process.kill()
        # Redis must not count the wait of this one for that of the next.
        wait_until(lambda: blocked(server) == 0)
        assert layer.receive(["n"]) == ("n", {"n": number})


def test_connections_that_break_lose_no_message_in_reliable_mode(server: RedisServer) -> None:
    """All connections of all workers are killed, again and again, while messages come."""
    layer = make(server, reliable=True, lease=LEASE)
    seen: set[int] = set()
    total = 400

    def work() -> None:
        while len(seen) < total:
            for _, message in layer.receive_batch(["http.request", "websocket.connect"], 1, 0.2):
                seen.add(message["n"])

    def run() -> None:
        workers = [gevent.spawn(work) for _ in range(4)]
        sender = make(server, reliable=True)
        for n in range(total):
            sender.send("http.request" if n % 2 else "websocket.connect", {"n": n})
            if n % 10 == 0:
                for client in server.client.client_list():
                    if client["name"] == "greendaphne:receive":
                        server.client.client_kill_filter(_id=client["id"])
            gevent.sleep(0.001)
        gevent.joinall(workers, timeout=PATIENCE)
        layer.close()
        sender.close()

    in_hub(run)
    assert seen == set(range(total))


# Reliable


def test_a_message_is_kept_until_it_is_acknowledged(server: RedisServer) -> None:
    layer = make(server, reliable=True)
    layer.send("http.request", {"n": 1})
    layer.send("other", {"n": 2})
    assert layer.receive(["http.request"], True) == ("http.request", {"n": 1})
    assert len(server.client.keys("asgi:" + "?" * 32)) == 2
    assert layer.receive(["other"], True) == ("other", {"n": 2})
    assert len(server.client.keys("asgi:" + "?" * 32)) == 1
    layer.release()
    layer.settle()
    assert layer.receive(["http.request"], True) == ("http.request", {"n": 1})
    layer.acknowledge()
    layer.settle()
    assert server.client.keys("asgi:" + "?" * 32) == []
    assert layer.receive(["http.request"]) == (None, None)


def test_a_thread_that_ends_gives_its_message_back(server: RedisServer) -> None:
    layer = make(server, reliable=True)
    layer.send("http.request", {"n": 1})
    thread = threading.Thread(target=layer.receive, args=(["http.request"], True))
    thread.start()
    thread.join()
    found: list[Any] = []

    def look() -> bool:
        layer.settle()
        found.append(layer.receive(["http.request"]))
        return bool(found[-1][0])

    wait_until(look)
    assert found[-1] == ("http.request", {"n": 1})


CRASHER = """
import os, signal, sys
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.worker import Worker

layer = RedisChannelLayer(hosts=[sys.argv[1]], capacity=1000, reliable=sys.argv[2] == "reliable", lease=1.0)

def consume(message):
    os.write(1, b"%d\\n" % message.content["n"])
    message.reply({"n": message.content["n"]})

Worker(layer, {"http.request": consume, "websocket.connect": consume}, concurrency=2).run()
"""


def test_kill_9_loses_nothing_in_reliable_mode(server: RedisServer, tmp_path: Path) -> None:
    """Workers are killed under load; every message is answered all the same, by others, once the leases have run out."""
    lost = kill_9(server, tmp_path, "reliable", rounds=10, messages=1500)
    assert lost == 0


def kill_9(server: RedisServer, directory: Path, mode: str, *, rounds: int, messages: int) -> int:
    """Kill workers at random while ``messages`` are sent; returns how many were never answered."""
    script = directory / "crasher.py"
    script.write_text(CRASHER)
    command = [sys.executable, str(script), server.url, mode]
    layer = make(server, reliable=mode == "reliable", lease=LEASE)
    layer.capacity = 10_000

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=legacy.ROOT)

    processes = [start() for _ in range(3)]
    try:
        wait_until(lambda: blocked(server) >= len(processes))
        for n in range(messages):
            layer.send("http.request", {"n": n, "reply_channel": f"reply{n % 20}!x"})
            if n % (messages // rounds) == messages // rounds - 1:
                victim = processes.pop(0)
                victim.kill()
                victim.wait()
                processes.append(start())
            time.sleep(0.001)
        answered: set[int] = set()
        end = time.monotonic() + (PATIENCE if mode == "reliable" else 3)
        names = [f"reply{number}!" for number in range(20)]
        while len(answered) < messages and time.monotonic() < end:
            answered.update(message["n"] for _, message in layer.receive_batch(names, 100, 0.5))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return messages - len(answered)


# runworker


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")
@pytest.mark.parametrize(("variant", "stops"), [("single", STOPS), ("threads", STOPS // 4), ("reliable", STOPS // 4)])
def test_a_runworker_that_stops_under_load_loses_nothing(server: RedisServer, tmp_path: Path, variant: str, stops: int) -> None:
    (tmp_path / "redis_settings.py").write_text(SETTINGS)
    (tmp_path / "chat.sqlite3").write_bytes(legacy._prepared())
    env = legacy.environment(tmp_path, "redis")
    env.update(CHAT_REDIS=server.url, DJANGO_SETTINGS_MODULE="redis_settings")
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    if variant == "reliable":
        env["CHAT_RELIABLE"] = "1"
    command = [*legacy.MANAGE, "runworker", *(["--threads", "3"] if variant == "threads" else [])]
    web = legacy.Process([*legacy.GREENDAPHNE, "-p", "0", "-t", "15", "chat.asgi:channel_layer"], tmp_path / "server.log", env)
    workers = [legacy.Process(command, tmp_path / f"worker{number}.log", env) for number in range(2)]
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask(url: str) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                statuses[session.get(url, timeout=2 * PATIENCE).status_code] += 1

    clients: list[threading.Thread] = []
    try:
        url = f"http://127.0.0.1:{web.port()}/"
        for worker in workers:
            worker.wait_for("Listening on channels")
        clients = [threading.Thread(target=ask, args=(url,)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for number in range(stops):
            # The next one is there before one goes, as a supervisor has it.
            fresh = legacy.Process(command, tmp_path / f"next{number}.log", env)
            fresh.wait_for("Listening on channels")
            goal = sum(statuses.values()) + CLIENTS
            wait_until(lambda goal=goal: sum(statuses.values()) >= goal)  # type: ignore[misc]
            assert workers.pop(0).stop() == 0
            workers.append(fresh)
    finally:
        stop.set()
        for client in clients:
            client.join(2 * PATIENCE)
        for process in (*workers, web):
            process.stop()
    assert set(statuses) == {200}, statuses


# The parts


def test_the_abilities_of_layers_are_told_truthfully(server: RedisServer) -> None:
    class Older(MemoryChannelLayer):
        def receive_batch(self, channels: Any, limit: int, timeout: float | None = None) -> list[tuple[str, dict[str, Any]]]:  # type: ignore[override]
            return super().receive_batch(channels, limit, timeout)

    class Wrapper:
        def __init__(self, layer: Any) -> None:
            self.channel_layer = layer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.channel_layer, name)

    from asgiref import inmemory

    for layer in (make(server), MemoryChannelLayer(), Wrapper(MemoryChannelLayer())):
        found = capabilities(layer)
        assert (found.batches, found.ending, found.blocks_natively, found.acknowledges) == (True, Ending.WAKE, False, False)
    assert capabilities(make(server, reliable=True)).acknowledges
    assert capabilities(Older()).ending is Ending.LIMIT
    assert capabilities(inmemory.ChannelLayer()).ending is Ending.POLL


class Interrupted(Exception):
    """Comes in place of bytes."""


@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
def test_a_reply_whose_read_was_interrupted_is_read_on(piece: int) -> None:
    flat = b"*4\r\n$0\r\n\r\n:-12\r\n$-1\r\n$4\r\n\r\n\r\n\r\n"
    data = b"*3\r\n:1\r\n$5\r\nab\r\nc\r\n*2\r\n$-1\r\n$0\r\n\r\n+OK\r\n" + flat + b":7\r\n*0\r\n*-1\r\n$-1\r\n" + flat
    position = 0
    turn = 0

    def receive(size: int, timeout: float | None) -> bytes:
        nonlocal position, turn
        turn += 1
        if turn % 2:
            raise Interrupted
        found = data[position : position + min(size, piece)]
        position += len(found)
        return found

    reader = ReplyReader(receive)

    def read() -> Any:
        while True:
            try:
                return reader.read()
            except Interrupted:
                continue

    assert read() == [1, b"ab\r\nc", [None, b""]]
    assert read() == b"OK"
    assert read() == [b"", -12, None, b"\r\n\r\n"]
    assert [read() for _ in range(4)] == [7, [], None, None]
    assert read() == [b"", -12, None, b"\r\n\r\n"]


def test_a_wake_that_is_set_calls_the_enders_of_later_waits() -> None:
    wake = Wake()
    called = threading.Event()
    key = wake.attach(None, called.set)
    wake.detach(key)
    wake.set()
    assert not called.is_set()
    wake.attach(None, called.set)
    assert called.wait(PATIENCE)
