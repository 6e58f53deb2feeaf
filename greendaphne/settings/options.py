"""The table of options: the spelling, the meaning and the configuration value of each.

A new option needs a row of :data:`OPTIONS` with the value of :class:`greendaphne.config.Config` that it sets, a consumer of that value, and
documentation.  The help text (``help``), the command line with its abbreviations (``arguments``), and the environment and the configuration
file (``sources``) use the row.  Its default is that of the configuration.

Imports nothing that gevent must patch first, because the command line is read before gevent patches the process.
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
LISTENING: Final = "Where to listen (http://127.0.0.1:8000 if none of these is given)"
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
#: The groups in the order of the help text: the options needed first, then those for public servers, logs, and the protocols in detail.
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
    """Names separated by commas."""
    return tuple(name for name in text.split(",") if name.strip())


# fmt: off
#: Every option, each in two parts: its spelling and the value that it sets; its help text.  Within a group the order is that of the help
#: text.
OPTIONS: Final = (
    option(CONFIGURATION, "-c --config", metavar="FILE", command_line_only=True,
        everyday=True,
        help="Read options from this file, written in TOML."),
    option(CONFIGURATION, "--check-config", command_line_only=True,
        help="Check all options, import the application, print each option with its value and its origin, and end without listening."),

    option(LISTENING, "-p --port", to="listening.port", metavar="PORT", convert=whole_number(0, 65535), legacy=True,
        everyday=True,
        help="Listen on this TCP port; 8000 if only --bind is given; 0 lets the system choose one."),
    option(LISTENING, "-b --bind", to="listening.host", metavar="HOST", convert=host, legacy=True, known_as="host",
        everyday=True,
        help="Listen on this address or host name; 127.0.0.1 if only --port is given; :: is every address."),
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
        help="Maximum number of connections that wait to be accepted, for endpoints without a backlog of their own."),
    option(LISTENING, "--reuse-port", to="listening.reuse_port",
        help="Let several servers listen on the same TCP port; the system spreads connections over them."),

    option(TLS, "--certfile", to="tls.certfile", metavar="FILE",
        everyday=True,
        help="Use TLS with this certificate and its chain on every endpoint without TLS of its own."),
    option(TLS, "--keyfile", to="tls.keyfile", metavar="FILE",
        everyday=True,
        help="The certificate's private key, if in another file."),
    option(TLS, "--keyfile-password", to="tls.keyfile_password", metavar="TEXT", secret=True,
        help="The password of encrypted private keys. Prefer the file: all users of the machine can read command lines."),
    option(TLS, "--keyfile-password-file", to="tls.keyfile_password_file", metavar="FILE",
        help="Read the password of encrypted private keys from this file."),
    option(TLS, "--tls-client-ca", to="tls.client_ca", metavar="FILE",
        help="Ask clients for a certificate of one of these authorities."),
    option(TLS, "--tls-verify", to="tls.verify", metavar="MODE", convert=choice("none", "optional", "require"),
        help="Client certificates: none, optional, or require, which is the default with --tls-client-ca."),
    option(TLS, "--tls-dev", to="tls.dev",
        everyday=True,
        help="Create and use a self-signed certificate for localhost; for development only."),
    option(TLS, "--tls-handshake-timeout", to="timeouts.tls_handshake", metavar="SECONDS", convert=seconds,
        help="Seconds from the connection to the end of its TLS handshake."),

    option(ACME, "--acme-email", to="acme.email", metavar="ADDRESS",
        help="E-mail addresses at which the authority may contact you, separated by commas."),
    option(ACME, "--acme-agree-tos", to="acme.agree_tos",
        help="Agree to the authority's terms of service; required for certificates."),
    option(ACME, "--acme-domains", to="acme.domains", metavar="NAMES", convert=_names,
        help="Obtain certificates for these host names, separated by commas, in addition to those with a file."),
    option(ACME, "--acme-challenge", to="acme.challenge", metavar="KIND", convert=choice("tls-alpn-01", "http-01"),
        help="Prove control of a name only by tls-alpn-01 or only by http-01; by default by either, as the endpoints allow."),
    option(ACME, "--acme-eab-kid", to="acme.eab_kid", metavar="ID",
        help="The key identifier for external account binding, if the authority requires it."),
    option(ACME, "--acme-eab-hmac-key", to="acme.eab_hmac_key", metavar="KEY", secret=True,
        help="The key for external account binding, in base64url. Prefer the file."),
    option(ACME, "--acme-eab-hmac-key-file", to="acme.eab_hmac_key_file", metavar="FILE",
        help="Read the key for external account binding from this file."),
    option(ACME, "--acme-ca", to="acme.ca", metavar="FILE",
        help="Trust only the authorities in this PEM file for HTTPS to the ACME server."),

    option(APPLICATION, "--interface", to="application.interface", metavar="NAME",
        convert=choice("auto", "channels", "asgi3", "asgi2", "wsgi"),
        help="The kind of the application: channels (a channel layer), wsgi, asgi3 or asgi2; auto detects it."),
    option(APPLICATION, "--wsgi", to="application.wsgi",
        help="The same as --interface=wsgi."),
    option(APPLICATION, "--asgi", to="application.asgi",
        help="The same as --interface=asgi3, or asgi2 for an object of that form."),
    option(APPLICATION, "--factory", to="application.factory",
        help="The argument names a function that returns the application; it is called once, without arguments."),
    option(APPLICATION, "--app-dir", to="application.app_dir", metavar="DIRECTORY",
        help="Search this directory first for modules; by default the current one."),
    option(APPLICATION, "--websocket-app", to="application.websocket_app", metavar="APPLICATION",
        help="Serve WebSockets with this application, module.path:attribute, and HTTP with that of the argument."),
    option(APPLICATION, "--mount", to="application.mounts", metavar="MOUNT", convert=mount, takes=Takes.EACH,
        help="Mount a further application, written /path=module.path:attribute or /path=module.path:attribute,interface; may be "
             "repeated."),
    option(APPLICATION, "--lifespan", to="asgi.lifespan", metavar="MODE", convert=choice("auto", "on", "off"),
        help="Lifespan events for an ASGI application: on, off, or auto, which stops if the application does not support them."),
    option(APPLICATION, "--lifespan-timeout", to="asgi.lifespan_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds for an ASGI application to start; 0 is no limit."),
    option(APPLICATION, "--application-close-timeout", to="asgi.close_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds for tasks of an ASGI application that continue after the last request when the server ends, before they are "
             "cancelled."),
    option(APPLICATION, "--app-concurrency", to="application.concurrency", metavar="NUMBER", convert=whole_number(0),
        help="Maximum number of requests inside a WSGI or ASGI application at a time, for example its number of database connections; "
             "others wait. 0 is no limit."),
    option(APPLICATION, "--app-queue", to="application.queue", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds that a request waits for --app-concurrency before it is answered with 503."),
    option(APPLICATION, "--request-timeout", to="application.request_timeout", metavar="SECONDS", convert=seconds_or_zero,
        help="Seconds for a WSGI or ASGI application to begin its response; after that it is interrupted and 503 is sent. 0 is no "
             "limit."),
    option(APPLICATION, "--wsgi-websocket", to="application.wsgi_websocket", metavar="WHEN", convert=choice("eager", "lazy"),
        help="When a WebSocket of a WSGI application is accepted: eager, once the application waits for something, or lazy, once it "
             "uses the WebSocket; until then its response denies the WebSocket."),
    option(APPLICATION, "--buffer-request-body", to="application.buffer_request_body", metavar="SIZE", convert=size,
        help="Read up to this much of a request body before the WSGI application is called; 0 reads nothing in advance."),
    option(APPLICATION, "--environ", to="application.environ", metavar="VARIABLE", convert=environ_entry, takes=Takes.EACH,
        help="Put NAME=VALUE into the environ of a WSGI application; may be repeated."),
    option(APPLICATION, "--patch", to="application.patch",
        help="Let gevent patch the standard library for every interface; by default not if an option selects ASGI."),
    option(APPLICATION, "--no-patch", to="application.no_patch",
        help="Do not let gevent patch the standard library."),
    option(APPLICATION, "--inline-workers", to="channels.inline_workers", metavar="NUMBER", convert=whole_number(0, 1024),
        everyday=True,
        help="Run this many workers of the application inside the server; 0 if workers run in other processes."),
    option(APPLICATION, "--force-sync", to="channels.force_sync", legacy=True,
        help="Poll the channel layer for replies instead of waiting for them."),
    option(APPLICATION, "--on-layer-loss", to="channels.on_layer_loss", metavar="ACTION", convert=choice("shed", "keep", "exit"),
        help="After the channel layer may have lost messages and groups: shed closes all WebSockets with 1012, keep leaves them open, exit "
             "ends the server with code 1."),
    option(APPLICATION, "--reply-channels", to="channels.reply_channels", metavar="NUMBER", convert=whole_number(1, 64),
        help="Spread replies over this many lists of the channel layer, each of which has the layer's capacity."),

    option(LOGGING, "-v --verbosity", to="logging.verbosity", metavar="LEVEL", convert=integer, legacy=True,
        help="0 logs only warnings and no accesses; 1 also logs events; 2 also logs every message."),
    option(LOGGING, "--access-log", to="logging.access_log", metavar="FILE", legacy=True,
        everyday=True,
        help="Append accesses to this file, at every verbosity; a hyphen is standard output, the default; logging: is "
             "the logger daphne.access."),
    option(LOGGING, "--access-log-format", to="logging.access_log_format", metavar="FORMAT",
        help="The format of the access log: daphne, the default, json, common, combined, or text with atoms such as %(h)s."),
    option(LOGGING, "--log-level", to="logging.level", metavar="LEVEL", convert=choice("debug", "info", "warning", "error", "critical"),
        help="Log messages of at least this level: debug, info, warning, error or critical; the default follows from --verbosity."),
    option(LOGGING, "--log-format --log-fmt", to="logging.format", metavar="FORMAT",
        help="The format of the log: text, json, or a format such as %(levelname)s %(message)s."),
    option(LOGGING, "--log-config", to="logging.config", metavar="FILE",
        help="Configure the log with this file, in Python's INI format, JSON or TOML."),

    option(PROXIES, "--root-path", to="root_path", metavar="PATH", legacy=True,
        help="The path at which the application is mounted, URL-encoded; a Daphne-Root-Path header overrides it, from this machine or, "
             "if that is given, from --forwarded-allow-ips."),
    option(PROXIES, "--proxy-headers", to="proxies.headers", legacy=True,
        everyday=True,
        help="Trust X-Forwarded-For, X-Forwarded-Port and X-Forwarded-Proto; only for use behind a proxy."),
    option(PROXIES, "--proxy-headers-host", to="proxies.headers_host", metavar="NAME", convert=header_name,
        help="The header with the client's address, instead of X-Forwarded-For."),
    option(PROXIES, "--proxy-headers-port", to="proxies.headers_port", metavar="NAME", convert=header_name,
        help="The header with the client's port, instead of X-Forwarded-Port."),
    option(PROXIES, "--forwarded-allow-ips", to="proxies.forwarded_allow_ips", metavar="LIST", convert=AddressList,
        help="Trust proxy headers only from these peers: addresses, networks, unix, or * for all, separated by commas."),
    option(PROXIES, "--forwarded-headers", to="proxies.forwarded_headers", metavar="LIST", convert=forwarded_fields,
        help="The headers that the proxy sets: some of these, or forwarded."),
    option(PROXIES, "--proxy-protocol", to="listening.proxy_protocol", metavar="VERSION", convert=choice("off", "v1", "v2", "auto"),
        help="The PROXY header at the start of every connection: v1, v2, auto for either, or off; haproxy: endpoints use auto."),
    option(PROXIES, "--proxy-allow-from", to="proxies.allow_from", metavar="LIST", convert=AddressList,
        help="Peers that may send PROXY headers: addresses, networks, unix for UNIX sockets, * for all; other connections are closed."),
    option(PROXIES, "--allowed-hosts", to="allowed_hosts", metavar="LIST", convert=HostList,
        help="Answer 421 to requests for hosts other than these, separated by commas; .example.com is a host and its subdomains."),
    option(PROXIES, "-s --server-name", to="server_name", metavar="NAME", convert=field_value,
        help="Send this as the Server header; without it only WebSocket handshakes have one, with the value Daphne."),
    option(PROXIES, "--no-server-name", to="no_server_name",
        help="Send no Server header at all."),

    option(HTTP, "-t --http-timeout", to="timeouts.http", metavar="SECONDS", convert=seconds, legacy=True,
        help="Time for a worker of a channel layer to begin its response, and between its parts; 503 after that. If given, also the time "
             "for the whole response of an ASGI application. See also --request-timeout."),
    option(HTTP, "--answer-half-closed", to="channels.answer_half_closed",
        help="Keep a request whose client has closed its sending side but still reads; by default the client counts as gone within a "
             "second."),
    option(HTTP, "--keep-alive-timeout", to="timeouts.keep_alive", metavar="SECONDS", convert=seconds_or_zero,
        help="Time for the next request on an idle connection."),
    option(HTTP, "--header-timeout", to="timeouts.header", metavar="SECONDS", convert=seconds,
        help="Time for a whole request head to arrive."),
    option(HTTP, "--body-timeout", to="timeouts.body", metavar="SECONDS", convert=seconds,
        help="Time without a further byte of a request body."),
    option(HTTP, "--send-timeout", to="timeouts.send", metavar="SECONDS", convert=seconds,
        help="Time without progress in sending to a client."),

    option(HTTP2, "--http2-max-concurrent-streams", to="http2.max_concurrent_streams", metavar="NUMBER",
        convert=whole_number(1, 1_000_000),
        help="Maximum number of concurrent requests on one connection; further ones are refused."),
    option(HTTP2, "--http2-initial-window-size", to="http2.initial_window_size", metavar="SIZE", convert=size_above_zero,
        help="Bytes of a body that a client may send before the application reads."),
    option(HTTP2, "--http2-max-frame-size", to="http2.max_frame_size", metavar="SIZE", convert=size_above_zero,
        help="The longest frame, 16K to 16M."),
    option(HTTP2, "--http2-max-header-list-size", to="http2.max_header_list_size", metavar="SIZE", convert=size_above_zero,
        help="The longest header section after decompression; 431 above it."),
    option(HTTP2, "--http2-cleartext", to="http2.cleartext",
        help="Also accept HTTP/2 without TLS, from clients with prior knowledge."),

    option(WEBSOCKET, "--websocket_timeout --websocket-timeout", to="timeouts.websocket", metavar="SECONDS", convert=seconds_or_never,
        legacy=True,
        help="The maximum lifetime of a connection; a negative number is no limit; the default is the channel layer's group expiry."),
    option(WEBSOCKET, "--websocket_connect_timeout --websocket-connect-timeout", to="timeouts.websocket_connect", metavar="SECONDS",
        convert=seconds_or_never, legacy=True,
        help="Time for the application to accept a connection; a negative number is no limit."),
    option(WEBSOCKET, "--ping-interval", to="timeouts.ping_interval", metavar="SECONDS", convert=seconds_or_zero, legacy=True,
        help="Ping a client that has been silent for this long; 0 is never."),
    option(WEBSOCKET, "--ping-timeout", to="timeouts.ping_timeout", metavar="SECONDS", convert=seconds_or_zero, legacy=True,
        help="Time for the answer to a ping, before the connection is closed; 0 is no limit."),
    option(WEBSOCKET, "--ws-protocol", to="websockets.protocols", metavar="NAME", takes=Takes.MANY, legacy=True, known_as="ws_protocols",
        help="The subprotocols to offer, one or several names; write -- or another option after the last one."),
    option(WEBSOCKET, "--ws-allow-origin", to="websockets.allow_origin", metavar="LIST", convert=OriginList,
        help="Answer 403 to browsers with pages of origins other than these: https://example.com, https://*.example.com or same-host, "
             "separated by commas."),
    option(WEBSOCKET, "--websocket-max-message-size", to="limits.websocket_message", metavar="SIZE", convert=size,
        help="The longest message; 0 is no limit."),
    option(WEBSOCKET, "--websocket-max-frame-size", to="limits.websocket_frame", metavar="SIZE", convert=size,
        help="The longest frame; 0 is no limit."),
    option(WEBSOCKET, "--websocket-message-timeout", to="timeouts.websocket_message", metavar="SECONDS", convert=seconds_or_zero,
        help="Time from the first byte of a message to its last; 0 is no limit."),
    option(WEBSOCKET, "--websocket-compression", to="websockets.compression",
        help="Compress messages for clients that offer it (permessage-deflate)."),
    option(WEBSOCKET, "--websocket-keep-context", to="websockets.keep_context",
        help="Let compressed messages refer to earlier ones (context takeover): fewer bytes if messages resemble each other, for up to "
             "350 KiB of memory per connection, 64 MiB in all."),
    option(WEBSOCKET, "--websocket-window-bits", to="websockets.window_bits", metavar="BITS", convert=whole_number(9, 15),
        help="The largest window for compression, as a power of two; smaller ones take less memory."),

    option(BODIES, "--limit-request-body", to="limits.request_body", metavar="SIZE", convert=size,
        help="Refuse longer bodies with 413; 0 is no limit."),
    option(BODIES, "--limit-inline-body", to="limits.inline_body", metavar="SIZE", convert=size,
        help="Pass longer bodies in pieces, through body_channel; 0 always passes them whole."),
    option(BODIES, "--stream-request-body", to="channels.stream_request_body",
        help="Pass the pieces while the client still sends, instead of after the body is complete."),

    option(LIMITS, "--limit-request-line", to="limits.request_line", metavar="SIZE", convert=size_above_zero,
        help="The longest request line; 414 above it."),
    option(LIMITS, "--limit-request-fields", to="limits.request_fields", metavar="NUMBER", convert=whole_number(1),
        help="The maximum number of header fields; 431 above it."),
    option(LIMITS, "--limit-request-field-size", to="limits.request_field_size", metavar="SIZE", convert=size_above_zero,
        help="The longest header field; 431 above it."),
    option(LIMITS, "--limit-connections", to="limits.connections", metavar="NUMBER", convert=whole_number(0),
        help="The maximum number of open connections; above it the connections idle for longest are closed for new ones. 0 is the number "
             "that file descriptors allow."),
    option(LIMITS, "--limit-connections-per-address", to="limits.connections_per_address", metavar="NUMBER", convert=whole_number(0),
        help="The maximum number of connections of one client address, or IPv6 network of 64 bits; others are closed. 0 is no limit."),
    option(LIMITS, "--max-memory", to="limits.memory", metavar="SIZE", convert=size,
        help="Memory of a process above which the connections that hold most of it are closed; 0 is half of the memory of the machine "
             "or container, divided among all worker processes."),

    option(SHUTDOWN, "--graceful-timeout", to="timeouts.graceful", metavar="SECONDS", convert=seconds_or_zero,
        everyday=True,
        help="Time for open requests to end after SIGTERM or SIGINT."),

    option(PROCESSES, "-w --workers", to="processes.workers", metavar="NUMBER", convert=whole_number(0, 1024),
        everyday=True,
        help="Run this many processes on the same sockets, under a master that replaces those that end; 0 serves in this process alone."),
    option(PROCESSES, "--max-requests", to="processes.max_requests", metavar="NUMBER", convert=whole_number(0),
        help="Replace a process after this many requests, or end it gracefully if it has no master; 0 is never."),
    option(PROCESSES, "--max-requests-jitter", to="processes.max_requests_jitter", metavar="NUMBER", convert=whole_number(0),
        help="Add a random number of requests up to this one to --max-requests, so that not all processes end at once."),
    option(PROCESSES, "--max-rss", to="processes.max_rss", metavar="SIZE", convert=size,
        help="Replace or end the process once it uses more than SIZE of memory; 0 is never."),
    option(PROCESSES, "--user", to="processes.user", metavar="USER",
        help="Once the sockets are open, run as this user, by name or number; the server has to be started by root."),
    option(PROCESSES, "--group", to="processes.group", metavar="GROUP",
        help="Run with this group; by default with the group of --user."),
    option(PROCESSES, "--umask", to="processes.umask", metavar="MODE", convert=umask,
        help="The permissions that new files must not have, as an octal number such as 027."),
    option(PROCESSES, "--pid", to="processes.pid_file", metavar="FILE", known_as="pidfile",
        help="Write the ID of the process, or of the master, into this file, and remove it at the end."),
    option(PROCESSES, "--chdir", to="processes.directory", metavar="DIRECTORY",
        help="Change to this directory before the application is imported; paths of other options do not depend on it."),

    option(PROCESSES, "--reload", to="processes.reload",
        help="Start a new worker when a source file changes, then end the old one; for development. If a module cannot be imported, "
             "the old worker continues to serve, and browsers see the traceback."),
    option(PROCESSES, "--reload-dir", to="processes.reload_dirs", metavar="DIRS",
        help="Watch these directories, separated by commas, instead of the current one."),
    option(PROCESSES, "--reload-include", to="processes.reload_include", metavar="PATTERNS",
        help="Watch files with names that match these patterns, separated by commas."),
    option(PROCESSES, "--reload-exclude", to="processes.reload_exclude", metavar="PATTERNS",
        help="Ignore files with names or paths that match these patterns."),

    option(MONITORING, "--health-path", to="monitoring.health_path", metavar="PATH", convert=url_path,
        help="Answer health checks at this path without the application: 200, or 503 with the reason."),
    option(MONITORING, "--metrics-path", to="monitoring.metrics_path", metavar="PATH", convert=url_path,
        help="Serve Prometheus metrics at this path. Anyone who can reach the server can read them."),
    option(MONITORING, "--metrics", to="monitoring.metrics", metavar="STRING",
        help="Serve only metrics and health checks on this endpoint, at /metrics and /health unless the two options above name other "
             "paths."),
    option(MONITORING, "--watchdog", to="monitoring.watchdog", metavar="SECONDS", convert=seconds_or_zero,
        help="Log code that blocks the whole process for longer than this many seconds; 0 is never."),
)
# fmt: on
