"""Counts the connections of each client address, so that one client cannot use all connections."""

from __future__ import annotations

import logging
from ipaddress import IPv6Address, ip_address
from math import inf
from time import monotonic
from typing import Final

from ..core.addresses import AddressList
from ..core.message import Address, ClientDisconnected

logger = logging.getLogger("daphne.server")

#: Bits of an IPv6 address that identify one client: the network that a provider assigns to a home or a host (RFC 6177).
_CLIENT_BITS: Final = 64
#: Seconds between two log lines.
INTERVAL: Final = 60.0


class TooManyConnections(ClientDisconnected):
    """The client's address has the maximum number of connections; the socket is closed."""


class AddressCounts:
    """Counts connections by client address.

    :param limit: the maximum number of connections of one address at a time.
    :param exempt: peers that forward many clients, such as proxies; ``None`` for none.
    """

    __slots__ = ("_counts", "_exempt", "_limit", "_next", "refused")

    def __init__(self, limit: int, exempt: AddressList | None = None) -> None:
        self._limit = limit
        self._exempt = exempt
        self._counts: dict[str, int] = {}
        self._next = -inf
        #: Connections that were closed since the start.
        self.refused = 0

    def enter(self, client: Address) -> str | None:
        """Count a connection of ``client``; returns the argument for :meth:`leave`, ``None`` for a client that is not counted.

        Clients on UNIX sockets have no address and are not counted.

        :raises TooManyConnections: if the limit is exceeded.
        """
        if not client:
            return None
        host = str(client[0])
        if self._exempt is not None and host in self._exempt:
            return None
        key = _key(host)
        number = self._counts.get(key, 0)
        if number >= self._limit:
            self.refused += 1
            now = monotonic()
            if now >= self._next:
                self._next = now + INTERVAL
                logger.warning("%s has %d connections; further ones are closed (--limit-connections-per-address)", key, number)
            raise TooManyConnections
        self._counts[key] = number + 1
        return key

    def leave(self, key: str) -> None:
        """A connection that was counted has ended."""
        number = self._counts[key] - 1
        if number:
            self._counts[key] = number
        else:
            del self._counts[key]

    def __len__(self) -> int:
        """The number of addresses with connections."""
        return len(self._counts)


def _key(host: str) -> str:
    """The key under which connections of ``host`` are counted."""
    if ":" not in host:
        return host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = int(address) >> (128 - _CLIENT_BITS) << (128 - _CLIENT_BITS)
    return f"{IPv6Address(network)}/{_CLIENT_BITS}"
