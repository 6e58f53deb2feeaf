"""Reason phrases as daphne's HTTP library, Twisted, words them; they stand in status lines and on error pages."""

from __future__ import annotations

from http import HTTPStatus

# Where Twisted's wording is not the registry's, or the registry's has changed between versions of Python.
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
