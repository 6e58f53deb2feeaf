"""The grammar that HTTP/1, HTTP/2 and WebSocket share, each rule written once.

Byte strings are parts of larger patterns; compiled patterns are for :meth:`re.Pattern.fullmatch`.
"""

from __future__ import annotations

import re
from socket import AF_INET6, inet_pton

#: A token (RFC 9110 section 5.6.2).
TOKEN_PATTERN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
TOKEN = re.compile(TOKEN_PATTERN)

#: A byte that is forbidden in field values (RFC 9110 section 5.5), for ``search``.  A tab is allowed.
FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: A field value without blanks around it (RFC 9110 section 5.5, RFC 9113 section 8.2.1).
FIELD_VALUE = re.compile(rb"(?![\t ])[\t -~\x80-\xff]*(?<![\t ])")

#: RFC 9110 section 8.6: digits only, at most as many as a 64-bit integer has.
CONTENT_LENGTH = re.compile(rb"[0-9]{1,19}")

#: Path and query of a request target (RFC 9112 section 3.2.1, RFC 9113 section 8.3.1): no blank, no fragment.  Bytes beyond ASCII match;
#: the caller decides about them.
ORIGIN_FORM = re.compile(rb"/[!\"$-~\x80-\xff]*")

# RFC 3986 section 3.2: 0 to 65535.  Leading zeros are allowed, up to five digits.
_PORT = rb"(?::(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5][0-9]{4}|[0-9]{0,4}))?"
# RFC 3986 section 3.2.2, reg-name.  Percent-encoded control characters are refused.  So are commas, because an intermediary joins two
# Host fields by a comma (RFC 9110 section 5.3), and user information (RFC 9110 section 4.2.4).
_REG_NAME = rb"(?:[0-9A-Za-z\-._~!$&'()*+;=]|%(?:[2-689A-Fa-f][0-9A-Fa-f]|7[0-9A-Ea-e]))+"
_AUTHORITY = re.compile(rb"(?:" + _REG_NAME + rb"|\[([0-9A-Fa-f:.]{2,45})\])" + _PORT)

# One element of a comma-separated list without the blanks around it.  Empty elements, of which a field may have thousands, match nothing.
_ELEMENT = re.compile(rb"[^, \t](?:[^,]*[^, \t])?")


def valid_authority(value: bytes) -> bool:
    """Whether ``value`` is ``uri-host [ ":" port ]`` (RFC 9110 section 7.2) with a host that is not empty (section 4.2.1)."""
    match = _AUTHORITY.fullmatch(value)
    if match is None:
        return False
    literal = match[1]
    if literal is None:
        return True
    try:
        inet_pton(AF_INET6, literal.decode("ascii"))
    except OSError:
        return False
    return True


def elements(values: list[bytes]) -> list[bytes]:
    """The elements of a comma-separated field (RFC 9110 section 5.6.1), in order, without empty elements."""
    return [element for value in values for element in _ELEMENT.findall(value)]


def expects_continue(value: bytes) -> bool:
    """Whether the ``Expect`` field ``value`` has ``100-continue`` (RFC 9110 section 10.1.1) and no other expectation."""
    return set(elements([value.lower()])) == {b"100-continue"}


def same_authority(one: bytes, other: bytes, default_port: bytes) -> bool:
    """Whether two valid authorities are the same host and port, after normalization (RFC 3986 sections 6.2.2.1 and 6.2.3)."""
    one, other = one.lower(), other.lower()
    return one == other or _with_port(one, default_port) == _with_port(other, default_port)


def _with_port(authority: bytes, default_port: bytes) -> tuple[bytes, bytes]:
    host, colon, port = authority.rpartition(b":")
    if not colon or port.endswith(b"]"):
        host, port = authority, b""
    return host, port.lstrip(b"0") or default_port
