"""daphne's strategy for ``X-Forwarded-For``, ``-Port`` and ``-Proto``: it trusts every peer, and the leftmost address is the client.

This is only safe where a proxy that sets the fields is the only way to the server.  Invalid values change nothing: the address of the
connection stays.  :func:`client_and_scheme` is for the server, :func:`parse_x_forwarded_for` for code written for ``daphne.utils``.
Neither raises an exception for any input.

Rules:

* Port and scheme are used only together with an address field, so that a client cannot set one of them through a proxy that sets
  only the address.
* The first of several fields of one name is used, and the first non-empty element of a list (RFC 9110 section 5.6.1.2).
* An address is an IPv4 or IPv6 address, the latter also in brackets, either one with an optional port.  That port takes precedence over
  the port field.  A missing or invalid port is 0.
* A scheme is ``http``, ``https``, ``ws`` or ``wss`` in any case; a WebSocket is ``wss`` where the proxy reports ``https``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...core.message import Address, Request
from .located import located
from .values import SCHEMES, first_element, parse_node, port_number, scheme_of


class TwistedHeaders(Protocol):
    """The part of ``twisted.web.http_headers.Headers`` that this module uses."""

    def getAllRawHeaders(self) -> list[tuple[bytes, list[bytes]]]:  # noqa: N802 -- Twisted's name
        """Names with all their values."""


def client_and_scheme(
    headers: list[tuple[bytes, bytes]],
    address_header: bytes,
    port_header: bytes | None,
    proto_header: bytes | None,
    client: Address,
    scheme: str,
) -> tuple[Address, str]:
    """Return the client's address and the scheme as the proxy reports them.

    :param headers: a request's header section; names in lower case.
    :param address_header: name of the address field, in lower case; likewise the two others, where ``None`` means to read none.
    :param client: the connection's own peer, returned where the fields have no valid address.
    :param scheme: the connection's own scheme; with ``ws`` and ``wss`` the result is a WebSocket's scheme, too.
    """
    # Reversed, so that the first of several fields is kept.
    fields = dict(reversed(headers))
    value = fields.get(address_header)
    if value is None:
        return client, scheme
    found = parse_address(value, fields.get(port_header) if port_header is not None else None)
    if found is not None:
        client = found
    if proto_header is not None:
        scheme = scheme_of(first_element(fields.get(proto_header, b"")), scheme)
    return client, scheme


def parse_address(value: bytes, port_value: bytes | None = None) -> list[object] | None:
    """Return ``[host, port]`` from an address field and an optional port field; ``None`` for an invalid address."""
    node = parse_node(first_element(value))
    if node is None:
        return None
    host, port = node
    return [host, port or port_number(first_element(port_value or b""))]


def parse_x_forwarded_for(
    headers: Mapping[str | bytes, object] | TwistedHeaders,
    address_header_name: str | None = "X-Forwarded-For",
    port_header_name: str | None = "X-Forwarded-Port",
    proto_header_name: str | None = "X-Forwarded-Proto",
    original_addr: Address = None,
    original_scheme: str | None = None,
) -> tuple[Address, str | None]:
    """``daphne.utils.parse_x_forwarded_for``: return the client's ``[host, port]`` and the scheme.

    :param headers: a mapping of names to values, each ``str``, ``bytes`` or a list of them, or Twisted's ``Headers``.
    :param address_header_name: where empty, the originals are returned; the other names may be empty, too.
    :param original_addr: returned where the fields have no valid address.
    :param original_scheme: returned where the fields have no valid scheme.
    """
    if not address_header_name:
        return original_addr, original_scheme
    items = headers.items() if isinstance(headers, Mapping) else headers.getAllRawHeaders()
    fields = {as_bytes(name).lower(): first_value(value) for name, value in items}

    def field(name: str | None) -> bytes | None:
        return fields.get(as_bytes(name).lower()) if name else None

    value = field(address_header_name)
    if value is None:
        return original_addr, original_scheme
    address = parse_address(value, field(port_header_name)) or original_addr
    proto = first_element(field(proto_header_name) or b"").lower()
    return address, proto.decode("ascii") if proto in SCHEMES else original_scheme


def as_bytes(value: object) -> bytes:
    """Text as bytes; characters outside of Latin-1 become ``?``."""
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")


def first_value(value: object) -> bytes:
    """The first of the values of a name."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else b""
    return as_bytes(value)


class Locator:
    """Puts the client and scheme that a proxy reports into a request.

    :param address_header: name of the field with the client's address, in any case; likewise port and scheme.
    """

    def __init__(self, address_header: str, port_header: str | None, proto_header: str | None) -> None:
        self._address = address_header.lower().encode("latin-1")
        self._port = port_header.lower().encode("latin-1") if port_header else None
        self._proto = proto_header.lower().encode("latin-1") if proto_header else None

    def __call__(self, request: Request) -> Request:
        connection = request.connection
        client, scheme = client_and_scheme(request.headers, self._address, self._port, self._proto, connection.client, connection.scheme)
        return located(request, client, scheme)
