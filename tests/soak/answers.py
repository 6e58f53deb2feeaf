"""The answers to the clients' requests.

Every answer follows from its request, so that a client knows each byte of it beforehand.  This module needs the standard library only:
workers that run asgi_redis have other versions of the packages than the server.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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


def respond(content: dict[str, Any], body: Callable[[], Iterable[bytes]], reply: Callable[[dict[str, Any]], object]) -> None:
    """Answer one ``http.request``; returns when the whole answer has been sent.

    The worker is busy until then, as with the consumers of a site: a worker that stops waits for the answers that it has begun.

    :param content: the message.
    :param body: returns the pieces of the request body.
    :param reply: sends a message to the reply channel.
    """
    path, token = content["path"], content["query_string"].decode()
    if path == "/stream":
        reply({"status": 200, "content": b"", "more_content": True})
        for number in range(PIECES):
            time.sleep(PAUSE)
            reply({"content": piece(token, number), "more_content": number < PIECES - 1})
    elif path == "/upload":
        digest, size = hashlib.sha256(), 0
        for part in body():
            digest.update(part)
            size += len(part)
        reply({"status": 200, "content": upload(size, digest.hexdigest())})
    else:
        reply({"status": 200, "content": quick(token)})
