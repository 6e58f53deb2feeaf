"""HTML of the demo: the page, the table of a request's message, error pages.  This module escapes all values from clients."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from string import Template

from ..core.version import __version__
from .assets import template
from .chat import NAME_LIMIT, TEXT_LIMIT

#: The keys of ``http.request`` in the order of their explanation; other keys follow, sorted.
KEY_ORDER = (
    "method",
    "scheme",
    "http_version",
    "tls",
    "path",
    "query_string",
    "root_path",
    "headers",
    "body",
    "body_channel",
    "client",
    "server",
    "reply_channel",
)
#: The most characters shown of one value; a header may be 16 KiB long.
VALUE_LIMIT = 600

_INDEX = Template(template("index.html"))
_ERROR = Template(template("error.html"))


def index(content: Mapping[str, object]) -> bytes:
    """The page, with the message ``content`` of its request."""
    page = _INDEX.substitute(version=escape(__version__), request=request_table(content), name_limit=NAME_LIMIT, text_limit=TEXT_LIMIT)
    return page.encode()


def error(status: int, detail: str) -> bytes:
    """The page for an error with the sentence ``detail``."""
    return _ERROR.substitute(title=escape(HTTPStatus(status).phrase), detail=escape(detail)).encode()


def request_table(content: Mapping[str, object]) -> str:
    """A table of the message's keys, the types of their values and the values."""
    keys = [key for key in KEY_ORDER if key in content]
    keys += sorted(set(content).difference(keys))
    rows = "\n".join(_row(key, content[key]) for key in keys)
    return (
        '<table class="message"><caption>Message on http.request: each key, its type in Python, its value</caption>'
        f"\n<tbody>\n{rows}\n</tbody></table>"
    )


def _row(key: str, value: object) -> str:
    shown = _headers(value) if key == "headers" and isinstance(value, list | tuple) else _value(value)
    kind = "None" if value is None else type(value).__name__
    return f'<tr><th scope="row">{escape(key)}</th><td class="type">{kind}</td><td class="value">{shown}</td></tr>'


def _headers(pairs: list[object] | tuple[object, ...]) -> str:
    items = []
    for pair in pairs:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            items.append(f'<li><span class="name">{_literal(pair[0])}</span> {_literal(pair[1])}</li>')
    if not items:
        return '<span class="none">none</span>'
    # Collapsed, because a browser sends a dozen and the rest of the message should be visible at once.
    number = f"{len(items)} pairs of bytes" if len(items) > 1 else "1 pair of bytes"
    return f'<details><summary>{number}</summary><ul class="pairs">{"".join(items)}</ul></details>'


def _value(value: object) -> str:
    if value is None:
        return '<span class="none">not known</span>'
    if value in (b"", "", []):
        return '<span class="none">empty</span>'
    return _literal(value)


def _literal(value: object) -> str:
    """The value in Python's notation, which distinguishes bytes, text and unprintable characters."""
    text = repr(value)
    if len(text) > VALUE_LIMIT:
        text = f"{text[:VALUE_LIMIT]}… ({len(text)} characters)"
    return escape(text)
