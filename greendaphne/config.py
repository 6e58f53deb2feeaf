"""The whole configuration: one frozen :class:`Config` of frozen groups.

This module alone has the unit, the default and the reason of every value.  The command line, the environment, the configuration file
and ``Server(config=...)`` build this object; a row of the option table (:mod:`greendaphne.settings.options`) names the value that it sets,
such as ``timeouts.header``.  Parts of the server receive the groups that they need, never options.

The command reads options before gevent patches the process, so this module imports nothing that gevent must patch first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
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
    "ApplicationOptions",
    "AsgiOptions",
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

#: Shared as a default, because an address list is immutable.
_LOCAL: Final = AddressList(LOCAL)
#: The command's default address; each half also completes a given host or port.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
#: Seconds of :attr:`Timeouts.websocket` where neither it nor the channel layer has a value: one day, as in daphne.
WEBSOCKET_LIFETIME: Final = 86400.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Group:
    """The methods of every group.  They are defined once because ``dataclass`` compiles such methods again for each class, at every
    start."""

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Group) and type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Limits(Group):
    """Limits on resources that a peer can make the server hold; in bytes unless stated otherwise."""

    #: Request line without its CRLF; 414 above it.  The limit of Apache httpd and gunicorn.
    request_line: int = 8190
    #: Fields in a header section (a number); 431 above it.  Browsers send about 20, proxies add a dozen.
    request_fields: int = 200
    #: One field line; 431 above it.  Cookies reach 4 KiB each, Kerberos tickets 12 KiB.
    request_field_size: int = 16384
    #: The whole head; 431 above it.  Also the limit of an HTTP/2 header list.
    request_head: int = 64 * KIB
    #: Request body; 413 above it.  0 means no limit.
    request_body: int = 1 * GIB
    #: Bodies up to this size are sent inside ``http.request``, larger ones through ``body_channel``.  0 means always inside.
    inline_body: int = 1 * MIB
    #: One message on a ``body_channel``.  The channel layer specification asks layers to take 1 MB "as JSON".
    body_chunk: int = 256 * KIB
    #: ``--max-memory``: the maximum memory of the process, as far as clients determine it; see :mod:`greendaphne.serving.overload`.  The
    #: memory that the process occupies at its start is subtracted, and clients get at least 32 MiB.  0 means one half of the memory of the
    #: machine or of the control group, divided by the number of worker processes: the other half is for the application, the kernel's
    #: buffers and the page cache.
    memory: int = 0
    #: The part of it for request bodies; further bytes go to disk.
    buffered_bodies: int = 256 * MIB
    #: Bodies and replies of the process on disk; at most nine tenths of the free space.
    spooled_bodies: int = 16 * GIB
    #: Replies and request bodies of one connection in memory; the rest goes to disk (WebSocket: 1013).
    reply_queue: int = 4 * MIB
    #: One WebSocket message; 1009 above it.  0 means no limit.  A channel layer need not take more than 1 MB.
    websocket_message: int = 1 * MIB
    #: Payload of one WebSocket frame; 1009 above it.  0 means no limit.
    websocket_frame: int = 1 * MIB
    #: Compression contexts of all WebSockets, which ``WebSockets.keep_context`` allows; further WebSockets have none.  It suffices for 180
    #: with the largest windows, and is part of ``memory``: while clients use half of their memory, new WebSockets have none.
    websocket_contexts: int = 64 * MIB
    #: Connections at a time (a number); above it the connection that has been idle for longest is closed for the next client.  0 means the
    #: number that RLIMIT_NOFILE allows, less an eighth (32 to 1024) for the files of the server and of the application.
    connections: int = 0
    #: Connections at a time of one client address (a number), of a network of 64 bits for IPv6; further ones are closed.  0 means any
    #: number, because many people may share the address of a gateway.
    connections_per_address: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Timeouts(Group):
    """Time limits in seconds."""

    #: ``-t``: from the request to the first reply, then between replies; 503, or the connection is aborted in the middle of a response.
    http: float = 120
    #: Idle time of a connection between requests; the connection is closed.  The value of daphne's HTTP library.
    keep_alive: float = 60
    #: From the first byte of a head to its end; 408.  Absolute, so that a slow trickle of bytes does not extend it.
    header: float = 30
    #: Time without a byte of the body; 408.  Also the window of ``body_rate``.
    body: float = 60
    #: Bytes a second: a client must send at least this rate over every ``body`` seconds of waiting for a body, however much it sent
    #: before; 408.  Likewise an HTTP/2 client must take this rate of a response that waits for its window, over every ``send`` seconds.
    body_rate: float = 256
    #: Time without progress in sending; the connection is reset.
    send: float = 60
    #: After an early answer: time for the peer to read it before the socket closes (RFC 9112 section 9.6).
    linger: float = 2
    #: From accept to the end of the TLS handshake; the connection is closed.
    tls_handshake: float = 10
    #: ``--websocket_connect_timeout``: time for the application to accept; 403.  Negative means never.  daphne's command has 5 and its
    #: class 20.  Both have 5 here, because a slow application occupies a connection and a reply channel for each waiting client.
    websocket_connect: float = 5
    #: ``--websocket_timeout``: the maximum lifetime of a WebSocket, closed with 1000.  Negative means no limit.  ``None`` and 0 mean the
    #: channel layer's ``group_expiry``, after which groups drop the client, or :data:`WEBSOCKET_LIFETIME` without one.
    websocket: float | None = None
    #: ``--ping-interval``: silence after which a WebSocket gets a ping.  0 means never.
    ping_interval: float = 20
    #: ``--ping-timeout``: time for the answer to a ping; 1011, and the socket is closed.  0 means no limit.
    ping_timeout: float = 30
    #: ``--websocket-message-timeout``: from the first byte of a WebSocket message, or of a fragment sequence, to its last; 1008.
    #: Absolute, so that a slow trickle of bytes does not extend it; counted from the server's first wait for the client.  1 MiB in this
    #: time is 70 kbit/s, a mobile line of 2005.  0 means no limit.
    websocket_message: float = 120
    #: Time for the peer's half of the WebSocket closing handshake.
    websocket_close: float = 5
    #: ``--graceful-timeout``: time for open requests after SIGTERM.
    graceful: float = 30

    @property
    def websocket_lifetime(self) -> float:
        """:attr:`websocket`, or :data:`WEBSOCKET_LIFETIME` if that is ``None`` or 0."""
        return self.websocket or WEBSOCKET_LIFETIME


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Listening(Group):
    """Addresses to listen on besides :attr:`Config.endpoints`, and defaults for options that endpoint strings do not set."""

    #: Address or host name of a TCP endpoint; ``None`` means :data:`DEFAULT_HOST` if there is a port.
    host: str | None = None
    #: Port of that endpoint; 0 lets the system choose one, ``None`` means :data:`DEFAULT_PORT` if there is a host.
    port: int | None = None
    #: Path of a UNIX socket.
    unix_socket: str | None = None
    #: Number of a file descriptor: a socket that the parent process opened.
    file_descriptor: int | None = None
    #: Connections that the kernel completes and holds until they are accepted (a number).  Twisted's 50 overflows when clients reconnect
    #: all at once, and each refused client then waits a second before its next SYN.  The kernel's maximum is ``net.core.somaxconn``.
    backlog: int = 2048
    #: Whether several servers may listen on the same TCP port (``SO_REUSEPORT``).
    reuse_port: bool = False
    #: The PROXY header at the start of every connection: ``off``, ``v1``, ``v2`` or ``auto``.  Off, because a server that accepts
    #: the header from clients lets them choose their address.
    proxy_protocol: str = "off"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Http2(Group):
    """Limits on one HTTP/2 connection; in bytes unless stated otherwise.

    The names are those of gunicorn's ``--http2-*`` options where it has one.  :class:`greendaphne.http2.Http2Limits` adds the checks of
    RFC 9113.
    """

    #: Concurrent requests (a number).  A stream counts until the work for it has ended, so resetting it makes no room; further ones are
    #: answered with REFUSED_STREAM.  RFC 9113 section 6.5.2 recommends at least 100, which is also gunicorn's default.
    max_concurrent_streams: int = 100
    #: Request body that a client may send before the application reads.  The default of RFC 9113 and of gunicorn; a lower value is
    #: refused, because a client uses the default until it has received the settings.
    initial_window_size: int = 2**16 - 1
    #: Maximum window of a stream whose application reads as fast as the client sends: 1 MiB suffices for 20 MB/s at 50 ms.
    upload_window_size: int = 1 * MIB
    #: Sum of the grown windows of one connection beyond ``initial_window_size`` each.  The connection's window has room for all streams'
    #: windows together, so that no unread stream can block another.
    upload_windows: int = 2 * MIB
    #: Payload of one frame.  RFC 9113's smallest value, and gunicorn's default: with larger frames one stream could delay the others.
    max_frame_size: int = 16 * KIB
    #: Fields of a request after decompression, plus 32 bytes for each (RFC 9113 section 6.5.2); 431 above it.
    max_header_list_size: int = 64 * KIB
    #: A header list this many times the limit counts as an attack: ENHANCE_YOUR_CALM.
    header_list_excess: int = 4
    #: CONTINUATION frames in one header section (a number).  Five of 16 KiB hold any list within the limits.
    continuation_frames: int = 16
    #: RST_STREAM frames received in ``period`` (a number), CVE-2023-44487.  A browser sends one for each open request when its user
    #: leaves the page, so the limit allows two pages; gunicorn's default.
    client_resets: int = 200
    #: RST_STREAM frames sent in ``period`` because of the peer's errors (a number), CVE-2025-8671.
    server_resets: int = 200
    #: PING, SETTINGS, PRIORITY, PRIORITY_UPDATE, GOAWAY, unknown and empty DATA frames, and WINDOW_UPDATE frames beyond those that the
    #: server's own DATA frames explain, received in ``period`` (a number).  gRPC clients ping at most a few times a second; gunicorn's
    #: default.
    control_frames: int = 1000
    #: DATA bytes sent that explain one WINDOW_UPDATE frame; each DATA frame explains two more.  Go's client returns its windows in steps
    #: of 4 KiB, for the stream and for the connection.
    window_update_step: int = 2 * KIB
    #: DATA frames on closed streams, received in ``period`` (a number); a header section counts as 16.  After the server has reset an
    #: upload, frames for its whole window are still on their way: 64 frames of 16 KiB, or a thousand of 1 KiB.
    late_frames: int = 4096
    #: DATA frames of 1 to 7 bytes, without END_STREAM, received in ``period`` (a number).  Interactive uploads send some tens a second, and
    #: a body of 64 KiB sent byte by byte must still be accepted; a client's WebSocket frame has 6 bytes plus its payload.
    small_data_frames: int = 100_000
    #: Settings in one SETTINGS frame (a number).  Fewer than ten are defined; clients send one or two reserved ones (RFC 8701) to keep
    #: servers tolerant.
    settings: int = 64
    #: Seconds over which resets and control frames are counted.
    period: float = 10
    #: Bytes queued for a client that reads slowly before its streams wait: four of the writer's turns with 16 KiB frames.
    write_buffer: int = 64 * KIB
    #: Answers to control frames queued for a client that does not read; ENHANCE_YOUR_CALM above it.
    control_buffer: int = 256 * KIB
    #: Whether plain connections may begin with HTTP/2's preface (RFC 9113 section 3.3).  Off, because a proxy in front of the server may
    #: enforce rules that it implements for HTTP/1.1 only.
    cleartext: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tls(Group):
    """Certificates, and the verification of clients.  :class:`greendaphne.net.tls.TLSOptions` has the options of every certificate."""

    #: PEM file with a certificate and its chain, for every endpoint without its own TLS.
    certfile: str | None = None
    #: PEM file with its private key; ``None`` means ``certfile``.
    keyfile: str | None = None
    #: PEM file with the authorities that issue client certificates; ``None`` requests no client certificates.
    client_ca: str | None = None
    #: ``none``, ``optional`` (a certificate, where sent, must be valid) or ``require``; ``None`` means ``require`` with ``client_ca``
    #: and ``none`` without.
    verify: str | None = None
    #: Password of encrypted private keys.
    keyfile_password: str | None = field(default=None, repr=False)
    #: File with that password, as an alternative; a line feed at its end is ignored.
    keyfile_password_file: str | None = None
    #: Whether endpoints without their own TLS get a self-signed certificate for localhost, for development.
    dev: bool = False
    #: ALPN protocols to offer (RFC 7301), in order of preference; empty for no ALPN.
    alpn: tuple[str, ...] = ("h2", "http/1.1")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Acme(Group):
    """Certificates from an authority (RFC 8555).  :class:`greendaphne.acme.AcmeOptions` adds the checks."""

    #: Contact address for the authority; several are separated by commas, ``None`` for none.
    email: str | None = None
    #: Whether the operator agrees to the authority's terms of service.  Without it no certificate is issued.
    agree_tos: bool = False
    #: Host names to obtain certificates for, besides those with a file.
    domains: tuple[str, ...] = ()
    #: Key identifier of an existing account at the authority, to which the ACME account is bound (RFC 8555 section 7.3.4).
    eab_kid: str | None = None
    #: The key for ``eab_kid``, in base64url.
    eab_hmac_key: str | None = field(default=None, repr=False)
    #: PEM file with the authorities to trust for HTTPS to the ACME server; ``None`` means those that ``requests`` trusts.
    ca: str | None = None
    #: ``http-01`` or ``tls-alpn-01``; ``None`` means those that the server's endpoints allow.
    challenge: str | None = None
    #: File with ``eab_hmac_key``, as an alternative.
    eab_hmac_key_file: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Proxies(Group):
    """Trust in proxies in front of the server."""

    #: Whether ``forwarded_headers`` are trusted from every peer if there is no ``forwarded_allow_ips``.  Off, because clients that
    #: connect directly could then choose their address.
    headers: bool = False
    #: Names of the header fields with the client's address, port and scheme.
    forwarded_headers: ForwardedFields = X_FORWARDED
    #: Other names of the first and the second of them; daphne's options.
    headers_host: str | None = None
    headers_port: str | None = None
    #: The only proxies whose fields are trusted; with a list, ``headers`` is ignored.
    forwarded_allow_ips: AddressList | None = None
    #: Peers that may send PROXY headers, on endpoints with them.  By default only peers on this machine, because others may be clients.
    allow_from: AddressList = _LOCAL


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WebSockets(Group):
    """Options of the WebSocket handshake."""

    #: Subprotocols that the server accepts, in order of preference.
    protocols: tuple[str, ...] = ()
    #: Pages that browsers may open WebSockets from; others are answered with 403.  ``None`` means all: an application may check origins
    #: itself, and cookies with ``SameSite`` are not sent from other sites.
    allow_origin: OriginList | None = None
    #: Whether to accept permessage-deflate (RFC 7692).  Off, because it costs memory and processor time for every client.
    compression: bool = False
    #: Whether compressed messages may refer to earlier ones (context takeover).  Off, because each connection then keeps up to 350 KiB,
    #: see ``window_bits``; :attr:`Limits.websocket_contexts` bounds all of them.
    keep_context: bool = False
    #: Base-2 logarithm of the largest window for compression, 9 to 15.  Clients that do not know the parameter use 15; 11 takes 16 KiB for
    #: sending instead of 256.
    window_bits: int = 15


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Channels(Group):
    """The use of a channel layer."""

    #: Workers of the application inside the server (a number); 0 leaves messages to other processes.
    inline_workers: int = 0
    #: Whether to poll the layer for replies even where it can wait for them.
    force_sync: bool = False
    #: The reaction when the layer may have lost messages and groups: ``shed`` closes all WebSockets with 1012, so that their clients
    #: reconnect and join their groups again; ``keep`` keeps them open; ``exit`` ends the server with exit code 1.
    on_layer_loss: str = "shed"
    #: Lists of the layer over which replies are spread (a number); each has the layer's capacity.
    reply_channels: int = 1
    #: Whether large bodies are passed on before the client has sent them completely.  Off, because workers then wait for clients.
    stream_request_body: bool = False
    #: Whether an HTTP/1.1 client that has closed its side of the connection gets its answer even after a long time.  Off, because over TCP
    #: the server cannot distinguish it from a client that has disconnected, whose request would occupy the server, and delay a drain, until
    #: its answer.
    answer_half_closed: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ApplicationOptions(Group):
    """The application, unless it is a channel layer, and how the server calls it."""

    #: ``channels``, ``asgi3``, ``asgi2``, ``wsgi``, or ``auto`` to detect the interface.
    interface: str = "auto"
    #: Short for the interfaces ``wsgi`` and ``asgi3`` (or ``asgi2`` for an object of that form).
    wsgi: bool = False
    asgi: bool = False
    #: Whether the named object is a function that returns the application.
    factory: bool = False
    #: First directory of the module search path; ``None`` means the current directory.
    app_dir: str | None = None
    #: Requests inside the application at a time (a number); 0 means no limit.  For scarce resources, such as database connections;
    #: WebSockets are not counted.
    concurrency: int = 0
    #: Seconds that a request waits for ``concurrency``; 503 then.  Shorter than the time limits of proxies, which are 60 and more.
    queue: float = 30
    #: Seconds from the call of the application to the begin of its response; 503 then.  0 means no limit, as WSGI servers with greenlets
    #: have none.
    request_timeout: float = 0
    #: When a WebSocket of a WSGI application is accepted: ``eager``, once the application waits for something, or ``lazy``, once it uses
    #: the WebSocket.
    wsgi_websocket: str = "eager"
    #: Bytes of a request body that are read before a WSGI application is called; 0 means that it reads at its own pace.
    buffer_request_body: int = 0
    #: Names and strings in the environ of WSGI applications.
    environ: tuple[tuple[str, str], ...] = ()
    #: Place of a second application, ``module.path:attribute``, for WebSockets; the first one gets HTTP.
    websocket_app: str | None = None
    #: Further applications by the path that they are mounted at: the path, percent-encoded, the place, and the interface or ``auto``.
    mounts: tuple[tuple[str, str, str], ...] = ()
    #: Whether gevent patches the standard library in the command, always or never; by default unless an option selects ASGI.
    patch: bool = False
    no_patch: bool = False

    @property
    def asks_for_asgi(self) -> bool:
        """Whether the configuration itself says that this is an ASGI application."""
        return self.asgi or self.interface in ("asgi2", "asgi3")

    @property
    def is_asgi_alone(self) -> bool:
        """Whether the configuration itself says so for every application."""
        mounted = all(interface in ("asgi2", "asgi3") for _, _, interface in self.mounts)
        return self.asks_for_asgi and self.websocket_app is None and mounted


_HTTP_TIMEOUT: Final = "timeouts.http"
_RESPONSE_TIMEOUT: Final = "asgi.response_timeout"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AsgiOptions(Group):
    """How ASGI applications are started and ended."""

    #: ``auto``, ``on`` or ``off``: whether the application gets lifespan events.  With ``on`` an application without support for them is an
    #: error.
    lifespan: str = "auto"
    #: Seconds for the application to start (``lifespan.startup``); 0 means no limit, as migrations and models take their time.
    lifespan_timeout: float = 0
    #: Seconds for tasks that continue after the end of the last connection, before they are cancelled; daphne's default.
    close_timeout: float = 10
    #: From the request to the end of the response; 503, or the connection is aborted in the middle of a response.  ``None`` means no limit;
    #: :meth:`Config.changed` sets it with ``timeouts.http``.
    response_timeout: float | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Processes(Group):
    """Processes of the command; a server in a library does not use them."""

    #: Processes that serve the same sockets under a master (a number); 0 serves in this process alone.
    workers: int = 0
    #: Requests after which a process is replaced, or ends without a master (a number); 0 means never.
    max_requests: int = 0
    #: At most this many further requests, chosen at random, so that not all processes end at once (a number).
    max_requests_jitter: int = 0
    #: Resident memory above which a process is replaced, in bytes; 0 means never.
    max_rss: int = 0
    #: User that the process changes to after it has opened its sockets, by name or number; ``None`` for no change.  Only root can change to
    #: another user.
    user: str | None = None
    #: Group likewise; ``None`` means the user's.
    group: str | None = None
    #: Permissions that new files never have (``umask``); ``None`` keeps the inherited one.
    umask: int | None = None
    #: File that contains the ID of the process, or of the master, while it runs.
    pid_file: str | None = None
    #: Directory to change to before the application is imported.  Paths of other options do not depend on it.
    directory: str | None = None
    #: Whether the master starts new workers when a source file changes; for development.  It implies a master with one worker.
    reload: bool = False
    #: Directories to watch, separated by commas; ``None`` means the current directory.
    reload_dirs: str | None = None
    #: Patterns of the file names to watch, separated by commas.
    reload_include: str = "*.py"
    #: Patterns of file names, or of paths below a watched directory, to ignore; separated by commas.
    reload_exclude: str | None = None

    @property
    def has_master(self) -> bool:
        """Whether workers serve under a master."""
        return self.workers > 0 or self.reload


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Logging(Group):
    """Logs of the command; a server in a library does not set up logging."""

    #: As in daphne: 0 logs warnings and no accesses, 1 also events, 2 also every message.
    verbosity: int = 1
    #: File to which accesses are appended; ``-`` is standard output, ``logging:`` the logger ``daphne.access``.  ``None`` means standard
    #: output unless ``verbosity`` is 0.
    access_log: str | None = None
    #: ``daphne``, ``json``, ``common``, ``combined`` or text with atoms; ``None`` means ``daphne``, and ``common`` for a logger.
    access_log_format: str | None = None
    #: ``debug``, ``info``, ``warning``, ``error`` or ``critical``; ``None`` means the level for ``verbosity``.
    level: str | None = None
    #: ``text``, ``json`` or a format of ``logging``; ``None`` means ``text``.
    format: str | None = None
    #: File that configures ``logging``: INI, JSON or TOML.
    config: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Monitoring(Group):
    """Health checks, metrics and the watchdog."""

    #: Path for health checks, answered without the application; ``None`` for none.
    health_path: str | None = None
    #: Path for Prometheus; ``None`` for none.  Needs ``prometheus_client``.
    metrics_path: str | None = None
    #: Endpoint string of a separate socket for these two paths, by default :data:`METRICS_PATH` and :data:`HEALTH_PATH`.
    metrics: str | None = None
    #: Seconds after which a blocked hub is logged together with the blocking code; 0 means never.  Off in a library, where the process may
    #: run other code in this thread.
    watchdog: float = 0


#: Default paths on :attr:`Monitoring.metrics`.
METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/health"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Config(Group):
    """The configuration of a server.

    :raises ValueError: for a ``server_name`` that is invalid in a header field.
    """

    #: Endpoint strings to listen on; see :mod:`greendaphne.net.endpoints`.
    endpoints: tuple[str, ...] = ()
    #: Mount point of the application, percent-encoded.
    root_path: str = ""
    #: Value of the ``Server`` field.  By default HTTP responses have none, which tells attackers less, and WebSocket handshakes have
    #: ``Daphne``, as daphne's do.
    server_name: str | None = None
    #: Whether WebSocket handshakes have no ``Server`` field either; takes precedence over ``server_name``.
    no_server_name: bool = False
    #: Hosts that requests may name; requests for others are answered with 421.  ``None`` means any, because applications (Django's
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
    application: ApplicationOptions = ApplicationOptions()
    asgi: AsgiOptions = AsgiOptions()
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

        :param values: by name: a value in a group (``timeouts.header``), a whole group (``timeouts``) or a value outside of groups
            (``root_path``).  A value in a group takes precedence over the whole group.  ``timeouts.http`` also sets
            ``asgi.response_timeout``.
        :raises TypeError: for a name that does not exist.
        :raises ValueError: for a value that its group refuses.
        """
        changes: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        if _HTTP_TIMEOUT in values:
            # The default is for channel layers.  A time limit that is given holds for ASGI applications too, as with daphne 4.
            values = {_RESPONSE_TIMEOUT: values[_HTTP_TIMEOUT], **values}
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


#: The command's defaults.  Its process has no other work, so a hub that is blocked for a second is a fault that the log should show.
COMMAND: Final = Config(monitoring=Monitoring(watchdog=1))
