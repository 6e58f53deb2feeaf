"""The options of the command line: :class:`Options`, and for each of its fields how it is written and what it means.

This is the one place to add an option: a field of :class:`Options` made with :func:`~greendaphne.settings.option.option`.  The help text
(``usage``), the reading of the command line and the abbreviations (``arguments``), and the environment and the configuration file
(``settings``) all come from it.  ``cli`` acts on the result.

Nothing is imported here that the application's environment could mind: the command line is read before gevent patches the process.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Final

from ..config import Limits, Timeouts
from ..core.addresses import LOCAL, AddressList
from ..core.converters import (
    choice,
    field_value,
    integer,
    seconds,
    seconds_or_never,
    seconds_or_zero,
    size,
    size_above_zero,
    size_text,
    url_path,
    whole_number,
)
from ..serving.forwarded import DEFAULT_FIELDS, ForwardedFields, forwarded_fields
from .option import Option, Takes, option

_LIMITS: Final = Limits()
_TIMEOUTS: Final = Timeouts()

#: Where to listen when no option says it, and the half that is missing where only one is given.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000


CONFIGURATION: Final = "Configuration"
LISTENING: Final = "Where to listen (http://127.0.0.1:8000 when none of these is given)"
LOGGING: Final = "Logs"
APPLICATION: Final = "The application"
PROXIES: Final = "Paths and proxies"
HTTP: Final = "HTTP (times in seconds)"
HTTP2: Final = "HTTP/2 (sizes in bytes, or with K, M or G)"
TLS: Final = "TLS (PEM files; TLS 1.2 and 1.3; reloaded on SIGHUP and when they change)"
ACME: Final = "Certificates from an authority (ACME, for le:, lets: and acme: endpoints)"
WEBSOCKET: Final = "WebSocket (times in seconds)"
BODIES: Final = "Request bodies (sizes in bytes, or with K, M or G)"
LIMITS: Final = "Limits (sizes in bytes, or with K, M or G)"
SHUTDOWN: Final = "Stopping (times in seconds)"
PROCESSES: Final = "Processes (sizes in bytes, or with K, M or G)"
MONITORING: Final = "Monitoring"
#: In the order in which they are needed: to serve at all, to serve the public, to see what happens, and the protocols in detail.
GROUPS: Final = (
    LISTENING,
    APPLICATION,
    PROCESSES,
    SHUTDOWN,
    TLS,
    ACME,
    PROXIES,
    LOGGING,
    MONITORING,
    HTTP,
    HTTP2,
    WEBSOCKET,
    BODIES,
    LIMITS,
    CONFIGURATION,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A command line, checked and converted.  Sizes are in bytes, times in seconds."""

    #: ``module.path:attribute.path``.
    channel_layer: str

    config: str | None = option(
        CONFIGURATION,
        "-c --config",
        "Read options from this file, written in TOML.",
        metavar="FILE",
        command_line_only=True,
    )
    check_config: bool = option(
        CONFIGURATION,
        "--check-config",
        "Check all options, import the application, show what is in force and why, and end without listening.",
        command_line_only=True,
    )

    port: int | None = option(
        LISTENING,
        "-p --port",
        "Listen on this TCP port; 8000 where only --bind is given, and 0 lets the system choose one.",
        metavar="PORT",
        convert=whole_number(0, 65535),
        legacy=True,
    )
    host: str | None = option(
        LISTENING,
        "-b --bind",
        "Listen on this address or host name; 127.0.0.1 where only --port is given, and :: is every address.",
        metavar="HOST",
        legacy=True,
    )
    unix_socket: str | None = option(LISTENING, "-u --unix-socket", "Listen on a UNIX socket at this path.", metavar="PATH", legacy=True)
    file_descriptor: int | None = option(
        LISTENING,
        "--fd",
        "Listen on a socket that the parent process opened, by the number of its file descriptor.",
        metavar="NUMBER",
        convert=whole_number(0),
        legacy=True,
    )
    socket_strings: tuple[str, ...] = option(
        LISTENING,
        "-e --endpoint",
        "Listen on an endpoint such as tcp:8000 or unix:/run/app.sock:mode=660; may be repeated.",
        metavar="STRING",
        takes=Takes.EACH,
        legacy=True,
    )
    # The default is that of greendaphne.net.endpoints, which cannot be imported this early.
    backlog: int = option(
        LISTENING,
        "--backlog",
        "Connections that may wait to be accepted, for endpoints that do not say it themselves.",
        metavar="NUMBER",
        convert=whole_number(1, 2**31 - 1),
        default="2048",
    )
    reuse_port: bool = option(
        LISTENING, "--reuse-port", "Let several servers listen on the same TCP port; the system spreads connections over them."
    )

    certfile: str | None = option(
        TLS,
        "--certfile",
        "Serve every endpoint that has no TLS of its own with this certificate and its chain.",
        metavar="FILE",
    )
    keyfile: str | None = option(TLS, "--keyfile", "Its private key, where it is not in the same file.", metavar="FILE")
    tls_client_ca: str | None = option(TLS, "--tls-client-ca", "Ask clients for a certificate of one of these authorities.", metavar="FILE")
    tls_verify: str | None = option(
        TLS,
        "--tls-verify",
        "What to ask of client certificates: none, optional or require, the default with --tls-client-ca.",
        metavar="MODE",
        convert=choice("none", "optional", "require"),
    )
    tls_dev: bool = option(TLS, "--tls-dev", "Make and use a self-signed certificate for localhost; for development only.")
    tls_handshake_timeout: float = option(
        TLS,
        "--tls-handshake-timeout",
        "Seconds from the connection to the end of its TLS handshake.",
        metavar="SECONDS",
        convert=seconds,
        default=f"{_TIMEOUTS.tls_handshake:g}",
    )

    acme_email: str | None = option(
        ACME, "--acme-email", "Where the authority may write to; several with commas between them.", metavar="ADDRESS"
    )
    acme_agree_tos: bool = option(ACME, "--acme-agree-tos", "Agree to the authority's terms of service; no certificate is issued without.")
    acme_domains: str | None = option(
        ACME,
        "--acme-domains",
        "Obtain certificates for these host names, with commas between them, besides those that have a file.",
        metavar="NAMES",
    )
    acme_challenge: str | None = option(
        ACME,
        "--acme-challenge",
        "Prove control of a name by tls-alpn-01 or http-01 only; by default whichever the endpoints allow.",
        metavar="KIND",
        convert=choice("tls-alpn-01", "http-01"),
    )
    acme_eab_kid: str | None = option(
        ACME, "--acme-eab-kid", "The identifier of an account that the authority wants to see (external account binding).", metavar="ID"
    )
    acme_eab_hmac_key: str | None = option(
        ACME, "--acme-eab-hmac-key", "The key that goes with it, in base64url; better kept in a file.", metavar="KEY", secret=True
    )
    acme_eab_hmac_key_file: str | None = option(ACME, "--acme-eab-hmac-key-file", "The file with that key.", metavar="FILE")
    acme_ca: str | None = option(
        ACME, "--acme-ca", "Trust the authorities in this PEM file, and no others, for HTTPS to the ACME server.", metavar="FILE"
    )

    inline_workers: int = option(
        APPLICATION,
        "--inline-workers",
        "Run this many workers of the application in the server itself; 0 leaves them to other processes.",
        metavar="NUMBER",
        convert=whole_number(0, 1024),
        default="0",
    )
    force_sync: bool = option(
        APPLICATION, "--force-sync", "Ask the channel layer for replies at intervals instead of waiting in it.", legacy=True
    )
    on_layer_loss: str = option(
        APPLICATION,
        "--on-layer-loss",
        "Once the channel layer may have lost messages and groups: shed closes all WebSockets with 1012, keep keeps them, exit ends the "
        "server with code 1.",
        metavar="ACTION",
        convert=choice("shed", "keep", "exit"),
        default="shed",
    )
    reply_channels: int = option(
        APPLICATION,
        "--reply-channels",
        "Spread replies over this many lists of the channel layer, each of which has the layer's capacity.",
        metavar="NUMBER",
        convert=whole_number(1, 64),
        default="1",
    )

    verbosity: int = option(
        LOGGING,
        "-v --verbosity",
        "0 logs warnings only and no accesses, 1 what happens as well, 2 every message too.",
        metavar="LEVEL",
        convert=integer,
        default="1",
        legacy=True,
    )
    access_log: str | None = option(
        LOGGING,
        "--access-log",
        "Append accesses to this file, whatever the verbosity; a hyphen is the standard output, the default, and logging: is the logger "
        "daphne.access.",
        metavar="FILE",
        legacy=True,
    )
    access_log_format: str | None = option(
        LOGGING,
        "--access-log-format",
        "How an access is written: daphne, the default, json, common, combined, or text with atoms such as %(h)s.",
        metavar="FORMAT",
    )
    log_level: str | None = option(
        LOGGING,
        "--log-level",
        "Log what is at least this important: debug, info, warning, error or critical; the default follows from --verbosity.",
        metavar="LEVEL",
        convert=choice("debug", "info", "warning", "error", "critical"),
    )
    log_format: str | None = option(
        LOGGING,
        "--log-format",
        "How the log is written: text, json, or a format such as %(levelname)s %(message)s.",
        metavar="FORMAT",
    )
    log_config: str | None = option(
        LOGGING, "--log-config", "Configure the log by this file, in Python's INI format, JSON or TOML.", metavar="FILE"
    )

    root_path: str = option(
        PROXIES,
        "--root-path",
        "The path below which the application is mounted, URL-encoded; a Daphne-Root-Path header overrides it.",
        metavar="PATH",
        default="",
        legacy=True,
    )
    proxy_headers: bool = option(
        PROXIES,
        "--proxy-headers",
        "Believe X-Forwarded-For, X-Forwarded-Port and X-Forwarded-Proto; only for use behind a proxy.",
        legacy=True,
    )
    forwarded_allow_ips: AddressList | None = option(  # noqa: RUF009 -- a field, of an immutable type
        PROXIES,
        "--forwarded-allow-ips",
        "Believe only these about the client: addresses, networks, unix, or * for all, separated by commas.",
        metavar="LIST",
        convert=AddressList,
    )
    forwarded_headers: ForwardedFields = option(  # noqa: RUF009 -- a field, of an immutable type
        PROXIES,
        "--forwarded-headers",
        "The headers that the proxy sets: some of these, or forwarded.",
        metavar="LIST",
        convert=forwarded_fields,
        default=DEFAULT_FIELDS,
    )
    proxy_protocol: str = option(
        PROXIES,
        "--proxy-protocol",
        "The PROXY header that every connection has to begin with: v1, v2, auto for either, or off; haproxy: endpoints are auto.",
        metavar="VERSION",
        convert=choice("off", "v1", "v2", "auto"),
        default="off",
    )
    proxy_allow_from: AddressList = option(  # noqa: RUF009 - nothing changes an address list
        PROXIES,
        "--proxy-allow-from",
        "Who may send PROXY headers: addresses, networks, unix for UNIX sockets, * for everybody; other connections are closed.",
        metavar="LIST",
        convert=AddressList,
        default=LOCAL,
    )
    server_name: str | None = option(
        PROXIES,
        "--server-name",
        "Send this as the Server header; without it only WebSocket handshakes have one, Daphne.",
        metavar="NAME",
        convert=field_value,
    )

    http_timeout: float = option(
        HTTP,
        "-t --http-timeout",
        "For a worker to begin its response, and then between its parts; 503 after that.",
        metavar="SECONDS",
        convert=seconds,
        default=f"{_TIMEOUTS.http:g}",
        legacy=True,
    )
    keep_alive_timeout: float = option(
        HTTP,
        "--keep-alive-timeout",
        "For the next request on an idle connection.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default=f"{_TIMEOUTS.keep_alive:g}",
    )
    header_timeout: float = option(
        HTTP,
        "--header-timeout",
        "For a whole request head to arrive.",
        metavar="SECONDS",
        convert=seconds,
        default=f"{_TIMEOUTS.header:g}",
    )
    body_timeout: float = option(
        HTTP,
        "--body-timeout",
        "Without a byte of a request body.",
        metavar="SECONDS",
        convert=seconds,
        default=f"{_TIMEOUTS.body:g}",
    )
    send_timeout: float = option(
        HTTP,
        "--send-timeout",
        "Without progress in sending to a client.",
        metavar="SECONDS",
        convert=seconds,
        default=f"{_TIMEOUTS.send:g}",
    )

    # The defaults are those of greendaphne.http2.Http2Limits, which cannot be imported this early.
    http2_max_concurrent_streams: int = option(
        HTTP2,
        "--http2-max-concurrent-streams",
        "Requests at a time on one connection; more are refused.",
        metavar="NUMBER",
        convert=whole_number(1, 1_000_000),
        default="100",
    )
    http2_initial_window_size: int = option(
        HTTP2,
        "--http2-initial-window-size",
        "What a client may send of a body before the application reads.",
        metavar="SIZE",
        convert=size_above_zero,
        default="65535",
    )
    http2_max_frame_size: int = option(
        HTTP2, "--http2-max-frame-size", "The longest frame, 16K to 16M.", metavar="SIZE", convert=size_above_zero, default="16K"
    )
    http2_max_header_list_size: int = option(
        HTTP2,
        "--http2-max-header-list-size",
        "The longest header section after decompression; 431 above it.",
        metavar="SIZE",
        convert=size_above_zero,
        default="64K",
    )
    http2_cleartext: bool = option(HTTP2, "--http2-cleartext", "Also accept HTTP/2 without TLS, from clients that know of it beforehand.")

    websocket_timeout: float | None = option(
        WEBSOCKET,
        "--websocket_timeout --websocket-timeout",
        "The longest life of a connection; a negative number is no limit, and the default is the channel layer's group expiry.",
        metavar="SECONDS",
        convert=seconds_or_never,
        legacy=True,
    )
    websocket_connect_timeout: float = option(
        WEBSOCKET,
        "--websocket_connect_timeout --websocket-connect-timeout",
        "For the application to accept a connection; a negative number is no limit.",
        metavar="SECONDS",
        convert=seconds_or_never,
        default=f"{_TIMEOUTS.websocket_connect:g}",
        legacy=True,
    )
    ping_interval: float = option(
        WEBSOCKET,
        "--ping-interval",
        "Ping a client that has been silent for this long; 0 is never.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default=f"{_TIMEOUTS.ping_interval:g}",
        legacy=True,
    )
    ping_timeout: float = option(
        WEBSOCKET,
        "--ping-timeout",
        "For the answer to a ping, before the connection is closed; 0 is no limit.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default=f"{_TIMEOUTS.ping_timeout:g}",
        legacy=True,
    )
    ws_protocols: tuple[str, ...] = option(
        WEBSOCKET,
        "--ws-protocol",
        "The subprotocols to offer, one or several names; write -- or another option behind the last of them.",
        metavar="NAME",
        takes=Takes.MANY,
        legacy=True,
    )
    websocket_max_message_size: int = option(
        WEBSOCKET,
        "--websocket-max-message-size",
        "The longest message; 0 is no limit.",
        metavar="SIZE",
        convert=size,
        default=size_text(_LIMITS.websocket_message),
    )
    websocket_max_frame_size: int = option(
        WEBSOCKET,
        "--websocket-max-frame-size",
        "The longest frame; 0 is no limit.",
        metavar="SIZE",
        convert=size,
        default=size_text(_LIMITS.websocket_frame),
    )
    websocket_message_timeout: float = option(
        WEBSOCKET,
        "--websocket-message-timeout",
        "For a message that has begun to come in completely; 0 is no limit.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default=f"{_TIMEOUTS.websocket_message:g}",
    )
    websocket_compression: bool = option(
        WEBSOCKET, "--websocket-compression", "Compress messages for clients that offer it (permessage-deflate)."
    )

    limit_request_body: int = option(
        BODIES,
        "--limit-request-body",
        "Refuse longer bodies with 413; 0 is no limit.",
        metavar="SIZE",
        convert=size,
        default=size_text(_LIMITS.request_body),
    )
    limit_inline_body: int = option(
        BODIES,
        "--limit-inline-body",
        "Hand over longer bodies in pieces, through body_channel; 0 always hands them over whole.",
        metavar="SIZE",
        convert=size,
        default=size_text(_LIMITS.inline_body),
    )
    stream_request_body: bool = option(
        BODIES, "--stream-request-body", "Hand over the pieces while the client still sends, instead of when the body is complete."
    )

    limit_request_line: int = option(
        LIMITS,
        "--limit-request-line",
        "The longest request line; 414 above it.",
        metavar="SIZE",
        convert=size_above_zero,
        default=size_text(_LIMITS.request_line),
    )
    limit_request_fields: int = option(
        LIMITS,
        "--limit-request-fields",
        "The greatest number of header fields; 431 above it.",
        metavar="NUMBER",
        convert=whole_number(1),
        default=str(_LIMITS.request_fields),
    )
    limit_request_field_size: int = option(
        LIMITS,
        "--limit-request-field-size",
        "The longest header field; 431 above it.",
        metavar="SIZE",
        convert=size_above_zero,
        default=size_text(_LIMITS.request_field_size),
    )
    limit_connections: int = option(
        LIMITS,
        "--limit-connections",
        "The greatest number of open connections, further ones wait; 0 is as many as there are descriptors.",
        metavar="NUMBER",
        convert=whole_number(0),
        default=str(_LIMITS.connections),
    )

    graceful_timeout: float = option(
        SHUTDOWN,
        "--graceful-timeout",
        "For open requests to end after SIGTERM or SIGINT.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default=f"{_TIMEOUTS.graceful:g}",
    )

    workers: int = option(
        PROCESSES,
        "-w --workers",
        "Run this many processes on the same sockets, under a master that replaces those that end; 0 serves in this process alone.",
        metavar="NUMBER",
        convert=whole_number(0, 1024),
        default="0",
    )
    max_requests: int = option(
        PROCESSES,
        "--max-requests",
        "Replace a process, or end it in good order where there is no master, after this many requests; 0 is never.",
        metavar="NUMBER",
        convert=whole_number(0),
        default="0",
    )
    max_requests_jitter: int = option(
        PROCESSES,
        "--max-requests-jitter",
        "Up to so many requests more, by chance, so that not all processes end at once.",
        metavar="NUMBER",
        convert=whole_number(0),
        default="0",
    )
    max_rss: int = option(
        PROCESSES,
        "--max-rss",
        "The same once it occupies more memory than that; 0 is never.",
        metavar="SIZE",
        convert=size,
        default="0",
    )

    health_path: str | None = option(
        MONITORING,
        "--health-path",
        "Answer health checks at this path without the application: 200, or 503 and why.",
        metavar="PATH",
        convert=url_path,
    )
    metrics_path: str | None = option(
        MONITORING,
        "--metrics-path",
        "Answer Prometheus at this path; whoever can reach the server can read it.",
        metavar="PATH",
        convert=url_path,
    )
    metrics: str | None = option(
        MONITORING,
        "--metrics",
        "Listen on this endpoint for nothing but metrics and health checks, at /metrics and /health unless these options say otherwise.",
        metavar="STRING",
    )
    watchdog: float = option(
        MONITORING,
        "--watchdog",
        "Log what blocks the whole process for longer than so many seconds; 0 is never.",
        metavar="SECONDS",
        convert=seconds_or_zero,
        default="1",
    )

    def limits(self) -> Limits:
        """The limits that the command line sets, and the defaults of the others."""
        return Limits(
            request_line=self.limit_request_line,
            request_fields=self.limit_request_fields,
            request_field_size=self.limit_request_field_size,
            request_body=self.limit_request_body,
            inline_body=self.limit_inline_body,
            websocket_message=self.websocket_max_message_size,
            websocket_frame=self.websocket_max_frame_size,
            connections=self.limit_connections,
        )

    def timeouts(self) -> Timeouts:
        """The time limits that the command line sets and that have no keyword argument of daphne's."""
        return Timeouts(
            keep_alive=self.keep_alive_timeout,
            header=self.header_timeout,
            body=self.body_timeout,
            send=self.send_timeout,
            tls_handshake=self.tls_handshake_timeout,
            websocket_message=self.websocket_message_timeout,
            graceful=self.graceful_timeout,
        )


def _table() -> tuple[Option, ...]:
    fields = [field for field in dataclasses.fields(Options) if "option" in field.metadata]
    return tuple(
        field.metadata["option"]._replace(field=field.name, number=re.search(r"\b(int|float)\b", str(field.type)) is not None)
        for field in fields
    )


#: Every option, in the order of :class:`Options`.
OPTIONS: Final = _table()
