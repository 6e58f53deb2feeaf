"""TCP addresses to listen on.

Not set, on purpose: TCP_DEFER_ACCEPT, under which the kernel would hide connections from the server's limits and time limits until they
send something; TCP_FASTOPEN, under which a request may arrive twice; SO_KEEPALIVE, since every wait for a peer has a time limit already.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from gevent import socket

from .base import Endpoint
from .descriptors import cannot_listen

#: What an error means here, in words that continue it.
_EXPLANATIONS: Final = {
    errno.EADDRINUSE: "; another program listens there",
    errno.EADDRNOTAVAIL: "; no interface has this address",
    errno.EACCES: "; ports below 1024 need root, CAP_NET_BIND_SERVICE, or a socket handed down by systemd or Circus",
    errno.EAFNOSUPPORT: "; IPv6 seems to be switched off here",
}


class TCPEndpoint(Endpoint):
    """A TCP address.

    :param port: 0 lets the kernel choose.
    :param interface: an address, or a host name of which the first IPv4 address counts and the first IPv6 address otherwise.  ``""``
        is every IPv4 address, ``"::"`` every IPv4 and IPv6 address.
    :param backlog: see :data:`~.base.DEFAULT_BACKLOG`; :attr:`options` say it where it is ``None``.
    :param family: the address family that the interface must have; either when left out.
    :param v6only: whether ``"::"`` is every IPv6 address alone; refused for IPv4.
    :param reuse_port: whether other sockets may listen on the same address, with the kernel spreading connections over all of them;
        :attr:`options` say it where it is ``None``.
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
            # Connections of a previous process in TIME_WAIT must not keep this one from starting.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.options.reuse_port if self.reuse_port is None else self.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # Whatever net.ipv6.bindv6only says; it means nothing for an address other than "::".
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self.v6only)
            sock.bind(address)
            sock.listen(self.options.backlog if self.backlog is None else self.backlog)
        except OSError as error:
            sock.close()
            raise cannot_listen(where, _explained(error)) from error
        return sock

    def _resolve(self) -> tuple[int, Any]:
        # Here and not in the resolver, whose thread pool would print a traceback of its own.
        self.interface.encode("idna")
        results = socket.getaddrinfo(self.interface or "0.0.0.0", self.port, self.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A host name with addresses of both families listens on IPv4, where daphne listened.
        chosen = next((result for result in results if result[0] == socket.AF_INET), results[0])
        return chosen[0], chosen[4]


def _explained(error: OSError) -> str:
    # The numbers of resolver errors are others'.
    return f"{error}{_EXPLANATIONS.get(error.errno or 0, '') if not isinstance(error, socket.gaierror) else ''}"
