"""Bounds on requests inside an application."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import gevent
import pytest

from greendaphne.applications.concurrency import Bounded, Slots, blocking_drivers
from greendaphne.applications.wsgi import WSGIApplication
from greendaphne.config import ApplicationOptions
from tests.support.server import PATIENCE
from tests.support.wsgi import serve_wsgi

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Environ = dict[str, Any]


def in_greenlet(function: Any) -> None:
    gevent.spawn(function).get(timeout=PATIENCE)


def test_slots_are_given_in_order() -> None:
    def run() -> None:
        slots = Slots(1)
        order: list[int] = []

        def work(number: int) -> None:
            assert slots.acquire(-1)
            order.append(number)
            gevent.sleep(0)
            slots.release()

        greenlets = [gevent.spawn(work, number) for number in range(20)]
        gevent.joinall(greenlets, timeout=PATIENCE, raise_error=True)
        assert order == list(range(20))
        assert (slots.used, slots.waiting) == (0, 0)

    in_greenlet(run)


def test_slots_that_do_not_become_free() -> None:
    def run() -> None:
        slots = Slots(1)
        assert slots.acquire(0)
        assert not slots.acquire(0)
        assert not slots.acquire(0.01)
        assert slots.refused == 2
        assert slots.waiting == 0
        slots.release()
        assert slots.acquire(0)

    in_greenlet(run)


def test_waiters_that_are_killed_lose_no_slot() -> None:
    def run() -> None:
        slots = Slots(1)
        assert slots.acquire(0)
        waiting = gevent.spawn(slots.acquire, -1)
        gevent.sleep(0)
        waiting.kill()
        assert slots.waiting == 0
        # Killed after the slot was handed over, before the greenlet goes on.
        waiting = gevent.spawn(slots.acquire, -1)
        gevent.sleep(0)
        slots.release()
        waiting.kill()
        gevent.sleep(0.01)
        assert slots.used in (0, 1)
        if waiting.successful() and waiting.value is True:
            slots.release()
        assert slots.acquire(1)

    in_greenlet(run)


def test_concurrency() -> None:
    inside = 0
    most = 0

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        gevent.sleep(0.005)
        inside -= 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    with serve_wsgi(application, options=ApplicationOptions(interface="wsgi", concurrency=3)) as server:
        clients = [server.connect() for _ in range(12)]
        for client in clients:
            client.send(GET)
        for client in clients:
            assert client.read_response().status == 200
            client.close()
    assert most == 3


def test_queue() -> None:
    entered, release = threading.Event(), threading.Event()

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        entered.set()
        while not release.is_set():
            gevent.sleep(0.005)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    options = ApplicationOptions(interface="wsgi", concurrency=1, queue=0.05)
    with serve_wsgi(application, options=options) as server, server.connect() as first, server.connect() as second:
        first.send(GET)
        # The requests of two connections have no order of their own.
        assert entered.wait(PATIENCE)
        second.send(GET)
        answer = second.read_response()
        assert (answer.status, answer.header("Retry-After")) == (503, "1")
        release.set()
        assert first.read_response().status == 200
        # The connection goes on.
        second.send(GET)
        assert second.read_response().status == 200


def test_request_timeout() -> None:
    caught: list[BaseException] = []

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            if environ["PATH_INFO"] == "/":
                gevent.sleep(100)
        except gevent.Timeout as error:
            caught.append(error)
            raise
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"begin")
        gevent.sleep(0.3)  # once it has begun there is no limit
        return [b"end"]

    with serve_wsgi(application, options=ApplicationOptions(interface="wsgi", request_timeout=0.1)) as server, server.connect() as client:
        client.send(GET)
        answer = client.read_response()
        assert (answer.status, answer.header("Retry-After")) == (503, "10")
        client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body == b"beginend"
    assert len(caught) == 1


def test_request_timeout_that_is_answered_by_the_application() -> None:
    def application(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            gevent.sleep(100)
        except gevent.Timeout:
            pass
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"partial"]

    with serve_wsgi(application, options=ApplicationOptions(interface="wsgi", request_timeout=0.1)) as server, server.connect() as client:
        client.send(GET)
        assert client.read_response().body == b"partial"


def test_families() -> None:
    bounded = Bounded(WSGIApplication(lambda environ, start_response: []), concurrency=2, queue=1, timeout=5)
    names = [family.name for family in bounded.metric_families()]
    assert names == [
        "greendaphne_application_requests",
        "greendaphne_application_waiting",
        "greendaphne_application_refused",
        "greendaphne_application_timeouts",
    ]
    assert bounded.interface == "wsgi"
    assert bounded.health() == ""


def test_drivers_that_block(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("MySQLdb", "_mysql", "psycopg2.extensions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert blocking_drivers() == []
    extensions: Any = ModuleType("psycopg2.extensions")
    extensions.get_wait_callback = lambda: print
    monkeypatch.setitem(sys.modules, "psycopg2.extensions", extensions)
    assert blocking_drivers() == []
    extensions.get_wait_callback = lambda: None
    monkeypatch.setitem(sys.modules, "MySQLdb", ModuleType("MySQLdb"))
    assert len(blocking_drivers()) == 2
    WSGIApplication(lambda environ, start_response: []).start()
    assert "psycogreen" in caplog.text
    assert "PyMySQL" in caplog.text
