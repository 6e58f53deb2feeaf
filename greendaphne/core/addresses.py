"""Lists of trusted addresses, as options take them: ``127.0.0.1,10.0.0.0/8,::1,unix`` or ``*``.

An :class:`AddressList` tests membership; the caller decides what a listed address is trusted for.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from .listed import Listed

#: The word for peers on UNIX sockets, which have no address.
UNIX: Final = "unix"
#: The word for every address and every UNIX socket.
EVERYONE: Final = "*"
#: Peers on this machine: the loopback addresses and UNIX sockets.
LOCAL: Final = "127.0.0.1,::1,unix"
#: The maximum number of cached answers.  Proxies have few addresses; the limit is for clients with very many.
_CACHE_SIZE: Final = 1024
#: Bits in front of the IPv4 address in an IPv4-mapped one (RFC 4291 section 2.5.5.2).
_MAPPED_PREFIX: Final = 96


class AddressList(Listed):
    """A list of addresses and networks; ``host in addresses`` tests an address, ``None in addresses`` a UNIX socket.

    :param text: addresses, networks such as ``10.0.0.0/8``, ``unix`` and ``*``, separated by commas.  Blanks around them are ignored.
        An empty list contains no address.
    :raises ValueError: for any other text; the message continues the name of an option.
    """

    __slots__ = ("_answers", "_everyone", "_networks", "_unix")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._everyone = self._unix = False
        self._networks: list[IPv4Network | IPv6Network] = []
        self._answers: dict[str, bool] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            if item == EVERYONE:
                self._everyone = self._unix = True
            elif item == UNIX:
                self._unix = True
            else:
                self._networks.append(_network(item))

    def __contains__(self, host: object) -> bool:
        if host is None:
            return self._unix
        if self._everyone:
            return True
        if not isinstance(host, str):
            return False
        answer = self._answers.get(host)
        if answer is None:
            answer = self._look_up(host)
            if len(self._answers) >= _CACHE_SIZE:
                self._answers.clear()
            self._answers[host] = answer
        return answer

    def _look_up(self, host: str) -> bool:
        try:
            address = _plain(ip_address(host.partition("%")[0]))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """IPv4 for an IPv4-mapped address (RFC 4291 section 2.5.5.2): a dual-stack socket reports IPv4 peers in that form."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _network(item: str) -> IPv4Network | IPv6Network:
    try:
        if "%" in item:
            # ``ipaddress`` accepts a zone but ignores it in comparisons, so the address would be trusted on every link.
            raise ValueError
        if "/" not in item:
            return ip_network(_plain(ip_address(item)))
        network = ip_network(item, strict=False)
    except ValueError:
        raise ValueError(
            f"must be addresses, networks such as 10.0.0.0/8, {UNIX} or {EVERYONE}, separated by commas ({item!r} is none of these)"
        ) from None
    if network.network_address != ip_address(item.partition("/")[0]):
        raise ValueError(f"must have networks without host bits ({item!r} should be {str(network)!r} or an address)")
    plain = _plain(network.network_address)
    if plain.version != network.version and network.prefixlen >= _MAPPED_PREFIX:
        return IPv4Network((int(plain), network.prefixlen - _MAPPED_PREFIX))
    return network
