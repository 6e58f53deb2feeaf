"""Trusts the proxies on a list, hop by hop: the strategy of ``--forwarded-allow-ips``.

A request has come along a chain: the socket's peer, the client in its PROXY header if there is one, and the addresses in the
address fields from right to left, because each proxy appends the address of its own peer.  A listed address is trusted to name the
next one.  The first address that is not listed is the client; where all are listed, the last one is.  So addresses that a client writes
into these fields are to the left of its own address, and are never used.

The client in a PROXY header is a separate hop, because a proxy that sends such a header may forward bytes without reading them.  The
fields are then the client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from ...core.addresses import AddressList
from ...core.forwarded import FORWARDED, X_FORWARDED, ForwardedFields
from ...core.message import Request
from .hops import Hop, forwarded_hops, x_forwarded_hops
from .located import located
from .values import last_element, port_number, scheme_of

ROOT_PATH: Final = b"daphne-root-path"
#: At most this many hops are read, which also bounds a long list of trusted addresses.
MAX_HOPS: Final = 100

#: Fields removed from requests of untrusted peers, because frameworks read them by settings of their own.
_CLAIMS: Final = frozenset(
    (
        *(ROOT_PATH, b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"),
        # Other names for the mount point, the client and the scheme.
        *(b"x-forwarded-prefix", b"x-script-name", b"x-real-ip"),
        *(b"x-forwarded-protocol", b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-scheme"),
    )
)

#: The number of field values whose result is cached, and the longest of them in octets.
_CACHE_SIZE: Final = 1024
_CACHED_VALUE: Final = 256


class _Found(NamedTuple):
    """The client found in the hops.

    ``host`` is ``None`` where no hop has an address.  ``nearest`` tells whether the nearest proxy named this hop.  ``proto`` is the
    scheme in the same element.  ``final`` tells whether elements further left cannot change the result.
    """

    host: str | None
    port: int
    nearest: bool
    proto: bytes
    final: bool


class TrustedLocator:
    """Puts the client and scheme that trusted proxies report into a request, and removes such fields of untrusted peers.

    :param trusted: the trusted proxies.
    :param fields: names of the fields to read.  With ``Forwarded`` as the address field, the other two are not used.
    """

    __slots__ = ("_address", "_claims", "_found", "_hops", "_port", "_proto", "_trusted")

    def __init__(self, trusted: AddressList, fields: ForwardedFields = X_FORWARDED) -> None:
        self._trusted = trusted
        standard = fields.address.lower() == FORWARDED
        self._hops = forwarded_hops if standard else x_forwarded_hops
        self._address = fields.address.lower().encode("latin-1")
        self._port = fields.port.lower().encode("latin-1") if fields.port and not standard else None
        self._proto = fields.proto.lower().encode("latin-1") if fields.proto and not standard else None
        self._claims = _CLAIMS.union(name for name in (self._address, self._port, self._proto) if name is not None)
        # Results that depend only on the value of the last address field, by that value.
        self._found: dict[bytes, _Found] = {}

    def __call__(self, request: Request) -> Request:
        connection = request.connection
        trusted = self._trusted
        client, peer = connection.client, connection.peer
        if (None if client is None else client[0]) not in trusted or (peer is not None and (peer[0] if peer else None) not in trusted):
            return self._without_claims(request)
        # The last of several fields is used, because the nearest proxy wrote it.
        fields = dict(request.headers)
        value = fields.get(self._address)
        if value is None:
            return request
        found = self._found.get(value) or self._find(value, request)
        proto = last_element(fields.get(self._proto, b"")) if self._proto is not None else found.proto
        scheme = scheme_of(proto, connection.scheme)
        if found.host is not None:
            port = found.port
            if not port and found.nearest and self._port is not None:
                port = port_number(last_element(fields.get(self._port, b"")))
            client = [found.host, port]
        return located(request, client, scheme)

    def _without_claims(self, request: Request) -> Request:
        claims = self._claims
        for name, _ in request.headers:
            if name in claims:
                return request._replace(headers=[field for field in request.headers if field[0] not in claims])
        return request

    def _find(self, value: bytes, request: Request) -> _Found:
        found = self._walk(self._hops(value))
        if not found.final:
            return self._walk(self._all_hops(request))
        if len(value) <= _CACHED_VALUE:
            if len(self._found) >= _CACHE_SIZE:
                self._found.clear()
            self._found[value] = found
        return found

    def _all_hops(self, request: Request) -> Iterator[Hop]:
        """The hops of all address fields, like those of one field; an element never continues in the next field."""
        for name, value in reversed(request.headers):
            if name == self._address:
                yield from self._hops(value)

    def _walk(self, hops: Iterator[Hop]) -> _Found:
        """Follow the hops to the first that is untrusted or invalid; the client is the last hop with an address."""
        host, port, proto, nearest = None, 0, b"", True
        for index, hop in enumerate(islice(hops, MAX_HOPS)):
            proto = hop.proto
            if hop.host is not None:
                host, port, nearest = hop.host, hop.port, index == 0
            if not hop.known or hop.host not in self._trusted:
                return _Found(host, port, nearest, proto, True)
        return _Found(host, port, nearest, proto, False)
