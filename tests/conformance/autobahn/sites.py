"""The same echo as a channel layer's consumers, as a WSGI and as an ASGI application."""

from __future__ import annotations

from typing import Any

from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """For ``wsgi.websocket``."""
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ready"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """For ASGI 3."""
    if scope["type"] == "lifespan":
        while (event := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": event + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ready"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        content = {"text": message["text"]} if message.get("text") is not None else {"bytes": message["bytes"]}
        await send({"type": "websocket.send", **content})


def _answer(message: Message) -> None:
    message.reply({"status": 200, "content": b"ready"})


def _accept(message: Message) -> None:
    message.reply({"accept": True})


def _echo(message: Message) -> None:
    content = message.content
    message.reply({"text": content["text"]} if content.get("text") is not None else {"bytes": content["bytes"]})


def _nothing(message: Message) -> None:
    pass


layer = MemoryChannelLayer(capacity=10_000)
layer.routes = {
    "http.request": _answer,
    "http.disconnect": _nothing,
    "websocket.connect": _accept,
    "websocket.receive": _echo,
    "websocket.disconnect": _nothing,
}
