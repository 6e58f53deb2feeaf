"""Assembles a server from a configuration and an application: endpoints, connections and monitoring.

Modules of parts that the server does not use are not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..applications.base import Application
from ..applications.interfaces import combined, make_application
from ..config import DEFAULT_HOST, Acme, Config, ConfigurationError, Limits, Monitoring, Timeouts, Tls
from ..core.message import Headers, Stream
from ..core.observer import Observer, combine
from ..http2 import Http2Limits
from ..net.endpoints import Endpoint, EndpointError, innermost, parse
from ..net.endpoints.descriptions import listening_options
from ..net.endpoints.tcp import TCPEndpoint
from ..net.proxy_protocol import ProxyProtocol
from ..serving.connections import Connections
from ..serving.exchange import Exchange, Handler
from ..serving.failurepage import FailureNotice
from ..serving.forwarded import locator
from ..serving.hosts import AllowedHosts
from ..serving.localpages import LocalPages
from ..serving.overload import Overload
from ..serving.policy import RequestPolicy
from ..serving.session import Sessions

if TYPE_CHECKING:
    from ..acme import AcmeOptions
    from ..acme.service import Service
    from ..monitoring.metrics import Metrics
    from ..monitoring.monitor import Monitor
    from ..websocket import WebSocket
    from ..websocket.deflate import Compression

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of one server."""

    #: The endpoints to listen on, without the monitor's.
    endpoints: list[Endpoint]
    timeouts: Timeouts
    application: Application
    #: The channel layers that it serves.
    channel_layers: list[Any]
    sessions: Sessions
    exchange: Exchange
    connections: Connections
    #: The bounds on memory, disk and descriptors that clients take.
    overload: Overload
    #: Health checks, metrics and the watchdog; ``None`` without them.
    monitor: Monitor | None
    #: Obtains certificates from an authority; ``None`` without an endpoint that requests them.
    certificates: Service | None
    #: Whether plain connections may speak HTTP/2.
    http2_cleartext: bool
    #: Shows browsers why changed code does not load; ``None`` unless files are watched.
    failure_notice: FailureNotice | None


def assemble(
    config: Config,
    descriptions: Sequence[str],
    channel_layer: Any,
    application: Any,
    observers: Sequence[Observer],
    on_exit: Callable[[], None],
) -> Assembly:
    """Return the parts of a server for ``config``; opens and starts nothing.

    :param descriptions: strings of the endpoints to listen on.
    :param channel_layer: the channel layer to serve without an ``application``.
    :param observers: receive the outcome of requests and WebSockets.
    :param on_exit: called when the loss of the channel layer has to end the server; must not wait.
    :raises EndpointError: for a malformed endpoint string, and for certificates that cannot be obtained.
    :raises ConfigurationError: for values that contradict each other or that a protocol forbids, and for metrics without
        ``prometheus_client``.
    """
    limits, timeouts = config.limits, timeouts_for(config.timeouts, channel_layer)
    plain = [parse(description) for description in descriptions]
    for endpoint in plain:
        endpoint.configure(listening_options(config.listening))
    endpoints = with_tls(plain, config.tls)
    monitor = monitor_for(config.monitoring)
    metrics = None if monitor is None else monitor.metrics
    observer = combine([*observers, *(() if monitor is None else monitor.observers)])
    overload = Overload(limits, config.processes.workers)
    counted = metrics is not None

    layers: list[Any] = []

    def serve_layer(layer: Any) -> Application:
        layers.append(layer)
        return channel_layer_application(layer, limits, timeouts, config, on_exit, overload, counted=counted)

    main = serve_layer(channel_layer) if application is None else make_application(application, config)
    application = combined(main, config, serve_layer)
    if channel_layer is None and layers:
        timeouts = timeouts_for(config.timeouts, layers[0])
    certificates = certificates_for(endpoints, config.acme)
    handler: Handler = AllowedHosts(application, config.allowed_hosts) if config.allowed_hosts else application
    pages = LocalPages(handler)
    if certificates is not None:
        certificates.add_pages(pages)
    if monitor is not None:
        monitor.add_pages(pages, application.health)
    sessions = Sessions(websocket_maker(config, limits, timeouts, metrics), timeouts, observer, config.websockets.allow_origin)
    notice = FailureNotice(pages or handler) if config.processes.reload else None
    exchange = Exchange(notice or pages or handler, sessions, policy(config, compatible=channel_layer is not None), observer)
    connection_meter = None
    if metrics is not None:
        from ..monitoring.instruments import ConnectionMeter, metered_serve

        connection_meter = ConnectionMeter(metrics)
        # It counts the streams in it.
        exchange.detaches = False
        exchange.serve = metered_serve(metrics, exchange.serve)  # type: ignore[assignment,method-assign]
    http2 = http2_limits(config)
    proxy_protocol = ProxyProtocol(config.proxies.allow_from)
    connections = Connections(
        exchange, limits, timeouts, http2, http2.cleartext, proxy_protocol, connection_meter, overload, config.proxies.forwarded_allow_ips
    )
    if monitor is not None and metrics is not None:
        monitor.watch(connections, endpoints)
        metrics.add_source(application.metric_families)
        if certificates is not None:
            metrics.add_source(certificates.families)
    return Assembly(
        endpoints, timeouts, application, layers, sessions, exchange, connections, overload, monitor, certificates, http2.cleartext, notice
    )


