"""The server as a class: daphne's keyword arguments and :class:`~greendaphne.config.Config` to a server that starts and stops.

:class:`Server` takes the keyword arguments of daphne 1.4.2's class and works where that one did: as a process' only job, in a thread of
Django's ``runserver``, in a test.  It needs no monkey-patching, installs signal handlers only when asked, and never configures logging.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .config import Config
from .logs.access import ActionLogger, ActionObserver, guarded
from .net.endpoints import EndpointError, build_endpoint_description_strings
from .net.endpoints.check import check_endpoints
from .net.endpoints.descriptions import descriptions
from .net.listeners import ListeningAddress
from .running.assembly import assemble
from .running.runner import Runner
from .settings.django import django_config
from .settings.keywords import OBJECTS, configuration

if TYPE_CHECKING:
    from typing_extensions import Self

    from .applications.base import Application
    from .monitoring.metrics import Metrics

logger = logging.getLogger("daphne.server")


class Factory:
    """The attributes of daphne's factory that other code reads."""

    def __init__(self, application: Application) -> None:
        self._application = application

    @property
    def reply_protocols(self) -> dict[str, Any]:
        """The clients by reply channel; empty for an application without a channel layer."""
        router = getattr(self._application, "router", None)
        return {} if router is None else router.clients


class Server(Runner):
    """A protocol server in front of an application.

    The positional and first keyword arguments are daphne 1.4.2's.  A given keyword takes precedence over ``config``; ``None`` means not
    given.  ``host``, ``port``, ``unix_socket`` and ``file_descriptor`` are deprecated in daphne already.  ``verbosity`` and
    ``websocket_handshake_timeout`` are accepted and have no effect.

    :param channel_layer: the channel layer to serve.
    :param endpoints: endpoint strings; see :mod:`greendaphne.net.endpoints`.
    :param signal_handlers: whether :meth:`run` stops on SIGTERM and SIGINT, reloads on SIGHUP and reopens logs on SIGUSR1; only in the
        main thread.  Nothing else handles signals.
    :param action_logger: see :mod:`greendaphne.logs.access`.
    :param http_timeout: seconds, as the other times; see :class:`greendaphne.config.Timeouts` for their defaults.
    :param ws_protocols: WebSocket subprotocols that the server accepts, or one of them.
    :param root_path: percent-encoded mount point of the application.
    :param proxy_forwarded_address_header: name of the field with the client's address, likewise port and scheme; trusted from every peer
        unless ``config.proxies.forwarded_allow_ips`` lists the trusted ones.
    :param force_sync: poll the channel layer even if it supports waiting.
    :param application: a WSGI or ASGI application to serve instead of a channel layer, according to ``config.application``, or an
        :class:`~greendaphne.applications.base.Application`.
    :param config: everything else; see :class:`greendaphne.config.Config`.  By default, in a process with Django's settings, their
        ``GREENDAPHNE`` and the environment.
    :param keywords: ``observers``, which receive the outcome of requests and WebSockets (:mod:`greendaphne.core.observer`); ``lifecycle``,
        which receives the stages of :meth:`serve_forever`; ``reopen_logs``, called by :meth:`reopen`; and the keywords of version 1.0, see
        :mod:`greendaphne.settings.keywords`.
    :raises TypeError: for an unknown keyword, and unless there is either a channel layer or an application.
    :raises UserWarning: without any endpoint, as daphne does.
    :raises EndpointError: for a malformed endpoint string.
    :raises ValueError: for a value that cannot be used.
    """

    def __init__(
        self,
        channel_layer: Any = None,
        host: str | None = None,
        port: int | None = None,
        endpoints: Iterable[str] | None = None,
        unix_socket: str | None = None,
        file_descriptor: int | None = None,
        signal_handlers: bool = True,
        action_logger: ActionLogger | None = None,
        http_timeout: float | None = None,
        websocket_timeout: float | None = None,
        websocket_connect_timeout: float | None = None,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        ws_protocols: Iterable[str] | str | None = None,
        root_path: str | None = None,
        proxy_forwarded_address_header: str | None = None,
        proxy_forwarded_port_header: str | None = None,
        proxy_forwarded_proto_header: str | None = None,
        force_sync: bool | None = None,
        verbosity: int | None = None,
        websocket_handshake_timeout: float | None = None,
        *,
        application: Any = None,
        config: Config | None = None,
        **keywords: Any,
    ) -> None:
        if (channel_layer is None) == (application is None):
            raise TypeError("Server() takes either a channel layer or an application")
        observers, lifecycle, reopen_logs = (keywords.pop(name, None) for name in OBJECTS)
        keywords |= {
            "http_timeout": http_timeout,
            "websocket_timeout": websocket_timeout,
            "websocket_connect_timeout": websocket_connect_timeout,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "ws_protocols": ws_protocols,
            "root_path": root_path,
            "proxy_forwarded_address_header": proxy_forwarded_address_header,
            "proxy_forwarded_port_header": proxy_forwarded_port_header,
            "proxy_forwarded_proto_header": proxy_forwarded_proto_header,
            "force_sync": force_sync,
            "verbosity": verbosity,
            "endpoints": endpoints,
        }
        #: The effective configuration.
        self.config = configuration(django_config() if config is None else config, keywords)
        self.endpoints: list[str] = descriptions(self.config)
        if host is not None or port is not None or unix_socket is not None or file_descriptor is not None:
            warnings.warn(
                f"The host/port/unix_socket/file_descriptor keyword arguments to {type(self).__name__} are deprecated.",
                DeprecationWarning,
                stacklevel=2,
            )
            self.endpoints = sorted(self.endpoints + build_endpoint_description_strings(host, port, unix_socket, file_descriptor))
        if not self.endpoints:
            raise UserWarning("No endpoints. This server will not listen on anything.")
        self.signal_handlers = signal_handlers
        everyone = [*(observers or ())]
        if action_logger is not None:
            everyone.insert(0, ActionObserver(guarded(action_logger)))
        parts = assemble(self.config, self.endpoints, channel_layer, application, everyone, self._give_up)
        super().__init__(parts, tuple(lifecycle or ()), reopen_logs)
        #: The channel layer, ``None`` for another application.
        self.channel_layer = channel_layer
        self.limits = self.config.limits
        #: Has ``reply_protocols``, the reply channels of all clients, under daphne's name.
        self.factory = Factory(parts.application)

    def check(self) -> None:
        """Find errors that would prevent :meth:`start` from listening; opens no socket.

        :raises EndpointError: as :func:`greendaphne.net.endpoints.check.check_endpoints`.
        :raises ConfigurationError: where the application cannot serve.
        """
        check_endpoints(self._endpoints)
        if self._monitor is not None:
            check_endpoints(self._monitor.endpoints)
        self._application.check()

    def run(self) -> None:
        """Serve until a signal or :meth:`stop`, then stop gracefully.

        :raises SystemExit: with 1 if an endpoint cannot be listened on, or if the channel layer's failure has to end the process; the
            reason is logged.
        """
        try:
            self._open()
        except EndpointError as error:
            logger.error("%s", error)
            raise SystemExit(1) from None
        self._serve(signal_handlers=self.signal_handlers, announce=True)
        if self._failed:
            raise SystemExit(1)

    def __enter__(self) -> Self:
        """Start the server; it serves while the block lets other greenlets run."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Stop the server and wait for its end; without the graceful time if the block was interrupted or killed."""
        try:
            if kind is None or issubclass(kind, Exception):
                self.stop()
                self.join()
        finally:
            self._abandon()

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """The addresses of the listeners, in the order of the endpoints: host and port, or the path of a UNIX socket."""
        return [address.host if address.port is None else (address.host, address.port) for address in self._addresses()]

    @property
    def port(self) -> int:
        """The port of the first TCP endpoint, also one that the system chose.

        :raises RuntimeError: without such a listener.
        """
        for address in self._addresses():
            if address.port is not None:
                return address.port
        raise RuntimeError("the server does not listen on a TCP port")

    def _addresses(self) -> list[ListeningAddress]:
        return [listener.address for listener in self.listeners]

    @property
    def metrics(self) -> Metrics | None:
        """The metrics, ``None`` if they are not configured; further sources can be added before :meth:`start`."""
        return None if self._monitor is None else self._monitor.metrics
