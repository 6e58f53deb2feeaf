"""What a request is called in channel-layer messages: names, types and values as daphne's, for HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from ...core.message import Request

_ROOT_PATH = b"daphne-root-path"


def decode_path(path: bytes) -> str:
    """The path with its percent-encoding taken off: UTF-8, U+FFFD for what is not; ``+`` and ``//`` stay as they are."""
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


class RequestMessages:
    """Makes the part of a message that describes a request.

    :param root_path: the application's mount point (``SCRIPT_NAME``), decoded; the ``Daphne-Root-Path`` field takes precedence.
    :param tls_info: whether messages from TLS connections have a key ``tls``, which daphne's have not: ``{"version": str, "cipher": str}``.
    """

    __slots__ = ("_root_path", "_tls_info")

    def __init__(self, root_path: str, tls_info: bool = False) -> None:
        self._root_path = root_path
        self._tls_info = tls_info

    def http(self, request: Request, reply_channel: str, body: bytes) -> dict[str, Any]:
        """An ``http.request`` message."""
        headers, root_path = self._headers(request)
        connection = request.connection
        message: dict[str, Any] = {
            "reply_channel": reply_channel,
            "http_version": request.http_version,
            "method": request.method,
            "path": decode_path(request.path),
            "root_path": root_path,
            "scheme": connection.scheme,
            "query_string": request.query_string,
            "headers": headers,
            "body": body,
            "client": connection.client and connection.client[:],
            "server": connection.server and connection.server[:],
        }
        if self._tls_info and connection.tls is not None:
            message["tls"] = connection.tls._asdict()
        return message

    def websocket(self, request: Request, reply_channel: str) -> dict[str, Any]:
        """A ``websocket.connect`` message."""
        headers, root_path = self._headers(request)
        connection = request.connection
        message: dict[str, Any] = {
            "reply_channel": reply_channel,
            "scheme": "wss" if connection.scheme in ("https", "wss") else "ws",
            "path": decode_path(request.path),
            "root_path": root_path,
            "query_string": request.query_string,
            "headers": headers,
            "client": connection.client and connection.client[:],
            "server": connection.server and connection.server[:],
            "order": 0,
        }
        if self._tls_info and connection.tls is not None:
            message["tls"] = connection.tls._asdict()
        return message

    def _headers(self, request: Request) -> tuple[list[tuple[bytes, bytes]], str]:
        """The header fields for the application, and the root path."""
        root_path = self._root_path
        headers = []
        for field in request.headers:
            name = field[0]
            if b"_" in name:
                # CVE-2015-0219: WSGI-style environments cannot tell X_Forwarded_For from X-Forwarded-For.
                continue
            if name == _ROOT_PATH:
                if field[1].isascii():
                    root_path = unquote(field[1].decode("ascii"))
                continue
            headers.append(field)
        return headers, root_path