def channel_layer_application(
    layer: Any, limits: Limits, timeouts: Timeouts, config: Config, on_exit: Callable[[], None], overload: Overload, *, counted: bool
) -> Application:
    """The application that serves requests from ``layer``.

    :param overload: the server's memory and disk for clients.
    :param counted: whether there are metrics.
    """
    from ..applications.channels.application import ChannelLayerApplication

    meter = None
    if counted:
        from ..applications.channels.meter import LayerMeter

        meter = LayerMeter()
    return ChannelLayerApplication(layer, limits, timeouts, config.channels, on_exit=on_exit, meter=meter, overload=overload)


def websocket_maker(config: Config, limits: Limits, timeouts: Timeouts, metrics: Metrics | None) -> Callable[[Stream], WebSocket]:
    """The function that creates the WebSocket of a stream."""
    meter = None
    if metrics is not None:
        from ..monitoring.instruments import MessageMeter

        meter = MessageMeter(metrics)
    options: dict[str, Any] = {
        "limits": limits,
        "timeouts": timeouts,
        "protocols": config.websockets.protocols,
        "compression": compression_for(config),
        "server_name": None if config.no_server_name else config.server_name.encode("ascii") if config.server_name else b"Daphne",
        "meter": meter,
    }

    def make(stream: Stream) -> WebSocket:
        # A server without WebSockets does without what this imports.
        from ..websocket.connection import WebSocket

        return WebSocket(stream, **options)

    return make


def compression_for(config: Config) -> bool | Compression:
    """What the server agrees to of permessage-deflate.

    :raises ConfigurationError: for a window that zlib does not have.
    """
    websockets = config.websockets
    if not 9 <= websockets.window_bits <= 15:
        raise ConfigurationError(f"must be a number from 9 to 15, not {websockets.window_bits}", "websockets.window_bits")
    if not websockets.compression:
        return False
    from ..websocket.deflate import Compression

    return Compression(keeps=websockets.keep_context, window_bits=websockets.window_bits, bound=config.limits.websocket_contexts)


def timeouts_for(timeouts: Timeouts, channel_layer: Any) -> Timeouts:
    """``timeouts`` with a maximum lifetime of WebSockets where the configuration sets none.

    Groups of a channel layer drop a WebSocket after ``group_expiry``; for other applications the lifetime is unlimited.
    """
    if channel_layer is None:
        return timeouts if timeouts.websocket is not None else replace(timeouts, websocket=-1)
    return replace(timeouts, websocket=timeouts.websocket or getattr(channel_layer, "group_expiry", None) or timeouts.websocket_lifetime)


def policy(config: Config, *, compatible: bool = True) -> RequestPolicy:
    """The rules for every request.

    :param compatible: whether error pages are daphne's where daphne has them.
    """
    named = config.server_name and not config.no_server_name
    extra: Headers = [(b"Server", config.server_name.encode("ascii"))] if config.server_name and named else ()
    listed = config.proxies.forwarded_allow_ips is not None
    return RequestPolicy(
        config.limits.request_body, config.root_path, locate(config), listed, extra, config.server_name or (None if compatible else "")
    )


