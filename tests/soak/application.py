"""What the clients ask.  Every answer follows from its request, so that a client knows each byte of it beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import gevent

from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message

#: The pieces of a streamed answer, and the seconds between two of them.
PIECES = 8
PAUSE = 0.03


def piece(token: str, number: int) -> bytes:
    """One piece of the streamed answer."""
    return f"{token} {number} {hashlib.sha256(f'{token}{number}'.encode()).hexdigest()}\n".encode() * 20


def pieces(token: str) -> Iterator[bytes]:
    """The streamed answer."""
    return (piece(token, number) for number in range(PIECES))


def quick(token: str) -> bytes:
    """The answer that is there at once."""
    return f"quick {token} {hashlib.sha256(token.encode()).hexdigest()}".encode()


def upload(size: int, digest: str) -> bytes:
    """The answer to an upload."""
    return json.dumps({"size": size, "sha256": digest}).encode()


def _request(message: Message) -> None:
    path, token = message.content["path"], message.content["query_string"].decode()
    if path == "/stream":
        # Many at a time, and no worker waits for it.
        gevent.spawn(_stream, message, token)
    elif path == "/upload":
        gevent.spawn(_upload, message)
    else:
        message.reply({"status": 200, "content": quick(token)})


def _stream(message: Message, token: str) -> None:
    message.reply({"status": 200, "content": b"", "more_content": True})
    for number in range(PIECES):
        gevent.sleep(PAUSE)
        message.reply({"content": piece(token, number), "more_content": number < PIECES - 1})


def _upload(message: Message) -> None:
    digest, size = hashlib.sha256(), 0
    for part in message.body():
        digest.update(part)
        size += len(part)
    message.reply({"status": 200, "content": upload(size, digest.hexdigest())})


def _connect(message: Message) -> None:
    message.reply({"accept": True})


def _receive(message: Message) -> None:
    message.reply({"text": message.content["text"]})


channel_layer = MemoryChannelLayer()
channel_layer.routes = {
    "http.request": _request,
    "http.disconnect": lambda message: None,
    "websocket.connect": _connect,
    "websocket.receive": _receive,
    "websocket.disconnect": lambda message: None,
}
