"""The order in which a server with inline workers ends: what its workers still take, and what they finish."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent import get_hub

from greendaphne.applications.channels import application as server_module
from greendaphne.config import Timeouts
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.worker import Message
from tests.soak.load import wait_until
from tests.support.redis_server import RedisServer, redis_server
from tests.support.server import PATIENCE, Client, RunningServer, serve

#: Seconds of the graceful time where only something wrong makes a drain take as long.
GRACEFUL = PATIENCE
WORKERS = 2


class Site:
    """Consumers that answer with a name; a request for ``/held`` is answered once the test releases it."""

    def __init__(self, layer: Any, name: str = "") -> None:
        self.layer = layer
        self.name = name
        self.held = threading.Event()
        self.released = threading.Event()
        layer.routes = {"http.request": self._request, "http.disconnect": lambda message: None}

    def _request(self, message: Message) -> None:
        if message.content["path"] == "/held":
            self.held.set()
            assert get_hub().threadpool.apply(self.released.wait, (PATIENCE,))
        message.reply({"status": 200, "content": self.name.encode()})


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def url(redis: RedisServer) -> str:
    redis.client.flushall()
    return redis.url


@contextmanager
def inline(site: Site) -> Iterator[RunningServer]:
    """A server with the site's workers inside; what the test holds is released at the end."""
    with serve(site.layer, inline_workers=WORKERS, timeouts=Timeouts(graceful=GRACEFUL)) as running:
        try:
            yield running
        finally:
            site.released.set()


def begin(running: RunningServer) -> Client:
    """A request whose body is not complete."""
    client = running.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1")
    # The server must know of it before it drains.
    wait_until(lambda: running.server.connections, "the connection")
    return client


def complete(client: Client) -> bytes:
    """The answer to it."""
    client.send(b"2")
    response = client.read_response()
    assert response.status == 200
    return response.body


def hold(site: Site, running: RunningServer) -> Client:
    """A request that a worker is at."""
    client = running.connect()
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    assert site.held.wait(PATIENCE)
    return client


def working(running: RunningServer) -> int:
    """The inline workers that have not ended."""
    return sum(not worker.dead for worker in running.inline_workers)


def test_workers_with_successors_take_nothing_more_and_finish_what_they_have(url: str) -> None:
    old, new = Site(RedisChannelLayer(hosts=[url]), "old"), Site(RedisChannelLayer(hosts=[url]), "new")
    with inline(old) as running, hold(old, running) as held, begin(running) as begun, inline(new):
        running.server.stop(succeeded=True)
        wait_until(lambda: working(running) == 1, "the end of the worker that waits")
        # The reply finds the old server.
        assert complete(begun) == b"new"
        old.released.set()
        assert held.read_response().body == b"old"
        assert running.server.join(PATIENCE)


def test_workers_go_on_where_no_other_process_is_known(url: str) -> None:
    site = Site(RedisChannelLayer(hosts=[url]), "this")
    with inline(site) as running, begin(running) as begun:
        running.server.stop()
        # The drain has begun when nothing listens any more.
        wait_until(lambda: not listens(running), "the drain")
        assert complete(begun) == b"this"
        assert running.server.join(PATIENCE)


def test_workers_of_a_layer_in_memory_go_on_in_any_case() -> None:
    site = Site(MemoryChannelLayer(), "this")
    with inline(site) as running, begin(running) as begun:
        running.server.stop(succeeded=True)
        wait_until(lambda: not listens(running), "the drain")
        assert complete(begun) == b"this"
        assert running.server.join(PATIENCE)


def test_workers_go_on_where_the_successors_end_too(url: str) -> None:
    site = Site(RedisChannelLayer(hosts=[url]), "this")
    with inline(site) as running, begin(running) as begun:
        running.server.stop(succeeded=True)
        wait_until(lambda: not working(running), "the end of the workers")
        running.server.stop()
        assert complete(begun) == b"this"
        assert running.server.join(PATIENCE)


@pytest.mark.parametrize("succeeded", [True, False])
def test_requests_of_other_servers_have_the_graceful_time(url: str, succeeded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_TIMEOUT", 0.0)
    old, other = Site(RedisChannelLayer(hosts=[url]), "old"), RedisChannelLayer(hosts=[url])
    # The other server has no workers.
    with inline(old) as running, serve(other) as elsewhere, hold(old, elsewhere) as held:
        running.server.stop(succeeded=succeeded)
        wait_until(lambda: working(running) == 1, "the end of the worker that waits")
        assert not running.server.join(0.2)
        old.released.set()
        assert held.read_response().body == b"old"
        assert running.server.join(PATIENCE)


def test_end_at_once_does_not_wait_for_workers(url: str) -> None:
    site = Site(RedisChannelLayer(hosts=[url]))
    with inline(site) as running, serve(RedisChannelLayer(hosts=[url])) as elsewhere, hold(site, elsewhere):
        running.server.stop()
        wait_until(lambda: working(running) == 1, "the end of the worker that waits")
        running.server._hub.loop.run_callback_threadsafe(running.server.end_now)
        assert running.server.join(PATIENCE)
        assert not site.released.is_set()


def listens(running: RunningServer) -> bool:
    try:
        running.connect().close()
    except ConnectionRefusedError:
        return False
    return True
