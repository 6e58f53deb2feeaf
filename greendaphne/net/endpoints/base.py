"""The base class of endpoints, and of endpoints that wrap another one."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from gevent import socket

from ...config import Listening
from .descriptors import adopt, are_shared, take

#: See :attr:`greendaphne.config.Listening.backlog`.
DEFAULT_BACKLOG: Final = Listening().backlog

#: The values of ``--proxy-protocol`` and the versions of the PROXY header that each accepts; empty for no header.
PROXY_PROTOCOL: Final = {"off": frozenset[int](), "v1": frozenset((1,)), "v2": frozenset((2,)), "auto": frozenset((1, 2))}


class ListeningOptions(NamedTuple):
    """Defaults for endpoints whose strings do not set these options.

    ``backlog`` is a number of connections, see :data:`DEFAULT_BACKLOG`; ``reuse_port`` is for TCP; ``proxy_protocol`` is a value of
    :data:`PROXY_PROTOCOL`.
    """

    backlog: int = DEFAULT_BACKLOG
    reuse_port: bool = False
    proxy_protocol: frozenset[int] = PROXY_PROTOCOL["off"]


class Endpoint:
    """An address to listen on.  ``str()`` gives the description as written.

    ``tls`` has the certificates for the TLS handshake of accepted connections, as :mod:`greendaphne.net.tls` defines it; ``None`` for plain
    connections.  ``proxy_protocol`` are the versions of the PROXY header that connections may start with, before any handshake; empty for
    connections without such a header.  ``shared`` tells whether other processes may accept on the same socket.

    A kind implements :meth:`open`.  A kind that overrides :meth:`bind` instead does not use inherited sockets.
    """

    tls: Any = None
    proxy_protocol: frozenset[int] = PROXY_PROTOCOL["off"]
    shared: bool = False

    def __init__(self, description: str) -> None:
        self.description = description
        self.options = ListeningOptions()
        # The whole string that contains this endpoint; inherited sockets are found by it.
        self._origin = description

    def __str__(self) -> str:
        return self.description

    def set_origin(self, description: str) -> None:
        """Set the whole string that contains this endpoint's description."""
        self._origin = description

    def configure(self, options: ListeningOptions) -> None:
        """Set the defaults for options that the string does not set; before :meth:`bind`."""
        self.options = options
        self.proxy_protocol = options.proxy_protocol

    def bind(self) -> socket.socket:
        """Return a socket that listens, does not block and is not inherited by child processes.

        Where a socket was inherited for this endpoint (:func:`~.descriptors.inherit`), returns that socket.

        :raises EndpointError: when the endpoint cannot listen.
        """
        number = take(self._origin)
        if number is None:
            return self.open()
        self.shared = are_shared()
        return adopt(number, f"{self._origin} (inherited as fd {number})", self.options.backlog)

    def open(self) -> socket.socket:
        """Open and return a socket; :meth:`bind` calls this, and its contract applies."""
        raise NotImplementedError

    def close(self, sock: socket.socket) -> None:
        """Close ``sock``, the result of :meth:`bind`, and remove files that binding created."""
        sock.close()


class WrappingEndpoint(Endpoint):
    """An endpoint that adds a property to ``inner``: it listens on the socket of ``inner`` and has its properties by default."""

    def __init__(self, description: str, inner: Endpoint) -> None:
        super().__init__(description)
        self.inner = inner
        self.tls = inner.tls
        self.proxy_protocol = inner.proxy_protocol

    def set_origin(self, description: str) -> None:
        super().set_origin(description)
        self.inner.set_origin(description)

    def configure(self, options: ListeningOptions) -> None:
        self.options = options
        self.inner.configure(options)
        self.proxy_protocol = self.inner.proxy_protocol

    def bind(self) -> socket.socket:
        sock = self.inner.bind()
        self.shared = self.inner.shared
        return sock

    def close(self, sock: socket.socket) -> None:
        self.inner.close(sock)


def innermost(endpoint: Endpoint) -> Endpoint:
    """The endpoint that listens: ``endpoint`` without the endpoints that wrap it."""
    while isinstance(endpoint, WrappingEndpoint):
        endpoint = endpoint.inner
    return endpoint
