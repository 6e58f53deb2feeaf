"""Exceptions of applications that do not derive from Exception: each ends one request or WebSocket, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from greendaphne.config import AsgiOptions
from tests.support.asgi import serve_asgi
from tests.support.both_versions import VERSIONS, Talk, requester
from tests.support.server import LiveServer
from tests.support.wsgi import serve_wsgi


class Unusual(BaseException):
    """What a library of an application may raise."""


ERRORS: list[type[BaseException]] = [SystemExit, GeneratorExit, asyncio.CancelledError, gevent.Timeout, Unusual]
START = {"type": "http.response.start", "status": 200, "headers": []}


def asgi(error: type[BaseException]) -> Callable[..., Any]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        late = "late" in scope["path"]
        if scope["type"] == "websocket":
            await receive()
            if "begun" in scope["path"]:
                await send({"type": "websocket.accept"})
        elif scope["path"] == "/good":
            await send(START)
            await send({"type": "http.response.body", "body": b"good"})
            return
        elif "begun" in scope["path"]:
            await send(START)
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if late:
            # Not in the task's first step.
            await asyncio.sleep(0.001)
        raise error

    return application


def wsgi(error: type[BaseException]) -> Callable[..., Any]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        if path == "/good":
            start_response("200 OK", [])
            return [b"good"]
        if "begun" in path:
            start_response("200 OK", [])(b"begun")
        if "late" in path:
            gevent.sleep(0.001)
        raise error

    return application


@pytest.fixture(
    scope="module",
    params=[(name, error) for name in ("asgi", "wsgi") for error in ERRORS],
    ids=lambda each: f"{each[0]}-{each[1].__name__}",
)
def server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    interface, error = request.param
    if interface == "asgi":
        with serve_asgi(asgi(error), http2_cleartext=True) as running:
            yield running
    else:
        with serve_wsgi(wsgi(error), validate=False, http2_cleartext=True) as running:
            yield running


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", ["/first", "/late"])
def test_before_the_response(server: Any, version: str, path: str) -> None:
    with requester(server, version) as client:
        answer = client.ask(path.encode())
        assert (answer.status, answer.complete) == (500, True)
    with requester(server, version) as client:
        assert client.ask(b"/good").body == b"good"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", ["/begun", "/begun-late"])
def test_within_the_response(server: Any, version: str, path: str) -> None:
    with requester(server, version) as client:
        assert not client.ask(path.encode()).complete
    with requester(server, version) as client:
        assert client.ask(b"/good").body == b"good"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", [b"/begun", b"/begun-late"])
def test_in_a_websocket(server: Any, version: str, path: bytes) -> None:
    with Talk(server, version, path=path) as talk:
        if talk.open:
            opcode, payload = talk.receive()
            # 1012: a task that was cancelled.
            assert (opcode, int.from_bytes(payload[:2], "big")) in ((8, 1011), (8, 1012))
        else:
            assert talk.status == 500
    with requester(server, version) as client:
        assert client.ask(b"/good").body == b"good"


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_an_application_may_end_the_process_at_its_start(lifespan: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise SystemExit(7)

    with pytest.raises(SystemExit) as caught, serve_asgi(application, asgi=AsgiOptions(lifespan=lifespan)):
        pass
    assert caught.value.code == 7
