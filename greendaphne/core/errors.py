"""Reason phrases and error pages of the server.

Pages that daphne also has are byte for byte daphne's, because people and monitoring search for their text.
"""

from __future__ import annotations

from html import escape
from http import HTTPStatus

# Phrases where Twisted differs from the registry, or where the registry's phrase differs between versions of Python.
_TWISTED_PHRASES = {
    205: "Reset Content.",
    408: "Request Time-out",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range not satisfiable",
    418: "I'm a teapot",
    422: "Unprocessable Entity",
    504: "Gateway Time-out",
    505: "HTTP Version not supported",
    507: "Insufficient Storage Space",
}
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | _TWISTED_PHRASES


def reason_phrase(status: int) -> str:
    """The phrase that daphne sends with ``status``."""
    return _PHRASES.get(status, "Unknown Status")


_STYLE = (
    " body { font-family: sans-serif; margin: 0; padding: 0; } "
    " h1 { padding: 0.6em 0 0.2em 20px; color: #896868; margin: 0; } "
    " p { padding: 0 0 0.3em 20px; margin: 0; } "
    " footer { padding: 1em 0 0.3em 20px; color: #999; font-size: 80%; font-style: italic; }"
)

CONTENT_TYPE = (b"Content-Type", b"text/html; charset=utf-8")


#: The sentences of daphne's own pages; daphne's name is in their footer.
DAPHNE_SENTENCES = frozenset(
    (
        "HTTP processing error",
        "Invalid characters in path",
        "Request queue full.",
        "Worker server failed to respond within time limit.",
    )
)


def error_page(status: int, detail: str, footer: str | None = None) -> bytes:
    """The HTML page for ``status`` with the sentence ``detail``.

    :param footer: the server's name, ``""`` for none.  ``None`` means "Daphne" on pages that daphne has, and none on others.
    """
    if footer is None:
        footer = "Daphne" if detail in DAPHNE_SENTENCES else ""
    title = f"{status} {reason_phrase(status)}"
    foot = f" <footer>{escape(footer, quote=False)}</footer>" if footer else ""
    return (
        f" <html> <head> <title>{title}</title> <style> {_STYLE} </style> </head>"
        f" <body> <h1>{title}</h1> <p>{escape(detail, quote=False)}</p>{foot} </body> </html> "
    ).encode()
