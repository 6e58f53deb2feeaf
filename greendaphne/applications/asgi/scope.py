"""The scope of a request: what an ASGI application is told before the first event (ASGI HTTP and WebSocket 2.5, TLS extension 0.2)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote

from ...core.message import Address, ConnectionInfo, Request, accepts_trailers
from ...core.tlsinfo import TLSInfo
from ...websocket.handshake import offered_subprotocols

#: The version of the HTTP and WebSocket specification.
SPEC_VERSION: Final = "2.5"
LIFESPAN_SPEC_VERSION: Final = "2.0"

_WEBSOCKET_SCHEMES: Final = {"http": "ws", "https": "wss"}

Scope = dict[str, Any]


class Scopes:
    """Makes the scopes of one application.

    :param version: of ASGI, ``"3.0"`` or ``"2.0"``.
    """

    __slots__ = ("_version", "state")

    def __init__(self, version: str) -> None:
        self._version = version
        #: What the application left in its lifespan's state; ``None`` without lifespan.
        self.state: dict[str, Any] | None = None

    def http(self, request: Request) -> Scope:
        """The scope of an HTTP request; every container in it is new, since applications change them."""
        scope = self._common(request, "http", request.connection.scheme)
        scope["method"] = request.method
        version = request.http_version
        extensions: dict[str, Any] = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
        if version != "1.0":
            extensions["http.response.early_hint"] = {}
            if accepts_trailers(request):
                extensions["http.response.trailers"] = {}
        if request.connection.tls is not None:
            extensions["tls"] = _tls(request.connection.tls)
        scope["extensions"] = extensions
        return scope

    def websocket(self, request: Request) -> Scope:
        """The scope of a WebSocket."""
        scheme = request.connection.scheme
        scope = self._common(request, "websocket", _WEBSOCKET_SCHEMES.get(scheme, scheme))
        scope["subprotocols"] = list(offered_subprotocols(request.headers))
        extensions: dict[str, Any] = {"websocket.http.response": {}}
        if request.connection.tls is not None:
            extensions["tls"] = _tls(request.connection.tls)
        scope["extensions"] = extensions
        return scope

    def lifespan(self, state: dict[str, Any] | None) -> Scope:
        """The scope of the application's own start and end."""
        scope: Scope = {"type": "lifespan", "asgi": {"version": self._version, "spec_version": LIFESPAN_SPEC_VERSION}}
        if state is not None:
            scope["state"] = state
        return scope

    def _common(self, request: Request, kind: str, scheme: str) -> Scope:
        connection = request.connection
        raw = request.path
        root = request.root_path
        text = raw.decode("ascii")
        path = unquote(text) if "%" in text else text
        if root and not (path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/" or root[-1] == "/")):
            # A proxy has taken the mount point off, and the path of a scope includes it.
            path = root + path
            raw = quote(root, "/~!$&'()*+,;=:@").encode("ascii") + raw
        scope: Scope = {
            "type": kind,
            "asgi": {"version": self._version, "spec_version": SPEC_VERSION},
            "http_version": request.http_version,
            "scheme": scheme,
            "path": path,
            "raw_path": raw,
            "query_string": request.query_string,
            "root_path": root,
            "headers": request.headers[:],
            "client": _address(connection.client),
            "server": _server(connection),
        }
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope


def _address(address: Address) -> tuple[object, ...] | None:
    return tuple(address) if address else None


def _server(connection: ConnectionInfo) -> tuple[object, ...] | None:
    if connection.server:
        return tuple(connection.server)
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
