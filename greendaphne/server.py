"""The server: endpoints, connections, the channel layer's side and inline workers, started together and stopped in good order.

:class:`Server` takes the keyword arguments of daphne 1.4.2's class and works where that one did: as a process' only job, in a thread of
Django's ``runserver``, in a test.  It needs no monkey-patching, installs signal handlers only when asked, and never configures logging.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub
from gevent.event import Event

from .applications.channels import ChannelLayerApplication, OnLayerLoss
from .applications.channels.inline import all_down, check_workers, start_workers, stop_workers
from .applications.channels.mailbox import Mailbox
from .config import Limits, Timeouts
from .core.addresses import AddressList
from .core.converters import field_value
from .core.message import Headers, Stream
from .core.observer import Observer, combine
from .http2 import Http2Limits
from .logs.access import ActionLogger, ActionObserver, guarded
from .net.endpoints import EndpointError, ListeningOptions, build_endpoint_description_strings, parse
from .net.listeners import Listener, Listeners, ListeningAddress
from .net.proxy_protocol import ProxyProtocol
from .processes.lifecycle import Lifecycle
from .processes.signals import handle_signals
from .serving.assembly import certificates, monitor, with_tls
from .serving.forwarded import locator
from .serving.lifetime import Lifetime
from .serving.localpages import LocalPages
from .serving.parts import Parts
from .settings.check import check_endpoints
from .websocket import WebSocket

if TYPE_CHECKING:
    from typing_extensions import Self

    from .acme import AcmeOptions
    from .monitoring.metrics import Metrics
    from .net.tls import TLSOptions

logger = logging.getLogger("daphne.server")

#: Seconds that a WebSocket may live where the channel layer does not say how long a group membership lasts.
_WEBSOCKET_TIMEOUT = 86400
#: Seconds for workers in this process to begin to read a layer inside of it, before it is an error that there are none.
_UNSERVED_PATIENCE = 2.0
#: Seconds for connections that are cut short to release what they hold.
_KILL_PATIENCE = 5.0


class Server:
    """A protocol server in front of a channel layer.

    The positional and first keyword arguments are daphne 1.4.2's; ``host``, ``port``, ``unix_socket`` and ``file_descriptor`` are
    deprecated there already.  ``verbosity`` and ``websocket_handshake_timeout`` are accepted and have no meaning here.

    :param channel_layer: the channel layer.
    :param endpoints: endpoint strings; see :mod:`greendaphne.net.endpoints`.
    :param signal_handlers: whether :meth:`run` stops on SIGTERM and SIGINT, reloads on SIGHUP and reopens logs on SIGUSR1; only in the
        main thread.  Nothing else handles signals.
    :param action_logger: see :mod:`greendaphne.logs.access`.
    :param http_timeout: seconds; replaces ``timeouts.http`` unless it is ``None``, as the other times replace theirs.
    :param websocket_timeout: seconds; 0 and ``None`` stand for the layer's ``group_expiry``, negative for no limit.
    :param ws_protocols: WebSocket subprotocols that the server accepts.
    :param root_path: percent-encoded mount point of the application.
    :param proxy_forwarded_address_header: name of the field with the client's address, likewise port and scheme.
    :param forwarded_allow_ips: the proxies that are believed in these fields, as :class:`greendaphne.core.addresses.AddressList` or its text;
        without names of fields it is ``X-Forwarded-For``, ``-Port`` and ``-Proto``.  Without a list everybody is believed.
    :param force_sync: poll the channel layer even where it can wait.
    :param limits: see :class:`greendaphne.config.Limits`.
    :param timeouts: see :class:`greendaphne.config.Timeouts`.
    :param stream_request_body: pass large bodies on while the client still sends.
    :param server_name: value of the ``Server`` field; without it HTTP responses have none and WebSocket handshakes say ``Daphne``.
    :param inline_workers: number of workers of the application that run inside the server.
    :param websocket_compression: whether to agree to permessage-deflate.
    :param certfile: PEM file with a certificate and its chain, for every endpoint without TLS of its own.
    :param keyfile: PEM file with the private key; by default ``certfile``.
    :param tls_options: what holds for all endpoints with TLS.
    :param tls_dev: put a self-signed certificate for development on every endpoint without TLS of its own.
    :param http2_limits: see :class:`greendaphne.http2.Http2Limits`.
    :param http2_cleartext: whether plain connections may speak HTTP/2 from their first byte.
    :param on_layer_loss: what to do once the layer may have lost messages and groups: ``shed`` closes all WebSockets with 1012, ``keep``
        lets them be, ``exit`` ends :meth:`run` in good order and with exit code 1.
    :param reply_channels: number of lists in the layer that replies are spread over.
    :param acme: what holds for all endpoints that obtain their certificates; see :class:`greendaphne.acme.AcmeOptions`.
    :param listening: what holds for all endpoints that do not say it themselves.
    :param proxy_allow_from: who may send PROXY headers, on endpoints that have them; by default peers on this machine.
    :param observers: are told what becomes of requests and WebSockets; see :mod:`greendaphne.core.observer`.
    :param reopen_logs: called by :meth:`reopen`.
    :param health_path: path that answers health checks, without the application.
    :param metrics_path: path that answers Prometheus with :attr:`metrics`; needs ``prometheus_client``.
    :param metrics: endpoint string of a listening socket for nothing but these two, ``/metrics`` and ``/health`` unless they say otherwise.
    :param watchdog: seconds after which a blocked hub is logged, with what blocks it; 0 for never.
    :param lifecycle: who hears of the stages of :meth:`serve_forever`.
    :raises UserWarning: without any endpoint, as daphne does.
    :raises EndpointError: for a malformed endpoint string.
    :raises ValueError: for a ``server_name`` that no header field can have, or a wrong ``forwarded_allow_ips``.
    """

    def __init__(
        self,
        channel_layer: Any,
        host: str | None = None,
        port: int | None = None,
        endpoints: Iterable[str] | None = None,
        unix_socket: str | None = None,
        file_descriptor: int | None = None,
        signal_handlers: bool = True,
        action_logger: ActionLogger | None = None,
        http_timeout: float | None = 120,
        websocket_timeout: float | None = None,
        websocket_connect_timeout: float | None = 20,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 30,
        ws_protocols: Sequence[str] | str | None = None,
        root_path: str = "",
        proxy_forwarded_address_header: str | None = None,
        proxy_forwarded_port_header: str | None = None,
        proxy_forwarded_proto_header: str | None = None,
        force_sync: bool = False,
        verbosity: int = 1,
        websocket_handshake_timeout: float = 5,
        *,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        stream_request_body: bool = False,
        server_name: str | None = None,
        inline_workers: int = 0,
        websocket_compression: bool = False,
        certfile: str | None = None,
        keyfile: str | None = None,
        tls_options: TLSOptions | None = None,
        tls_dev: bool = False,
        http2_limits: Http2Limits | None = None,
        http2_cleartext: bool = False,
        on_layer_loss: str = OnLayerLoss.SHED,
        reply_channels: int = 1,
        listening: ListeningOptions | None = None,
        acme: AcmeOptions | None = None,
        proxy_allow_from: AddressList | str | None = None,
        forwarded_allow_ips: AddressList | str | None = None,
        observers: Sequence[Observer] = (),
        reopen_logs: Callable[[], None] | None = None,
        lifecycle: Iterable[Lifecycle] = (),
        health_path: str | None = None,
        metrics_path: str | None = None,
        metrics: str | None = None,
        watchdog: float = 0,
    ) -> None:
        descriptions = list(endpoints or ())
        if host is not None or port is not None or unix_socket is not None or file_descriptor is not None:
            warnings.warn(
                f"The host/port/unix_socket/file_descriptor keyword arguments to {type(self).__name__} are deprecated.",
                DeprecationWarning,
                stacklevel=2,
            )
            descriptions = sorted(descriptions + build_endpoint_description_strings(host, port, unix_socket, file_descriptor))
        if not descriptions:
            raise UserWarning("No endpoints. This server will not listen on anything.")
        self.endpoints: list[str] = descriptions
        self.channel_layer = channel_layer
        self.signal_handlers = signal_handlers
        plain = [parse(description) for description in descriptions]
        for endpoint in plain:
            endpoint.configure(listening or ListeningOptions())
        self._endpoints = with_tls(plain, certfile, keyfile, tls_options, tls_dev)
        self.limits = limits or Limits()
        given = {
            "http": http_timeout,
            "websocket": websocket_timeout or getattr(channel_layer, "group_expiry", None) or _WEBSOCKET_TIMEOUT,
            "websocket_connect": websocket_connect_timeout,
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
        }
        self.timeouts = replace(timeouts or Timeouts(), **{name: value for name, value in given.items() if value is not None})
        self._inline_workers = inline_workers
        self._lifecycle = tuple(lifecycle)
        self._monitor = monitor(health_path, metrics_path, metrics, watchdog)
        self._parts = Parts() if self._monitor is None else self._monitor.parts
        everyone = [*observers, *(self._monitor.observers if self._monitor is not None else ())]
        if action_logger is not None:
            everyone.insert(0, ActionObserver(guarded(action_logger)))
        observer = combine(everyone)
        self._reopen_logs = reopen_logs
        if server_name:
            try:
                field_value(server_name)
            except ValueError as error:
                raise ValueError(f"server_name {error}") from None
        extra: Headers = [(b"Server", server_name.encode("ascii"))] if server_name else ()
        self._application = ChannelLayerApplication(
            channel_layer,
            self.limits,
            self.timeouts,
            root_path=root_path,
            stream_request_body=stream_request_body,
            force_sync=force_sync,
            extra_headers=extra,
            observer=observer,
            on_layer_loss=OnLayerLoss(on_layer_loss),
            reply_channels=reply_channels,
            on_exit=self._give_up,
            gate=self._parts.gate,
            router=self._parts.router,
        )
        # One name is no sequence of letters.
        self._protocols = (ws_protocols,) if isinstance(ws_protocols, str) else tuple(ws_protocols or ())
        self._compression = websocket_compression
        self._websocket_server_name = server_name.encode("latin-1") if server_name else b"Daphne"
        try:
            locate = locator(forwarded_allow_ips, proxy_forwarded_address_header, proxy_forwarded_port_header, proxy_forwarded_proto_header)
        except ValueError as error:
            raise ValueError(f"forwarded_allow_ips {error}") from None
        #: What obtains certificates from an authority, ``None`` where no endpoint asks for it.
        self.certificates = certificates(self._endpoints, acme)
        pages = LocalPages(self._application, extra)
        if self.certificates is not None:
            self.certificates.add_pages(pages)
        if self._monitor is not None:
            self._monitor.attach(self._application, channel_layer, self._endpoints, pages, self._down)
        exchange = self._parts.exchange(pages or self._application, self._make_websocket, observer, locate, extra)
        self._troubles = exchange.troubles
        self._http2_cleartext = http2_cleartext
        proxy_protocol = ProxyProtocol(AddressList(proxy_allow_from) if isinstance(proxy_allow_from, str) else proxy_allow_from)
        self._connections = self._parts.connections(
            exchange, self.limits, self.timeouts, http2_limits or Http2Limits(), http2_cleartext, proxy_protocol
        )
        if self._monitor is not None:
            self._monitor.watch(self._connections)
            if self.certificates is not None and self._monitor.metrics is not None:
                self._monitor.metrics.add_source(self.certificates.families)
        self._listeners = Listeners()
        #: Gives ``reply_protocols``, the reply channels of all clients, under daphne's name.
        self.factory = _Factory(self._application)
        self._workers: list[gevent.Greenlet[..., Any]] = []
        self._unserved_warning: gevent.Greenlet[..., None] | None = None
        self._stop: Event | None = None
        self._life: Lifetime | None = None
        # Whether start() is at work, and whether stop() was called until then.
        self._starting = False
        self._stopped_early = False
        # Whether what still runs is cut short instead of being waited for.
        self._at_once = False
        # Whether connections that wait at sockets of others are accepted in the end.
        self._take_waiting = False
        # Whether it ends for a reason of its own.
        self._failed = False
        self._hub: Any = None

    def _make_websocket(self, stream: Stream) -> WebSocket:
        return self._parts.websocket(
            stream,
            self.limits,
            self.timeouts,
            protocols=self._protocols,
            compression=self._compression,
            server_name=self._websocket_server_name,
        )

    def _down(self) -> list[str]:
        """The names of the parts that do not run, for health checks."""
        down = self._application.supervisor.down()
        if all_down(self._workers):
            down.append("inline workers")
        if self._unserved():
            down.append("no worker reads the channel layer")
        return down

    def _unserved(self) -> bool:
        """Whether no worker can ever have taken a request: the layer is inside this process, and no reader of it has come."""
        return not self._inline_workers and bool(
            getattr(getattr(self.channel_layer, "channel_layer", self.channel_layer), "unserved", False)
        )

    def _warn_unserved(self) -> None:
        gevent.sleep(_UNSERVED_PATIENCE)
        if self._unserved() and self._stop is not None and not self._stop.is_set():
            logger.error(
                "No worker reads the channel layer, and none outside of this process can: requests are not answered. "
                "Run workers inside the server (--inline-workers)."
            )

    def check(self) -> None:
        """Look for what would keep :meth:`start` from listening; opens no socket.

        :raises EndpointError: as :func:`greendaphne.settings.check.check_endpoints`.
        :raises ConfigurationError: of :mod:`greendaphne.applications.channels.inline`, where the application has no consumers for inline workers.
        """
        check_endpoints(self._endpoints)
        if self._monitor is not None:
            check_endpoints(self._monitor.endpoints)
        if self._inline_workers:
            check_workers(self.channel_layer, self._inline_workers)

    def run(self) -> None:
        """Serve until a signal or :meth:`stop`, then end in good order.

        :raises SystemExit: with 1 where an endpoint cannot be listened on, or where the channel layer's failure is to end the process;
            the reason is logged.
        """
        try:
            self.start()
        except EndpointError as error:
            logger.error("%s", error)
            raise SystemExit(1) from None
        self.serve_forever(signal_handlers=self.signal_handlers)
        if self._failed:
            raise SystemExit(1)

    def start(self) -> None:
        """Listen and begin to serve, in greenlets of this thread's hub; returns at once.  Once it has ended it may be started again.

        :raises EndpointError: where an endpoint cannot be listened on; nothing is left open then.
        :raises ConfigurationError: of :mod:`greendaphne.applications.channels.inline`, where the application has no consumers for inline workers.
        :raises RuntimeError: where it serves already.
        """
        if self._life is not None and not self._life.ended:
            raise RuntimeError("the server has been started already")
        self._hub = get_hub()
        self._stop = Event()
        self._starting = True
        if self._life is not None:
            # It was for an earlier life.
            self._stopped_early = False
        self._at_once = self._failed = False
        if self._http2_cleartext or any(endpoint.tls is not None and "h2" in endpoint.tls.options.alpn for endpoint in self._endpoints):
            logger.info("HTTP/2 support enabled")
        else:
            logger.info("HTTP/2 support not enabled (no endpoint has TLS, and --http2-cleartext is not given)")
        logger.info("Using %s on channel layer", self._application.router.mode)
        try:
            self._listeners.open(self._endpoints)
            if self._monitor is not None:
                self._monitor.start()
            self._application.start()
            self._connections.start()
            if self._inline_workers:
                self._workers = start_workers(self.channel_layer, self._inline_workers)
            elif self._unserved():
                self._unserved_warning = gevent.spawn(self._warn_unserved)
            self._listeners.accept(self._connections)
            if self.certificates is not None:
                self.certificates.start()
        except BaseException:
            self._starting = False
            self._end()
            raise
        self._life = Lifetime(self._live)
        self._starting = False
        if self._stopped_early:
            self._stop.set()

    def serve_forever(self, *, signal_handlers: bool = False) -> None:
        """Wait for the end.

        :param signal_handlers: whether signals mean what they do in :meth:`run`; only in the main thread.
        """
        if self._life is None:
            raise RuntimeError("start() comes first")
        handling = signal_handlers and threading.current_thread() is threading.main_thread()
        with handle_signals(self._signals()) if handling else nullcontext():
            try:
                for each in self._lifecycle:
                    each.started(self)
                self._life.get()
            finally:
                self._abandon()
                for each in self._lifecycle:
                    each.stopped()

    def _signals(self) -> dict[signal.Signals, Callable[[], object]]:
        return {
            signal.SIGTERM: self._on_signal,
            signal.SIGINT: self._on_signal,
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: self.reopen,
        }

    def __enter__(self) -> Self:
        """Start it; it serves while the block lets other greenlets run."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Stop it and wait for the end, at once where the block was itself interrupted or killed."""
        try:
            if kind is None or issubclass(kind, Exception):
                self.stop()
                self.join()
        finally:
            self._abandon()

    def _live(self) -> None:
        """Wait for the time to stop, then end in good order."""
        assert self._stop is not None
        try:
            self._stop.wait()
            for each in self._lifecycle:
                each.stopping(self._failed)
            self._drain()
        finally:
            self._end()

    def _abandon(self) -> None:
        """End what is left at once; nothing is after an orderly end."""
        if self._life is not None and not self._life.ended:
            self._life.kill(self._end)

    def _on_signal(self) -> None:
        assert self._stop is not None
        if self._stop.is_set():
            self.end_now()
        else:
            logger.info("Stopping; %d connections have %g seconds to finish", self.connections, self.timeouts.graceful)
            self._stop.set()

    def end_now(self) -> None:
        """Cut short what is left of a drain (the second signal); called in the server's thread."""
        logger.info("Stopping at once")
        self._at_once = True
        self._connections.pool.kill(block=False)

    def _give_up(self) -> None:
        assert self._stop is not None
        if not self._stop.is_set():
            logger.error("Messages and groups of the channel layer may be lost; the server ends, as it was told to for this case")
            self._failed = True
            self._stop.set()

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """What is listened on, in the order of the endpoints: host and port, or the path of a UNIX socket."""
        return [address.host if address.port is None else (address.host, address.port) for address in self._addresses()]

    @property
    def port(self) -> int:
        """The port of the first TCP endpoint, also where the system chose it.

        :raises RuntimeError: while there is none.
        """
        for address in self._addresses():
            if address.port is not None:
                return address.port
        raise RuntimeError("the server does not listen on a TCP port")

    @property
    def listeners(self) -> list[Listener]:
        """What is listened on, in the order of the endpoints; Twisted's names for it work."""
        return self._listeners.opened

    def _addresses(self) -> list[ListeningAddress]:
        return [listener.address for listener in self.listeners]

    @property
    def metrics(self) -> Metrics | None:
        """What is counted, ``None`` where metrics were not asked for; sources of further ones can be added before :meth:`start`."""
        return None if self._monitor is None else self._monitor.metrics

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def reopen(self) -> None:
        """Open the log files anew (SIGUSR1), after they were renamed; nothing happens where whoever made the server has none."""
        if self._reopen_logs is not None:
            self._reopen_logs()

    def reload(self) -> None:
        """Read all certificates again (SIGHUP); connections stay, and what is broken is logged and left as it was."""
        for each in self._lifecycle:
            each.reloading()
        logger.info("Reloading certificates")
        for endpoint in self._endpoints:
            if endpoint.tls is not None:
                endpoint.tls.reload()
        for each in self._lifecycle:
            each.reloaded()

    def stop(self, *, take_waiting: bool = False) -> None:
        """Begin to end in good order, as soon as it starts where it never did; from any thread, and as often as one likes.

        :param take_waiting: accept also what has connected at sockets that other processes opened, since none of them will.
        """
        self._take_waiting = take_waiting
        if self._stop is None or self._starting:
            self._stopped_early = True
        # start() may have ended meanwhile, in another thread.
        if self._stop is not None and self._life is not None and not self._starting:
            self._life.call(self._stop.set)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; from any thread.  Returns whether it has within ``timeout`` seconds, which are unlimited by default."""
        return self._life is None or self._life.join(timeout)

    def _drain(self) -> None:
        """Stop accepting and let what is in flight finish, within the graceful time limit."""
        if self.certificates is not None:
            self.certificates.drain()
        if self._monitor is not None:
            self._monitor.drain()
        self._listeners.take_waiting(shared=self._take_waiting)
        self._listeners.close()
        self._application.drain()
        self._connections.drain()
        if not self._connections.pool.join(timeout=self.timeouts.graceful):
            logger.warning("Requests in flight are cut short after %g seconds", self.timeouts.graceful)
            self._at_once = True

    def _end(self) -> None:
        if self.certificates is not None:
            self.certificates.stop()
        self._listeners.close()
        if self._unserved_warning is not None:
            self._unserved_warning.kill(block=False)
            self._unserved_warning = None
        self._connections.kill(_KILL_PATIENCE)
        if self.connections:
            logger.warning("%d connections did not end", self.connections)
        self._application.stop()
        self._troubles.close()
        if self._at_once:
            stop_workers(self._workers, timeout=0)
        else:
            stop_workers(self._workers)
        self._workers = []
        self._application.close()
        if self._monitor is not None:
            self._monitor.stop(at_once=self._at_once)


class _Factory:
    """What of daphne's factory others look at."""

    def __init__(self, application: ChannelLayerApplication) -> None:
        self._application = application

    @property
    def reply_protocols(self) -> dict[str, Mailbox]:
        """The clients by reply channel."""
        return self._application.router.clients
