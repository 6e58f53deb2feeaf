"""The seam between the server and what answers its requests.

:class:`Application` is the base class of every application interface.  The server calls it with parsed requests and with WebSocket
sessions; the application never sees a socket.  Everything that holds for all interfaces (the body limit, the root path, header fields that
are dropped, the accept deadline and the lifetime of WebSockets, draining, observers) has been applied by ``serving`` before.

This module imports ``core`` and ``serving``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ..core.message import HTTPError, Request, Stream
from ..serving.session import Session


class Application:
    """Answers requests.  A subclass implements :meth:`http` and, where it speaks WebSocket, :meth:`websocket`.

    All methods run in the server's hub.  :meth:`http` and :meth:`websocket` run in the greenlet of their connection or stream, and may
    block cooperatively.
    """

    #: The name of the interface, for logs and metrics.
    interface: ClassVar[str] = "application"

    def http(self, request: Request, stream: Stream) -> None:
        """Answer ``request`` on ``stream`` and return once the response is complete.

        :raises Exception: as :class:`greendaphne.serving.exchange.Exchange` translates exceptions.
        """
        raise NotImplementedError

    def websocket(self, request: Request, session: Session) -> None:
        """Serve one WebSocket, from its opening handshake to its end; the default refuses it with 403.

        Returning while the WebSocket is open closes it with 1000.
        """
        session.reject()

    def check(self) -> None:
        """Find what would keep the application from serving, without starting it (``--check-config``).

        :raises greendaphne.config.ConfigurationError: for a configuration in which the application cannot answer.
        """

    def start(self) -> None:
        """Get ready, before the first connection is accepted; called again where the server is started again.

        :raises greendaphne.config.ConfigurationError: where it cannot; the server does not start then.
        """

    def drain(self, *, succeeded: bool = False) -> None:
        """Get ready to end; requests and WebSockets in flight go on.  Must not wait.

        :param succeeded: whether other processes serve the same site on, so that work which is not part of an open request of this server
            is theirs.  Called again without it where these processes end as well.
        """

    def stop(self, patience: float = 0, *, at_once: bool = False) -> None:
        """End, after the last connection has ended.

        :param patience: seconds that are left of the graceful time.
        :param at_once: whether to cut short what the application still does by itself.
        """

    def end_now(self) -> None:
        """Cut short what the application does, also in :meth:`stop`: a second signal asks for it.  Must not wait."""

    def health(self) -> str:
        """Return why the application cannot serve now, in a few words for a health check, or ``""`` where it can; may wait a second."""
        return ""

    def metric_families(self) -> Iterable[Any]:
        """Return the application's own metrics, as :mod:`greendaphne.monitoring.families` makes them; called for each scrape."""
        return ()


class NotFound(Application):
    """Answers every request with 404: a server that has no application, such as one for health checks only."""

    def http(self, request: Request, stream: Stream) -> None:
        raise HTTPError(404, "There is no application at this path.")
