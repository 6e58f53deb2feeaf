"""Requests over HTTP/2 that wait for a channel layer's reply without a greenlet: every way in which they end, and what gets one again."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import h2.events
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, GoAwayFrame

from greendaphne.applications.channels.detached import DetachedRequest
from greendaphne.config import Timeouts
from greendaphne.core import causes
from greendaphne.core.message import Stream
from greendaphne.core.observer import Observer
from greendaphne.http2 import Http2Limits
from greendaphne.http2.compression import ResponseEncoder
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message
from tests.support.http2 import GET, Peer, RawPeer, eventually
from tests.support.server import PATIENCE, RunningServer, serve

HEAD = [(b":method", b"HEAD"), *GET[1:]]
TEXT = [(b"content-type", b"text/plain")]


class Log(Observer):
    """Notes what ended, and how."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, int, bool, str]] = []
        self.seconds: list[float] = []

    def completed(self, stream: Stream, seconds: float, cause: str) -> None:
        self.ends.append((stream.status, stream.sent, stream.complete, cause))
        self.seconds.append(seconds)


class Site:
    """A server, its log, and the disconnect messages that its application got."""

    def __init__(self, server: RunningServer, log: Log, left: list[dict[str, Any]]) -> None:
        self.server = server
        self.log = log
        self.left = left

    def settled(self, number: int) -> None:
        """Wait until ``number`` requests have ended and nothing is left of them."""
        eventually(lambda: len(self.log.ends) == len(self.left) == number, "the ends")
        eventually(lambda: not self.server.channels.router.clients, "that no client is left")
        looks = self.server.channels._http._looks
        assert [*looks._younger, *looks._elder, *looks._due] == []
        assert len({message["reply_channel"] for message in self.left}) == number


@contextmanager
def site(consumer: Callable[[Message], object], **options: Any) -> Iterator[Site]:
    """A site of one consumer, in workers inside of the server."""
    log = Log()
    left: list[dict[str, Any]] = []
    layer = MemoryChannelLayer(capacity=1000)
    layer.routes = {"http.request": consumer, "http.disconnect": lambda message: left.append(message.content)}
    with serve(layer, inline_workers=2, http2_cleartext=True, observers=[log], **options) as server:
        yield Site(server, log, left)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many replies detached requests accepted as they were, and how many requests got a greenlet again."""
    numbers = {"accepted": 0, "resumed": 0}
    accept, resume = DetachedRequest.accept, DetachedRequest._resume

    def count_accept(self: DetachedRequest, message: dict[str, Any]) -> bool:
        accepted = accept(self, message)
        numbers["accepted"] += accepted
        return accepted

    def count_resume(self: DetachedRequest, stream: Any) -> Any:
        numbers["resumed"] += 1
        return resume(self, stream)

    monkeypatch.setattr(DetachedRequest, "accept", count_accept)
    monkeypatch.setattr(DetachedRequest, "_resume", count_resume)
    return numbers


def hello(message: Message) -> None:
    message.reply({"status": 200, "headers": TEXT, "content": b"Hello"})


def test_a_plain_reply_needs_no_greenlet(taken: dict[str, int]) -> None:
    with site(hello) as running, Peer(running.server) as peer:
        for _ in range(20):
            status, fields, body = peer.get()
            assert (status, body) == (200, b"Hello")
            assert fields[0] == TEXT[0]
        streams = [peer.request() for _ in range(50)]
        assert [peer.response(stream)[0] for stream in streams] == [200] * 50
        running.settled(70)
    assert running.log.ends == [(200, 5, True, causes.NONE)] * 70
    assert all(0 <= seconds < PATIENCE for seconds in running.log.seconds)
    assert taken["resumed"] == 0
    # All but those that came first within a second of the clock, whose fields had to be checked.
    assert taken["accepted"] >= 50


def test_a_reply_from_another_thread(taken: dict[str, int]) -> None:
    """It takes the way through the layer's queue and the router."""
    log = Log()
    with serve(http2_cleartext=True, observers=[log]) as server, Peer(server) as peer:
        for number in range(10):
            stream = peer.request()
            server.app.answer(b"%d" % number, headers=TEXT)
            assert peer.response(stream)[::2] == (200, b"%d" % number)
            assert server.app.receive("http.disconnect")[1]["path"] == "/"
        eventually(lambda: not server.channels.router.clients, "that no client is left")
    assert log.ends == [(200, 1, True, causes.NONE)] * 10
    assert taken == {"accepted": 0, "resumed": 0}


