"""What a request is called in channel-layer messages: names, types and values as daphne's, for HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from ...core.message import Request


def decode_path(path: bytes) -> str:
    """The path with its percent-encoding taken off: UTF-8, U+FFFD for what is not; ``+`` and ``//`` stay as they are."""
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


class RequestMessages:
    """Makes the part of a message that describes a request.

    :param tls_info: whether messages from TLS connections have a key ``tls``, which daphne's have not; see
        :meth:`greendaphne.core.tlsinfo.TLSInfo.message`.
    """

    __slots__ = ("_tls_info",)

    def __init__(self, tls_info: bool = False) -> None:
        self._tls_info = tls_info

    def http(self, request: Request, reply_channel: str, body: bytes) -> dict[str, Any]:
        """An ``http.request`` message."""
        # Faster than an attribute each.
        method, _, path, query_string, http_version, headers, _, _, connection, root_path = request
        message: dict[str, Any] = {
            "reply_channel": reply_channel,
            "http_version": http_version,
            "method": method,
            "path": decode_path(path),
            "root_path": root_path,
            "scheme": connection.scheme,
            "query_string": query_string,
            "headers": headers[:],
            "body": body,
            "client": connection.client and connection.client[:],
            "server": connection.server and connection.server[:],
        }
        if self._tls_info and connection.tls is not None:
            message["tls"] = connection.tls.message()
        return message

    def websocket(self, request: Request, reply_channel: str) -> dict[str, Any]:
        """A ``websocket.connect`` message."""
        connection = request.connection
        message: dict[str, Any] = {
            "reply_channel": reply_channel,
            "scheme": "wss" if connection.scheme in ("https", "wss") else "ws",
            "path": decode_path(request.path),
            "root_path": request.root_path,
            "query_string": request.query_string,
            "headers": request.headers[:],
            "client": connection.client and connection.client[:],
            "server": connection.server and connection.server[:],
            "order": 0,
        }
        if self._tls_info and connection.tls is not None:
            message["tls"] = connection.tls.message()
        return message
