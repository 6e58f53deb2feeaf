"""Start and end of an application."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest

from greendaphne.config import AsgiOptions, ConfigurationError
from tests.support.asgi import Recorder, answer, serve_asgi


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


def application(seen: Recorder, *, start: Any = None, stop: Any = None) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            seen(("request", scope.get("state")))
            await answer(send)
            return
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        seen(await receive())
        scope["state"]["pool"] = pool
        if isinstance(start, Exception):
            raise start
        await send(start or {"type": "lifespan.startup.complete"})
        seen(await receive())
        if isinstance(stop, Exception):
            raise stop
        await send(stop or {"type": "lifespan.shutdown.complete"})

    return application


pool = object()
AUTO = AsgiOptions()


def test_complete(seen: Recorder) -> None:
    with serve_asgi(application(seen), asgi=AUTO) as server:
        assert seen.next() == {"type": "lifespan.startup"}
        for _ in range(2):
            server.get()
        first, second = seen.next()[1], seen.next()[1]
        assert first is not second
        assert first["pool"] is second["pool"] is pool
        assert seen.empty
    assert seen.next() == {"type": "lifespan.shutdown"}


def test_off(seen: Recorder) -> None:
    with serve_asgi(application(seen), asgi=AsgiOptions(lifespan="off")) as server:
        server.get()
        assert seen.next() == ("request", None)


@pytest.mark.parametrize("text", ["no database", ""])
def test_failed(seen: Recorder, text: str) -> None:
    failing = application(seen, start={"type": "lifespan.startup.failed", "message": text})
    with pytest.raises(ConfigurationError, match=text or "no reason given"), serve_asgi(failing, asgi=AUTO):
        pass


@pytest.mark.parametrize("pause", [False, True])
def test_system_exit_at_the_start(pause: bool) -> None:
    async def ends(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if pause:
            await asyncio.sleep(0.01)
        sys.exit("no database")

    # It wants the process to end.
    with pytest.raises(SystemExit, match="no database"), serve_asgi(ends, asgi=AUTO):
        pass


async def without(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']}")
    assert "state" not in scope
    await answer(send)


async def returns(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        assert "state" not in scope
        await answer(send)


@pytest.mark.parametrize("served", [without, returns])
def test_unsupported(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    with serve_asgi(served, asgi=AUTO) as server:
        assert server.get().status == 200
    assert caplog.text.count("ValueError") == 0
    with pytest.raises(ConfigurationError, match="does not support lifespan"), serve_asgi(served, asgi=AsgiOptions(lifespan="on")):
        pass


def test_startup_that_hangs() -> None:
    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1000)

    with pytest.raises(ConfigurationError, match=r"within 0\.2 seconds"), serve_asgi(hanging, asgi=AsgiOptions(lifespan_timeout=0.2)):
        pass


def test_shutdown_that_fails(seen: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with serve_asgi(application(seen, stop={"type": "lifespan.shutdown.failed", "message": "stuck"}), asgi=AUTO):
        pass
    assert "The application could not end: stuck" in caplog.text


def test_shutdown_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(1000)

    begun = time.monotonic()
    with serve_asgi(hanging, asgi=AUTO):
        pass
    assert time.monotonic() - begun < 10
    assert "has not answered lifespan.shutdown" in caplog.text


def test_exception_after_startup(seen: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    async def breaking(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise ValueError("broken")
        await answer(send, b"still here")

    with serve_asgi(breaking, asgi=AUTO) as server:
        assert server.get().body == b"still here"
    assert caplog.text.count("ValueError: broken") == 1


def test_tasks_end_before_shutdown(seen: Recorder) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            seen("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await answer(send)
        await asyncio.sleep(0.2)
        seen("task")

    with serve_asgi(slow, asgi=AUTO) as server:
        server.get()
    assert [seen.next(), seen.next()] == ["task", "shutdown"]
