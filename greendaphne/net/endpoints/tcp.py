"""TCP addresses to listen on.

Deliberately not set: TCP_DEFER_ACCEPT, because the kernel hides connections from the server's limits until they send data;
TCP_FASTOPEN, because a request may arrive twice; SO_KEEPALIVE, because every wait for a peer has a time limit.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from gevent import socket

from .base import Endpoint
from .descriptors import cannot_listen

#: Explanations of errors, in words that continue the system's text.
_EXPLANATIONS: Final = {
    errno.EADDRINUSE: "; another program listens there",
    errno.EADDRNOTAVAIL: "; no interface has this address",
    errno.EACCES: "; ports below 1024 need root, CAP_NET_BIND_SERVICE, or a socket handed down by systemd or Circus",
    errno.EAFNOSUPPORT: "; IPv6 seems to be switched off here",
}


class TCPEndpoint(Endpoint):
    """A TCP address.

    :param port: 0 to 65535; with 0 the kernel chooses.
    :param interface: an address, or a host name: its first IPv4 address is used, or else its first IPv6 address.  ``""`` is every IPv4
        address, ``"::"`` every IPv4 and IPv6 address.
    :param backlog: see :data:`~.base.DEFAULT_BACKLOG`; by default the value in :attr:`options`.
    :param family: the address family that the interface must have; by default either.
    :param v6only: whether ``"::"`` means every IPv6 address only; refused for IPv4.
    :param reuse_port: whether other sockets may listen on the same address, in which case the kernel spreads connections over them; by
        default the value in :attr:`options`.
    """

    def __init__(
        self,
        description: str,
        port: int,
        interface: str = "",
        backlog: int | None = None,
        family: int = socket.AF_UNSPEC,
        v6only: bool = False,
        reuse_port: bool | None = None,
    ) -> None:
        super().__init__(description)
        self.port = port
        self.interface = interface[1:-1] if interface.startswith("[") and interface.endswith("]") else interface
        self.backlog = backlog
        self.family = family
        self.v6only = v6only
        self.reuse_port = reuse_port

    def open(self) -> socket.socket:
        where = f"[{self.interface}]:{self.port}" if ":" in self.interface else f"{self.interface or 'any'}:{self.port}"
        try:
            family, address = self._resolve()
            if self.v6only and family != socket.AF_INET6:
                raise cannot_listen(where, "v6only is for IPv6 addresses")
            sock = socket.socket(family, socket.SOCK_STREAM)
        except UnicodeError:
            raise cannot_listen(where, "not a host name") from None
        except OSError as error:
            raise cannot_listen(where, _explained(error)) from error
        try:
            # Otherwise connections of a previous process in TIME_WAIT prevent this process from binding.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.options.reuse_port if self.reuse_port is None else self.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # Overrides net.ipv6.bindv6only; no effect for addresses other than "::".
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.v6only)
            sock.bind(address)
            sock.listen(self.options.backlog if self.backlog is None else self.backlog)
        except OSError as error:
            sock.close()
            raise cannot_listen(where, _explained(error)) from error
        return sock

    def _resolve(self) -> tuple[int, Any]:
        # Encoded here, because a failure in the resolver's thread pool prints a traceback.
        self.interface.encode("idna")
        results = socket.getaddrinfo(self.interface or "0.0.0.0", self.port, self.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # For a host name with addresses of both families use IPv4, as daphne does.
        chosen = next((result for result in results if result[0] == socket.AF_INET), results[0])
        return chosen[0], chosen[4]


def _explained(error: OSError) -> str:
    # Numbers of resolver errors overlap with errno.
    return f"{error}{_EXPLANATIONS.get(error.errno or 0, '') if not isinstance(error, socket.gaierror) else ''}"
