"""Everything that can be configured: one frozen :class:`Config` of frozen groups.

The unit, the default and the reason of every value stand here and nowhere else.  The command line, the environment, the configuration file
and ``Server(config=...)`` build this object; a row of the option table (:mod:`greendaphne.settings.options`) names the value that it sets,
such as ``timeouts.header``.  Parts of the server are given the groups that they need, never options.

The command reads options before gevent patches the process, so this module imports nothing that gevent must patch first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .core.addresses import LOCAL, AddressList
from .core.configuration import ConfigurationError
from .core.converters import field_value
from .core.forwarded import X_FORWARDED, ForwardedFields
from .core.origins import HostList, OriginList

__all__ = [
    "COMMAND",
    "Acme",
    "AddressList",
    "Channels",
    "Config",
    "ConfigurationError",
    "ForwardedFields",
    "HostList",
    "Http2",
    "Limits",
    "Listening",
    "Logging",
    "Monitoring",
    "OriginList",
    "Processes",
    "Proxies",
    "Timeouts",
    "Tls",
    "WebSockets",
]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: Lists of addresses never change.
_LOCAL: Final = AddressList(LOCAL)
#: Where the command listens when nothing says it, and the half that is missing where only one is given.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
#: Seconds of :attr:`Timeouts.websocket` where neither it nor the channel layer gives a value: daphne's day.
WEBSOCKET_LIFETIME: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a peer may make the server hold; bytes unless stated otherwise."""

    #: Request line without its CRLF; over it 414.  The bound of Apache httpd and gunicorn.
    request_line: int = 8190
    #: Number of fields in a header section; over it 431.  Browsers send about 20, proxies add a dozen.
    request_fields: int = 200
    #: One field line; over it 431.  Cookies reach 4 KiB each, Kerberos tickets 12 KiB.
    request_field_size: int = 16384
    #: The whole head; over it 431.  Also the bound of an HTTP/2 header list.
    request_head: int = 64 * KIB
    #: Request body; over it 413.  0 means none.
    request_body: int = 1 * GIB
    #: Bodies up to this size travel inside ``http.request``; larger ones through ``body_channel``.  0 means always inside.
    inline_body: int = 1 * MIB
    #: One message on a ``body_channel``.  The channel layer specification asks layers to take 1 MB "as JSON".
    body_chunk: int = 256 * KIB
    #: ``--max-memory``: what the process occupies at most, as far as that is in the hands of clients; see
    #: :mod:`greendaphne.serving.overload`.  What it occupies at its start is taken off, and 32 MiB are for clients in any case.  0 means
    #: one half of the memory of the machine or of the control group, divided by the number of worker processes: the other half is for
    #: the application, the kernel's buffers and the page cache.
    memory: int = 0
    #: Part of that for request bodies; what is beyond goes to disk.
    buffered_bodies: int = 256 * MIB
    #: Bodies and replies on disk of the process, as far as nine tenths of the free room reach.
    spooled_bodies: int = 16 * GIB
    #: What one connection may hold in memory of replies and request bodies; what is beyond goes to disk (WebSocket: 1013).
    reply_queue: int = 4 * MIB
    #: One WebSocket message; over it 1009.  0 means none.  A channel layer need not take more than 1 MB.
    websocket_message: int = 1 * MIB
    #: One WebSocket frame's payload; over it 1009.  0 means none.
    websocket_frame: int = 1 * MIB
    #: Connections at a time (a number); above it the connection that has been idle for longest is closed for the next client.  0 means what
    #: RLIMIT_NOFILE allows, without an eighth (32 to 1024) for the files of the server and of the application.
    connections: int = 0
    #: Connections at a time of one client address (a number), of a network of 64 bits for IPv6; further ones are closed.  0 means any
    #: number, because many people may share the address of a gateway.
    connections_per_address: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds."""

    #: ``-t``: from the request to the first reply, then between replies; 503, or the connection is aborted in mid-response.
    http: float = 120
    #: An idle connection between requests is closed; what daphne's HTTP library did.
    keep_alive: float = 60
    #: From the first byte of a head to its end, absolute so that a drip does not extend it; 408.
    header: float = 30
    #: Without a byte of the body; 408.  Also the window of ``body_rate``.
    body: float = 60
    #: Bytes a second that must come in over every ``body`` seconds of waiting for a body, whatever came before; 408.  Likewise, over every
    #: ``send`` seconds, what an HTTP/2 client must take of a response that waits for its window.
    body_rate: float = 256
    #: Without progress in sending; the connection is reset.
    send: float = 60
    #: After an early answer, for the peer to read it before the socket closes (RFC 9112 section 9.6).
    linger: float = 2
    #: From accept to the end of the TLS handshake; the connection is closed.
    tls_handshake: float = 10
    #: ``--websocket_connect_timeout``: for the application to accept; 403.  Negative means never.  daphne's command has 5, its class had
    #: 20; here both have 5, because an application that needs longer holds a connection and a reply channel for a client that waits.
    websocket_connect: float = 5
    #: ``--websocket_timeout``: the longest life of a WebSocket, closed with 1000.  Negative means no limit.  ``None`` and 0 mean the
    #: channel layer's ``group_expiry``, after which groups forget the client, or :data:`WEBSOCKET_LIFETIME` without one.
    websocket: float | None = None
    #: ``--ping-interval``: a WebSocket silent for longer is pinged.  0 means never.
    ping_interval: float = 20
    #: ``--ping-timeout``: for the answer to a ping; 1011 and the socket is closed.  0 means for ever.
    ping_timeout: float = 30
    #: ``--websocket-message-timeout``: from the first byte of a WebSocket message, or of a fragment sequence, to its last; 1008.
    #: Absolute so that a drip does not extend it; begins when the server waits for the client.  1 MiB in this time is 70 kbit/s, a mobile
    #: line of 2005.  0 means never.
    websocket_message: float = 120
    #: For the peer's half of the WebSocket closing handshake.
    websocket_close: float = 5
    #: ``--graceful-timeout``: for open requests after SIGTERM.
    graceful: float = 30

    @property
    def websocket_lifetime(self) -> float:
        """:attr:`websocket`, or :data:`WEBSOCKET_LIFETIME` where it is ``None`` or 0."""
        return self.websocket or WEBSOCKET_LIFETIME


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens besides :attr:`Config.endpoints`, and what holds for every endpoint that does not say it itself."""

    #: Address or host name of a TCP endpoint; ``None`` means :data:`DEFAULT_HOST` where there is a port.
    host: str | None = None
    #: Port of that endpoint; 0 lets the system choose one, ``None`` means :data:`DEFAULT_PORT` where there
    #: is a host.
    port: int | None = None
    #: Path of a UNIX socket.
    unix_socket: str | None = None
    #: Number of the file descriptor of a socket that the parent process opened.
    file_descriptor: int | None = None
    #: Connections that the kernel completes and holds until they are accepted (a number).  Twisted's 50 overflows when clients reconnect
    #: all at once, and each refused client then waits a second before its next SYN.  The kernel caps it at ``net.core.somaxconn``.
    backlog: int = 2048
    #: Whether several servers may listen on the same TCP port (``SO_REUSEPORT``).
    reuse_port: bool = False
    #: The PROXY header with which every connection has to begin: ``off``, ``v1``, ``v2`` or ``auto``.  Off, because a server that takes
    #: the header from clients lets them choose their address.
    proxy_protocol: str = "off"


