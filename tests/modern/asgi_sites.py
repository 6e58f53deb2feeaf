"""The same site in several ASGI frameworks, for ``test_asgi_frameworks``.

``/`` says hello, ``/upload`` answers with the SHA-256 of the body, ``/stream`` sends ten pieces, ``/background`` answers and then writes
the file that its query names, ``/forever`` streams until its client leaves and then writes that file; ``/ws`` echoes text, and ``/denied``
refuses its WebSocket with 401 where the framework can.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PIECES = [b"%d\n" % number for number in range(10)]


def note(name: str, text: str) -> None:
    """Write a file that the test waits for."""
    path = Path(os.environ["NOTES"], name)
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


async def pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece
        await asyncio.sleep(0)


async def forever(name: str) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.01)
    finally:
        note(name, "ended")


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
    note("startup", "done")
    yield {"greeting": "hello"}
    note("shutdown", "done")


def starlette_site() -> Any:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    async def hello(request: Any) -> Response:
        return PlainTextResponse(request.state.greeting)

    async def upload(request: Any) -> Response:
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        return PlainTextResponse(digest.hexdigest())

    async def stream(request: Any) -> Response:
        return StreamingResponse(pieces())

    async def background(request: Any) -> Response:
        name = request.url.query

        async def task() -> None:
            await asyncio.sleep(0.05)
            note(name, "ran")

        return PlainTextResponse("soon", background=BackgroundTask(task))

    async def endless(request: Any) -> Response:
        return StreamingResponse(forever(request.url.query))

    async def echo(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async def denied(websocket: Any) -> None:
        await websocket.send_denial_response(PlainTextResponse("log in", 401))

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", hello),
            Route("/upload", upload, methods=["POST"]),
            Route("/stream", stream),
            Route("/background", background),
            Route("/forever", endless),
            WebSocketRoute("/ws", echo),
            WebSocketRoute("/denied", denied),
        ],
    )


def fastapi_site() -> Any:
    from fastapi import BackgroundTasks, Depends, FastAPI, Request, UploadFile, WebSocket
    from fastapi.responses import PlainTextResponse, StreamingResponse
    from starlette.exceptions import HTTPException

    app = FastAPI(lifespan=lifespan)

    async def refuse() -> None:
        raise HTTPException(401, "log in")

    async def hello(request: Request) -> Any:
        return PlainTextResponse(request.state.greeting)

    async def upload(request: Request) -> Any:
        return PlainTextResponse(hashlib.sha256(await request.body()).hexdigest())

    async def form(file: UploadFile) -> Any:
        return {"name": file.filename, "size": len(await file.read())}

    async def stream() -> Any:
        return StreamingResponse(pieces())

    async def background(request: Request, tasks: BackgroundTasks) -> Any:
        tasks.add_task(note, request.url.query, "ran")
        return PlainTextResponse("soon")

    async def endless(request: Request) -> Any:
        return StreamingResponse(forever(request.url.query))

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async def denied(websocket: WebSocket, nothing: None) -> None:
        raise AssertionError("not reached")

    # Annotations are strings here, and FastAPI resolves them in this module, which imports it for its own tests only.
    hello.__annotations__ = {"request": Request}
    upload.__annotations__ = {"request": Request}
    form.__annotations__ = {"file": UploadFile}
    background.__annotations__ = {"request": Request, "tasks": BackgroundTasks}
    endless.__annotations__ = {"request": Request}
    echo.__annotations__ = {"websocket": WebSocket}
    denied.__annotations__ = {"websocket": WebSocket, "nothing": None}
    denied.__defaults__ = (Depends(refuse),)
    app.get("/")(hello)
    app.post("/upload")(upload)
    app.post("/form")(form)
    app.get("/stream")(stream)
    app.get("/background")(background)
    app.get("/forever")(endless)
    app.websocket("/ws")(echo)
    app.websocket("/denied")(denied)
    return app


def quart_site() -> Any:
    from quart import Quart, abort, current_app, request, websocket

    app = Quart(__name__)
    app.config["MAX_CONTENT_LENGTH"] = None

    @app.before_serving
    async def start() -> None:
        note("startup", "done")

    @app.after_serving
    async def stop() -> None:
        note("shutdown", "done")

    @app.route("/")
    async def hello() -> str:
        return "hello"

    @app.route("/upload", methods=["POST"])
    async def upload() -> str:
        digest = hashlib.sha256()
        async for piece in request.body:
            digest.update(piece)
        return digest.hexdigest()

    @app.route("/stream")
    async def stream() -> Any:
        return pieces(), 200

    @app.route("/background")
    async def background() -> str:
        name = request.query_string.decode()

        async def task() -> None:
            note(name, "ran")

        current_app.add_background_task(task)
        return "soon"

    @app.route("/forever")
    async def endless() -> Any:
        return forever(request.query_string.decode()), 200

    @app.websocket("/ws")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    @app.websocket("/denied")
    async def denied() -> None:
        abort(401)

    return app


def litestar_site() -> Any:
    from litestar import Litestar, MediaType, Request, WebSocket, get, post, websocket
    from litestar.background_tasks import BackgroundTask
    from litestar.response import Response, Stream

    @get("/", media_type=MediaType.TEXT, sync_to_thread=False)
    def hello() -> str:
        return "hello"

    @post("/upload", media_type=MediaType.TEXT, status_code=200, request_max_body_size=None)
    async def upload(request: Request[Any, Any, Any]) -> str:
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        return digest.hexdigest()

    @get("/stream", sync_to_thread=False)
    def stream() -> Stream:
        return Stream(pieces())

    @get("/background", sync_to_thread=False)
    def background(request: Request[Any, Any, Any]) -> Response[str]:
        async def task(name: str) -> None:
            note(name, "ran")

        return Response("soon", media_type=MediaType.TEXT, background=BackgroundTask(task, request.url.query))

    @get("/forever", sync_to_thread=False)
    def endless(request: Request[Any, Any, Any]) -> Stream:
        return Stream(forever(request.url.query))

    @websocket("/ws")
    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        note("startup", "done")
        yield
        note("shutdown", "done")

    for function in (hello, stream, background, endless, upload, echo):
        function.fn.__globals__.update({"Request": Request, "WebSocket": WebSocket, "Stream": Stream, "Response": Response})
    return Litestar([hello, upload, stream, background, endless, echo], lifespan=[life], openapi_config=None)


def django_site() -> Any:
    """Django 5 with Channels 4; consumers share groups."""
    import django
    from django.conf import settings

    # channels_redis waits five seconds in Redis, which is also as long as redis-py waits for an answer unless it is told otherwise.
    redis = os.environ.get("REDIS")
    backend = (
        {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [{"address": redis, "socket_timeout": None}]}}
        if redis
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="test",
        CHANNEL_LAYERS={"default": backend},
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
        USE_TZ=True,
    )
    django.setup()
    from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    def hello(request: Any) -> HttpResponse:
        return HttpResponse("hello")

    def upload(request: Any) -> HttpResponse:
        digest = hashlib.sha256()
        while piece := request.read(65536):
            digest.update(piece)
        return HttpResponse(digest.hexdigest())

    async def stream(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(pieces())

    async def endless(request: Any) -> StreamingHttpResponse:
        return StreamingHttpResponse(forever(request.META["QUERY_STRING"]))

    class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(text_data=text_data, bytes_data=bytes_data)

    class Denied(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close(4001)

    class Chat(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add("chat", self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard("chat", self.channel_name)

        async def receive_json(self, content: Any) -> None:
            await self.channel_layer.group_send("chat", {"type": "say", "content": content})

        async def say(self, event: Any) -> None:
            await self.send_json(event["content"])

    global urlpatterns  # noqa: PLW0603 - as Django's settings say
    urlpatterns = [path("", hello), path("upload", upload), path("stream", stream), path("forever", endless)]
    routes = [path("ws", Echo.as_asgi()), path("denied", Denied.as_asgi()), path("chat", Chat.as_asgi())]
    return ProtocolTypeRouter({"http": get_asgi_application(), "websocket": URLRouter(routes)})


urlpatterns: list[Any] = []
