"""The demo's consumers of ``http.request`` and ``http.disconnect``.

The stream and uploads take long, so they run in separate greenlets of a bounded pool and do not occupy the workers.  So a few workers
serve many visitors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import gevent
from gevent.pool import Pool

from ..core.message import ClientDisconnected, HTTPError
from ..worker import Message
from . import pages
from .assets import STATIC

logger = logging.getLogger(__name__)

#: Streams and uploads at the same time; further ones are answered with 503.
BACKGROUND_LIMIT = 100
#: The stream sends STREAM_LINES lines, with STREAM_PAUSE seconds between them.
STREAM_LINES = 12
STREAM_PAUSE = 0.4

HTML = b"text/html; charset=utf-8"
TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"

#: All resources come from this server, and none is inline; ``connect-src 'self'`` includes the chat's WebSocket.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
READING = frozenset({"GET", "HEAD"})

Header = tuple[bytes, bytes]


class Route(NamedTuple):
    """The handler of a path: ``methods`` is ``None`` for any; a ``lasting`` answer runs in a separate greenlet."""

    answer: Callable[[Message], None]
    methods: frozenset[str] | None = READING
    lasting: bool = False


class Site:
    """Answers every HTTP request of the demo.

    :param background_limit: streams and uploads at the same time.
    """

    def __init__(self, background_limit: int = BACKGROUND_LIMIT) -> None:
        self._pool = Pool(background_limit)
        # Reply channel → greenlet of a lasting answer; changed only by consumers and when the greenlet ends.
        self._lasting: dict[str, gevent.Greenlet[..., None]] = {}
        self._routes = {
            "/": Route(self._index),
            "/request": Route(self._request, methods=None),
            "/stream": Route(self._stream, lasting=True),
            "/upload": Route(self._upload, methods=frozenset({"POST"}), lasting=True),
        }

    def request(self, message: Message) -> None:
        """Consumer of ``http.request``."""
        path, method = message.content["path"], message.content["method"]
        route = self._routes.get(path)
        if route is None and path.startswith("/request/"):
            route = self._routes["/request"]
        if route is None and path in STATIC:
            route = Route(self._static)
        if route is None:
            _error(message, 404, "There is no page at this address.")
        elif route.methods is not None and method not in route.methods:
            allow = ", ".join(sorted(route.methods)).encode()
            _error(message, 405, "This address does not take requests of that method.", [(b"allow", allow)])
        elif not route.lasting:
            route.answer(message)
        elif self._pool.full():
            _error(message, 503, "Many visitors are here just now. Please try again in a moment.", [(b"retry-after", b"5")])
        else:
            self._start(route.answer, message)

    def disconnect(self, message: Message) -> None:
        """Consumer of ``http.disconnect``: ends the answer of a client that has disconnected."""
        greenlet = self._lasting.pop(message.content["reply_channel"], None)
        if greenlet is not None:
            greenlet.kill(block=False)

    @property
    def lasting(self) -> int:
        """The number of running streams and uploads."""
        return len(self._lasting)

    def _start(self, answer: Callable[[Message], None], message: Message) -> None:
        reply_channel = message.content["reply_channel"]
        greenlet = self._pool.spawn(_guard, answer, message)
        self._lasting[reply_channel] = greenlet
        greenlet.rawlink(lambda _: self._lasting.pop(reply_channel, None))

    def _index(self, message: Message) -> None:
        _reply(message, 200, HTML, pages.index(message.content), [(b"cache-control", b"no-store")])

    def _request(self, message: Message) -> None:
        _reply(message, 200, HTML, pages.request_table(message.content).encode(), [(b"cache-control", b"no-store")])

    def _static(self, message: Message) -> None:
        asset = STATIC[message.content["path"]]
        # "no-cache": the browser revalidates each time, and gets 304 while the file is unchanged (RFC 9111 section 5.2.2.4).
        headers = [(b"etag", asset.etag), (b"cache-control", b"no-cache")]
        if any(name == b"if-none-match" and asset.etag in value for name, value in message.content["headers"]):
            message.reply({"status": 304, "headers": [*SECURITY_HEADERS, *headers]})
        else:
            _reply(message, 200, asset.content_type, asset.content, headers)

    def _stream(self, message: Message) -> None:
        headers = [*SECURITY_HEADERS, (b"content-type", TEXT), (b"cache-control", b"no-store")]
        if message.content["method"] == "HEAD":
            message.reply({"status": 200, "headers": headers})
            return
        message.reply({"status": 200, "headers": headers, "content": _line(1), "more_content": True})
        for number in range(2, STREAM_LINES + 1):
            gevent.sleep(STREAM_PAUSE)
            message.reply({"content": _line(number), "more_content": number < STREAM_LINES})

    def _upload(self, message: Message) -> None:
        digest, size, pieces = hashlib.sha256(), 0, 0
        for piece in message.body():
            digest.update(piece)
            size += len(piece)
            pieces += 1
        answer = {"size": size, "sha256": digest.hexdigest(), "pieces": pieces if message.content.get("body_channel") else 0}
        _reply(message, 200, JSON, json.dumps(answer).encode(), [(b"cache-control", b"no-store")])


def _guard(answer: Callable[[Message], None], message: Message) -> None:
    """Handle failures of an answer in a separate greenlet like a worker, so that the client always gets an answer."""
    try:
        answer(message)
    except ClientDisconnected:
        pass
    except HTTPError as error:
        if not message.replied:
            _error(message, error.status, error.detail)
    except Exception:
        logger.exception("The answer to %s failed", message)
        if not message.replied:
            _error(message, 500, "Something went wrong here. It is not your fault.")


def _line(number: int) -> bytes:
    now = time.time()
    clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
    return f"line {number:2} of {STREAM_LINES} at {clock}\n".encode()


def _reply(message: Message, status: int, content_type: bytes, content: bytes, headers: list[Header]) -> None:
    length = (b"content-length", b"%d" % len(content))
    message.reply({"status": status, "headers": [*SECURITY_HEADERS, (b"content-type", content_type), length, *headers], "content": content})


def _error(message: Message, status: int, detail: str, headers: list[Header] | None = None) -> None:
    _reply(message, status, HTML, pages.error(status, detail), headers or [])