@dataclass(frozen=True, slots=True)
class Http2:
    """What a peer may do on one HTTP/2 connection; bytes unless stated otherwise.

    The names are those of gunicorn's ``--http2-*`` options where it has one.  :class:`greendaphne.http2.Http2Limits` is the same with the
    checks of RFC 9113.
    """

    #: Requests at a time (a number).  A stream counts until the work for it has ended, so resetting it makes no room; one more is
    #: answered with REFUSED_STREAM.  The number RFC 9113 section 6.5.2 recommends as the least, and gunicorn's default.
    max_concurrent_streams: int = 100
    #: Request body that a client may send before the application reads.  RFC 9113's own default, and gunicorn's; never less, because a
    #: client uses the default until it has seen the settings.
    initial_window_size: int = 2**16 - 1
    #: The window of a stream whose application reads as fast as the client sends grows to this: 1 MiB fills 20 MB/s at 50 ms.
    upload_window_size: int = 1 * MIB
    #: What the grown windows of one connection may add up to beyond ``initial_window_size`` each.  The connection's window is made large
    #: enough for all streams' windows together, so that no stream that is not read can hold up another.
    upload_windows: int = 2 * MIB
    #: One frame's payload.  RFC 9113's smallest, and gunicorn's default: larger ones let one stream hold up the others.
    max_frame_size: int = 16 * KIB
    #: A request's fields after decompression, 32 bytes more for each (RFC 9113 section 6.5.2); over it 431.
    max_header_list_size: int = 64 * KIB
    #: A header list this many times too large is no mistake but an attack: ENHANCE_YOUR_CALM.
    header_list_excess: int = 4
    #: CONTINUATION frames for one header section (a number).  Five of 16 KiB hold any list within the limits.
    continuation_frames: int = 16
    #: RST_STREAM frames received in ``period`` (a number), CVE-2023-44487.  A browser sends as many as it has requests open when its
    #: user leaves the page, so two pages' worth; gunicorn's default.
    client_resets: int = 200
    #: RST_STREAM frames that the peer's errors made the server send in ``period`` (a number), CVE-2025-8671.
    server_resets: int = 200
    #: PING, SETTINGS, PRIORITY, PRIORITY_UPDATE, GOAWAY, unknown and empty DATA frames, and WINDOW_UPDATE frames beyond those that the
    #: server's own DATA frames explain, received in ``period`` (a number).  gRPC clients ping a few times a second at most; gunicorn's
    #: default.
    control_frames: int = 1000
    #: Bytes of DATA sent that explain one WINDOW_UPDATE frame, besides two for every DATA frame.  Go's client returns its windows in steps
    #: of 4 KiB, for the stream and for the connection.
    window_update_step: int = 2 * KIB
    #: DATA frames on streams that are closed, received in ``period`` (a number); a header section counts for 16.  After the server's reset
    #: of an upload frames are still on their way: its whole window, which is 64 frames of 16 KiB, or a thousand of 1 KiB.
    late_frames: int = 4096
    #: DATA frames of 1 to 7 bytes, without END_STREAM, received in ``period`` (a number).  Interactive uploads send some tens a second, and
    #: a body that is sent octet by octet, 64 KiB of it, must still pass; a WebSocket frame of a client has 6 bytes and its payload.
    small_data_frames: int = 100_000
    #: Settings in one SETTINGS frame (a number).  Fewer than ten are defined; the reserved ones that clients send to keep servers tolerant
    #: (RFC 8701) are one or two more.
    settings: int = 64
    #: The time in which resets and control frames are counted, in seconds.
    period: float = 10
    #: Bytes that wait for a client that reads slowly before its streams have to wait: with 16 KiB frames four of the writer's turns.
    write_buffer: int = 64 * KIB
    #: Answers to control frames that wait for a client that does not read at all; over it ENHANCE_YOUR_CALM.
    control_buffer: int = 256 * KIB
    #: Whether plain connections may begin with HTTP/2's preface (RFC 9113 section 3.3).  Off, because a proxy in front of the server may
    #: enforce rules that it only knows for HTTP/1.1.
    cleartext: bool = False


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates and what to ask of clients.  :class:`greendaphne.net.tls.TLSOptions` is the part that holds for every certificate."""

    #: PEM file with a certificate and its chain, for every endpoint without TLS of its own.
    certfile: str | None = None
    #: PEM file with its private key; ``None`` means ``certfile``.
    keyfile: str | None = None
    #: PEM file with the authorities that client certificates must come from; ``None`` asks clients for none.
    client_ca: str | None = None
    #: ``none``, ``optional`` (a certificate, where sent, must be valid) or ``require``; ``None`` means ``require`` where ``client_ca`` is
    #: given and ``none`` otherwise.
    verify: str | None = None
    #: Password of encrypted private keys.
    keyfile_password: str | None = field(default=None, repr=False)
    #: File with that password, in its place; a line feed at its end does not count.
    keyfile_password_file: str | None = None
    #: Whether endpoints without TLS of their own get a self-signed certificate for localhost, for development.
    dev: bool = False
    #: ALPN protocols to offer (RFC 7301), the preferred first; empty offers none.
    alpn: tuple[str, ...] = ("h2", "http/1.1")


@dataclass(frozen=True, slots=True)
class Acme:
    """Certificates from an authority (RFC 8555).  :class:`greendaphne.acme.AcmeOptions` is the same with checks."""

    #: Address that the authority may write to; several with commas between them, ``None`` for none.
    email: str | None = None
    #: Whether the operator agrees to the authority's terms of service.  No certificate is issued without, so only the operator can say it.
    agree_tos: bool = False
    #: Host names to obtain certificates for, besides those that have a file.
    domains: tuple[str, ...] = ()
    #: Key identifier of an account at the authority that the ACME account is bound to (RFC 8555 section 7.3.4).
    eab_kid: str | None = None
    #: The key that belongs to ``eab_kid``, in base64url.
    eab_hmac_key: str | None = field(default=None, repr=False)
    #: PEM file with the authorities to trust for HTTPS to the ACME server; ``None`` means those that ``requests`` trusts.
    ca: str | None = None
    #: ``http-01`` or ``tls-alpn-01``; ``None`` means whichever the server's endpoints allow.
    challenge: str | None = None
    #: File with ``eab_hmac_key``, in its place.
    eab_hmac_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Proxies:
    """What is believed of proxies in front of the server."""

    #: Whether ``forwarded_headers`` are believed from every peer where there is no ``forwarded_allow_ips``.  Off, because clients that
    #: reach the server directly then choose their address.
    headers: bool = False
    #: Names of the header fields with the client's address, port and scheme.
    forwarded_headers: ForwardedFields = X_FORWARDED
    #: The only proxies that are believed in these fields; with a list ``headers`` does not count.
    forwarded_allow_ips: AddressList | None = None
    #: Peers that may send PROXY headers, on endpoints that have them: those on this machine, because others can be anyone.
    allow_from: AddressList = _LOCAL


@dataclass(frozen=True, slots=True)
class WebSockets:
    """What a WebSocket handshake agrees to."""

    #: Subprotocols that the server accepts, the preferred first.
    protocols: tuple[str, ...] = ()
    #: Pages that browsers may open WebSockets from; others are answered with 403.  ``None`` means all: an application may check origins
    #: itself, and cookies with ``SameSite`` are not sent from other sites.
    allow_origin: OriginList | None = None
    #: Whether to agree to permessage-deflate (RFC 7692).  Off, because it costs memory and processor time for every client.
    compression: bool = False


@dataclass(frozen=True, slots=True)
class Channels:
    """How a channel layer is used."""

    #: Workers of the application that run inside the server (a number); 0 leaves them to other processes.
    inline_workers: int = 0
    #: Whether the layer is polled for replies even where it can wait for them.
    force_sync: bool = False
    #: What to do once the layer may have lost messages and groups: ``shed`` closes all WebSockets with 1012, so that their clients come
    #: back and join their groups again; ``keep`` keeps them; ``exit`` ends the server with exit code 1.
    on_layer_loss: str = "shed"
    #: Lists of the layer that replies are spread over (a number); each has the layer's capacity.
    reply_channels: int = 1
    #: Whether large bodies are passed on while the client still sends.  Off, because a worker then waits for the client.
    stream_request_body: bool = False


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of the command; a server in a library has no use for them."""

    #: Processes that serve the same sockets under a master (a number); 0 serves in this process alone.
    workers: int = 0
    #: Requests after which a process is replaced, or ends where there is no master (a number); 0 means never.
    max_requests: int = 0
    #: At most this many requests more, by chance, so that not all processes end at once (a number).
    max_requests_jitter: int = 0
    #: Resident memory above which a process is replaced, in bytes; 0 means never.
    max_rss: int = 0


