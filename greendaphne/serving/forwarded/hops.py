"""Splits ``X-Forwarded-For`` and ``Forwarded`` from the right, where the nearest proxy appends.

Each proxy appends to the value that it received, so only the right end of a field is certain to be well-formed.  The part to its left is
arbitrary, for example a quotation mark that is never closed.  Both functions yield the elements from the right, and no element depends on
the text to its left.  They are generators, so that unused elements cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from .values import EMPTY, parse_node

#: The value that nginx writes for a client on a UNIX socket.
_NGINX_UNIX: Final = b"unix:"
#: The longest element of ``Forwarded``, in octets; a longer one is invalid.
MAX_ELEMENT: Final = 1024

#: One parameter of an element (RFC 7239 section 4) and the semicolon after it.  Values that should be quoted, such as ``[::1]``, are also
#: accepted without quotation marks, because some proxies write them so.
_PARAMETER: Final = re.compile(
    rb"""(?: ([!#$%&'*+.^_`|~0-9A-Za-z-]+) = (?: ([^\s",;\\]+) | "((?:[^"\\]|\\.)*)" ) )? [ \t]* (?: ;[ \t]* | \Z )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


class Hop(NamedTuple):
    """A proxy's statement about the peer that it received the request from.

    ``known`` tells whether the proxy named the peer.  ``host`` is then its address, or ``None`` for a UNIX socket; ``port`` is 0 where
    unknown.  ``proto`` is the scheme as the proxy wrote it, ``b""`` where unknown.
    """

    known: bool
    host: str | None = None
    port: int = 0
    proto: bytes = b""


#: For ``unknown``, an obfuscated identifier, and invalid elements.
UNKNOWN: Final = Hop(False)
_UNIX: Final = Hop(True)


def x_forwarded_hops(value: bytes) -> Iterator[Hop]:
    """The hops in one field ``X-Forwarded-For``, the last first; empty elements are skipped."""
    end = len(value)
    while end > 0:
        comma = value.rfind(b",", 0, end)
        element = value[comma + 1 : end].strip()
        if element:
            yield _hop(element)
            end = comma
        else:
            end = _skip_empty(value, end)


def forwarded_hops(value: bytes) -> Iterator[Hop]:
    """The hops in one field ``Forwarded``, the last first; empty elements are skipped.  A malformed element is the last one yielded."""
    end = position = len(value)
    while end > 0:
        start = max(0, end - MAX_ELEMENT)
        comma = value.rfind(b",", start, position)
        quote = value.rfind(b'"', start, position)
        if quote > comma:
            # A quoted string ends here; commas in it are not separators.
            position = _opening_quote(value, start, quote)
            if position < 0:
                yield UNKNOWN
                return
            continue
        if comma < 0 < start:
            yield UNKNOWN
            return
        element = value[comma + 1 : end].strip()
        if element:
            hop = _forwarded_hop(element)
            if hop is None:
                yield UNKNOWN
                return
            yield hop
            end = position = comma
        else:
            end = position = _skip_empty(value, end)


def _skip_empty(value: bytes, end: int) -> int:
    """The end of the value without the empty elements that end at ``end``; removes all at once, because there may be ten thousands."""
    return len(value[:end].rstrip(EMPTY))


def _opening_quote(value: bytes, start: int, closing: int) -> int:
    """The position where the quoted string that ends at ``closing`` begins; -1 where it does not begin after ``start``."""
    position = closing
    while True:
        position = value.rfind(b'"', start, position)
        # A quotation mark after an odd number of backslashes is escaped.
        before = position
        while before > start and value[before - 1] == 0x5C:
            before -= 1
        if position < 0 or (position - before) % 2 == 0:
            return position
        position = before


def _forwarded_hop(element: bytes) -> Hop | None:
    """The hop of one element; ``None`` for a malformed one."""
    parameters: dict[bytes, bytes] = {}
    position = 0
    while position < len(element):
        match = _PARAMETER.match(element, position)
        if match is None:
            return None
        position = match.end()
        name, token, quoted = match.groups()
        if name is None:
            continue
        name = name.lower()
        if name in parameters:
            return None
        parameters[name] = token if quoted is None else _ESCAPE.sub(rb"\1", quoted)
    return _hop(parameters.get(b"for", b""))._replace(proto=parameters.get(b"proto", b""))


def _hop(text: bytes) -> Hop:
    node = parse_node(text)
    if node is not None:
        return Hop(True, *node)
    return _UNIX if text.lower() == _NGINX_UNIX else UNKNOWN
