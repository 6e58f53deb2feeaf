"""The server's own pages, answered before the application: health, metrics, challenges of a certificate authority.

:class:`LocalPages` is a handler of an exchange: it answers some paths itself and passes all other requests to the application.
A server without such pages does not use it, so its requests pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.message import ClientDisconnected, Headers, HTTPError, Request, Stream, Unreported
from . import exchange
from .session import Session

#: Status, fields (``Content-Length`` is added later) and body of an answer.
Page = tuple[int, Headers, bytes]
#: Answers a GET or HEAD request, or returns ``None`` to leave it to the application.  It runs in the request's greenlet and may block
#: cooperatively.  The body of an answer to HEAD is not sent.
Handler = Callable[[Request], Page | None]

_METHODS = frozenset(("GET", "HEAD"))
_ALLOW = [(b"Allow", b"GET, HEAD")]


class LocalPages:
    """Answers the added paths and passes other requests to ``inner``.

    Paths are compared as on the wire, percent-encoded and without the query string; neither ``--root-path`` nor a proxy's fields
    change them.  WebSocket handshakes always go to ``inner``.

    :param inner: the application.
    """

    def __init__(self, inner: exchange.Handler) -> None:
        self._inner = inner
        self._paths: dict[bytes, tuple[Handler, bool]] = {}
        self._prefixes: list[tuple[bytes, Handler]] = []
        self.websocket: Callable[[Request, Session], None] = inner.websocket

    def add(self, path: bytes, handler: Handler, *, reported: bool = True) -> None:
        """Let ``handler`` answer ``path``; methods other than GET and HEAD are answered with 405.

        :param reported: whether these requests are logged and counted like others.
        :raises ValueError: where the path already has a page.
        """
        if path in self._paths:
            raise ValueError(f"{path.decode('latin-1')} has a page already")
        self._paths[path] = handler, reported

    def add_prefix(self, prefix: bytes, handler: Handler) -> None:
        """Offer GET and HEAD requests whose path begins with ``prefix`` to ``handler``; other methods go to ``inner``.

        Whole paths take precedence over prefixes.  Of several matching prefixes, the one added first is asked first.
        """
        self._prefixes.append((prefix, handler))

    def __bool__(self) -> bool:
        """Whether any page was added."""
        return bool(self._paths or self._prefixes)

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request``, or pass it to ``inner``.

        :raises Unreported: after the answer of a page with ``reported=False``.
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
                    pass  # disconnects are not reported for such a page either
                raise Unreported
        elif self._prefixes and request.method in _METHODS:
            for prefix, handler in self._prefixes:
                if path.startswith(prefix) and (page := handler(request)) is not None:
                    self._answer(stream, page)
                    return
        self._inner.http(request, stream)

    def _answer(self, stream: Stream, page: Page) -> None:
        status, headers, body = page
        stream.start(status, [*headers, (b"Content-Length", b"%d" % len(body))])
        stream.finish(body)


class Nothing:
    """The application of an endpoint that has pages only: answers 404."""

    def http(self, request: Request, stream: Stream) -> None:
        """Answer with 404."""
        raise HTTPError(404, "There is nothing here.")

    def websocket(self, request: Request, session: Session) -> None:
        """Refuse the handshake with 404."""
        session.reject(404, "Not Found")