def locate(config: Config) -> Any:
    """The function that puts the client reported by proxies into requests; ``None`` where no proxy is trusted."""
    proxies = config.proxies
    fields = proxies.forwarded_headers
    if proxies.headers_host is not None or proxies.headers_port is not None:
        fields = fields._replace(address=proxies.headers_host or fields.address, port=proxies.headers_port or fields.port)
    believed = proxies.headers or proxies.forwarded_allow_ips is not None
    return locator(proxies.forwarded_allow_ips, *(fields if believed else (None, None, None)))


def http2_limits(config: Config) -> Http2Limits:
    """The limits of HTTP/2 connections.

    :raises ConfigurationError: for a value that the protocol does not allow.
    """
    try:
        return _checked(Http2Limits, config.http2)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigurationError(rest, f"http2.{name}") from None


def monitor_for(monitoring: Monitoring) -> Monitor | None:
    """The monitor of the server, ``None`` without monitoring.

    :raises EndpointError: for a malformed endpoint string.
    :raises ConfigurationError: for metrics without ``prometheus_client``.
    """
    if monitoring == Monitoring():
        return None
    from ..monitoring.monitor import Monitor

    metrics = None if monitoring.metrics is None else on_loopback(parse(monitoring.metrics))
    if metrics is not None or monitoring.metrics_path is not None:
        try:
            from ..monitoring import exposition  # noqa: F401 - what it imports may be missing
        except ImportError as error:
            raise ConfigurationError(str(error)) from None
    return Monitor(monitoring.health_path, monitoring.metrics_path, metrics, monitoring.watchdog)


def on_loopback(endpoint: Endpoint) -> Endpoint:
    """``endpoint``, on loopback where it is a TCP port without an interface: metrics tell much, and are not for everybody.

    ``interface=0.0.0.0`` and ``interface=::`` are every interface.
    """
    inner = innermost(endpoint)
    if isinstance(inner, TCPEndpoint) and not inner.interface:
        inner.interface = DEFAULT_HOST
    return endpoint


def with_tls(endpoints: list[Endpoint], tls: Tls) -> list[Endpoint]:
    """``endpoints`` with TLS where configured, all with the same options.

    :raises EndpointError: where a certificate for development cannot be created.
    :raises ConfigurationError: where values contradict each other.
    """
    certfile, keyfile = tls.certfile, tls.keyfile
    if certfile is None and tls.dev:
        from ..net.tls import TLSError, development_certificate

        try:
            certfile, keyfile = development_certificate(), None
        except TLSError as error:
            raise EndpointError(f"{error}.") from None
    if certfile is not None:
        from ..net.tls.endpoints import wrap

        endpoints = [wrap(endpoint, certfile, keyfile) for endpoint in endpoints]
    if replace(tls, certfile=None, keyfile=None, dev=False) != Tls():
        from ..net.tls import TLSError, TLSOptions

        try:
            options = TLSOptions(tls.alpn, tls.client_ca, tls.verify, tls.keyfile_password, tls.keyfile_password_file)
        except TLSError as error:
            raise ConfigurationError(f"{error}.") from None
        for endpoint in endpoints:
            if endpoint.tls is not None:
                endpoint.tls.configure(options)
    return endpoints


def acme_options(acme: Acme) -> AcmeOptions | None:
    """The options for certificates from an authority; ``None`` where none is set.

    :raises ConfigurationError: for contradictory options, and for a file that cannot be read.
    """
    if acme == Acme():
        return None
    from ..acme import AcmeError, AcmeOptions

    try:
        return _checked(AcmeOptions, acme)
    except AcmeError as error:
        raise ConfigurationError(f"{error}.") from None


def certificates_for(endpoints: list[Endpoint], acme: Acme) -> Service | None:
    """The service that obtains certificates for ``endpoints``, ``None`` where none of them requests it.

    :raises EndpointError: for domains without an endpoint that obtains certificates.
    :raises ConfigurationError: as :func:`acme_options`.
    """
    options = acme_options(acme)
    if not any(endpoint.tls is not None and endpoint.tls.authority for endpoint in endpoints):
        if options is not None and options.domains:
            raise EndpointError("There are domains to obtain certificates for, but no le:, lets: or acme: endpoint.")
        return None
    from ..acme.service import Service

    return Service(endpoints, options)


def _checked(kind: type[Group], group: Any) -> Group:
    """``group`` of the configuration as the protocol's own class ``kind``, which validates it."""
    return group if isinstance(group, kind) else kind(**{each.name: getattr(group, each.name) for each in fields(group)})
