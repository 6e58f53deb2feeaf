"""Checks whether endpoints can listen, without listening (``--check-config``)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gevent import socket

from . import Endpoint, EndpointError, TCPEndpoint, UNIXEndpoint, innermost


def check_endpoints(endpoints: Iterable[Endpoint]) -> None:
    """Check whether a server could listen on ``endpoints``, apart from addresses in use.

    Addresses in use are no error, because the server with this configuration may be running.

    :raises EndpointError: for an unusable certificate, an unknown host, or a missing or read-only directory of a UNIX socket.
    """
    for endpoint in endpoints:
        if endpoint.tls is not None:
            from ..tls import TLSError

            try:
                endpoint.tls.load()
            except TLSError as error:
                raise EndpointError(f"{error}.") from None
        endpoint = innermost(endpoint)
        try:
            if isinstance(endpoint, TCPEndpoint) and endpoint.interface:
                endpoint.interface.encode("idna")
                socket.getaddrinfo(endpoint.interface, endpoint.port, endpoint.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            elif isinstance(endpoint, UNIXEndpoint) and not endpoint.abstract:
                directory = os.path.dirname(endpoint.address) or "."
                if not os.path.isdir(directory):
                    raise OSError("there is no such directory")
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise OSError("its directory cannot be written to")
        except UnicodeError:
            raise EndpointError(f"Cannot listen on {endpoint}: not a host name.") from None
        except OSError as error:
            raise EndpointError(f"Cannot listen on {endpoint}: {error}.") from None