@dataclass(frozen=True, slots=True)
class Logging:
    """Logs of the command; a server in a library sets up none."""

    #: daphne's: 0 logs warnings and no accesses, 1 what happens too, 2 every message too.
    verbosity: int = 1
    #: File that accesses are appended to; ``-`` is standard output, ``logging:`` the logger ``daphne.access``.  ``None`` means standard
    #: output unless ``verbosity`` is 0.
    access_log: str | None = None
    #: ``daphne``, ``json``, ``common``, ``combined`` or text with atoms; ``None`` means ``daphne``, and ``common`` for a logger.
    access_log_format: str | None = None
    #: ``debug``, ``info``, ``warning``, ``error`` or ``critical``; ``None`` follows from ``verbosity``.
    level: str | None = None
    #: ``text``, ``json`` or a format of ``logging``; ``None`` means ``text``.
    format: str | None = None
    #: File that configures ``logging``: INI, JSON or TOML.
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Monitoring:
    """How the server is watched."""

    #: Path that answers health checks without the application; ``None`` for none.
    health_path: str | None = None
    #: Path that answers Prometheus; ``None`` for none.  Needs ``prometheus_client``.
    metrics_path: str | None = None
    #: Endpoint string of a listening socket for these two alone, at :data:`METRICS_PATH` and :data:`HEALTH_PATH` unless they are given.
    metrics: str | None = None
    #: Seconds after which a blocked hub is logged, with what blocks it; 0 means never.  Off in a library, where the process may have
    #: other work in this thread.
    watchdog: float = 0


