"""Parts of a server that end though they have no reason to: they are restarted, and /health says which are down meanwhile."""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from greendaphne.applications.channels import application as server_module
from greendaphne.applications.channels import inline
from greendaphne.applications.channels import probe as health_module
from greendaphne.applications.channels import supervisor as module
from greendaphne.applications.channels.supervisor import FIRST_PAUSE, LAST_PAUSE, Supervisor
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message, Worker
from tests.support.monitoring import GET, health, scrape, wait_until
from tests.support.server import PATIENCE, RunningServer, serve

MONITORING: dict[str, Any] = {"metrics": "tcp:0:interface=127.0.0.1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "FRESH", 0)
    monkeypatch.setattr(module, "SETTLED", 0.3)
    monkeypatch.setattr(inline, "SETTLED", 0.3)


def hello(message: Message) -> None:
    message.reply({"status": 200, "content": b"hello"})


def in_server(server: RunningServer, function: Callable[[], object]) -> None:
    """Have ``function`` called in a greenlet of the server."""
    done = threading.Event()

    def call() -> None:
        try:
            function()
        finally:
            done.set()

    server.server._hub.loop.run_callback_threadsafe(gevent.spawn, call)
    assert done.wait(PATIENCE)


def is_down(server: RunningServer, name: str) -> Callable[[], bool]:
    return lambda: health(server) == (503, f"down: {name}\n")


def is_up(server: RunningServer) -> bool:
    return health(server) == (200, "ok\n")


def exchange(server: RunningServer) -> None:
    with server.connect() as client:
        client.send(GET)
        assert client.read_response().body == b"hello"


@pytest.fixture
def layer() -> MemoryChannelLayer:
    layer = MemoryChannelLayer()
    layer.routes = {"http.request": hello}
    return layer


# ---- the router and the notifier


@pytest.mark.parametrize(("part", "name"), [("router", "reply router"), ("notifier", "notifier")])
def test_a_part_that_is_killed_is_restarted(part: str, name: str, layer: MemoryChannelLayer, caplog: pytest.LogCaptureFixture) -> None:
    with serve(layer, inline_workers=1, **MONITORING) as server:
        exchange(server)
        in_server(server, getattr(server.channels, part)._part.greenlet.kill)
        wait_until(is_down(server, name))
        wait_until(lambda: is_up(server))
        exchange(server)
        assert scrape(server)("part_failures_total", part=name.replace(" ", "-")) == 1
    assert f"The {name} was ended; it starts again in 0.1 s" in caplog.text
    assert f"The {name} runs again" in caplog.text


def test_a_router_that_fails_again_and_again(
    layer: MemoryChannelLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    with serve(layer, inline_workers=1, **MONITORING) as server:
        router = server.channels.router
        exchange(server)
        working = router._reader

        class Broken:
            @property
            def receive(self) -> Any:
                raise gevent.Timeout

        router._reader = Broken()  # type: ignore[assignment]
        in_server(server, router._part.greenlet.kill)  # type: ignore[union-attr]
        wait_until(lambda: server.channels.supervisor.restarts["reply router"] >= 4)
        assert is_down(server, "reply router")()
        router._reader = working
        wait_until(lambda: is_up(server))
        exchange(server)


def test_an_exception_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()
    lives: list[int] = []

    def run() -> None:
        lives.append(1)
        if len(lives) < 3:
            raise RuntimeError("broken")
        gevent.sleep(PATIENCE)

    with gevent.Timeout(PATIENCE):
        part = supervisor.start("part", run)
        assert supervisor.down() == []
        while len(lives) < 2:
            gevent.sleep(0.01)
        assert supervisor.down() == ["part"]
        while supervisor.down():
            gevent.sleep(0.01)
        part.stop()
        gevent.sleep(0.01)
    assert len(lives) == 3
    assert supervisor.restarts["part"] == 2
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in failures] == [
        "The part failed; it starts again in 0.1 s",
        "The part failed; it starts again in 0.2 s",
    ]
    assert all(record.exc_info for record in failures)


def test_a_part_that_ran_for_a_minute_starts_again_soon() -> None:
    with gevent.Timeout(PATIENCE):
        part = Supervisor().start("part", lambda: gevent.sleep(PATIENCE))
        part._pause = LAST_PAUSE
        started = part._started
        for seconds, pause in ((30, LAST_PAUSE), (60, FIRST_PAUSE)):
            part._started = started - seconds
            assert part._next_pause() == pause
        part.stop()


def test_a_part_that_is_stopped_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()
    with gevent.Timeout(PATIENCE):
        ended = supervisor.start("ended", lambda: None)
        waiting = supervisor.start("waiting", lambda: gevent.sleep(PATIENCE))
        gevent.sleep(0.01)
        assert supervisor.down() == ["ended"]
        ended.stop()
        waiting.stop()
        gevent.sleep(0.15)
    assert ended.greenlet is waiting.greenlet is None
    assert [record.getMessage() for record in caplog.records] == ["The ended was ended; it starts again in 0.1 s"]


def test_a_reply_that_cannot_be_handed_over_costs_itself(layer: MemoryChannelLayer, caplog: pytest.LogCaptureFixture) -> None:
    class ReplyQueue:
        since = 0.0
        held = 0

        def put(self, message: Any) -> None:
            raise RuntimeError("a fault of the server")

    with serve(layer, inline_workers=1, **MONITORING) as server:
        application = server.channels
        name = application.router.channels.new()
        application.router.clients[name] = ReplyQueue()  # type: ignore[assignment]
        layer.send(name, {"text": "x"})
        exchange(server)
        assert scrape(server)("part_failures_total", part="reply-router") == 1
        del application.router.clients[name]
        assert is_up(server)
    assert "a fault of the server" in caplog.text


def test_writing_goes_on_after_any_error(caplog: pytest.LogCaptureFixture) -> None:
    from greendaphne.applications.channels.writers import Writers

    failures: list[int] = []
    written: list[int] = []
    writers = Writers(lambda: failures.append(1))

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            if number % 3 == 0:
                raise gevent.Timeout
            if number % 3 == 1:
                raise gevent.GreenletExit
            written.append(number)

        return run

    with gevent.Timeout(PATIENCE):
        for number in range(30):
            writers.add(job(number))
        while len(written) < 10:
            gevent.sleep(0.001)
        writers.add(job(2))
        while len(written) < 11:
            gevent.sleep(0.001)
    assert len(failures) == 10
    writers.close()


def test_a_loss_that_cannot_be_acted_on_is_not_the_watch_s_end(layer: MemoryChannelLayer, caplog: pytest.LogCaptureFixture) -> None:
    with serve(layer, inline_workers=1, **MONITORING) as server:
        watch = server.channels.watch

        def broken() -> None:
            raise RuntimeError("broken")

        watch._on_loss = broken
        in_server(server, watch._tell)
        assert scrape(server)("part_failures_total", part="layer-watch") == 1
    assert "The loss of messages could not be acted on" in caplog.text


# ---- inline workers


def test_all_inline_workers_dead(layer: MemoryChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()
    original = Worker.run

    def run(self: Worker) -> None:
        if broken.is_set():
            raise RuntimeError("dead")
        original(self)

    monkeypatch.setattr(Worker, "run", run)
    monkeypatch.setattr(inline, "LAST_PAUSE", 0.2)
    with serve(layer, inline_workers=3, **MONITORING) as server:
        exchange(server)
        assert is_up(server)
        workers: list[Any] = server.inline_workers
        broken.set()
        in_server(server, workers[0].kill)
        wait_until(lambda: workers[0].deaths == 1)
        # The others work.
        assert is_up(server)
        for number in (1, 2):
            in_server(server, lambda number=number: workers[number].kill())  # type: ignore[misc]
        wait_until(is_down(server, "inline workers"))
        broken.clear()
        wait_until(lambda: is_up(server))
        exchange(server)


def test_a_worker_whose_greenlets_are_killed(layer: MemoryChannelLayer) -> None:
    seen: list[Any] = []

    def seize(message: Message) -> None:
        seen.append(gevent.getcurrent())
        hello(message)

    layer.routes = {"http.request": seize}
    with serve(layer, inline_workers=1, **MONITORING) as server:
        exchange(server)
        in_server(server, seen[0].kill)
        exchange(server)
        assert server.inline_workers[0].deaths == 1


class Unusual(BaseException):
    """What a library of an application may raise."""


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, gevent.GreenletExit, gevent.Timeout, CancelledError, Unusual])
def test_a_consumer_that_fails_before_its_answer(error: type[BaseException], layer: MemoryChannelLayer) -> None:
    def consume(message: Message) -> None:
        raise error

    layer.routes = {"http.request": consume}
    with serve(layer, inline_workers=1) as server, server.connect() as client:
        for _ in range(2):
            client.send(GET)
            assert client.read_response().status == 500


