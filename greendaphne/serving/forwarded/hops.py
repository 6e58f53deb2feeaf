"""Takes ``X-Forwarded-For`` and ``Forwarded`` apart, from the right, where the nearest proxy wrote.

Each proxy appends to what it was given, so only the right end of a field is certain to be well-formed: what stands left of it may be
anything, such as a quotation mark that is never closed.  Both functions give element after element from the right, and what an element is
does not depend on anything left of it.  They are generators, so that nobody pays for elements that do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from .values import EMPTY, parse_node

#: What nginx writes for a client on a UNIX socket.
_NGINX_UNIX: Final = b"unix:"
#: Octets of one element of ``Forwarded``; a longer one is not understood.
MAX_ELEMENT: Final = 1024

#: One parameter of an element (RFC 7239 section 4) and the semicolon behind it.  Values that should be quoted, such as ``[::1]``, are also
#: taken without quotation marks, as some proxies write them.
_PARAMETER: Final = re.compile(
    rb"""(?: ([!#$%&'*+.^_`|~0-9A-Za-z-]+) = (?: ([^\s",;\\]+) | "((?:[^"\\]|\\.)*)" ) )? [ \t]* (?: ;[ \t]* | \Z )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


class Hop(NamedTuple):
    """What a proxy says about whoever it had the request from.

    ``known`` tells whether it said who that is.  ``host`` is the address then, and ``None`` a UNIX socket; ``port`` is 0 where it is not
    told.  ``proto`` is the scheme in the words of the proxy, ``b""`` where it is not told.
    """

    known: bool
    host: str | None = None
    port: int = 0
    proto: bytes = b""


#: ``unknown``, an obfuscated identifier, or what is not understood.
UNKNOWN: Final = Hop(False)
_UNIX: Final = Hop(True)


def x_forwarded_hops(value: bytes) -> Iterator[Hop]:
    """The hops in one field ``X-Forwarded-For``, the last first; empty elements are none."""
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
    """The hops in one field ``Forwarded``, the last first; empty elements are none.  The first that is malformed ends it."""
    end = position = len(value)
    while end > 0:
        start = max(0, end - MAX_ELEMENT)
        comma = value.rfind(b",", start, position)
        quote = value.rfind(b'"', start, position)
        if quote > comma:
            # A quoted string ends here; commas in it separate nothing.
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
    """The end of what is left of the empty elements that end at ``end``, all at once: there may be tens of thousands."""
    return len(value[:end].rstrip(EMPTY))


def _opening_quote(value: bytes, start: int, closing: int) -> int:
    """Where the quoted string begins that ends at ``closing``; -1 where it does not begin behind ``start``."""
    position = closing
    while True:
        position = value.rfind(b'"', start, position)
        # One behind an odd number of backslashes is escaped.
        before = position
        while before > start and value[before - 1] == 0x5C:
            before -= 1
        if position < 0 or (position - before) % 2 == 0:
            return position
        position = before


def _forwarded_hop(element: bytes) -> Hop | None:
    """What one element tells; ``None`` where it is malformed."""
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
