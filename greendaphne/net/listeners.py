"""Opens and closes the listening sockets of a server; their attributes have Twisted's names."""

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
    """A listening address with Twisted's attribute names."""

    def __init__(self, sock: socket) -> None:
        name = sock.getsockname()
        self.host: str
        self.port: int | None
        if isinstance(name, tuple):
            self.host, self.port = name[:2]
        else:
            # An abstract name starts with a null byte, which is written as an at sign.
            self.host = "@" + name[1:].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
            self.port = None


class Listener:
    """An endpoint and its listening socket; code written for daphne reads the port as ``listener.result.getHost().port``."""

    def __init__(self, endpoint: Endpoint, sock: socket) -> None:
        self.endpoint = endpoint
        self.socket = sock
        self.address = ListeningAddress(sock)

    @property
    def result(self) -> Listener:
        """The listener itself; Twisted has a deferred here."""
        return self

    def getHost(self) -> ListeningAddress:  # noqa: N802 - Twisted's name
        """The listening address."""
        return self.address


class Listeners:
    """The listening sockets of one server and their acceptors.

    :param watch_certificates: whether to log certificates that are about to expire.  Of several processes with the same endpoints, only
        one needs to.
    """

    def __init__(self, *, watch_certificates: bool = True) -> None:
        #: The listeners, in the order of the endpoints.
        self.opened: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._watch_certificates = watch_certificates
        self._validity: ValidityWatch | None = None

    def open(self, endpoints: Iterable[Endpoint]) -> None:
        """Open and listen on all endpoints; connections wait in the backlog until :meth:`accept`.

        :raises EndpointError: for the first endpoint that fails; :meth:`close` closes the endpoints opened before it.
        """
        endpoints = list(endpoints)
        if secure := [endpoint.tls for endpoint in endpoints if endpoint.tls is not None]:
            from .tls.validity import ValidityWatch

            self._validity = ValidityWatch(secure, silent=not self._watch_certificates)
        for endpoint in endpoints:
            listener = Listener(endpoint, endpoint.bind())
            self.opened.append(listener)
            logger.info("Listening on endpoint %s", endpoint)
            if getattr(innermost(endpoint), "port", None) == 0:
                logger.info("Port 0 of endpoint %s is %s", endpoint, listener.address.port)
            if endpoint.tls is not None:
                logger.info("TLS on endpoint %s: %s", endpoint, endpoint.tls.describe())

    def accept(self, connections: ConnectionHandler) -> None:
        """Start to accept; ``connections`` serves the connections."""
        for listener in self.opened:
            endpoint = listener.endpoint
            acceptor = Acceptor(listener.socket, connections.handler(endpoint), connections.pool, endpoint.shared, connections.make_room)
            self._acceptors.append(acceptor)
            acceptor.start()
        if self._validity is not None:
            self._validity.start()

    def take_waiting(self, *, shared: bool) -> None:
        """Accept the connections that wait in the backlogs, before the sockets are closed.

        :param shared: whether to include sockets that other processes opened and accept on.
        """
        for acceptor in self._acceptors:
            if shared or not acceptor.shared:
                acceptor.take_waiting()

    def close(self) -> None:
        """Stop accepting and close the sockets."""
        if self._validity is not None:
            self._validity.stop()
        for acceptor in self._acceptors:
            acceptor.stop_accepting()
        for listener in self.opened:
            listener.endpoint.close(listener.socket)
        self.opened.clear()
        # After the sockets are closed: otherwise the end of a connection could start an acceptor again.
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
