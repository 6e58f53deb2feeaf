"""A request as it is seen from where proxies say that it comes."""

from __future__ import annotations

from ...core.message import Address, Request


def located(request: Request, client: Address, scheme: str) -> Request:
    """Return ``request`` with another client and scheme; the connection keeps its own peer."""
    connection = request.connection
    if client == connection.client and scheme == connection.scheme:
        return request
    peer = connection.peer
    if peer is None:
        # The application is told another one from here on.
        peer = connection.client or []
    return request._replace(connection=connection._replace(client=client, scheme=scheme, peer=peer))
