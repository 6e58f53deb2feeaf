"""RFC 9113 section 8 as functions: what makes a request or a trailer section malformed, and what a response may carry.

h2's own validation is switched off, so every rule about fields is here and nowhere else.  A malformed message is a stream error
(section 8.1.1), raised as :class:`MalformedMessage`; a well-formed request that this server does not answer is an
:class:`~greendaphne.core.message.HTTPError`, as over HTTP/1.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ..config import Limits
from ..core.dates import http_date
from ..core.grammar import CONTENT_LENGTH, FIELD_VALUE, ORIGIN_FORM, TOKEN, elements, expects_continue, same_authority, valid_authority
from ..core.message import ConnectionInfo, Headers, HTTPError, Request, ResponseError, check_interim, check_sent_trailers
from .compression import Field

# Field names are lower-case in HTTP/2 (RFC 9113 section 8.2); the colon is that of a pseudo-field.
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")

#: RFC 9113 section 8.2.2: what only means something on an HTTP/1 connection.
CONNECTION_SPECIFIC = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_SPECIAL = CONNECTION_SPECIFIC | _PSEUDO | {b"host", b"cookie", b"content-length", b"te", b"expect", b"priority"}
_SCHEMES = (b"https", b"http")
_PORTS = {b"https": b"443", b"http": b"80"}

#: Field names remembered as valid, and the longest; a peer that makes names up pays for each, and the server's memory stays bounded.
_REMEMBERED_NAMES = 1024
_REMEMBERED_LENGTH = 64
_names: set[bytes] = set()


class MalformedMessage(Exception):
    """A stream error of type PROTOCOL_ERROR (RFC 9113 section 8.1.1); the text says which rule was broken."""


class Head(NamedTuple):
    """A request head and what only the protocol needs of it."""

    request: Request
    expect_continue: bool
    #: The value of the ``priority`` field, empty for none (RFC 9218 section 5).
    priority: bytes

    def again(self) -> Head:
        """The same head with a list of fields of its own, which whatever serves the request may change."""
        request, expect_continue, priority = self
        method, target, path, query, version, headers, length, upgrade, connection, root_path = request
        request = _new_request((method, target, path, query, version, headers[:], length, upgrade, connection, root_path))
        return _new_head((request, expect_continue, priority))


# Without a named tuple's own constructor, which is a function of Python.
_new_head = partial(tuple.__new__, Head)
_new_request = partial(tuple.__new__, Request)


def valid_field(name: bytes, value: bytes) -> bool:
    """Whether name and value may occur in an HTTP/2 message at all (RFC 9113 section 8.2.1); pseudo-fields included."""
    if name not in _names:
        if _NAME.fullmatch(name) is None:
            return False
        if len(_names) < _REMEMBERED_NAMES and len(name) <= _REMEMBERED_LENGTH:
            _names.add(name)
    return FIELD_VALUE.fullmatch(value) is not None


def parse_request(fields: list[Field], size: int, connection: ConnectionInfo, limits: Limits, *, end_stream: bool) -> Head:
    """Turn a request's fields, each of them valid in itself, into a :class:`Request`.

    :param size: what all fields count together (RFC 9113 section 6.5.2).
    :param end_stream: whether the request has no body.
    :raises MalformedMessage: for a request that breaks RFC 9113 section 8.
    :raises HTTPError: 400, 417, 431 or 501 for a well-formed request that is not answered otherwise.
    """
    pseudo: dict[bytes, bytes] = {}
    headers: list[Field] = [_NO_HOST]
    host: bytes | None = None
    cookies: list[bytes] | None = None
    cookie_place = 0
    content_length: bytes | None = None
    expect = priority = b""
    special_names = _SPECIAL
    for field in fields:
        name = field[0]
        if name not in special_names:
            if name[0] == 58:
                raise MalformedMessage("an unknown pseudo-field")
            headers.append(field)
            continue
        value = field[1]
        if name in _PSEUDO:
            # RFC 9113 section 8.3: before all regular fields, each at most once.
            if len(headers) > 1 or host is not None or cookies is not None or name in pseudo:
                raise MalformedMessage(f"{name.decode()} is repeated or out of place")
            pseudo[name] = value
        elif name == b"cookie":
            # RFC 9113 section 8.2.3: crumbs become one field again, where the first one stood.
            if cookies is None:
                cookies = [value]
                cookie_place = len(headers)
                headers.append(field)
            else:
                cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise MalformedMessage("more than one Host field")
            host = value
        elif name == b"content-length":
            if content_length is not None or CONTENT_LENGTH.fullmatch(value) is None:
                raise MalformedMessage("Content-Length is malformed or repeated")
            content_length = value
            headers.append(field)
        elif name == b"te":
            if value.lower() != b"trailers":
                raise MalformedMessage("TE other than trailers")
            headers.append(field)
        elif name == b"expect":
            expect = value
            headers.append(field)
        elif name == b"priority":
            priority = priority + b"," + value if priority else value
            headers.append(field)
        else:
            raise MalformedMessage(f"the connection-specific field {name.decode()}")
    if cookies is not None and len(cookies) > 1:
        headers[cookie_place] = (b"cookie", b"; ".join(cookies))

    get = pseudo.get
    method = get(b":method")
    scheme = get(b":scheme")
    target = get(b":path")
    protocol = get(b":protocol")
    authority = get(b":authority")
    if method is None or TOKEN.fullmatch(method) is None:
        raise MalformedMessage(":method is missing or malformed")
    method = method.upper()
    if authority is None:
        authority = host
    elif host is not None and host != authority and not same_authority(host, authority, _PORTS.get(scheme or b"", b"")):
        raise MalformedMessage("Host differs from :authority")
    if authority is None or not valid_authority(authority):
        raise MalformedMessage("the authority is missing or malformed")
    headers[0] = (b"host", authority)
    if method == b"CONNECT" and protocol is None:
        # RFC 9113 section 8.5.
        if scheme is not None or target is not None:
            raise MalformedMessage("CONNECT with :scheme or :path")
        raise HTTPError(501, "This server is no proxy.")
    if protocol is not None and (method != b"CONNECT" or TOKEN.fullmatch(protocol) is None):
        raise MalformedMessage(":protocol is malformed or out of place")
    if scheme is None or scheme.lower() not in _SCHEMES:
        raise MalformedMessage(":scheme is missing or unknown")
    if target is None or (ORIGIN_FORM.fullmatch(target) is None and (target != b"*" or method != b"OPTIONS")):
        raise MalformedMessage(":path is missing or malformed")
    path, _, query = target.partition(b"?")
    length = int(content_length) if content_length is not None else 0 if end_stream else None
    if end_stream and length:
        # RFC 9113 section 8.1.1.
        raise MalformedMessage("Content-Length without a body")

    if len(target) > limits.request_line:
        raise HTTPError(414, "The request target is too long.")
    if len(fields) > limits.request_fields:
        raise HTTPError(431, "The request has too many header fields.")
    # As the application gets them: cookie crumbs count together.
    most = limits.request_field_size - 2
    if size > most and any(len(name) + len(value) > most for name, value in headers):
        raise HTTPError(431, "A header field is too long.")
    if not path.isascii():
        raise HTTPError(400, "Invalid characters in path")
    upgrade = b""
    if protocol is not None:
        # RFC 8441 section 4; RFC 9220 section 3 names the status for a protocol that is not supported.
        upgrade = protocol.lower()
        if upgrade != b"websocket":
            raise HTTPError(501, "The only protocol supported in CONNECT is websocket.")
        if length:
            # RFC 9110 section 9.3.6: a CONNECT request has no content, and what follows are frames.
            raise HTTPError(400, "A WebSocket handshake has no body.")
        length = 0 if end_stream else None
    if expect and expect.lower() != b"100-continue" and not expects_continue(expect) and elements([expect]):
        raise HTTPError(417, "The only expectation supported is 100-continue.")
    request = Request(method.decode("ascii"), target, path, query, "2", headers, length, upgrade, connection)
    return Head(request, bool(expect), priority)


_NO_HOST: Field = (b"host", b"")


def check_trailers(fields: list[Field]) -> None:
    """Check a trailer section (RFC 9113 section 8.1), whose fields are valid each in itself; it is dropped afterwards.

    :raises MalformedMessage: for pseudo-fields, connection-specific fields, and fields that frame or route (RFC 9110 section 6.5.1).
    """
    for name, _ in fields:
        if name[0] == 58 or name in _NO_TRAILERS:
            raise MalformedMessage(f"{name.decode()} in a trailer section")


_NO_TRAILERS = CONNECTION_SPECIFIC | {b"content-length", b"host", b"te"}


# --- responses ----------------------------------------------------------------------------------------------------------------------


class ResponseHead(NamedTuple):
    """The fields of a response in the order of their sending, and what follows from them."""

    fields: list[Field]
    #: Body bytes announced; ``None`` where only the end of the stream tells.
    content_length: int | None
    #: Whether the response has no content whatever the application sends.
    no_body: bool
    #: The application's ``priority`` field, which overrides the client's (RFC 9218 section 8); empty for none.
    priority: bytes


_DROPPED, _LENGTH, _DATE, _PRIORITY = range(1, 5)
_RESPONSE_SPECIAL = dict.fromkeys(CONNECTION_SPECIFIC, _DROPPED) | {b"content-length": _LENGTH, b"date": _DATE, b"priority": _PRIORITY}

# A name as the application writes it, to its lower-case form and what is special about it.
_response_names: dict[bytes, tuple[bytes, int]] = {}
_statuses: dict[int, Field] = {}


def _response_name(name: bytes) -> tuple[bytes, int]:
    if TOKEN.fullmatch(name) is None:
        raise ResponseError(f"the header name {name!r} is not a token")
    lower = name.lower()
    known = (lower, _RESPONSE_SPECIAL.get(lower, 0))
    if len(_response_names) < _REMEMBERED_NAMES:
        _response_names[name] = known
    return known


def _status_field(status: int) -> Field:
    if not 200 <= status <= 999:
        raise ResponseError(f"the status {status!r} is not that of a final response (200 to 999)")
    field = _statuses[status] = (b":status", b"%d" % status)
    return field


# Heads of responses of the present second, by their status, whether they answer HEAD, and fields; forgotten all together when there are too
# many.  The date in them.  Older ones are of no use, and a small object that stays from a peak keeps 1 MiB of Python's allocator.
_heads: dict[tuple[object, ...], ResponseHead] = {}
_heads_date = b""
#: Heads remembered, the most fields in one of them, and their bytes.
_REMEMBERED_HEADS, _REMEMBERED_FIELDS, _REMEMBERED_SIZE = 64, 16, 1024


def build_response(method: str, status: int, headers: Headers) -> ResponseHead:
    """Check a final response's head; the same object for the same response within one second, which encoders know by it.

    Names become lower-case, blanks around values and connection-specific fields are left out, ``date`` is added where the application gave
    none.

    :param method: the request's; a response to HEAD has no content.
    :raises ResponseError: for a head that must not be sent.
    """
    global _heads_date  # noqa: PLW0603 - one lookup for each response
    date = http_date()
    if date is not _heads_date:
        _heads.clear()
        _heads_date = date
    key = None
    if len(headers) <= _REMEMBERED_FIELDS:
        key = (status, method == "HEAD", *headers)
        try:
            if (head := _heads.get(key)) is not None:
                return head
        except TypeError:  # fields or bytes of a type that can change
            key = None
    head = _build_response(method, status, headers, date)
    if key is not None and sum(map(len, chain.from_iterable(head.fields))) <= _REMEMBERED_SIZE:
        if len(_heads) >= _REMEMBERED_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def known_response(method: str, status: int, headers: Any) -> ResponseHead | None:
    """What :func:`build_response` returned for an equal response within this second; ``None`` for none.

    :param headers: anything; only what is equal to fields that were checked is found.
    """
    if http_date() is not _heads_date:
        return None
    try:
        return _heads.get((status, method == "HEAD", *headers))
    except (TypeError, ValueError):  # it is no list, or has something in it that can change; a writable memoryview raises the latter
        return None


def _build_response(method: str, status: int, headers: Headers, date: bytes) -> ResponseHead:
    fields = [_statuses.get(status) or _status_field(status)]
    append = fields.append
    length: bytes | None = None
    dated = False
    priority = b""
    names = _response_names
    for name, value in headers:
        lower, special = names.get(name) or _response_name(name)
        if FIELD_VALUE.fullmatch(value) is None:
            # Channels 1 writes a blank before every cookie; blanks around a value are not part of it (RFC 9110 section 5.5).
            value = value.strip(b" \t")
            if FIELD_VALUE.fullmatch(value) is None:
                raise ResponseError(f"the value of the header {lower.decode()} has a control character: {value!r}")
        if special:
            if special == _DROPPED:
                continue
            if special == _LENGTH:
                if CONTENT_LENGTH.fullmatch(value) is None or length not in (None, value):
                    raise ResponseError(f"Content-Length {value!r} is malformed or contradicts another")
                if length is not None or status == 204 or status == 205:
                    continue
                length = value
            elif special == _DATE:
                dated = True
            else:
                priority = value
        append((lower, value))
    if not dated:
        append((b"date", date))
    # RFC 9110 section 15.3.6: 205 has no content either.
    no_body = method == "HEAD" or status == 204 or status == 205 or status == 304
    return ResponseHead(fields, int(length) if length is not None and not no_body else None, no_body, priority)


def interim_fields(status: int, headers: Headers) -> list[Field]:
    """The fields of an interim response (RFC 9113 section 8.1).

    :raises ResponseError: for a status or a field that must not be sent.
    """
    check_interim(status, headers)
    return [(b":status", b"%d" % status), *_checked(headers)]


def trailer_fields(trailers: Headers) -> list[Field]:
    """The fields of a trailer section (RFC 9113 section 8.1).

    :raises ResponseError: for a field that must not be sent there.
    """
    check_sent_trailers(trailers)
    return _checked(trailers)


def _checked(headers: Headers) -> list[Field]:
    fields: list[Field] = []
    for name, value in headers:
        lower, special = _response_names.get(name) or _response_name(name)
        value = value.strip(b" \t")
        if FIELD_VALUE.fullmatch(value) is None:
            raise ResponseError(f"the value of the header {lower.decode()} has a control character: {value!r}")
        if special != _DROPPED:
            fields.append((lower, value))
    return fields


def tunnel_fields(headers: Headers) -> list[Field]:
    """The fields of the response that turns a stream into a tunnel (RFC 8441 section 5): 200, and what the handshake adds.

    :raises ResponseError: as :func:`build_response`.
    """
    return build_response("CONNECT", 200, headers).fields
