"""The current time in HTTP's format, formatted at most once a second."""

from __future__ import annotations

from email.utils import formatdate
from time import time

_second = 0
_text = b""


def http_date() -> bytes:
    """The current time as an IMF-fixdate (RFC 9110 section 5.6.7), for the ``Date`` field."""
    global _second, _text
    now = int(time())
    if now != _second:
        _second, _text = now, formatdate(now, usegmt=True).encode("ascii")
    return _text