def several(message: Message) -> None:
    message.reply({"status": 200, "content": b"one ", "more_content": True})
    message.reply({"content": b"two ", "more_content": True})
    gevent.sleep(0)
    message.reply({"content": b"three"})


def large(message: Message) -> None:
    message.reply({"status": 200, "content": b"x" * 300_000})


def bare(message: Message) -> None:
    message.reply({"status": 204})


def cookies(message: Message) -> None:
    fields = [(b"set-cookie", message.content["reply_channel"].encode()), ("content-type", "text/plain")]
    message.reply({"status": 201, "headers": fields, "content": b"new"})


def changing(message: Message) -> None:
    message.reply({"status": 200, "headers": [(b"content-type", memoryview(bytearray(b"text/plain")))], "content": b"Hello"})


def late(message: Message) -> None:
    gevent.sleep(0.7)
    hello(message)


def malformed(message: Message) -> None:
    message.reply({"content": b"no status"})
    hello(message)


def push(message: Message) -> None:
    message.reply({"request": {"path": "/style.css"}})
    hello(message)


@pytest.mark.parametrize(
    ("consumer", "status", "body", "greenlet"),
    [
        (several, 200, b"one two three", True),
        (large, 200, b"x" * 300_000, True),
        (bare, 204, b"", True),
        (cookies, 201, b"new", False),
        (changing, 200, b"Hello", False),
        (late, 200, b"Hello", True),
        (malformed, 200, b"Hello", True),
        (push, 200, b"Hello", True),
    ],
)
def test_any_reply_arrives(consumer: Callable[[Message], object], status: int, body: bytes, greenlet: bool, taken: dict[str, int]) -> None:
    with site(consumer) as running, Peer(running.server) as peer:
        streams = [peer.request() for _ in range(5)]
        for stream in streams:
            assert peer.response(stream)[::2] == (status, body)
        running.settled(5)
    assert running.log.ends == [(status, len(body), True, causes.NONE)] * 5
    assert taken["resumed"] == (5 if greenlet else 0)


def test_a_head_request_has_no_body() -> None:
    with site(hello) as running, Peer(running.server) as peer:
        status, _, body = peer.get(HEAD)
        assert (status, body) == (200, b"")
        assert peer.get()[2] == b"Hello"
        running.settled(2)


def named(message: Message) -> None:
    message.reply({"status": 200, "headers": [("Server", "mine"), ("content-type", "text/plain")], "content": b"Hello"})


def test_a_field_of_the_application_replaces_one_of_the_server_also_where_its_name_is_text() -> None:
    with site(named, server_name="theirs") as running, Peer(running.server) as peer:
        for _ in range(3):
            assert [value for name, value in peer.get()[1] if name == b"server"] == [b"mine"]


def wrong_length(message: Message) -> None:
    message.reply({"status": 200, "headers": [(b"content-length", b"3")], "content": b"Hello"})


def wrong_fields(message: Message) -> None:
    message.reply({"status": 200, "headers": [(b"a b", b"c")], "content": b"Hello"})


def wrong_status(message: Message) -> None:
    message.reply({"status": 99, "content": b"Hello"})


def wrong_headers(message: Message) -> None:
    message.reply({"status": 200, "headers": "text", "content": b"Hello"})


def wrong_content(message: Message) -> None:
    message.reply({"status": 200, "content": "text"})


@pytest.mark.parametrize("consumer", [wrong_length, wrong_fields, wrong_status, wrong_headers, wrong_content])
def test_a_reply_in_error(consumer: Callable[[Message], object], caplog: pytest.LogCaptureFixture) -> None:
    with site(consumer) as running, Peer(running.server) as peer:
        for _ in range(2):
            assert peer.get()[0] == 500
        running.settled(2)
    assert {end[0] for end in running.log.ends} == {500}
    assert {end[3] for end in running.log.ends} == {causes.BAD_RESPONSE}
    assert caplog.text.count("Bad response to GET /") == 2


def test_what_no_layer_carries_is_refused_in_a_plain_reply_too() -> None:
    """The sender learns of it, whatever was sent before."""
    errors: list[Exception] = []

    def consumer(message: Message) -> None:
        hello(message) if not errors and message.content["path"] == "/first" else refused(message)

    def refused(message: Message) -> None:
        for wrong in ({TEXT[0]: 1}, (field for field in TEXT), {TEXT[0]}):
            try:
                message.layer.send(message.content["reply_channel"], {"status": 200, "headers": wrong, "content": b"Hello"})
            except TypeError as error:
                errors.append(error)
        for key, value in (("content", bytearray(b"Hello")), ("other", object())):
            try:
                message.layer.send("another.channel", {"status": 200, "content": b"", key: value})
            except TypeError as error:
                errors.append(error)
        hello(message)

    with site(consumer) as running, Peer(running.server) as peer:
        assert peer.get([*GET[:2], (b":path", b"/first"), GET[3]])[2] == b"Hello"
        assert peer.get()[2] == b"Hello"
        running.settled(2)
    assert len(errors) == 4


