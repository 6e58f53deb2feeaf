"""Puts the client and scheme that proxies report into a request."""

from __future__ import annotations

from ...core.message import Address, Request


def located(request: Request, client: Address, scheme: str) -> Request:
    """Return ``request`` with another client and scheme; ``peer`` keeps the socket's own address."""
    connection = request.connection
    if client == connection.client and scheme == connection.scheme:
        return request
    peer = connection.peer
    if peer is None:
        # The application sees another client, so the socket's own is stored here.
        peer = connection.client or []
    return request._replace(connection=connection._replace(client=client, scheme=scheme, peer=peer))