#: Paths on :attr:`Monitoring.metrics`, where no others are given.
METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/health"


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of a server.

    :raises ValueError: for a ``server_name`` that no header field can have.
    """

    #: Endpoint strings to listen on; see :mod:`greendaphne.net.endpoints`.
    endpoints: tuple[str, ...] = ()
    #: Mount point of the application, percent-encoded.
    root_path: str = ""
    #: Value of the ``Server`` field.  Without it HTTP responses have none, which tells attackers less, and WebSocket handshakes say
    #: ``Daphne``, as daphne's did.
    server_name: str | None = None
    #: Hosts that requests may be for; others are answered with 421.  ``None`` means any, because applications (Django's
    #: ``ALLOWED_HOSTS``) and proxies check it.
    allowed_hosts: HostList | None = None
    listening: Listening = Listening()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    http2: Http2 = Http2()
    websockets: WebSockets = WebSockets()
    tls: Tls = Tls()
    acme: Acme = Acme()
    proxies: Proxies = Proxies()
    channels: Channels = Channels()
    monitoring: Monitoring = Monitoring()
    processes: Processes = Processes()
    logging: Logging = Logging()

    def __post_init__(self) -> None:
        if self.server_name:
            try:
                field_value(self.server_name)
            except ValueError as error:
                raise ValueError(f"server_name {error}") from None

    def changed(self, values: Mapping[str, Any]) -> Config:
        """Return a copy with other values.

        :param values: by name: a value of a group (``timeouts.header``), a whole group (``timeouts``) or a value of its own
            (``root_path``).  A value of a group counts before the whole group.
        :raises TypeError: for a name that does not exist.
        :raises ValueError: for a value that its group refuses.
        """
        changes: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        for target, value in values.items():
            group, dot, name = target.partition(".")
            if dot:
                groups.setdefault(group, {})[name] = value
            else:
                changes[target] = value
        for group, members in groups.items():
            old = changes[group] if group in changes else getattr(self, group, None)
            if old is None:
                raise TypeError(f"there is no group {group!r} in the configuration")
            changes[group] = replace(old, **members)
        return replace(self, **changes)


#: What the command starts from.  Its process has no other work, so a hub that is blocked for a second is a fault that the log should show.
COMMAND: Final = Config(monitoring=Monitoring(watchdog=1))
