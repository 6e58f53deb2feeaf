"""Plain workers and workers inside the server: dispatch, replies, bodies, failures, stopping, and projects of Channels."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from asgiref import inmemory
from gevent.event import Event

from greendaphne import worker as worker_module
from greendaphne.applications.channels import inline
from greendaphne.applications.channels.inline import start_workers, stop_workers
from greendaphne.config import ConfigurationError
from greendaphne.core import turns
from greendaphne.core.message import ClientDisconnected, HTTPError
from greendaphne.layers import LayerUnavailable
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.wake import Wake
from greendaphne.worker import Message, Worker

PATIENCE = 30.0
ROOT = Path(__file__).resolve().parents[2]

Routes = dict[str, Callable[[Message], object]]


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with gevent.Timeout(PATIENCE):
        yield


@pytest.fixture
def layer() -> MemoryChannelLayer:
    return MemoryChannelLayer()


@pytest.fixture
def run() -> Iterator[Callable[..., Worker]]:
    """Run workers for the time of a test."""
    running: list[tuple[Worker, gevent.Greenlet[..., None]]] = []

    def run(layer: Any, routes: Routes, **options: Any) -> Worker:
        worker = Worker(layer, routes, **options)
        running.append((worker, gevent.spawn(worker.run)))
        return worker

    yield run
    for worker, greenlet in running:
        worker.stop()
        greenlet.get()


def request(layer: Any, **content: Any) -> None:
    layer.send("http.request", {"reply_channel": "reply!1", "path": "/", "body": b"", **content})


def reply(layer: MemoryChannelLayer) -> dict[str, Any]:
    [(_, message)] = layer.receive_batch(["reply!"], 1, PATIENCE)
    return message


# Dispatch


def test_consumers_get_the_messages_of_their_channels(layer: MemoryChannelLayer, run: Callable[..., Worker]) -> None:
    seen = []

    def consume(message: Message) -> None:
        seen.append((message.channel, message.content["n"], message.layer is layer, message.replied))
        message.reply({"n": message.content["n"]})
        assert message.replied

    run(layer, {"a": consume, "p!": consume, "body?x": consume})
    for n, channel in enumerate(["a", "p!1", "p!2", "body?x"]):
        layer.send(channel, {"reply_channel": "reply!1", "n": n})
        assert reply(layer) == {"n": n}
    assert seen == [("a", 0, True, False), ("p!1", 1, True, False), ("p!2", 2, True, False), ("body?x", 3, True, False)]


def test_a_worker_on_a_layer_that_does_not_wait(run: Callable[..., Worker]) -> None:
    layer = inmemory.ChannelLayer()
    done = Event()
    run(layer, {"a": lambda message: done.set()})
    layer.send("a", {})
    done.wait()


def test_by_default_one_message_at_a_time(layer: MemoryChannelLayer, run: Callable[..., Worker]) -> None:
    busy: list[int] = []
    finished = Event()

    def consume(message: Message) -> None:
        assert not busy
        busy.append(1)
        gevent.sleep(0.001)
        busy.pop()
        if message.content["n"] == 4:
            finished.set()

    run(layer, {"a": consume})
    for n in range(5):
        layer.send("a", {"n": n})
    finished.wait()


def test_concurrency_is_bounded_and_delays_nobody(layer: MemoryChannelLayer, run: Callable[..., Worker]) -> None:
    go = Event()
    started: list[int] = []

    def consume(message: Message) -> None:
        started.append(message.content["n"])
        if message.content["n"] < 2:
            go.wait()
        message.reply({"n": message.content["n"]})

    run(layer, {"a": consume}, concurrency=3)
    for n in range(10):
        layer.send("a", {"reply_channel": "reply!1", "n": n})
    assert [reply(layer)["n"] for _ in range(8)] == list(range(2, 10))
    go.set()
    assert {reply(layer)["n"], reply(layer)["n"]} == {0, 1}


def test_what_is_waiting_for_a_busy_worker_is_left_to_others(layer: MemoryChannelLayer, run: Callable[..., Worker]) -> None:
    go = Event()
    run(layer, {"a": lambda message: go.wait()})
    for n in range(3):
        layer.send("a", {"n": n})
    while layer.channel_statistics("a")["messages_pending"] == 3:
        gevent.sleep(0)
    gevent.sleep(0)
    assert layer.channel_statistics("a")["messages_pending"] == 2
    layer.flush()
    go.set()


@pytest.mark.parametrize(("routes", "options"), [({}, {}), ({"a": print}, {"concurrency": 0})])
def test_impossible_workers(layer: MemoryChannelLayer, routes: Routes, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Worker(layer, routes, **options)


# Replies


def test_a_reply_waits_for_room(run: Callable[..., Worker]) -> None:
    layer = MemoryChannelLayer(capacity=2)

    def consume(message: Message) -> None:
        for n in range(20):
            message.reply({"n": n})

    run(layer, {"http.request": consume})
    request(layer)
    assert [reply(layer)["n"] for _ in range(20)] == list(range(20))


def test_a_reply_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "REPLY_FIRST_PAUSE", 0.0001)
    layer = MemoryChannelLayer(capacity=1)
    layer.send("reply!1", {})
    message = Message("http.request", {"reply_channel": "reply!1"}, layer, reply_timeout=0.001)
    with pytest.raises(layer.ChannelFull):
        message.reply({})
    assert not message.replied
    with pytest.raises(LookupError, match="has no reply_channel"):
        Message("a", {}, layer).reply({})


# Bodies


def test_bodies(layer: MemoryChannelLayer) -> None:
    assert Message("http.request", {}, layer).read_body() == b""
    assert list(Message("http.request", {"body": b"all"}, layer).body()) == [b"all"]
    message = Message("http.request", {"body": b"begin", "body_channel": "body?x"}, layer)
    body = message.body()
    assert next(body) == b"begin"
    following = gevent.spawn(list, body)
    gevent.sleep(0)
    layer.send("body?x", {"content": b"1", "more_content": True})
    gevent.sleep(0)
    layer.send("body?x", {"content": b"", "more_content": True})
    layer.send("body?x", {"content": b"2", "more_content": True})
    layer.send("body?x", {"content": b"", "more_content": False})
    assert following.get() == [b"1", b"2"]
    layer.send("body?x", {"content": b"whole"})
    assert message.read_body(limit=10) == b"beginwhole"


def test_bodies_that_do_not_end(layer: MemoryChannelLayer) -> None:
    message = Message("http.request", {"body_channel": "body?x"}, layer)
    layer.send("body?x", {"content": b"1", "more_content": True})
    layer.send("body?x", {"closed": True})
    with pytest.raises(ClientDisconnected):
        message.read_body()
    layer.send("body?x", {"content": b"1", "more_content": True})
    with pytest.raises(HTTPError) as caught:
        message.read_body(timeout=0.01)
    assert caught.value.status == 408
    layer.send("body?x", {"content": b"12345", "more_content": True})
    with pytest.raises(HTTPError) as caught:
        message.read_body(limit=4)
    assert caught.value.status == 413


# Failures


class Gone(Exception):
    pass


def raise_timeout(message: Message) -> None:
    gevent.Timeout(0.0001).start()
    gevent.sleep(PATIENCE)


def raise_exit(message: Message) -> None:
    raise gevent.GreenletExit


def raise_error(message: Message) -> None:
    raise Gone("oh dear")


@pytest.mark.parametrize("consumer", [raise_error, raise_timeout, raise_exit])
def test_a_failure_is_logged_answered_and_survived(
    layer: MemoryChannelLayer, run: Callable[..., Worker], caplog: pytest.LogCaptureFixture, consumer: Callable[[Message], None]
) -> None:
    run(layer, {"http.request": consumer, "websocket.connect": consumer, "other": consumer})
    for _ in range(2):
        request(layer)
        assert reply(layer) == {
            "status": 500,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
            "content": b"Internal Server Error",
        }
    layer.send("websocket.connect", {"reply_channel": "reply!1"})
    assert reply(layer) == {"accept": False}
    layer.send("other", {"reply_channel": "reply!1"})
    layer.send("other", {})
    while len(caplog.records) < 5:
        gevent.sleep(0.001)
    assert f"Error processing message with consumer {consumer.__name__}:" in caplog.text
    assert "Traceback" in caplog.text
    assert layer.receive(["reply!"]) == (None, None)


def test_a_failure_after_the_reply_is_told_to_the_server(layer: MemoryChannelLayer, run: Callable[..., Worker]) -> None:
    def consume(message: Message) -> None:
        message.reply({"status": 200, "content": b"x", "more_content": True})
        raise Gone

    done = Event()
    run(layer, {"http.request": consume, "next": lambda message: done.set()})
    request(layer)
    assert reply(layer)["status"] == 200
    layer.send("next", {})
    done.wait()
    answer = reply(layer)
    assert (answer["status"], answer["abort"]) == (500, True)
    assert layer.receive(["reply!"]) == (None, None)


def test_an_http_error_is_the_answer(layer: MemoryChannelLayer, run: Callable[..., Worker], caplog: pytest.LogCaptureFixture) -> None:
    def consume(message: Message) -> None:
        if message.content["path"] == "/gone":
            raise ClientDisconnected
        raise HTTPError(503, "Later.", [(b"retry-after", b"5")])

    run(layer, {"http.request": consume})
    request(layer, path="/gone")
    request(layer)
    assert reply(layer) == {
        "status": 503,
        "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"5")],
        "content": b"Later.",
    }
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_no_answer_can_be_sent(run: Callable[..., Worker], caplog: pytest.LogCaptureFixture) -> None:
    layer = MemoryChannelLayer(capacity=1)
    done = Event()
    run(layer, {"http.request": raise_error, "next": lambda message: done.set()}, reply_timeout=0.001)
    layer.send("reply!1", {})
    request(layer)
    while "No answer could be sent" not in caplog.text:
        gevent.sleep(0.001)
    layer.send("next", {})
    done.wait()


def test_a_message_without_a_consumer_is_an_error_in_the_log(run: Callable[..., Worker], caplog: pytest.LogCaptureFixture) -> None:
    class Strange(MemoryChannelLayer):
        def receive_batch(
            self, channels: Any, limit: int, timeout: float | None = None, wake: Wake | None = None
        ) -> list[tuple[str, dict[str, Any]]]:
            return [("strange", {}), *super().receive_batch(channels, limit, timeout, wake)]

    layer = Strange()
    done = Event()
    run(layer, {"a": lambda message: done.set()})
    layer.send("a", {})
    done.wait()
    assert "No consumer for a message on strange" in caplog.text


class Failing(MemoryChannelLayer):
    """A layer that is lost after its first message."""

    def receive_batch(
        self, channels: Any, limit: int, timeout: float | None = None, wake: Wake | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        if self.global_statistics()["messages_count"]:
            raise LayerUnavailable("no route to layer")
        return super().receive_batch(channels, limit, 0.001, wake)


def test_what_the_layer_raises_ends_the_run() -> None:
    layer = Failing()
    layer.send("a", {})
    with pytest.raises(LayerUnavailable):
        Worker(layer, {"a": print}, concurrency=3).run()


# Stopping


def test_stop_from_another_thread_lets_messages_in_process_finish(layer: MemoryChannelLayer) -> None:
    started = threading.Event()
    finished = []

    def consume(message: Message) -> None:
        started.set()
        gevent.sleep(0.02)
        finished.append(message.content["n"])

    worker = Worker(layer, {"a": consume}, concurrency=2)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    layer.send("a", {"n": 1})
    while not started.is_set():
        gevent.sleep(0.001)
    worker.stop()
    layer.send("a", {"n": 2})
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert finished in ([1], [1, 2])
    assert layer.channel_statistics("a")["messages_pending"] == 2 - len(finished)


def test_stop_before_run_and_run_again(layer: MemoryChannelLayer) -> None:
    worker = Worker(layer, {"a": lambda message: worker.stop()})
    worker.stop()
    worker.run()
    layer.send("a", {})
    running = gevent.spawn(worker.run)
    gevent.sleep(0)
    with pytest.raises(RuntimeError, match="is already running"):
        worker.run()
    running.get()


def test_a_kill_of_run_ends_its_consumers(layer: MemoryChannelLayer) -> None:
    ended = []

    def consume(message: Message) -> None:
        try:
            gevent.sleep(PATIENCE)
        finally:
            ended.append(1)

    running = gevent.spawn(Worker(layer, {"a": consume}, concurrency=2).run)
    layer.send("a", {})
    while layer.channel_statistics("a")["messages_pending"] or not layer._channels["a"].waiters:
        gevent.sleep(0.001)
    running.kill()
    assert ended == [1]
    assert not layer._channels["a"].waiters


# Workers inside the server


def test_inline_workers_of_a_plain_application(layer: MemoryChannelLayer) -> None:
    layer.routes = {"http.request": lambda message: message.reply({"status": 200})}
    workers = start_workers(layer, 3)
    assert len(workers) == 3
    request(layer)
    assert reply(layer) == {"status": 200}
    stop_workers(workers)
    assert all(worker.dead for worker in workers)
    request(layer)
    assert layer.channel_statistics("http.request")["messages_pending"] == 1


def test_routes_of_the_module_that_the_layer_comes_from() -> None:
    layer = inmemory.ChannelLayer()
    done = Event()
    workers = start_workers(layer, 1, SimpleNamespace(routes={"a": lambda message: done.set()}))
    layer.send("a", {})
    done.wait()
    stop_workers(workers)


@pytest.mark.parametrize("routes", [None, {}, ["http.request"]])
def test_nothing_to_run_is_one_clear_line(layer: MemoryChannelLayer, routes: Any) -> None:
    layer.routes = routes
    with pytest.raises(ConfigurationError, match=r"^No consumers for inline workers: greendaphne\.layers\.memory\.Mem.*$"):
        start_workers(layer, 1)
    with pytest.raises(ConfigurationError, match="at least 1"):
        start_workers(layer, 0)


@pytest.mark.parametrize(("error", "text"), [(LayerUnavailable("gone"), "lost the channel layer: gone"), (Gone(), "Traceback")])
def test_a_worker_that_dies_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, text: str
) -> None:
    monkeypatch.setattr(inline, "FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(inline, "LAST_PAUSE", 0.0005)

    class Unsteady(MemoryChannelLayer):
        deaths = 0

        def receive_batch(
            self, channels: Any, limit: int, timeout: float | None = None, wake: Wake | None = None
        ) -> list[tuple[str, dict[str, Any]]]:
            if self.deaths < 5:
                self.deaths += 1
                raise error
            return super().receive_batch(channels, limit, timeout, wake)

    layer = Unsteady()
    layer.routes = {"http.request": lambda message: message.reply({"status": 200})}
    workers = start_workers(layer, 1)
    request(layer)
    while layer._channels["http.request"].queue:
        gevent.sleep(0.001)
    assert layer.receive(["reply!"], block=True)[1] == {"status": 200}
    assert caplog.text.count("starts again in") == 5
    assert text in caplog.text
    stop_workers(workers)


def test_a_dead_worker_that_waits_to_be_started_again_stops_at_once(layer: MemoryChannelLayer) -> None:
    layer = Failing()
    layer.send("a", {})
    layer.routes = {"a": print}
    workers = start_workers(layer, 1)
    gevent.sleep(0.01)
    stop_workers(workers, timeout=PATIENCE)
    assert workers[0].dead


def test_a_consumer_that_does_not_end_is_killed(layer: MemoryChannelLayer) -> None:
    started = Event()

    def consume(message: Message) -> None:
        started.set()
        gevent.sleep(PATIENCE)

    layer.routes = {"a": consume}
    workers = start_workers(layer, 1)
    layer.send("a", {})
    started.wait()
    stop_workers(workers, timeout=0.01)
    assert workers[0].dead


CHANNELS = """
    import sys
    patched = sys.argv[1] == "patched"
    if patched:
        from gevent import monkey
        monkey.patch_all()
    import warnings
    import gevent
    from gevent import monkey
    warnings.filterwarnings("error", message="receive_many")

    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    def chat(message):
        message.reply_channel.send({"text": message.content["text"] + "!"})

    def slow(message):
        gevent.sleep(0.05) if patched else monkey.get_original("time", "sleep")(0.05)
        print("slow consumer finished")

    from channels.routing import route
    settings.configure(
        DEBUG=True, LOGGING_CONFIG=None, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], STATIC_URL="/static/",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.admin", "django.contrib.messages",
                        "django.contrib.sessions", "django.contrib.staticfiles"],
        CHANNEL_LAYERS={"default": {
            "BACKEND": "greendaphne.layers.memory.MemoryChannelLayer",
            "CONFIG": {"capacity": 10},
            "ROUTING": [route("websocket.receive", chat), route("slow", slow)],
        }},
    )
    django.setup()
    urlpatterns = [path("hello/", lambda request: HttpResponse("Hello " + request.body.decode()))]

    from channels.asgi import channel_layers, get_channel_layer
    from channels.signals import worker_process_ready, worker_ready
    ready = []
    worker_process_ready.connect(lambda **kwargs: ready.append("process"), weak=False)
    worker_ready.connect(lambda **kwargs: ready.append("worker"), weak=False)

    import logging
    from greendaphne.applications.channels import inline
    from greendaphne.applications.channels.inline import start_workers, stop_workers
    from greendaphne.config import ConfigurationError
    from greendaphne.layers import memory
    if not patched:
        memory.BLOCK_LIMIT = 0.1  # a thread that waits cannot be told to stop
    layer = get_channel_layer()

    class Handler(logging.Handler):
        def emit(self, record):
            print(record.getMessage(), record.exc_info and record.exc_info[1])

    logging.getLogger("greendaphne.worker").addHandler(Handler())
    inline.FIRST_PAUSE = 0.01
    receive_batch = layer.receive_batch
    lives = []

    def die_once(channels, limit, timeout, wake=None):
        if "http.request" in channels:
            lives.append(1)
            if len(lives) == 1:
                raise RuntimeError("the first worker dies")
        return receive_batch(channels, limit, timeout, wake)

    layer.receive_batch = die_once
    try:
        start_workers(memory.MemoryChannelLayer(), 1)
    except ConfigurationError as error:
        print(type(error).__name__)
    workers = start_workers(layer if len(sys.argv) == 2 else channel_layers["default"], 3)
    request = {"reply_channel": "r!1", "method": "POST", "http_version": "1.1", "scheme": "http", "query_string": b"", "root_path": "",
               "headers": [(b"host", b"localhost"), (b"content-length", b"5")], "client": ["127.0.0.1", 1], "server": ["127.0.0.1", 80]}

    def reply():
        with gevent.Timeout(60):
            [(channel, message)] = layer.receive_batch(["r!"], 1, None)
        return message

    body = layer.new_channel("http.request.body?")
    layer.send("http.request", {**request, "path": "/hello/", "body": b"w", "body_channel": body})
    layer.send(body, {"content": b"or", "more_content": True})
    layer.send(body, {"content": b"ld", "more_content": False})
    message = reply()
    print(message["status"], message["content"].decode())
    layer.send("http.request", {**request, "path": "/static/admin/css/base.css", "body": b"", "method": "GET", "headers": []})
    message = reply()
    print(message["status"], len(message["content"]) > 1000)
    while message.get("more_content"):
        message = reply()
    layer.send("websocket.receive", {"reply_channel": "r!1", "text": "hi", "path": "/", "order": 1})
    print(reply()["text"])
    with gevent.Timeout(60):
        while len(ready) < 5:
            gevent.sleep(0.001)
    print(sorted(ready))
    layer.send("slow", {})
    while layer.channel_statistics("slow")["messages_pending"]:
        gevent.sleep(0.001)
    with gevent.Timeout(60):
        stop_workers(workers, timeout=30)
    print(all(worker.dead for worker in workers))
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Django 2.2 and Channels 1 end with Python 3.11")
@pytest.mark.parametrize("arguments", [["patched"], ["patched", "wrapper"], ["unpatched"]])
def test_inline_workers_of_a_channels_project(arguments: list[str]) -> None:
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHANNELS), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert output.stderr == ""
    lines = output.stdout.splitlines()
    # Native threads come in no order.
    log = [re.sub(r"worker \d of", "worker n of", line) for line in lines if line.startswith("Inline worker")]
    assert log == ["Inline worker n of 3 died: the first worker dies", "Inline worker n of 3 starts again in 0.01 s None"]
    assert [line for line in lines if not line.startswith("Inline worker")] == [
        "ConfigurationError",
        "200 Hello world",
        "200 True",
        "hi!",
        "['process', 'worker', 'worker', 'worker', 'worker']",
        "slow consumer finished",
        "True",
    ]


def test_a_worker_whose_consumers_never_wait_leaves_the_loop_its_poll(
    layer: MemoryChannelLayer, run: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    loop: Any = gevent.get_hub().loop
    passed: list[int] = []
    check = loop.check(priority=loop.MAXPRI)
    check.start(passed.append, 0)
    number = 10 * turns.EVENTS_EVERY
    at: list[int] = []
    done = Event()

    def consume(message: Message) -> None:
        at.append(len(passed))
        if len(at) == number:
            done.set()

    for n in range(number):
        layer.send("thing", {"n": n})
    run(layer, {"thing": consume})
    done.wait()
    check.stop()
    check.close()
    assert len(set(at)) >= 5
