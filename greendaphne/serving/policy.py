"""The rules for every request to an application of any interface: client, root path, header fields, body limit, ``Server`` field.

:class:`RequestPolicy` applies it once, between the protocols and the application.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from ..core.addresses import LOCAL, AddressList
from ..core.message import ConnectionInfo, Headers, Request, Stream, body_too_large

#: daphne's field for the mount point; never passed on to the application.
_ROOT_PATH: Final = b"daphne-root-path"
_LOCAL: Final = AddressList(LOCAL)
#: Field names remembered as those that applications may see, and the longest: a client that makes names up pays for each.
_REMEMBERED_NAMES: Final = 1024
_REMEMBERED_LENGTH: Final = 64
_plain_names: set[bytes] = set()


class RequestPolicy:
    """The rules of one server for requests.

    :param body_limit: bytes of a request body; 413 above it, 0 for no limit.
    :param root_path: percent-encoded mount point of the application.
    :param locate: returns the request with the client that proxies report; ``None`` if no proxies are configured.
    :param located: whether ``locate`` takes ``Daphne-Root-Path`` out of requests of peers that are not trusted.  Otherwise the field is
        used only from peers on this machine, because daphne deployments have their proxy there.
    :param extra_headers: fields that every HTTP response has unless the application gives them.
    :param footer: the name at the end of error pages; see :func:`greendaphne.core.errors.error_page`.
    """

    __slots__ = ("_body_limit", "_locate", "_located", "_root_path", "extra_headers", "footer")

    def __init__(
        self,
        body_limit: int = 0,
        root_path: str = "",
        locate: Callable[[Request], Request] | None = None,
        located: bool = False,
        extra_headers: Headers = (),
        footer: str | None = None,
    ) -> None:
        self._body_limit = body_limit
        self._root_path = unquote(root_path)
        self._locate = locate
        self._located = located
        #: Fields that every HTTP response has unless the application gives them.
        self.extra_headers = extra_headers
        #: The name at the end of error pages.
        self.footer = footer

    def admit(self, stream: Stream) -> Request:
        """Return the request of ``stream`` as the application gets it, and limit the body.

        ``stream.request`` keeps every header field, for the access log.

        :raises HTTPError: 413 for a body that is announced as too long.
        """
        request = stream.request
        connection = request.connection
        if self._locate is not None:
            request = stream.request = self._locate(request)
        length = request.content_length
        if length != 0 and self._body_limit:
            if length is None:
                stream.body_limit = self._body_limit
            elif length > self._body_limit:
                raise body_too_large()
        if self.extra_headers and request.upgrade != b"websocket":
            stream.extra_headers = self.extra_headers
        plain = _plain_names
        for name, _ in request.headers:
            if name not in plain:
                if b"_" in name or name == _ROOT_PATH:
                    return self._cleaned(request, connection)
                if len(plain) < _REMEMBERED_NAMES and len(name) <= _REMEMBERED_LENGTH:
                    plain.add(name)
        return request._replace(root_path=self._root_path) if self._root_path else request

    def _cleaned(self, request: Request, connection: ConnectionInfo) -> Request:
        """``request``, which came on ``connection``, without the fields that the application must not see."""
        root_path = self._root_path
        headers = []
        for field in request.headers:
            name, value = field
            if b"_" in name:
                # CVE-2015-0219: WSGI-style environments cannot tell X_Forwarded_For from X-Forwarded-For.
                continue
            if name == _ROOT_PATH:
                if self._located or _is_local(connection):
                    root_path = _root_path(value, root_path)
                continue
            headers.append(field)
        return request._replace(headers=headers, root_path=root_path)


def _is_local(connection: ConnectionInfo) -> bool:
    """Whether the peer is on this machine, and also the client in its PROXY header, because such a peer may forward requests unread."""
    client = connection.client
    peer = connection.socket_peer
    return (peer[0] if peer else None) in _LOCAL and (client[0] if client else None) in _LOCAL


def _root_path(value: bytes, default: str) -> str:
    """The mount point in a ``Daphne-Root-Path`` field; ``default`` for a value that would make links of the application unsafe.

    A mount point is empty or a path with one leading slash and no control characters.  It has no ``//`` or backslash, because the text
    after it would be a host in a link (RFC 3986 section 4.2; browsers read a backslash as a slash).
    """
    if not value.isascii():
        return default
    path = unquote(value.decode("ascii"))
    if path and (path[0] != "/" or "//" in path or "\\" in path or not path.isprintable()):
        return default
    return path
