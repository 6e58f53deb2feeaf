"""Refuses requests for hosts other than the site's with 421 (RFC 9110 section 15.5.20) before they reach the application.

The server answers its own pages for any host, because most health checks are sent to an address.
"""

from __future__ import annotations

from ..core.message import HTTPError, Request, Stream
from ..core.origins import HostList
from . import exchange
from .session import Session


class AllowedHosts:
    """A handler of an exchange that passes requests for known hosts on.

    :param inner: the application.
    :param hosts: the hosts.
    """

    def __init__(self, inner: exchange.Handler, hosts: HostList) -> None:
        self._inner = inner
        self._hosts = hosts

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request``; see :class:`.exchange.Handler`.

        :raises HTTPError: 421 for another host.
        """
        self._check(request)
        self._inner.http(request, stream)

    def websocket(self, request: Request, session: Session) -> None:
        """Serve a WebSocket; likewise."""
        self._check(request)
        self._inner.websocket(request, session)

    def _check(self, request: Request) -> None:
        if not self._hosts.allow(request):
            raise HTTPError(421, "This server does not answer for this host.")
