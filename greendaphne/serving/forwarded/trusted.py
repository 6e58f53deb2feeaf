"""Believes proxies that are on a list, hop by hop: what ``--forwarded-allow-ips`` is for.

A request has come along a chain: the socket's peer, the client in its PROXY header where there is one, and then what the address fields
list, from right to left, since each proxy appends whoever it had the request from.  Whoever is on the list is believed about the next one.
The first that is not is the client; where all are, the last one is.  So whatever a client writes into these fields stands left of its own
address, and is never looked at.

The client in a PROXY header counts as a hop of its own because a proxy that sends one may pass bytes on without reading them: then the
fields are the client's.
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
#: Hops looked at, a number.  There are never as many proxies; an endless list of trusted addresses ends here.
MAX_HOPS: Final = 100

#: Of whoever is not believed, an application gets none of these: frameworks read them by settings of their own.
_CLAIMS: Final = frozenset((ROOT_PATH, b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto"))

#: Field values whose outcome is remembered, a number, and the longest of them in octets.
_CACHE_SIZE: Final = 1024
_CACHED_VALUE: Final = 256


class _Found(NamedTuple):
    """Who the client is.

    ``host`` is ``None`` where no hop has an address.  ``nearest`` tells whether it is the hop that the nearest proxy named, ``proto`` what
    was said about the scheme beside it, and ``final`` whether it is certain, whatever stands further left.
    """

    host: str | None
    port: int
    nearest: bool
    proto: bytes
    final: bool


class TrustedLocator:
    """Puts the client and scheme that trusted proxies report into a request, and takes out what others report.

    :param trusted: who is believed.
    :param fields: names of the fields that tell.  Where the address is that of ``Forwarded``, the two others have no meaning.
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
        # Outcomes by the value of the last address field, where they depend on nothing else.
        self._found: dict[bytes, _Found] = {}

    def __call__(self, request: Request) -> Request:
        connection = request.connection
        trusted = self._trusted
        client, peer = connection.client, connection.peer
        if (None if client is None else client[0]) not in trusted or (peer is not None and (peer[0] if peer else None) not in trusted):
            return self._without_claims(request)
        # Of several fields the last one counts, as it is the nearest proxy's.
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
        """The hops of all address fields, as if they were one; an element never goes on in the next field."""
        for name, value in reversed(request.headers):
            if name == self._address:
                yield from self._hops(value)

    def _walk(self, hops: Iterator[Hop]) -> _Found:
        """Go from hop to hop until one is not trusted or not understood; the client is the last one that has an address."""
        host, port, proto, nearest = None, 0, b"", True
        for index, hop in enumerate(islice(hops, MAX_HOPS)):
            proto = hop.proto
            if hop.host is not None:
                host, port, nearest = hop.host, hop.port, index == 0
            if not hop.known or hop.host not in self._trusted:
                return _Found(host, port, nearest, proto, True)
        return _Found(host, port, nearest, proto, False)
