"""What every endpoint is, and endpoints that wrap another one."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from gevent import socket

from ...config import Listening
from .descriptors import adopt, are_shared, take

#: See :attr:`greendaphne.config.Listening.backlog`.
DEFAULT_BACKLOG: Final = Listening().backlog

#: The values of ``--proxy-protocol``, and for each the versions of the PROXY header with one of which every connection has to start.
PROXY_PROTOCOL: Final = {"off": frozenset[int](), "v1": frozenset((1,)), "v2": frozenset((2,)), "auto": frozenset((1, 2))}


class ListeningOptions(NamedTuple):
    """What holds for all endpoints that do not say it themselves.

    ``backlog`` is a number of connections, see :data:`DEFAULT_BACKLOG`; ``reuse_port`` is for TCP; ``proxy_protocol`` is a value of
    :data:`PROXY_PROTOCOL`.
    """

    backlog: int = DEFAULT_BACKLOG
    reuse_port: bool = False
    proxy_protocol: frozenset[int] = PROXY_PROTOCOL["off"]


class Endpoint:
    """Where to listen.  ``str()`` gives the description as it was written.

    ``tls`` is what the server needs for the TLS handshake of accepted connections, as :mod:`greendaphne.net.tls` defines it, and ``None``
    for plain connections.  ``proxy_protocol`` are the versions of the PROXY header with one of which each connection starts, before any
    handshake; it is empty where there is no such header.  ``shared`` tells whether other processes may accept on the same socket.

    A kind implements :meth:`open`; one that overrides :meth:`bind` opens its socket even where one is inherited for it.
    """

    tls: Any = None
    proxy_protocol: frozenset[int] = PROXY_PROTOCOL["off"]
    shared: bool = False

    def __init__(self, description: str) -> None:
        self.description = description
        self.options = ListeningOptions()
        # The whole string that it is a part of, by which a socket may have been inherited.
        self._origin = description

    def __str__(self) -> str:
        return self.description

    def set_origin(self, description: str) -> None:
        """Say which string it was made of, where it is only a part of it."""
        self._origin = description

    def configure(self, options: ListeningOptions) -> None:
        """Set what it does not say itself; before :meth:`bind`."""
        self.options = options
        self.proxy_protocol = options.proxy_protocol

    def bind(self) -> socket.socket:
        """Return a socket that listens, does not block and is not inherited by child processes.

        It is the one that was inherited for this endpoint (:func:`~.descriptors.inherit`), where there is one.

        :raises EndpointError: when that is not possible.
        """
        number = take(self._origin)
        if number is None:
            return self.open()
        self.shared = are_shared()
        return adopt(number, f"{self._origin} (inherited as fd {number})", self.options.backlog)

    def open(self) -> socket.socket:
        """Return a socket that is opened for it; for :meth:`bind`, whose contract holds."""
        raise NotImplementedError

    def close(self, sock: socket.socket) -> None:
        """Close ``sock``, which :meth:`bind` returned, and remove what binding left in the file system."""
        sock.close()


class WrappingEndpoint(Endpoint):
    """An endpoint that adds something to another; it listens where ``inner`` listens and has its properties until it sets its own."""

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
    """What ``endpoint`` listens on, without what others around it add to the connections."""
    while isinstance(endpoint, WrappingEndpoint):
        endpoint = endpoint.inner
    return endpoint
