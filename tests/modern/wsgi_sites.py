"""The same site in five frameworks: hello, upload, download, stream, session and error pages."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

SIZE = 5 * 1024 * 1024
DOWNLOAD = Path(tempfile.gettempdir()) / f"greendaphne-download-{os.getpid()}"


def download_file() -> Path:
    """A file to download."""
    if not DOWNLOAD.exists():
        DOWNLOAD.write_bytes(bytes(range(256)) * (SIZE // 256))
    return DOWNLOAD


def pieces() -> Iterator[bytes]:
    """A stream."""
    import gevent

    for number in range(5):
        yield b"piece %d\n" % number
        gevent.sleep(0.001)


def digest(file: Any) -> str:
    """Of what a file-like object has."""
    value = hashlib.sha256()
    while data := file.read(65536):
        value.update(data)
    return value.hexdigest()


def flask_site() -> Any:
    import asyncio

    from flask import Flask, Response, request, send_file, session

    app = Flask(__name__)
    app.secret_key = "secret"

    @app.route("/")
    def index() -> str:
        return "hello é"

    @app.route("/upload", methods=["POST"])
    def upload() -> str:
        return digest(request.files["file"] if request.files else request.stream)

    @app.route("/download")
    def download() -> Any:
        return send_file(download_file(), mimetype="application/octet-stream")

    @app.route("/stream")
    def stream() -> Response:
        return Response(pieces(), mimetype="text/plain")

    @app.route("/session")
    def count() -> str:
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    @app.route("/error")
    def error() -> str:
        raise LookupError("in the view")

    @app.route("/async")
    async def asynchronous() -> str:
        await asyncio.sleep(0.01)
        return "async"

    return app


def django_site() -> Any:
    import asyncio

    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    def upload(request: Any) -> HttpResponse:
        return HttpResponse(digest(request.FILES["file"] if request.FILES else request))

    def session(request: Any) -> HttpResponse:
        request.session["count"] = request.session.get("count", 0) + 1
        return HttpResponse(str(request.session["count"]))

    def error(request: Any) -> HttpResponse:
        raise LookupError("in the view")

    async def asynchronous(request: Any) -> HttpResponse:
        await asyncio.sleep(0.01)
        return HttpResponse("async")

    urls = ModuleType("urls")
    urls.urlpatterns = [  # type: ignore[attr-defined]
        path("", lambda request: HttpResponse("hello é")),
        path("upload", csrf_exempt(upload)),
        path("download", lambda request: FileResponse(download_file().open("rb"), content_type="application/octet-stream")),
        path("stream", lambda request: StreamingHttpResponse(pieces(), content_type="text/plain")),
        path("session", session),
        path("error", error),
        path("async", asynchronous),
    ]
    settings.configure(
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="secret",
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        LOGGING_CONFIG=None,
    )
    return get_wsgi_application()


def pyramid_site() -> Any:
    from pyramid.config import Configurator
    from pyramid.response import FileResponse, Response
    from pyramid.session import SignedCookieSessionFactory

    def upload(request: Any) -> Response:
        field = request.POST.get("file") if request.content_type == "multipart/form-data" else None
        return Response(digest(field.file if field is not None else request.body_file))

    def session(request: Any) -> Response:
        request.session["count"] = request.session.get("count", 0) + 1
        return Response(str(request.session["count"]))

    def error(request: Any) -> Response:
        raise LookupError("in the view")

    with Configurator(session_factory=SignedCookieSessionFactory("secret")) as config:
        views: dict[str, Any] = {
            "": lambda request: Response("hello é"),
            "upload": upload,
            "download": lambda request: FileResponse(str(download_file()), request=request, content_type="application/octet-stream"),
            "stream": lambda request: Response(app_iter=pieces(), content_type="text/plain"),
            "session": session,
            "error": error,
        }
        for name, view in views.items():
            config.add_route(name or "index", "/" + name)
            config.add_view(view, route_name=name or "index")
        return config.make_wsgi_app()


def falcon_site() -> Any:
    import falcon

    class Index:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = "hello é"

    class Upload:
        def on_post(self, req: Any, resp: Any) -> None:
            if (req.content_type or "").startswith("multipart/"):
                resp.text = next(digest(part.stream) for part in req.get_media())
            else:
                resp.text = digest(req.bounded_stream if req.content_length else req.stream)

    class Download:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.content_type = "application/octet-stream"
            resp.set_stream(download_file().open("rb"), SIZE)

    class Stream:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = pieces()

    class Session:
        def on_get(self, req: Any, resp: Any) -> None:
            count = int(req.cookies.get("count", 0)) + 1
            resp.set_cookie("count", str(count), secure=False)
            resp.text = str(count)

    class Error:
        def on_get(self, req: Any, resp: Any) -> None:
            raise LookupError("in the view")

    app = falcon.App()
    for name, resource in {"": Index, "upload": Upload, "download": Download, "stream": Stream, "session": Session, "error": Error}.items():
        app.add_route("/" + name, resource())
    return app


def bottle_site() -> Any:
    import bottle

    app = bottle.Bottle()

    @app.get("/")
    def index() -> str:
        return "hello é"

    @app.post("/upload")
    def upload() -> str:
        # Asking for files has Bottle read every other body into memory.
        if (bottle.request.content_type or "").startswith("multipart/"):
            return digest(bottle.request.files["file"].file)
        return digest(bottle.request.body)

    @app.get("/download")
    def download() -> Any:
        path = download_file()
        return bottle.static_file(path.name, root=str(path.parent), mimetype="application/octet-stream")

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        return pieces()

    @app.get("/session")
    def session() -> str:
        count = int(bottle.request.get_cookie("count", secret="secret") or 0) + 1
        bottle.response.set_cookie("count", count, secret="secret")
        return str(count)

    @app.get("/error")
    def error() -> str:
        raise LookupError("in the view")

    return app


def sockets_site() -> Any:
    """WebSockets by Flask-Sock, with subprotocols and compression of its own, and by flask-sockets."""
    from flask import Flask, session
    from flask_sock import Sock
    from flask_sockets import Sockets
    from werkzeug.routing import Rule

    app = Flask(__name__)
    app.secret_key = "secret"
    app.config["SOCK_SERVER_OPTIONS"] = {"subprotocols": ["chat"], "ping_interval": 25, "max_message_size": 200_000}
    sock = Sock(app)
    sockets = Sockets(app)

    @sock.route("/sock")
    def echo(ws: Any) -> None:
        session.get("x")
        while True:
            data = ws.receive()
            if data == "close":
                ws.close(4001, "bye")
                return
            ws.send(data)

    def echo_socket(ws: Any) -> None:
        while not ws.closed:
            message = ws.receive()
            if message is not None:
                ws.send(message)

    # Its route() makes rules that Werkzeug 2 and later do not match with WebSockets.
    sockets.url_map.add(Rule("/sockets", endpoint=echo_socket, websocket=True))

    return app


def socketio_site() -> Any:
    """python-socketio in gevent mode."""
    import socketio

    server = socketio.Server(async_mode="gevent", cors_allowed_origins="*", logger=False)

    @server.on("echo")
    def echo(sid: str, data: Any) -> Any:
        server.emit("echoed", data, to=sid)
        return data

    return socketio.WSGIApp(server)
