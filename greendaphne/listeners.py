"""What a server listens on, under the names that code written for daphne and Twisted uses."""

from __future__ import annotations

from gevent.socket import socket

from .endpoints import Endpoint


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
            self.host, self.port = "@" + name[1:].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name, None


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
