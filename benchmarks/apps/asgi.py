"""Applications for ``benchmarks.asgi``."""

from __future__ import annotations

import asyncio
from typing import Any

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain"), (b"content-length", b"5")]}
_STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1048576")]}
_PIECE = bytes(16384)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest response."""
    assert scope["type"] == "http"
    await send(_START)
    await send({"type": "http.response.body", "body": b"hello"})


async def sleeping(scope: Any, receive: Any, send: Any) -> None:
    """The same after a wait."""
    assert scope["type"] == "http"
    await asyncio.sleep(0.001)
    await send(_START)
    await send({"type": "http.response.body", "body": b"hello"})


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """64 pieces of 16 KiB."""
    assert scope["type"] == "http"
    await send(_STREAM)
    for number in range(64):
        await send({"type": "http.response.body", "body": _PIECE, "more_body": number < 63})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that sends back what it gets."""
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] != "lifespan.shutdown":
            await send({"type": event["type"] + ".complete"})
        await send({"type": event["type"] + ".complete"})
        return
    if scope["type"] != "websocket":
        raise ValueError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if (text := event.get("text")) is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


def starlette_application() -> Any:
    """Starlette's hello; a factory."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def page(request: Any) -> Any:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route("/", page)])


try:
    starlette = starlette_application()
except ImportError:
    starlette = None
