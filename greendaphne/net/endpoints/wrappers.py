"""Endpoints on inherited descriptors, and endpoints whose connections begin with a PROXY header."""

from __future__ import annotations

from gevent import socket

from .base import PROXY_PROTOCOL, Endpoint, ListeningOptions, WrappingEndpoint
from .descriptors import adopt
from .grammar import EndpointError


class FDEndpoint(Endpoint):
    """A socket that a process manager opened and passed on; its address family is read from the socket.

    :param fileno: the descriptor's number.
    :param domain: accepted and ignored; daphne reads the address family from it.
    """

    shared = True

    def __init__(self, description: str, fileno: int, domain: str = "") -> None:
        super().__init__(description)
        self.fileno = fileno

    def open(self) -> socket.socket:
        return adopt(self.fileno, f"fd {self.fileno}", self.options.backlog)


class HAProxyEndpoint(WrappingEndpoint):
    """An endpoint whose connections begin with a PROXY header of either version; it overrides :class:`ListeningOptions`."""

    def __init__(self, description: str, inner: Endpoint) -> None:
        super().__init__(description, inner)
        if inner.proxy_protocol:
            raise EndpointError(f"Endpoint {description!r} asks for two PROXY headers.")
        self.proxy_protocol = PROXY_PROTOCOL["auto"]

    def configure(self, options: ListeningOptions) -> None:
        super().configure(options)
        self.proxy_protocol = PROXY_PROTOCOL["auto"]
