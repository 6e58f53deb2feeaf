"""Nothing of a request is left in the next one on the same connection."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import gevent
import pytest
from gevent.local import local

from greendaphne.applications.wsgi.isolation import Isolation
from tests.support.wsgi import serve_wsgi

variable: ContextVar[str] = ContextVar("variable", default="nothing")
storage = local()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_between_the_requests_of_a_connection() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen = f"{variable.get()} {getattr(storage, 'value', 'nothing')}"
        variable.set("left")
        storage.value = "left"
        gevent.sleep(0)
        assert (variable.get(), storage.value) == ("left", "left")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [seen.encode()]

    with serve_wsgi(application) as server, server.connect() as client:
        for _ in range(5):
            client.send(GET)
            assert client.read_response().body == b"nothing nothing"


def test_greenlets_are_used_again_and_look_new() -> None:
    def run() -> None:
        isolation = Isolation()
        greenlets = set()

        def work(number: int) -> None:
            assert not hasattr(storage, "value")
            storage.value = number
            greenlets.add(gevent.getcurrent())

        for number in range(50):
            isolation.call(work, number)
        assert len(greenlets) == 1
        assert not hasattr(storage, "value")
        worker = greenlets.pop()
        isolation.close()
        assert worker.dead

    gevent.spawn(run).get(timeout=20)


def test_several_at_a_time() -> None:
    isolation = Isolation()
    results: list[tuple[int, str]] = []

    def work(number: int) -> None:
        variable.set(str(number))
        storage.value = number
        gevent.sleep(0.001 * (number % 3))
        results.append((storage.value, variable.get()))

    greenlets = [gevent.spawn(isolation.call, work, number) for number in range(50)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert sorted(results) == [(number, str(number)) for number in range(50)]
    gevent.spawn(isolation.close).get(timeout=20)


def test_exceptions_pass() -> None:
    isolation = Isolation()

    def fail() -> None:
        storage.value = 1
        raise LookupError("x")

    def run() -> None:
        for _ in range(3):
            with pytest.raises(LookupError, match="x"):
                isolation.call(fail)
        assert not isolation._kept

    gevent.spawn(run).get(timeout=20)


@pytest.mark.parametrize("swallow", [False, True])
def test_a_kill_reaches_the_function(swallow: bool) -> None:
    isolation = Isolation()
    events: list[str] = []

    def work() -> None:
        try:
            gevent.sleep(100)
        except gevent.GreenletExit:
            gevent.sleep(0.01)
            events.append("killed")
            if not swallow:
                raise
        finally:
            events.append("finally")

    greenlet = gevent.spawn(isolation.call, work)
    gevent.sleep(0)
    greenlet.kill(timeout=20)
    assert events == ["killed", "finally"]
    assert greenlet.dead
    assert len(isolation._kept) == int(swallow)
    gevent.spawn(isolation.close).get(timeout=20)


def test_locals_that_end_before_their_greenlet() -> None:
    isolation = Isolation()

    def work() -> None:
        temporary = local()
        temporary.value = 1
        del temporary
        storage.value = 2

    def run() -> None:
        for _ in range(3):
            isolation.call(work)
        worker = isolation._kept[0]
        assert not worker._links
        isolation.close()

    gevent.spawn(run).get(timeout=20)


def test_no_threads_are_registered_for_greenlets() -> None:
    before = len(threading._active)  # type: ignore[attr-defined]

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        threading.current_thread()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    with serve_wsgi(application) as server, server.connect() as client:
        for _ in range(20):
            client.send(GET)
            assert client.read_response().status == 200
    assert len(threading._active) <= before + 1  # type: ignore[attr-defined]
