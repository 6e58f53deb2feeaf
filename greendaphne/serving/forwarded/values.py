"""Parses addresses, ports and schemes in header fields.  No function raises an exception for any bytes."""

from __future__ import annotations

import re
from _socket import AF_INET, AF_INET6, inet_pton
from typing import Final

SCHEMES: Final = frozenset((b"http", b"https", b"ws", b"wss"))
SECURE_SCHEMES: Final = frozenset((b"https", b"wss"))
MAX_PORT: Final = 65535
#: The longest address in bytes: IPv6 with IPv4 inside (45), brackets, a colon and five digits, and a zone such as ``%eth0``.
MAX_ADDRESS: Final = 100

#: The bytes of empty elements: commas, and blanks as ``bytes.strip()`` defines them.
EMPTY: Final = b", \t\n\r\x0b\x0c"

#: RFC 6874 section 2.  Strict, because messages and logs contain the zone.
_ZONE: Final = re.compile(r"[A-Za-z0-9._~-]+")


def parse_node(text: bytes) -> tuple[str, int] | None:
    """Return host and port of an address without surrounding blanks; ``None`` for an invalid one.

    It is an IPv4 or IPv6 address, the latter also in brackets, either one with an optional port.  A missing or invalid port is 0.
    """
    if not text or len(text) > MAX_ADDRESS:
        return None
    port = b""
    if text.startswith(b"["):
        host, bracket, rest = text[1:].partition(b"]")
        if not bracket or (rest and not rest.startswith(b":")):
            return None
        port = rest[1:]
        family = AF_INET6
    elif text.count(b":") > 1:
        host, family = text, AF_INET6
    else:
        host, _, port = text.partition(b":")
        family = AF_INET
    try:
        name = number = host.decode("ascii")
        if family == AF_INET6 and "%" in name:
            # A zone (RFC 4007 section 11) is a part of an address's text, but not of its number.
            number, _, zone = name.partition("%")
            if not _ZONE.fullmatch(zone):
                return None
        inet_pton(family, number)
    except (OSError, ValueError):
        return None
    return name, port_number(port.strip())


def port_number(digits: bytes) -> int:
    """Return the port in ``digits``, 0 for an invalid one."""
    if not digits.isdigit() or len(digits) > len(str(MAX_PORT)):
        return 0
    port = int(digits)
    return port if port <= MAX_PORT else 0


def scheme_of(proto: bytes, scheme: str) -> str:
    """Return the scheme that a proxy reports as ``proto``, or ``scheme`` where that is invalid.

    :param scheme: the connection's own scheme; with ``ws`` and ``wss`` the result is a WebSocket's scheme, too.
    """
    proto = proto.lower()
    if proto not in SCHEMES:
        return scheme
    secure = proto in SECURE_SCHEMES
    if scheme.startswith("ws"):
        return "wss" if secure else "ws"
    return "https" if secure else "http"


def first_element(value: bytes) -> bytes:
    """The first non-empty element of a comma-separated list, without surrounding blanks; ``b""`` for none."""
    return value.lstrip(EMPTY).partition(b",")[0].strip()


def last_element(value: bytes) -> bytes:
    """The last non-empty element of a comma-separated list, without surrounding blanks; ``b""`` for none."""
    return value.rstrip(EMPTY).rpartition(b",")[2].strip()
