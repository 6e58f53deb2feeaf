"""Builds response heads: status lines and field lines as daphne's HTTP library wrote them, checked before a byte leaves.

A name is checked and capitalised once and remembered; a value is searched for the characters that would end its line (RFC 9110 section
5.5).  How a body is framed is decided here too, because it follows from the head (RFC 9112 section 6.3).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ..core.dates import http_date
from ..core.errors import reason_phrase
from ..core.grammar import CONTENT_LENGTH, FORBIDDEN_IN_VALUE, TOKEN, elements
from ..core.message import Headers, ResponseError

#: Body framings: none at all, a known number of bytes, chunks, or the end of the connection.
NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)

_CAPITALS = {
    b"Content-Md5": b"Content-MD5",
    b"Dnt": b"DNT",
    b"Etag": b"ETag",
    b"P3p": b"P3P",
    b"Sec-Websocket-Accept": b"Sec-WebSocket-Accept",
    b"Sec-Websocket-Extensions": b"Sec-WebSocket-Extensions",
    b"Sec-Websocket-Protocol": b"Sec-WebSocket-Protocol",
    b"Sec-Websocket-Version": b"Sec-WebSocket-Version",
    b"Te": b"TE",
    b"Www-Authenticate": b"WWW-Authenticate",
    b"X-Xss-Protection": b"X-XSS-Protection",
}
#: Field names remembered; an application that makes names up pays for each, and the server's memory stays bounded.
_REMEMBERED_NAMES = 1024
#: Field lines remembered, and the longest value among them; forgotten all together when there are too many.
_REMEMBERED_LINES, _REMEMBERED_VALUE = 2048, 128
#: Whole heads remembered, the most fields in one of them, and its bytes; forgotten all together when there are too many.
_REMEMBERED_HEADS, _REMEMBERED_FIELDS, _REMEMBERED_SIZE = 64, 16, 1024

# Connection-specific fields belong to the server: it alone knows how the message is framed (RFC 9110 section 7.6.1).
_CONNECTION = b"connection"
_DROPPED = frozenset((b"keep-alive", b"proxy-connection"))
_SPECIAL = frozenset((b"content-length", b"transfer-encoding", b"date", _CONNECTION)) | _DROPPED

# Lower-case name and its field-line start; "" marks a name that needs a closer look.
_names: dict[bytes, tuple[bytes, bytes]] = {}
_status_lines: dict[tuple[int, str], bytes] = {}
# Whole field lines, checked: most responses of an application have most of their fields in common.
_lines: dict[tuple[bytes, bytes], bytes] = {}
# Whole heads of the present second by all that they are made from, and the date in them.  Older ones are of no use, and a small object that
# stays from a peak keeps 1 MiB of Python's allocator.
_heads: dict[tuple[object, ...], Head] = {}
_heads_date = b""


class Head(NamedTuple):
    """A response head ready to be sent, and what follows from it."""

    data: bytes
    framing: int
    #: Body bytes announced, for ``LENGTH``.
    length: int
    close: bool


_new_head = partial(tuple.__new__, Head)


def _status_line(status: int, http_version: str, reason: str | None) -> bytes:
    line = _status_lines.get((status, http_version)) if reason is None else None
    if line is None:
        if not 200 <= status <= 999:
            raise ResponseError(f"the status {status!r} is not that of a final response (200 to 999)")
        if reason is not None:
            return b"HTTP/%b %d %b\r\n" % (http_version.encode("ascii"), status, _reason(reason))
        line = f"HTTP/{http_version} {status} {reason_phrase(status)}\r\n".encode("ascii")
        _status_lines[status, http_version] = line
    return line


def _reason(text: str) -> bytes:
    """A reason phrase as bytes (RFC 9112 section 4: tabs, blanks, visible characters and octets above 0x7f)."""
    try:
        phrase = text.encode("latin-1")
    except UnicodeEncodeError:
        raise ResponseError(f"the reason phrase {text!r} has characters beyond ISO 8859-1") from None
    if FORBIDDEN_IN_VALUE.search(phrase) is not None:
        raise ResponseError(f"the reason phrase {text!r} has a control character")
    return phrase


def _remember(name: bytes) -> tuple[bytes, bytes]:
    if TOKEN.fullmatch(name) is None:
        raise ResponseError(f"the header name {name!r} is not a token")
    lower = name.lower()
    capitalised = b"-".join([part.capitalize() for part in lower.split(b"-")])
    known = (lower if lower in _SPECIAL else b"", _CAPITALS.get(capitalised, capitalised) + b": ")
    if len(_names) < _REMEMBERED_NAMES:
        _names[name] = known
    return known


def field_line(name: bytes, value: bytes) -> bytes:
    """One field line with its CRLF.

    :raises ResponseError: where name or value would break the head.
    """
    _, start = _names.get(name) or _remember(name)
    return start + _checked(name, value) + b"\r\n"


def _checked(name: bytes, value: bytes) -> bytes:
    if FORBIDDEN_IN_VALUE.search(value) is not None:
        raise ResponseError(f"the value of the header {name.decode('latin-1')} has a control character: {value!r}")
    return value


def known_head(method: str, http_version: str, status: int, headers: Any, close: bool) -> Head | None:
    """What :func:`build_head` returned for an equal head within this second; ``None`` for none.

    :param headers: anything; only what is equal to fields that were checked is found.
    """
    if http_date() is not _heads_date:
        return None
    try:
        return _heads.get((status, method == "HEAD", http_version, close, None, *headers))
    except (TypeError, ValueError):  # it is no list, or has something in it that can change; a writable memoryview raises the latter
        return None


def build_head(method: str, http_version: str, status: int, headers: Headers, close: bool, reason: str | None = None) -> Head:
    """The head of a final response.

    :param method: the request's method; a response to HEAD has no body.
    :param http_version: the request's; "1.0" has no chunks.
    :param close: whether the connection ends after this response anyway.
    :param reason: the reason phrase, where it is not the usual one.
    :raises ResponseError: for a head that must not be sent.
    """
    global _heads_date  # noqa: PLW0603 - one lookup for each response
    date = http_date()
    if date is not _heads_date:
        _heads.clear()
        _heads_date = date
    key = None
    if len(headers) <= _REMEMBERED_FIELDS:
        key = (status, method == "HEAD", http_version, close, reason, *headers)
        try:
            if (head := _heads.get(key)) is not None:
                return head
        except TypeError:  # fields or bytes of a type that can change
            key = None
    head = _build_head(method, http_version, status, headers, close, reason, date)
    if key is not None and len(head.data) <= _REMEMBERED_SIZE:
        if len(_heads) >= _REMEMBERED_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def _build_head(method: str, http_version: str, status: int, headers: Headers, close: bool, reason: str | None, date: bytes) -> Head:
    lines = [_status_line(status, http_version, reason), b"", b""]
    length: bytes | None = None
    dated = False
    names = _names
    known = _lines
    for field in headers:
        line = known.get(field)
        if line is not None:
            lines.append(line)
            continue
        name, value = field
        special, start = names.get(name) or _remember(name)
        if special:
            if special == b"content-length":
                if length is None and len(value) < 19 and value.isdigit():
                    # What CONTENT_LENGTH matches, for less.
                    if status != 204 and status != 205:
                        length = value
                        lines.append(start + value + b"\r\n")
                    continue
                value = value.strip(b" \t")
                if CONTENT_LENGTH.fullmatch(value) is None or length not in (None, value):
                    raise ResponseError(f"Content-Length {value!r} is malformed or contradicts another")
                if length is not None or status == 204 or status == 205:
                    continue
                length = value
            elif special == b"transfer-encoding":
                if value.lower() != b"chunked":
                    raise ResponseError(f"Transfer-Encoding {value!r} cannot be sent; the server frames responses itself")
                continue
            elif special == _CONNECTION:
                close = close or b"close" in elements([value.lower()])
                continue
            elif special == b"date":
                dated = True
            else:
                continue
        line = start + _checked(name, value) + b"\r\n"
        if not special and len(value) <= _REMEMBERED_VALUE:
            if len(known) >= _REMEMBERED_LINES:
                known.clear()
            known[name, value] = line
        lines.append(line)
    if status == 205:
        # RFC 9110 section 15.3.6: no content, and a length that says so.
        framing = NO_BODY
        lines.append(b"Content-Length: 0\r\n")
    elif method == "HEAD" or status == 204 or status == 304:
        framing = NO_BODY
    elif length is not None:
        framing = LENGTH
    elif http_version == "1.1":
        framing = CHUNKED
        lines[2] = b"Transfer-Encoding: chunked\r\n"
    else:
        framing = UNTIL_CLOSE
        close = True
    if close and http_version == "1.1":
        lines[1] = b"Connection: close\r\n"
    lines.append(b"\r\n" if dated else b"Date: " + date + b"\r\n\r\n")
    return _new_head((b"".join(lines), framing, int(length) if framing == LENGTH and length is not None else 0, close))