def test_no_reply_in_time() -> None:
    with site(lambda message: None, timeouts=Timeouts(http=0.6, graceful=2)) as running, Peer(running.server) as peer:
        status, fields, _ = peer.get()
        assert status == 503
        assert (b"retry-after", b"1") in fields
        running.settled(1)
    assert running.log.ends[0][3] == causes.WORKER_TIMEOUT


def test_a_full_layer() -> None:
    layer = MemoryChannelLayer(capacity=1)
    log = Log()
    with serve(layer, http2_cleartext=True, observers=[log]) as server, Peer(server) as peer:
        first, second = peer.request(), peer.request()
        assert peer.response(second)[0] == 503
        server.app.answer(b"Hello")
        assert peer.response(first)[2] == b"Hello"
        assert layer.channel_statistics("http.request")["channel_full_count"] == 1
        eventually(lambda: not server.channels.router.clients, "that no client is left")
    assert sorted(end[0] for end in log.ends) == [200, 503]


@pytest.mark.parametrize("waits", [0.0, 0.7])
def test_a_client_that_gives_up(waits: float) -> None:
    """Also after the request has got a greenlet again."""
    begun = threading.Event()

    def consumer(message: Message) -> None:
        begun.set()

    with site(consumer) as running, Peer(running.server) as peer:
        stream = peer.request()
        assert begun.wait(PATIENCE)
        if waits:
            clients = running.server.channels.router.clients
            eventually(lambda: not any(isinstance(client, DetachedRequest) for client in clients.values()), "a greenlet")
        peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
        peer.flush()
        running.settled(1)
        # The connection goes on.
        begun.clear()
        peer.request()
        assert begun.wait(PATIENCE)
    assert running.log.ends[0] == (0, 0, False, causes.CLIENT_GONE)


def test_a_connection_that_breaks() -> None:
    requests: list[Message] = []
    with site(requests.append) as running:
        with Peer(running.server) as peer:
            for _ in range(20):
                peer.request()
            eventually(lambda: len(requests) == 20, "the requests")
        running.settled(20)
        eventually(lambda: not running.server.server._connections._open, "the end of the connection")
        # Late replies go nowhere.
        for message in requests:
            hello(message)
    assert running.log.ends == [(0, 0, False, causes.CLIENT_GONE)] * 20


def test_a_request_that_is_given_up_in_the_same_moment_reaches_no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Message] = []
    # On a busy machine a turn may be over between a request and its end.
    monkeypatch.setattr("greendaphne.core.turns.TURN_SECONDS", PATIENCE)
    with site(seen.append) as running, Peer(running.server) as peer:
        # So few that the server looks at all frames before others have their turn.
        for _ in range(4):
            stream = peer.h2.get_next_available_stream_id()
            peer.h2.send_headers(stream, GET, end_stream=True)
            peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
        peer.flush()
        peer.h2.ping(b"12345678")
        peer.flush()
        peer.wait(h2.events.PingAckReceived)
    assert seen == []


def test_a_drain_waits_for_the_reply() -> None:
    requests: list[Message] = []
    with site(requests.append, timeouts=Timeouts(graceful=10)) as running, RawPeer(running.server) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: len(requests) == 1, "the request")
        running.server.server.stop()
        peer.wait(GoAwayFrame)
        hello(requests[0])
        assert peer.wait(DataFrame).data == b"Hello"
    assert [end[0] for end in running.log.ends] == [200]


@pytest.mark.parametrize("waits", [False, True])
def test_a_stop_that_does_not_wait_ends_it(waits: bool) -> None:
    requests: list[Message] = []
    with site(requests.append, timeouts=Timeouts(graceful=0.1)) as running, Peer(running.server) as peer:
        for _ in range(3):
            peer.request()
        eventually(lambda: len(requests) == 3, "the requests")
        clients = running.server.channels.router.clients
        if waits:
            eventually(lambda: not any(isinstance(client, DetachedRequest) for client in clients.values()), "a greenlet")
    assert not clients
    assert [end[:3] for end in running.log.ends] == [(0, 0, False)] * 3


