"""A server on Redis under load: clients that start again after each failure, a worker that answers them, and what must hold at the end.

What happens to Redis meanwhile is up to the test; :mod:`tests.support.outages` has much of it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import websocket

from greendaphne.config import Timeouts
from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer, RedisSentinelChannelLayer
from tests.support.redis_server import RedisServer
from tests.support.server import Message, RunningServer, serve

PATIENCE = 30.0
#: Seconds after which a request without an answer is answered 503.
HTTP_TIMEOUT = 2
#: What a server and a worker each keep open to Redis: one connection that sends and one that receives.
CONNECTIONS = 4
#: A greenlet that sums up, once a minute, what requests failed for; it is there or not.
SUMMARY = 1

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def wait_until(condition: Callable[[], bool], subject: object = None) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {subject}"
        time.sleep(0.01)


class Worker:
    """The application: answers requests, accepts and echoes WebSockets, and keeps what it was told."""

    CHANNELS = ("http.request", "websocket.connect", "websocket.receive", "websocket.disconnect")

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.layer.blpop_timeout = 1
        self.connects: Counter[str] = Counter()
        self.disconnects: Counter[str] = Counter()
        self.orders: defaultdict[str, list[int]] = defaultdict(list)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            for channel, message in self.layer.receive_batch(self.CHANNELS, 1, 0.5):
                answer = self._answer(channel, message)
                if answer is not None:
                    try:
                        self.layer.send(message["reply_channel"], answer)
                    except (LayerUnavailable, self.layer.ChannelFull):
                        pass
        self.layer.close()

    def _answer(self, channel: str, message: Message) -> Message | None:
        name = message["reply_channel"]
        if channel == "http.request":
            return {"status": 200, "content": b"ok"}
        if channel == "websocket.disconnect":
            self.disconnects[name] += 1
            return None
        self.orders[name].append(message.get("order", 0))
        if channel == "websocket.connect":
            self.connects[name] += 1
            return {"accept": True}
        return {"text": message["text"]}

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


Layer = RedisChannelLayer | RedisSentinelChannelLayer


#: Short, so that a Redis that hangs is noticed soon.
TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


def make_layer(server: RedisServer) -> Layer:
    return RedisChannelLayer(hosts=[server.url], capacity=1000, connection_kwargs=TIMEOUTS)


class Load:
    """Clients that start again after each failure, and count what they saw."""

    REQUESTERS = 6
    SOCKETS = 10

    def __init__(self, server: RunningServer, redis_process: RedisServer, worker: Worker) -> None:
        self.server = server
        self.redis = redis_process
        self.worker = worker
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[int] = Counter()
        self.handshakes: Counter[int] = Counter()
        self.echoes = 0
        self.errors: list[BaseException] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(self._request,)) for _ in range(self.REQUESTERS)]
        self.threads += [threading.Thread(target=self._guard, args=(self._talk,)) for _ in range(self.SOCKETS)]
        for thread in self.threads:
            thread.start()

    def _guard(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised in the test
            self.errors.append(error)

    def _request(self) -> None:
        while not self.stopping.is_set():
            with self.server.connect() as client:
                client.send(GET)
                response = client.read_response()
                assert response.status == 200 or response.header("Retry-After") is not None, response
                self.statuses[response.status] += 1
            time.sleep(0.01)

    def _talk(self) -> None:
        number = 0
        while not self.stopping.is_set():
            try:
                socket = websocket.create_connection(f"ws://{self.server.host}:{self.server.port}/", timeout=PATIENCE)
            except websocket.WebSocketBadStatusException as error:
                self.handshakes[error.status_code] += 1
                time.sleep(0.02)
                continue
            self.handshakes[101] += 1
            try:
                while not self.stopping.is_set():
                    number += 1
                    socket.send(str(number))
                    socket.settimeout(0.05)
                    try:
                        opcode, data = socket.recv_data()
                    except websocket.WebSocketTimeoutException:
                        continue
                    if opcode == websocket.ABNF.OPCODE_CLOSE:
                        self.codes[int.from_bytes(data[:2], "big")] += 1
                        break
                    self.echoes += 1
                    time.sleep(0.02)
                else:
                    socket.settimeout(PATIENCE)
                    socket.close(timeout=PATIENCE)
            except (BrokenPipeError, ConnectionResetError, websocket.WebSocketConnectionClosedException):
                # It sent something while the server had closed already.
                self.codes[0] += 1
            finally:
                socket.shutdown()  # type: ignore[no-untyped-call]

    def wait_for_service(self) -> None:
        """Wait until requests are answered and every WebSocket talks again."""
        goals = self.statuses[200] + 2 * self.REQUESTERS, self.echoes + 3 * self.SOCKETS
        wait_until(lambda: bool(self.errors) or (self.statuses[200] >= goals[0] and self.echoes >= goals[1]), self)
        assert self.errors == []

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert self.errors == []

    def __repr__(self) -> str:
        return f"<{dict(self.statuses)} {dict(self.codes)} {dict(self.handshakes)} {self.echoes} echoes>"


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(item, gevent.Greenlet) and bool(item) and not item.dead for item in gc.get_objects())


@contextmanager
def under_load(redis_process: RedisServer, layer: Layer, worker: Worker, has_ended: Callable[[], bool], **options: Any) -> Iterator[Load]:
    """A server on ``layer`` and its clients, in this process; afterwards nothing is missing, doubled or left.

    :param has_ended: whether each WebSocket has got its disconnect; tried until it is true.
    :param options: those of ``Server``.
    """
    with serve(layer, http_timeout=HTTP_TIMEOUT, timeouts=Timeouts(graceful=5, websocket_close=1), **options) as server:
        with server.connect() as client:
            client.send(GET)
            assert client.read_response().status == 200
        wait_until(lambda: server.server.connections == 0)
        before = greenlets()
        load = Load(server, redis_process, worker)
        try:
            load.wait_for_service()
            yield load
            load.wait_for_service()
        finally:
            load.stop()
        wait_until(lambda: server.server.connections == 0)
        wait_until(has_ended, layer)
        assert max(worker.connects.values()) == max(worker.disconnects.values()) == 1
        assert set(load.statuses) <= {200, 503}
        assert set(load.handshakes) <= {101, 503}
        assert server.server.factory.reply_protocols == {}
        wait_until(lambda: greenlets() <= before + SUMMARY, (greenlets(), before))
        assert redis_process.connections() <= CONNECTIONS
    worker.stop()
