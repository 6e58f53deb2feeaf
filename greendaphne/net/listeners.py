"""What a server listens on, from the endpoints' sockets being opened to their being closed, and under the names that Twisted has for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gevent.socket import socket

from .acceptor import Acceptor, ConnectionHandler
from .endpoints import Endpoint, innermost

if TYPE_CHECKING:
    from .tls.validity import ValidityWatch

logger = logging.getLogger("daphne.server")


class ListeningAddress:
    """A listening address under Twisted's names."""

    def __init__(self, sock: socket) -> None:
        name = sock.getsockname()
        self.host: str
        self.port: int | None
        if isinstance(name, tuple):
            self.host, self.port = name[:2]
        else:
            # An abstract name has a null byte in front, which is written as an at sign.
            self.host = "@" + name[1:].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
            self.port = None


class Listener:
    """An endpoint and its listening socket; ``listener.result.getHost().port`` is how code written for daphne finds the port."""

    def __init__(self, endpoint: Endpoint, sock: socket) -> None:
        self.endpoint = endpoint
        self.socket = sock
        self.address = ListeningAddress(sock)

    @property
    def result(self) -> Listener:
        """Itself; Twisted had a deferred here."""
        return self

    def getHost(self) -> ListeningAddress:  # noqa: N802 - Twisted's name
        """The listening address."""
        return self.address


class Listeners:
    """The listening sockets of one server and what accepts on them.

    :param watch_certificates: whether to log certificates that are about to expire; one of several processes that serve the same
        endpoints is enough.
    """

    def __init__(self, *, watch_certificates: bool = True) -> None:
        #: In the order of the endpoints.
        self.opened: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._watch_certificates = watch_certificates
        self._validity: ValidityWatch | None = None

    def open(self, endpoints: Iterable[Endpoint]) -> None:
        """Listen; connections wait until :meth:`accept`.

        :raises EndpointError: where an endpoint cannot be listened on; :meth:`close` closes those before it.
        """
        endpoints = list(endpoints)
        if secure := [endpoint.tls for endpoint in endpoints if endpoint.tls is not None]:
            from .tls.validity import ValidityWatch

            self._validity = ValidityWatch(secure, silent=not self._watch_certificates)
        for endpoint in endpoints:
            logger.info("Listening on endpoint %s", endpoint)
            listener = Listener(endpoint, endpoint.bind())
            self.opened.append(listener)
            if getattr(innermost(endpoint), "port", None) == 0:
                logger.info("Port 0 of endpoint %s is %s", endpoint, listener.address.port)
            if endpoint.tls is not None:
                logger.info("TLS on endpoint %s: %s", endpoint, endpoint.tls.describe())

    def accept(self, connections: ConnectionHandler) -> None:
        """Begin to accept, for ``connections`` to serve."""
        for listener in self.opened:
            endpoint = listener.endpoint
            acceptor = Acceptor(listener.socket, connections.handler(endpoint), connections.pool, endpoint.shared, connections.make_room)
            self._acceptors.append(acceptor)
            acceptor.start()
        if self._validity is not None:
            self._validity.start()

    def take_waiting(self, *, shared: bool) -> None:
        """Accept what has connected already, at the end.

        :param shared: also at sockets that other processes opened, and accept on.
        """
        for acceptor in self._acceptors:
            if shared or not acceptor.shared:
                acceptor.take_waiting()

    def close(self) -> None:
        """Accept nothing more and close the sockets."""
        if self._validity is not None:
            self._validity.stop()
        for acceptor in self._acceptors:
            acceptor.stop_accepting()
        for listener in self.opened:
            listener.endpoint.close(listener.socket)
        self.opened.clear()
        # Once the sockets are gone: a connection that ends must not make them accept again.
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
