"""Pages of the server's own, in front of the application: health, metrics, challenges of a certificate authority.

:class:`LocalPages` is an :class:`~greendaphne.core.message.Application` that answers some paths itself, without the channel layer, and hands
every other request to the application behind it.  What a page says is the business of whoever adds it.  A server without pages has none of
this on the way of its requests.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.message import Application, ClientDisconnected, Headers, HTTPError, Request, Stream, Unreported
from ..websocket import WebSocket

#: Status, fields (``Content-Length`` is added) and body of an answer.
Page = tuple[int, Headers, bytes]
#: Answers a GET or HEAD request, or returns ``None`` where the request is not its business.  It runs in the request's greenlet and may
#: block cooperatively.  The body of an answer to HEAD is not sent.
Handler = Callable[[Request], Page | None]

_METHODS = frozenset(("GET", "HEAD"))
_ALLOW = [(b"Allow", b"GET, HEAD")]


class LocalPages:
    """Answers the paths that were added and leaves the others to ``inner``.

    Paths are compared as they are on the wire, percent-encoded and without the query string; neither ``--root-path`` nor a proxy's fields
    change them.  A WebSocket handshake always goes to ``inner``.

    :param extra_headers: fields that every page carries besides its own.
    """

    def __init__(self, inner: Application, extra_headers: Headers = ()) -> None:
        self._inner = inner
        self._extra_headers = extra_headers
        self._paths: dict[bytes, tuple[Handler, bool]] = {}
        self._prefixes: list[tuple[bytes, Handler]] = []
        self.websocket: Callable[[Request, WebSocket], None] = inner.websocket

    def add(self, path: bytes, handler: Handler, *, reported: bool = True) -> None:
        """Have ``handler`` answer ``path``; methods other than GET and HEAD are answered with 405.

        :param reported: whether these requests are logged and counted as others are.
        :raises ValueError: where the path has a page already.
        """
        if path in self._paths:
            raise ValueError(f"{path.decode('latin-1')} has a page already")
        self._paths[path] = handler, reported

    def add_prefix(self, prefix: bytes, handler: Handler) -> None:
        """Ask ``handler`` about GET and HEAD requests whose path begins with ``prefix``; other methods go to ``inner``.

        Whole paths count more than prefixes, and of several prefixes that match the one that was added first is asked first.
        """
        self._prefixes.append((prefix, handler))

    def __bool__(self) -> bool:
        """Whether there is any page."""
        return bool(self._paths or self._prefixes)

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request`` or leave it to ``inner``.

        :raises Unreported: behind the answer of a page that is not to be reported.
        """
        path = request.path
        own = self._paths.get(path)
        if own is not None:
            handler, reported = own
            if request.method not in _METHODS:
                raise HTTPError(405, "This page can only be read.", _ALLOW)
            page = handler(request)
            if page is not None:
                if reported:
                    self._answer(stream, page)
                    return
                try:
                    self._answer(stream, page)
                except ClientDisconnected:
                    pass  # that is nobody's business either
                raise Unreported
        elif self._prefixes and request.method in _METHODS:
            for prefix, handler in self._prefixes:
                if path.startswith(prefix) and (page := handler(request)) is not None:
                    self._answer(stream, page)
                    return
        self._inner.http(request, stream)

    def _answer(self, stream: Stream, page: Page) -> None:
        status, headers, body = page
        stream.start(status, [*headers, (b"Content-Length", b"%d" % len(body)), *self._extra_headers])
        stream.finish(body)


class Nothing:
    """The application behind pages that have none: whatever is no page is not found."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer with 404."""
        raise HTTPError(404, "There is nothing here.")

    def websocket(self, request: Request, websocket: WebSocket) -> None:
        """Refuse the handshake with 404."""
        websocket.reject(404, "Not Found")
