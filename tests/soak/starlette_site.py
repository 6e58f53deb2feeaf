"""The site as an ASGI application: Starlette.  Each process leaves a file when its lifespan begins, and another when it has ended."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from . import answers


async def quick(request: Request) -> Response:
    return Response(answers.quick(request.url.query))


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in answers.pieces(request.url.query):
            await asyncio.sleep(answers.PAUSE)
            yield piece

    return StreamingResponse(pieces())


async def upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return Response(answers.upload(size, digest.hexdigest()))


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    notes = Path(os.environ["SOAK_NOTES"])
    (notes / f"startup-{os.getpid()}").touch()
    yield
    # Other tasks of the loop run meanwhile.
    await asyncio.sleep(0.05)
    (notes / f"shutdown-{os.getpid()}").touch()


app = Starlette(
    lifespan=lifespan,
    routes=[Route("/quick", quick), Route("/stream", stream), Route("/upload", upload, methods=["POST"]), WebSocketRoute("/", echo)],
)
