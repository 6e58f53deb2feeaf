"""The URLs at which listening sockets are reached, for the log and for the banner."""

from __future__ import annotations

from typing import Any

from .endpoints import Endpoint

#: The host in the URL of a socket that listens on every address.
_EVERY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def url(endpoint: Endpoint, sock: Any, *, tls: bool | None = None) -> str:
    """Return the URL of a listening socket, or ``unix:PATH`` for a UNIX socket.

    :param sock: the socket that ``endpoint`` listens with.
    :param tls: whether connections have TLS, where the endpoint itself does not know it.
    """
    name = sock.getsockname()
    if not isinstance(name, tuple):
        text = "@" + name[1:].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
        return f"unix:{text}"
    host, port = name[:2]
    secure = endpoint.tls is not None if tls is None else tls
    shown = _EVERY.get(host) or (f"[{host}]" if ":" in host else host)
    default = 443 if secure else 80
    return f"{'https' if secure else 'http'}://{shown}{'' if port == default else f':{port}'}/"


def every_address(sock: Any) -> bool:
    """Whether a listening socket takes connections at every address of the machine."""
    name = sock.getsockname()
    return isinstance(name, tuple) and name[0] in _EVERY
