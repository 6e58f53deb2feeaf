"""An application that a proxy with HTTP/3 stands in front of."""

from __future__ import annotations

import asyncio
import json
from typing import Any

#: Set by a request for /go, for the responses to /events that wait for it.
go = asyncio.Event()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the scope; on /events with a line at once, and another after a request for /go; on /upload with the size of the body."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{scope['scheme']} {event['text']}"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["path"] == "/events":
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go.wait()
        body = b"second"
    elif scope["path"] == "/upload":
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message.get("more_body", False)
        body = str(size).encode()
    else:
        if scope["path"] == "/go":
            go.set()
        fields = {name.decode(): value.decode() for name, value in scope["headers"]}
        facts = {key: scope[key] for key in ("http_version", "scheme", "client", "root_path", "path", "query_string")}
        body = json.dumps({**facts, "query_string": scope["query_string"].decode(), "headers": fields}).encode()
    await send({"type": "http.response.body", "body": body})
