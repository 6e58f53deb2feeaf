"""The site as a WSGI application: Flask, with WebSockets by ``wsgi.websocket``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import Rule

from . import answers

app = Flask(__name__)


@app.get("/quick")
def quick() -> bytes:
    return answers.quick(request.query_string.decode())


@app.get("/stream")
def stream() -> Response:
    token = request.query_string.decode()

    def pieces() -> Iterator[bytes]:
        for piece in answers.pieces(token):
            time.sleep(answers.PAUSE)
            yield piece

    return Response(pieces())


@app.post("/upload")
def upload() -> bytes:
    digest, size = hashlib.sha256(), 0
    while piece := request.stream.read(65536):
        digest.update(piece)
        size += len(piece)
    return answers.upload(size, digest.hexdigest())


def echo() -> str:
    websocket: Any = request.environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return ""


app.url_map.add(Rule("/", endpoint="echo", websocket=True))
app.view_functions["echo"] = echo
