"""Shows a developer why the code does not load (``--reload``): the traceback as a page, which loads itself again.

While a worker with the previous code serves, the traceback replaces only pages that a browser navigates to.  Scripts, images, other clients
and WebSockets still reach the application.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..core.message import Request, Stream, header_values

if TYPE_CHECKING:
    from .exchange import Handler

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#fff;color:#1d2520}"
    "main{max-width:70rem;margin:auto;padding:2rem 1.25rem}h1{font-size:1.4rem;margin:0 0 .5rem}"
    "pre{background:#f4f7f4;border:1px solid #7d9788;border-radius:.5rem;padding:1rem;overflow:auto;font-size:.875rem}"
    "@media(prefers-color-scheme:dark){body{background:#111814;color:#e4ebe6}pre{background:#1a241e;border-color:#6d8a79}}"
)


def failure_page(text: str, *, serving: bool) -> bytes:
    """The page that shows the traceback ``text``.

    :param serving: whether the previous code still serves.
    """
    rest = "The previous code still answers all other requests." if serving else "The server tries again when a file changes."
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1">'
        f'<meta name="viewport" content="width=device-width"><title>The application does not load</title><style>{_STYLE}</style></head>'
        f"<body><main><h1>The application does not load</h1><p>{rest} This page loads itself again.</p>"
        f"<pre>{escape(text)}</pre></main></body></html>"
    ).encode("utf-8", "replace")


def send_page(stream: Stream, page: bytes) -> None:
    """Answer with ``page`` and status 500."""
    fields = [
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
        (b"Content-Length", b"%d" % len(page)),
    ]
    stream.start(500, fields)
    stream.finish(page)


class FailureNotice:
    """Answers with the traceback instead of the application while the code on disk does not load.

    :param inner: the handler of the application.
    """

    def __init__(self, inner: Handler) -> None:
        self._inner = inner
        #: The traceback; empty while the code loads.
        self.text = ""
        self.websocket = inner.websocket

    def http(self, request: Request, stream: Stream) -> None:
        """Show the traceback to a browser that navigates; pass all other requests to the application."""
        if self.text and request.method == "GET" and any(b"text/html" in value for value in header_values(request.headers, b"accept")):
            send_page(stream, failure_page(self.text, serving=True))
        else:
            self._inner.http(request, stream)
