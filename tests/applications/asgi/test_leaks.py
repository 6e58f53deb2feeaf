"""Nothing is left of requests and WebSockets, however they end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

from tests.soak.leaks import measure
from tests.support.asgi import Recorder, serve_asgi

#: The long form, ``python -m tests.soak.leaks``, has ten times as many.
REQUESTS = 10_000


def test_generator_of_a_client_that_left_is_closed_without_the_garbage_collector() -> None:
    seen = Recorder()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.01)
        finally:
            seen("closed")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            async for piece in pieces():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except OSError as error:
            raise ValueError("as Starlette does") from error

    gc.disable()
    try:
        with serve_asgi(application) as server:
            with server.connect() as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                client.read_head()
            assert seen.next() == "closed"
    finally:
        gc.enable()


def test_nothing_is_left(caplog: Any) -> None:
    caplog.set_level("CRITICAL")
    number, before, after = measure(REQUESTS)
    assert number >= REQUESTS
    assert not after.left(before), (before, after)
