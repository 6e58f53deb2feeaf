"""The scope of a request: what an ASGI application is told before the first event (ASGI HTTP and WebSocket 2.5, TLS extension 0.2)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote

from ...core.message import ConnectionInfo, Request, accepts_trailers
from ...core.tlsinfo import TLSInfo
from ...websocket.handshake import offered_subprotocols

#: The version of the HTTP and WebSocket specification.
SPEC_VERSION: Final = "2.5"
LIFESPAN_SPEC_VERSION: Final = "2.0"

#: A number is found in bytes in a third of the time that bytes would take.
_PERCENT: Final = ord("%")
_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss"}

Scope = dict[str, Any]


class Scopes:
    """Makes the scopes of one application.

    :param version: of ASGI, ``"3.0"`` or ``"2.0"``.
    """

    __slots__ = ("_asgi", "_version", "state")

    def __init__(self, version: str) -> None:
        self._version = version
        self._asgi = {"version": version, "spec_version": SPEC_VERSION}
        #: What the application left in its lifespan's state; ``None`` without lifespan.
        self.state: dict[str, Any] | None = None

    def http(self, request: Request) -> Scope:
        """The scope of an HTTP request; every container in it is new, since applications change them."""
        method, _, raw, query_string, version, headers, _, _, connection, root = request
        if root or _PERCENT in raw:
            path, raw, root = _path(raw, root)
        else:
            path = raw.decode("ascii")
        scheme, client, server, tls, _, _, _ = connection
        extensions: dict[str, Any]
        if version == "1.0":
            extensions = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
        else:
            extensions = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.early_hint": {}}
            for name, _ in headers:
                if name == b"te":
                    if accepts_trailers(request):
                        extensions["http.response.trailers"] = {}
                    break
        if tls is not None:
            extensions["tls"] = _tls(tls)
        scope: Scope = {
            "type": "http",
            "asgi": self._asgi.copy(),
            "http_version": version,
            "method": method,
            "scheme": scheme,
            "path": path,
            "raw_path": raw,
            "query_string": query_string,
            "root_path": root,
            "headers": headers[:],
            "client": tuple(client) if client else None,
            "server": tuple(server) if server else _socket(connection),
            "extensions": extensions,
        }
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope

    def websocket(self, request: Request) -> Scope:
        """The scope of a WebSocket."""
        connection = request.connection
        path, raw, root = _path(request.path, request.root_path)
        extensions: dict[str, Any] = {"websocket.http.response": {}}
        if connection.tls is not None:
            extensions["tls"] = _tls(connection.tls)
        client, server = connection.client, connection.server
        scope: Scope = {
            "type": "websocket",
            "asgi": self._asgi.copy(),
            "http_version": request.http_version,
            "scheme": _WEBSOCKET_SCHEMES.get(connection.scheme, connection.scheme),
            "path": path,
            "raw_path": raw,
            "query_string": request.query_string,
            "root_path": root,
            "headers": request.headers[:],
            "client": tuple(client) if client else None,
            "server": tuple(server) if server else _socket(connection),
            "subprotocols": list(offered_subprotocols(request.headers)),
            "extensions": extensions,
        }
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope

    def lifespan(self, state: dict[str, Any] | None) -> Scope:
        """The scope of the application's own start and end."""
        scope: Scope = {"type": "lifespan", "asgi": {"version": self._version, "spec_version": LIFESPAN_SPEC_VERSION}}
        if state is not None:
            scope["state"] = state
        return scope


def _path(raw: bytes, root: str) -> tuple[str, bytes, str]:
    """The decoded path, the raw path and the root path of a scope, whose paths include the mount point."""
    text = raw.decode("ascii")
    path = unquote(text) if "%" in text else text
    if root and not (path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/" or root[-1] == "/")):
        # A proxy has taken the mount point off.
        path = root + path
        raw = quote(root, "/~!$&'()*+,;=:@").encode("ascii") + raw
    return path, raw, root


def _socket(connection: ConnectionInfo) -> tuple[str, None] | None:
    return (connection.socket_path, None) if connection.socket_path else None


def _tls(tls: TLSInfo) -> dict[str, Any]:
    return {
        "server_cert": tls.server_certificate,
        "client_cert_chain": list(tls.client_chain),
        "client_cert_name": tls.client_name,
        "client_cert_error": None,
        "tls_version": tls.version_number,
        "cipher_suite": tls.cipher_number,
    }
