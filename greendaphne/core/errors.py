"""The page that goes with an error of the server's own, the same bytes as daphne's: people search for its sentences."""

from __future__ import annotations

from html import escape

from .errors import reason_phrase

_STYLE = (
    " body { font-family: sans-serif; margin: 0; padding: 0; } "
    " h1 { padding: 0.6em 0 0.2em 20px; color: #896868; margin: 0; } "
    " p { padding: 0 0 0.3em 20px; margin: 0; } "
    " footer { padding: 1em 0 0.3em 20px; color: #999; font-size: 80%; font-style: italic; }"
)

CONTENT_TYPE = (b"Content-Type", b"text/html; charset=utf-8")


def error_page(status: int, detail: str) -> bytes:
    """The HTML page for ``status`` with the sentence ``detail``."""
    title = f"{status} {reason_phrase(status)}"
    return (
        f" <html> <head> <title>{title}</title> <style> {_STYLE} </style> </head>"
        f" <body> <h1>{title}</h1> <p>{escape(detail, quote=False)}</p> <footer>Daphne</footer> </body> </html> "
    ).encode()