def test_a_consumer_that_fails_within_its_answer(layer: MemoryChannelLayer) -> None:
    def consume(message: Message) -> None:
        message.reply({"status": 200, "content": b"begun", "more_content": True})
        raise RuntimeError

    layer.routes = {"http.request": consume}
    with serve(layer, inline_workers=1) as server:
        for _ in range(2):
            with server.connect() as client:
                client.send(GET)
                data = b""
                try:
                    while part := client.sock.recv(65536):
                        data += part
                except ConnectionResetError:
                    pass
                assert not data.endswith(b"0\r\n\r\n")


def test_a_consumer_that_fails_after_its_answer(layer: MemoryChannelLayer) -> None:
    def consume(message: Message) -> None:
        hello(message)
        raise RuntimeError

    layer.routes = {"http.request": consume}
    with serve(layer, inline_workers=1) as server, server.connect() as client:
        for _ in range(3):
            client.send(GET)
            assert client.read_response().body == b"hello"


# ---- no worker at all


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.setattr(server_module, "_UNSERVED_PATIENCE", 0.05)
    layer = MemoryChannelLayer()
    with serve(layer, **MONITORING) as server:
        layer.unserved = True
        yield server


def test_no_worker_can_ever_come(unserved: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    assert health(unserved) == (503, "down: no worker reads the channel layer\n")
    # It has one the moment that somebody reads.
    unserved.layer.receive(["http.request"])
    assert is_up(unserved)


def test_that_there_is_none_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(server_module, "_UNSERVED_PATIENCE", 0.05)
    monkeypatch.setattr("tests.support.server.RunningServer.__init__", lambda self, server, layer: setattr(self, "server", server))
    with serve(MemoryChannelLayer()):
        wait_until(lambda: caplog.records)
    assert [record.getMessage().partition(",")[0] for record in caplog.records if record.levelno == logging.ERROR] == [
        "No worker reads the channel layer"
    ]