def test_a_kill_before_the_new_greenlet_begins_is_an_end_too() -> None:
    """The connection's kill is due before the greenlet that the reply needs."""

    def consumer(message: Message) -> None:
        for greenlet in running.server.server._connections.pool:
            greenlet.kill(block=False)
        large(message)

    with site(consumer) as running, Peer(running.server) as peer:
        peer.request()
        running.settled(1)
        eventually(lambda: not running.server.server._connections.overload.memory.held, "that no memory is held")
    assert running.log.ends == [(0, 0, False, causes.DRAINING)]


def test_a_reply_of_a_finalizer_waits_for_the_response_that_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage may be collected at any moment, also between the encoding of fields and their sending, whose orders must be the same."""

    class Last:
        """Garbage that answers a request at its end."""

        def __init__(self, message: Message) -> None:
            self.cycle = self
            self.message = message

        def __del__(self) -> None:
            self.message.reply({"status": 200, "headers": [(b"x-b", b"second")], "content": b"B"})

    requests: list[Message] = []
    due: list[bool] = []
    encode = ResponseEncoder.encode

    def collect_afterwards(self: ResponseEncoder, fields: Any) -> bytes:
        block = encode(self, fields)
        if due:
            due.clear()
            gc.collect()
        return block

    def consumer(message: Message) -> None:
        if message.content["path"] == "/late":
            requests.append(message)
            return
        if requests:
            Last(requests.pop())
            due.append(True)
        message.reply({"status": 200, "headers": [(b"x-a", b"first")], "content": b"A"})

    monkeypatch.setattr(ResponseEncoder, "encode", collect_afterwards)
    with site(consumer) as running, Peer(running.server) as peer:
        late = peer.request([*GET[:2], (b":path", b"/late"), GET[3]])
        eventually(lambda: bool(requests), "the request")
        status, fields, body = peer.get()
        assert (status, fields[0], body) == (200, (b"x-a", b"first"), b"A")
        status, fields, body = peer.response(late)
        assert (status, fields[0], body) == (200, (b"x-b", b"second"), b"B")
        # Both sides' tables are still equal.
        assert peer.get()[1][0] == (b"x-a", b"first")
        running.settled(3)
    assert running.server.channels.router not in [getattr(callback, "__self__", None) for callback in gc.callbacks]


def test_a_client_without_window_is_waited_for_in_a_greenlet(taken: dict[str, int]) -> None:
    with site(hello) as running, Peer(running.server, initial_window_size=2) as peer:
        stream = peer.request()
        peer.acknowledge = True
        peer.wait(h2.events.ResponseReceived, stream)
        body = b""
        while len(body) < 5:
            event = peer.wait(h2.events.DataReceived, stream)
            body += event.data
        assert body == b"Hello"
        running.settled(1)
    assert taken["resumed"] == 1


def test_the_limit_of_streams_counts_them() -> None:
    requests: list[Message] = []
    with site(requests.append, http2_limits=Http2Limits(max_concurrent_streams=2)) as running, Peer(running.server) as peer:
        streams = [peer.request(), peer.request()]
        eventually(lambda: len(requests) == 2, "the requests")
        (connection,) = running.server.server._connections._open
        assert connection.serving == 2  # type: ignore[attr-defined]
        for message in requests:
            hello(message)
        for stream in streams:
            assert peer.response(stream)[2] == b"Hello"
        # Each place is free as soon as its response is there.
        for _ in range(5):
            stream = peer.request()
            eventually(lambda: len(requests) == 3, "the request")
            hello(requests.pop())
            assert peer.response(stream)[2] == b"Hello"


def test_an_observer_that_fails_is_no_fault_of_the_consumer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Observer):
        def completed(self, stream: Stream, seconds: float, cause: str) -> None:
            raise RuntimeError("a fault of the observer")

    errors: list[BaseException] = []

    def consumer(message: Message) -> None:
        try:
            hello(message)
        except BaseException as error:
            errors.append(error)
            raise

    layer = MemoryChannelLayer()
    layer.routes = {"http.request": consumer}
    with serve(layer, inline_workers=1, http2_cleartext=True, observers=[Broken()]) as server, Peer(server) as peer:
        for _ in range(3):
            assert peer.get()[2] == b"Hello"
    assert errors == []
    assert caplog.text.count("An observer failed") == 3


def test_debug_lines_tell_of_every_request(caplog: pytest.LogCaptureFixture, taken: dict[str, int]) -> None:
    caplog.set_level(logging.DEBUG, "daphne.http_protocol")
    with site(hello) as running, Peer(running.server) as peer:
        peer.get()
        running.settled(1)
    assert "HTTP response complete for" in caplog.text
    assert taken == {"accepted": 0, "resumed": 0}
