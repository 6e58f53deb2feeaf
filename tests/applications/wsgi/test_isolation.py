"""Nothing of a request is left in the next one on the same connection."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import gevent
from gevent.local import local

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
