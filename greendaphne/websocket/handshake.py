"""The rules of the opening handshake (RFC 6455 section 4.2, RFC 8441 section 5): checks of a request, and the fields of its answer.

:func:`check` refuses a bad handshake with an :class:`~greendaphne.core.message.HTTPError` whose texts are fixed, following daphne's
sentences; the other functions expect a request that passed it.  The only text of the peer that an answer repeats is a subprotocol, which is
a token.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import NoReturn

from websockets.exceptions import InvalidHandshake
from websockets.headers import parse_extension
from websockets.typing import ExtensionHeader

from ..core.grammar import FORBIDDEN_IN_VALUE, TOKEN, elements
from ..core.message import Headers, HTTPError, Request, ResponseError, header_values

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"
# RFC 6455 section 4.1: 16 bytes in base64, 22 characters and two of padding.  The 22nd carries four bits that are not part of the bytes;
# RFC 4648 section 3.5 lets a decoder ignore them, and the answer is computed from the characters.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
# RFC 6454 section 7.1, as tolerant of text after the host as daphne; Chromium sends "file://" from local pages.
_ORIGIN = re.compile(rb"null|file://[!-~]*|[A-Za-z][A-Za-z0-9+.\-]*://[!-~]+(?: [A-Za-z][A-Za-z0-9+.\-]*://[!-~]+)*")
# The fields of the answer that only the server may set.
_OWN = frozenset((b"connection", b"upgrade", b"content-length", b"transfer-encoding"))
_OWN_PREFIX = b"sec-websocket-"
#: At most this many extensions with their parameters, and as many subprotocols, in one handshake; browsers offer one extension with one
#: parameter.  To parse thousands takes milliseconds.
_MANY = 100


def _bad(detail: str, request: Request) -> NoReturn:
    raise HTTPError(400, detail, close=not request.by_extended_connect)


def check(request: Request) -> None:
    """Check a client's opening handshake.

    :raises HTTPError: 405 for another method, 426 for another version of the protocol, 400 for everything else.
    """
    headers = request.headers
    extended = request.by_extended_connect
    method = "CONNECT" if extended else "GET"
    if request.method != method:
        raise HTTPError(405, "HTTP method not allowed for a WebSocket handshake.", [(b"allow", method.encode())], close=not extended)
    if not extended:
        _check_upgrade(request)
    hosts = len(header_values(headers, b"host"))
    if hosts > 1:
        _bad("HTTP Host header appears more than once in opening handshake request.", request)
    if not hosts and not extended:
        _bad("HTTP Host header missing in opening handshake request.", request)
    if b"#" in request.target:
        _bad("HTTP requested resource contains a fragment identifier.", request)
    _check_version(request)
    if not extended:
        keys = header_values(headers, b"sec-websocket-key")
        if not keys:
            _bad("HTTP Sec-WebSocket-Key header missing.", request)
        if len(keys) > 1:
            _bad("HTTP Sec-WebSocket-Key header appears more than once in opening handshake request.", request)
        if _KEY.fullmatch(keys[0]) is None:
            _bad("HTTP Sec-WebSocket-Key header is not 16 bytes in base64.", request)
    origins = header_values(headers, b"origin")
    if len(origins) > 1:
        _bad("HTTP Origin header appears more than once in opening handshake request.", request)
    if origins and _ORIGIN.fullmatch(origins[0]) is None:
        _bad("HTTP Origin header invalid.", request)
    _check_subprotocols(request)
    try:
        extensions(headers)
    except (InvalidHandshake, UnicodeDecodeError):
        # RFC 6455 section 9.1: malformed data here fails the connection.
        _bad("HTTP Sec-WebSocket-Extensions header invalid.", request)


def _check_upgrade(request: Request) -> None:
    """Check the parts that only HTTP/1.1 has: the upgrade itself (RFC 6455 section 4.2.1, items 1, 3 and 4)."""
    if request.http_version != "1.1":
        _bad("A WebSocket handshake needs HTTP/1.1.", request)
    if request.upgrade != b"websocket":
        _bad("HTTP Upgrade header is not websocket.", request)
    connection = header_values(request.headers, b"connection")
    if not connection:
        _bad("HTTP Connection header missing.", request)
    if b"upgrade" not in elements([value.lower() for value in connection]):
        _bad("HTTP Connection header does not include upgrade.", request)
    if request.content_length != 0:
        # Frames follow the head; with a body before them it would be in doubt where they begin.
        _bad("A WebSocket handshake has no body.", request)


def _check_version(request: Request) -> None:
    versions = header_values(request.headers, b"sec-websocket-version")
    if not versions:
        _bad("HTTP Sec-WebSocket-Version header missing.", request)
    if len(versions) > 1:
        _bad("HTTP Sec-WebSocket-Version header appears more than once in opening handshake request.", request)
    if versions[0] != _VERSION:
        fields = [(b"sec-websocket-version", _VERSION)]
        if not request.by_extended_connect:
            fields.insert(0, (b"upgrade", b"websocket"))  # RFC 9110 section 15.5.22
        raise HTTPError(426, "WebSocket version not supported (supported versions: 13).", fields, close=not request.by_extended_connect)


def _check_subprotocols(request: Request) -> None:
    values = header_values(request.headers, b"sec-websocket-protocol")
    if not values:
        return
    if sum(value.count(b",") + 1 for value in values) > _MANY:
        _bad("HTTP Sec-WebSocket-Protocol header has too many protocols.", request)
    offered = elements(values)
    if any(TOKEN.fullmatch(protocol) is None for protocol in offered):
        _bad("HTTP Sec-WebSocket-Protocol header invalid.", request)
    if len(set(offered)) != len(offered):
        _bad("Duplicate protocol specified in HTTP Sec-WebSocket-Protocol header.", request)


def extensions(headers: Headers) -> list[ExtensionHeader]:
    """The extensions that the client offers, in its order.

    :raises InvalidHandshake: if the field breaks its grammar or has too many elements.
    :raises UnicodeDecodeError: if it is not ASCII.
    """
    values = header_values(headers, b"sec-websocket-extensions")
    if sum(value.count(b",") + value.count(b";") + 1 for value in values) > _MANY:
        raise InvalidHandshake("too many extensions")
    # RFC 6455 section 11.3.2: several fields are one list.
    return parse_extension(b", ".join(values).decode("ascii")) if values else []


def offered_subprotocols(headers: Headers) -> list[str]:
    """The subprotocols that the client offers, in its order."""
    values = header_values(headers, b"sec-websocket-protocol")
    return [protocol.decode("ascii") for protocol in elements(values)] if values else []


def accept_value(key: bytes) -> bytes:
    """The value of ``Sec-WebSocket-Accept`` for that of ``Sec-WebSocket-Key`` (RFC 6455 section 4.2.2, item 5.4)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def response_headers(
    request: Request,
    server_name: bytes | None,
    subprotocol: str | None,
    extension: bytes | None,
    further: Headers,
) -> list[tuple[bytes, bytes]]:
    """The fields of the answer that opens the WebSocket, in daphne's order.

    :param further: the application's own fields; they come last.
    :raises ResponseError: where one of those cannot be sent.
    """
    fields: list[tuple[bytes, bytes]] = []
    if server_name is not None:
        fields.append((b"server", server_name))
    if not request.by_extended_connect:
        fields += ((b"upgrade", b"WebSocket"), (b"connection", b"Upgrade"))
    if subprotocol is not None:
        fields.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    if not request.by_extended_connect:
        fields.append((b"sec-websocket-accept", accept_value(header_values(request.headers, b"sec-websocket-key")[0])))
    if extension is not None:
        fields.append((b"sec-websocket-extensions", extension))
    for name, value in further:
        lower = name.lower()
        if TOKEN.fullmatch(name) is None:
            raise ResponseError(f"the header name {name!r} is not a token")
        if lower in _OWN or lower.startswith(_OWN_PREFIX):
            raise ResponseError(f"the header {lower.decode('ascii')} of a WebSocket handshake belongs to the server")
        if FORBIDDEN_IN_VALUE.search(value) is not None:
            raise ResponseError(f"the value of the header {lower.decode('ascii')} has a control character: {value!r}")
        fields.append((lower, value.strip(b" \t")))
    return fields
