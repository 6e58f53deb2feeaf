"""Addresses, ports and schemes as header fields have them.  Nothing here raises an exception for any bytes."""

from __future__ import annotations

import re
from _socket import AF_INET, AF_INET6, inet_pton
from typing import Final

SCHEMES: Final = frozenset((b"http", b"https", b"ws", b"wss"))
SECURE_SCHEMES: Final = frozenset((b"https", b"wss"))
MAX_PORT: Final = 65535
#: No address is longer: IPv6 with IPv4 inside (45), brackets, a colon and five digits, and a zone such as ``%eth0``.
MAX_ADDRESS: Final = 100

#: What empty elements of a list are made of: commas, and blanks as ``bytes.strip()`` understands them.
EMPTY: Final = b", \t\n\r\x0b\x0c"

#: RFC 6874 section 2; a zone is repeated in messages and logs.
_ZONE: Final = re.compile(r"[A-Za-z0-9._~-]+")


def parse_node(text: bytes) -> tuple[str, int] | None:
    """Return host and port for an address without surrounding blanks; ``None`` where it is none.

    It is an IPv4 or IPv6 address, the latter also in brackets, either with a port behind it.  A missing or wrong port is 0.
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
            # A zone (RFC 4007 section 11) belongs to the text of an address, but not to its number.
            number, _, zone = name.partition("%")
            if not _ZONE.fullmatch(zone):
                return None
        inet_pton(family, number)
    except (OSError, ValueError):
        return None
    return name, port_number(port.strip())


def port_number(digits: bytes) -> int:
    """Return the port that ``digits`` are, 0 for anything else."""
    if not digits.isdigit() or len(digits) > len(str(MAX_PORT)):
        return 0
    port = int(digits)
    return port if port <= MAX_PORT else 0


def scheme_of(proto: bytes, scheme: str) -> str:
    """Return the scheme that a proxy reports as ``proto``, and ``scheme`` where that is none.

    :param scheme: the connection's own; one of ``ws`` and ``wss`` asks for a WebSocket's.
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
