"""The table of options: for each one how it is written, what it means, and which value of the configuration it sets.

A new option is a row of :data:`OPTIONS` with the value of :class:`greendaphne.config.Config` that it sets, the consumer of that value, and
the documentation.  The help text (``help``), the reading of the command line and the abbreviations (``arguments``), and the environment and
the configuration file (``sources``) all come from the row.  Its default is that of the configuration.

Nothing is imported here that the application's environment could mind: the command line is read before gevent patches the process.
"""

from __future__ import annotations

from typing import Final

from ..core.addresses import AddressList
from ..core.converters import (
    choice,
    environ_entry,
    field_value,
    header_name,
    host,
    integer,
    mount,
    seconds,
    seconds_or_never,
    seconds_or_zero,
    size,
    size_above_zero,
    umask,
    url_path,
    whole_number,
)
from ..core.forwarded import forwarded_fields
from ..core.origins import HostList, OriginList
from .option import Takes, option

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


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name for name in text.split(",") if name.strip())


# fmt: off
#: Every option, each in two lines: how it is written and what it sets; what it means.  Within a group the order is that of the help text.
OPTIONS: Final = (
    option(CONFIGURATION, "-c --config", metavar="FILE", command_line_only=True,
        everyday=True,
        help="Read options from this file, written in TOML."),
    option(CONFIGURATION, "--check-config", command_line_only=True,
        help="Check all options, import the application, show what is in force and why, and end without listening."),

    option(LISTENING, "-p --port", to="listening.port", metavar="PORT", convert=whole_number(0, 65535), legacy=True,
        everyday=True,
        help="Listen on this TCP port; 8000 where only --bind is given, and 0 lets the system choose one."),
    option(LISTENING, "-b --bind", to="listening.host", metavar="HOST", convert=host, legacy=True, known_as="host",
        everyday=True,
        help="Listen on this address or host name; 127.0.0.1 where only --port is given, and :: is every address."),
    option(LISTENING, "-u --unix-socket", to="listening.unix_socket", metavar="PATH", legacy=True,
        everyday=True,
        help="Listen on a UNIX socket at this path."),
    option(LISTENING, "--fd", to="listening.file_descriptor", metavar="NUMBER", convert=whole_number(0), legacy=True,
        known_as="file_descriptor",
        help="Listen on a socket that the parent process opened, by the number of its file descriptor."),
    option(LISTENING, "-e --endpoint", to="endpoints", metavar="STRING", takes=Takes.EACH, legacy=True, known_as="socket_strings",
        everyday=True,
        help="Listen on an endpoint such as tcp:8000 or unix:/run/app.sock:mode=660; may be repeated."),
    option(LISTENING, "--backlog", to="listening.backlog", metavar="NUMBER", convert=whole_number(1, 2**31 - 1),
        help="Connections that may wait to be accepted, for endpoints that do not say it themselves."),
    option(LISTENING, "--reuse-port", to="listening.reuse_port",
        help="Let several servers listen on the same TCP port; the system spreads connections over them."),

    option(TLS, "--certfile", to="tls.certfile", metavar="FILE",
        everyday=True,
        help="Serve every endpoint that has no TLS of its own with this certificate and its chain."),
    option(TLS, "--keyfile", to="tls.keyfile", metavar="FILE",
        everyday=True,
        help="Its private key, where it is not in the same file."),
    option(TLS, "--keyfile-password", to="tls.keyfile_password", metavar="TEXT", secret=True,
        help="The password of encrypted private keys; better kept in a file, because every user sees command lines."),
    option(TLS, "--keyfile-password-file", to="tls.keyfile_password_file", metavar="FILE",
        help="The file with that password."),
    option(TLS, "--tls-client-ca", to="tls.client_ca", metavar="FILE",
        help="Ask clients for a certificate of one of these authorities."),
    option(TLS, "--tls-verify", to="tls.verify", metavar="MODE", convert=choice("none", "optional", "require"),
        help="What to ask of client certificates: none, optional or require, the default with --tls-client-ca."),
    option(TLS, "--tls-dev", to="tls.dev",
        everyday=True,
        help="Make and use a self-signed certificate for localhost; for development only."),
    option(TLS, "--tls-handshake-timeout", to="timeouts.tls_handshake", metavar="SECONDS", convert=seconds,
        help="Seconds from the connection to the end of its TLS handshake."),

    option(ACME, "--acme-email", to="acme.email", metavar="ADDRESS",
        help="Where the authority may write to; several with commas between them."),
    option(ACME, "--acme-agree-tos", to="acme.agree_tos",
        help="Agree to the authority's terms of service; no certificate is issued without."),
    option(ACME, "--acme-domains", to="acme.domains", metavar="NAMES", convert=_names,
        help="Obtain certificates for these host names, with commas between them, besides those that have a file."),
    option(ACME, "--acme-challenge", to="acme.challenge", metavar="KIND", convert=choice("tls-alpn-01", "http-01"),
        help="Prove control of a name by tls-alpn-01 or http-01 only; by default whichever the endpoints allow."),
    option(ACME, "--acme-eab-kid", to="acme.eab_kid", metavar="ID",
        help="The identifier of an account that the authority wants to see (external account binding)."),
    option(ACME, "--acme-eab-hmac-key", to="acme.eab_hmac_key", metavar="KEY", secret=True,
        help="The key that goes with it, in base64url; better kept in a file."),
    option(ACME, "--acme-eab-hmac-key-file", to="acme.eab_hmac_key_file", metavar="FILE",
        help="The file with that key."),
    option(ACME, "--acme-ca", to="acme.ca", metavar="FILE",
        help="Trust the authorities in this PEM file, and no others, for HTTPS to the ACME server."),

    option(APPLICATION, "--interface", to="application.interface", metavar="NAME",
        convert=choice("auto", "channels", "asgi3", "asgi2", "wsgi"),
        help="What the argument names: channels (a channel layer), wsgi, asgi3 or asgi2; auto looks at the object."),
    option(APPLICATION, "--wsgi", to="application.wsgi",
        help="The same as --interface=wsgi."),
    option(APPLICATION, "--asgi", to="application.asgi",
        help="The same as --interface=asgi3, or asgi2 where the object says so."),
    option(APPLICATION, "--factory", to="application.factory",
        help="The argument names a function that returns the application; it is called once, without arguments."),
    option(APPLICATION, "--app-dir", to="application.app_dir", metavar="DIRECTORY",
        help="Look for modules in this directory first; by default in the current one."),
    option(APPLICATION, "--websocket-app", to="application.websocket_app", metavar="APPLICATION",
        help="Hand WebSockets to this application, module.path:attribute, and HTTP to the argument's."),
    option(APPLICATION, "--mount", to="application.mounts", metavar="MOUNT", convert=mount, takes=Takes.EACH,
        help="Mount a further application, written /path=module.path:attribute or /path=module.path:attribute,interface; may be "
             "repeated."),
    option(APPLICATION, "--lifespan", to="asgi.lifespan", metavar="MODE", convert=choice("auto", "on", "off"),
        help="Whether an ASGI application hears of start and end: auto if it wants to, on, or off."),
    option(APPLICATION, "--lifespan-timeout", to="asgi.lifespan_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds for an ASGI application to start; 0 is no limit."),
    option(APPLICATION, "--application-close-timeout", to="asgi.close_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="When the server ends, seconds for tasks of an ASGI application that go on after the last request, before they are "
             "cancelled."),
    option(APPLICATION, "--app-concurrency", to="application.concurrency", metavar="NUMBER", convert=whole_number(0),
        help="Requests inside a WSGI or ASGI application at a time, such as it has database connections; others wait. 0 is no limit."),
    option(APPLICATION, "--app-queue", to="application.queue", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds that a request waits for --app-concurrency before it is answered with 503."),
    option(APPLICATION, "--request-timeout", to="application.request_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds until a WSGI or ASGI application begins its response, before it is interrupted and 503 is answered; 0 is no "
             "limit."),
    option(APPLICATION, "--wsgi-websocket", to="application.wsgi_websocket", metavar="WHEN", convert=choice("eager", "lazy"),
        help="When a WebSocket of a WSGI application is accepted: eager, once the application waits for something, or lazy, once it "
             "uses the WebSocket; until then its response denies the WebSocket."),
    option(APPLICATION, "--buffer-request-body", to="application.buffer_request_body", metavar="SIZE", convert=size,
        help="Read up to this much of a request body before a WSGI application is called; 0 leaves all of it to the application."),
    option(APPLICATION, "--environ", to="application.environ", metavar="VARIABLE", convert=environ_entry, takes=Takes.EACH,
        help="Put NAME=VALUE into the environ of a WSGI application; may be repeated."),
    option(APPLICATION, "--patch", to="application.patch",
        help="Let gevent patch the standard library whatever the interface; by default unless ASGI is asked for."),
    option(APPLICATION, "--no-patch", to="application.no_patch",
        help="Let gevent patch nothing."),
    option(APPLICATION, "--inline-workers", to="channels.inline_workers", metavar="NUMBER", convert=whole_number(0, 1024),
        everyday=True,
        help="Run this many workers of the application in the server itself; 0 leaves them to other processes."),
    option(APPLICATION, "--force-sync", to="channels.force_sync", legacy=True,
        help="Ask the channel layer for replies at intervals instead of waiting in it."),
    option(APPLICATION, "--on-layer-loss", to="channels.on_layer_loss", metavar="ACTION", convert=choice("shed", "keep", "exit"),
        help="Once the channel layer may have lost messages and groups: shed closes all WebSockets with 1012, keep keeps them, exit "
             "ends the server with code 1."),
    option(APPLICATION, "--reply-channels", to="channels.reply_channels", metavar="NUMBER", convert=whole_number(1, 64),
        help="Spread replies over this many lists of the channel layer, each of which has the layer's capacity."),

    option(LOGGING, "-v --verbosity", to="logging.verbosity", metavar="LEVEL", convert=integer, legacy=True,
        help="0 logs warnings only and no accesses, 1 what happens as well, 2 every message too."),
    option(LOGGING, "--access-log", to="logging.access_log", metavar="FILE", legacy=True,
        everyday=True,
        help="Append accesses to this file, whatever the verbosity; a hyphen is the standard output, the default, and logging: is "
             "the logger daphne.access."),
    option(LOGGING, "--access-log-format", to="logging.access_log_format", metavar="FORMAT",
        help="How an access is written: daphne, the default, json, common, combined, or text with atoms such as %(h)s."),
    option(LOGGING, "--log-level", to="logging.level", metavar="LEVEL", convert=choice("debug", "info", "warning", "error", "critical"),
        help="Log what is at least this important: debug, info, warning, error or critical; the default follows from --verbosity."),
    option(LOGGING, "--log-format --log-fmt", to="logging.format", metavar="FORMAT",
        help="How the log is written: text, json, or a format such as %(levelname)s %(message)s."),
    option(LOGGING, "--log-config", to="logging.config", metavar="FILE",
        help="Configure the log by this file, in Python's INI format, JSON or TOML."),

    option(PROXIES, "--root-path", to="root_path", metavar="PATH", legacy=True,
        help="The path below which the application is mounted, URL-encoded; a Daphne-Root-Path header overrides it."),
    option(PROXIES, "--proxy-headers", to="proxies.headers", legacy=True,
        everyday=True,
        help="Believe X-Forwarded-For, X-Forwarded-Port and X-Forwarded-Proto; only for use behind a proxy."),
    option(PROXIES, "--proxy-headers-host", to="proxies.headers_host", metavar="NAME", convert=header_name,
        help="The header with the client's address, in the place of X-Forwarded-For."),
    option(PROXIES, "--proxy-headers-port", to="proxies.headers_port", metavar="NAME", convert=header_name,
        help="The header with the client's port, in the place of X-Forwarded-Port."),
    option(PROXIES, "--forwarded-allow-ips", to="proxies.forwarded_allow_ips", metavar="LIST", convert=AddressList,
        help="Believe only these about the client: addresses, networks, unix, or * for all, separated by commas."),
    option(PROXIES, "--forwarded-headers", to="proxies.forwarded_headers", metavar="LIST", convert=forwarded_fields,
        help="The headers that the proxy sets: some of these, or forwarded."),
    option(PROXIES, "--proxy-protocol", to="listening.proxy_protocol", metavar="VERSION", convert=choice("off", "v1", "v2", "auto"),
        help="The PROXY header that every connection has to begin with: v1, v2, auto for either, or off; haproxy: endpoints are auto."),
    option(PROXIES, "--proxy-allow-from", to="proxies.allow_from", metavar="LIST", convert=AddressList,
        help="Who may send PROXY headers: addresses, networks, unix for UNIX sockets, * for everybody; other connections are closed."),
    option(PROXIES, "--allowed-hosts", to="allowed_hosts", metavar="LIST", convert=HostList,
        help="Answer 421 to requests for other hosts than these, with commas between them; .example.com is a host and its subdomains."),
    option(PROXIES, "-s --server-name", to="server_name", metavar="NAME", convert=field_value,
        help="Send this as the Server header; without it only WebSocket handshakes have one, Daphne."),
    option(PROXIES, "--no-server-name", to="no_server_name",
        help="Send no Server header at all."),

    option(HTTP, "-t --http-timeout", to="timeouts.http", metavar="SECONDS", convert=seconds, legacy=True,
        help="For a worker of a channel layer to begin its response, and then between its parts; 503 after that. Where it is given, also "
             "for the whole response of an ASGI application. See --request-timeout too."),
    option(HTTP, "--answer-half-closed", to="channels.answer_half_closed",
        help="Keep a request whose client has stopped sending, for a client that still reads; by default it counts as gone within a "
             "second."),
    option(HTTP, "--keep-alive-timeout", to="timeouts.keep_alive", metavar="SECONDS", convert=seconds_or_zero,
        help="For the next request on an idle connection."),
    option(HTTP, "--header-timeout", to="timeouts.header", metavar="SECONDS", convert=seconds,
        help="For a whole request head to arrive."),
    option(HTTP, "--body-timeout", to="timeouts.body", metavar="SECONDS", convert=seconds,
        help="Without a byte of a request body."),
    option(HTTP, "--send-timeout", to="timeouts.send", metavar="SECONDS", convert=seconds,
        help="Without progress in sending to a client."),

    option(HTTP2, "--http2-max-concurrent-streams", to="http2.max_concurrent_streams", metavar="NUMBER",
        convert=whole_number(1, 1_000_000),
        help="Requests at a time on one connection; more are refused."),
    option(HTTP2, "--http2-initial-window-size", to="http2.initial_window_size", metavar="SIZE", convert=size_above_zero,
        help="What a client may send of a body before the application reads."),
    option(HTTP2, "--http2-max-frame-size", to="http2.max_frame_size", metavar="SIZE", convert=size_above_zero,
        help="The longest frame, 16K to 16M."),
    option(HTTP2, "--http2-max-header-list-size", to="http2.max_header_list_size", metavar="SIZE", convert=size_above_zero,
        help="The longest header section after decompression; 431 above it."),
    option(HTTP2, "--http2-cleartext", to="http2.cleartext",
        help="Also accept HTTP/2 without TLS, from clients that know of it beforehand."),

    option(WEBSOCKET, "--websocket_timeout --websocket-timeout", to="timeouts.websocket", metavar="SECONDS", convert=seconds_or_never,
        legacy=True,
        help="The longest life of a connection; a negative number is no limit, and the default is the channel layer's group expiry."),
    option(WEBSOCKET, "--websocket_connect_timeout --websocket-connect-timeout", to="timeouts.websocket_connect", metavar="SECONDS",
        convert=seconds_or_never, legacy=True,
        help="For the application to accept a connection; a negative number is no limit."),
    option(WEBSOCKET, "--ping-interval", to="timeouts.ping_interval", metavar="SECONDS", convert=seconds_or_zero, legacy=True,
        help="Ping a client that has been silent for this long; 0 is never."),
    option(WEBSOCKET, "--ping-timeout", to="timeouts.ping_timeout", metavar="SECONDS", convert=seconds_or_zero, legacy=True,
        help="For the answer to a ping, before the connection is closed; 0 is no limit."),
    option(WEBSOCKET, "--ws-protocol", to="websockets.protocols", metavar="NAME", takes=Takes.MANY, legacy=True, known_as="ws_protocols",
        help="The subprotocols to offer, one or several names; write -- or another option behind the last of them."),
    option(WEBSOCKET, "--ws-allow-origin", to="websockets.allow_origin", metavar="LIST", convert=OriginList,
        help="Answer 403 to browsers with pages of other origins than these: https://example.com, https://*.example.com or same-host, "
             "with commas between them."),
    option(WEBSOCKET, "--websocket-max-message-size", to="limits.websocket_message", metavar="SIZE", convert=size,
        help="The longest message; 0 is no limit."),
    option(WEBSOCKET, "--websocket-max-frame-size", to="limits.websocket_frame", metavar="SIZE", convert=size,
        help="The longest frame; 0 is no limit."),
    option(WEBSOCKET, "--websocket-message-timeout", to="timeouts.websocket_message", metavar="SECONDS", convert=seconds_or_zero,
        help="For a message that has begun to come in completely; 0 is no limit."),
    option(WEBSOCKET, "--websocket-compression", to="websockets.compression",
        help="Compress messages for clients that offer it (permessage-deflate)."),
    option(WEBSOCKET, "--websocket-keep-context", to="websockets.keep_context",
        help="Let compressed messages refer to earlier ones (context takeover): fewer bytes where messages resemble each other, for up to "
             "350 KiB of memory per connection, 64 MiB in all."),
    option(WEBSOCKET, "--websocket-window-bits", to="websockets.window_bits", metavar="BITS", convert=whole_number(9, 15),
        help="The largest window for compression, as a power of two; smaller ones take less memory."),

    option(BODIES, "--limit-request-body", to="limits.request_body", metavar="SIZE", convert=size,
        help="Refuse longer bodies with 413; 0 is no limit."),
    option(BODIES, "--limit-inline-body", to="limits.inline_body", metavar="SIZE", convert=size,
        help="Hand over longer bodies in pieces, through body_channel; 0 always hands them over whole."),
    option(BODIES, "--stream-request-body", to="channels.stream_request_body",
        help="Hand over the pieces while the client still sends, instead of when the body is complete."),

    option(LIMITS, "--limit-request-line", to="limits.request_line", metavar="SIZE", convert=size_above_zero,
        help="The longest request line; 414 above it."),
    option(LIMITS, "--limit-request-fields", to="limits.request_fields", metavar="NUMBER", convert=whole_number(1),
        help="The greatest number of header fields; 431 above it."),
    option(LIMITS, "--limit-request-field-size", to="limits.request_field_size", metavar="SIZE", convert=size_above_zero,
        help="The longest header field; 431 above it."),
    option(LIMITS, "--limit-connections", to="limits.connections", metavar="NUMBER", convert=whole_number(0),
        help="The greatest number of open connections, above which those that are idle for longest are closed for new ones; 0 is as many "
             "as file descriptors allow."),
    option(LIMITS, "--limit-connections-per-address", to="limits.connections_per_address", metavar="NUMBER", convert=whole_number(0),
        help="The greatest number of connections of one client address, or IPv6 network of 64 bits; more are closed, and 0 is no limit."),
    option(LIMITS, "--max-memory", to="limits.memory", metavar="SIZE", convert=size,
        help="Memory of a process above which clients that hold most of it are closed; 0 is half of what the machine or the container "
             "has, shared by all worker processes."),

    option(SHUTDOWN, "--graceful-timeout", to="timeouts.graceful", metavar="SECONDS", convert=seconds_or_zero,
        everyday=True,
        help="For open requests to end after SIGTERM or SIGINT."),

    option(PROCESSES, "-w --workers", to="processes.workers", metavar="NUMBER", convert=whole_number(0, 1024),
        everyday=True,
        help="Run this many processes on the same sockets, under a master that replaces those that end; 0 serves in this process alone."),
    option(PROCESSES, "--max-requests", to="processes.max_requests", metavar="NUMBER", convert=whole_number(0),
        help="Replace a process, or end it in good order where there is no master, after this many requests; 0 is never."),
    option(PROCESSES, "--max-requests-jitter", to="processes.max_requests_jitter", metavar="NUMBER", convert=whole_number(0),
        help="Up to so many requests more, by chance, so that not all processes end at once."),
    option(PROCESSES, "--max-rss", to="processes.max_rss", metavar="SIZE", convert=size,
        help="The same once it occupies more memory than that; 0 is never."),
    option(PROCESSES, "--user", to="processes.user", metavar="USER",
        help="Once the sockets are open, run as this user, by name or number; the server has to be started by root."),
    option(PROCESSES, "--group", to="processes.group", metavar="GROUP",
        help="Run with this group; without it with the group of --user."),
    option(PROCESSES, "--umask", to="processes.umask", metavar="MODE", convert=umask,
        help="The permissions that new files do not get, an octal number such as 027."),
    option(PROCESSES, "--pid", to="processes.pid_file", metavar="FILE", known_as="pidfile",
        help="Write the number of the process, or of the master, into this file, and remove it at the end."),
    option(PROCESSES, "--chdir", to="processes.directory", metavar="DIRECTORY",
        help="Change to this directory before the application is imported; paths of other options do not depend on it."),

    option(PROCESSES, "--reload", to="processes.reload",
        help="Start a new worker when a source file changes, then end the old one; for development. A module that does not import leaves "
             "the old worker serving, and browsers see the traceback."),
    option(PROCESSES, "--reload-dir", to="processes.reload_dirs", metavar="DIRS",
        help="Watch these directories, with commas between them, instead of the current one."),
    option(PROCESSES, "--reload-include", to="processes.reload_include", metavar="PATTERNS",
        help="Watch files with these names, with commas between the patterns."),
    option(PROCESSES, "--reload-exclude", to="processes.reload_exclude", metavar="PATTERNS",
        help="Ignore files with these names or paths."),

    option(MONITORING, "--health-path", to="monitoring.health_path", metavar="PATH", convert=url_path,
        help="Answer health checks at this path without the application: 200, or 503 and why."),
    option(MONITORING, "--metrics-path", to="monitoring.metrics_path", metavar="PATH", convert=url_path,
        help="Answer Prometheus at this path; whoever can reach the server can read it."),
    option(MONITORING, "--metrics", to="monitoring.metrics", metavar="STRING",
        help="Listen on this endpoint for nothing but metrics and health checks, at /metrics and /health unless these options say "
             "otherwise."),
    option(MONITORING, "--watchdog", to="monitoring.watchdog", metavar="SECONDS", convert=seconds_or_zero,
        help="Log what blocks the whole process for longer than so many seconds; 0 is never."),
)
# fmt: on
