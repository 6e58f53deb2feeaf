"""The ``greendaphne`` command: a command line to a server that runs until it is told to stop.

:func:`main` returns the exit code: 0 after a clean end, 2 for a wrong command line and 1 when the configuration, an import or a bind
fails.  A user's mistake is one line on standard error; only an exception of the application's own module shows its traceback.

gevent patches the process after the command line is read and before anything else is imported, the application above all.  So this
module and what it imports at its top stay free of ``logging``, ``threading``, ``socket``, ``ssl`` and whatever imports them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import __version__
from .arguments import HELP, Command, read
from .forwarded.fields import FORWARDED, ForwardedFields
from .option import UsageError
from .options import DEFAULT_HOST, DEFAULT_PORT, Options
from .processes import control
from .usage import help_text

if TYPE_CHECKING:
    from types import TracebackType

    from .acme import AcmeOptions
    from .endpoints import ListeningOptions
    from .http2 import Http2Limits
    from .logs import Logs
    from .observer import Observer
    from .processes.setup import Process
    from .server import Server
    from .tls import TLSOptions

PROGRAM = "greendaphne"
#: daphne's name, which logging configurations refer to.
LOGGER = "daphne.cli"

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
#: The shell's code for a process that SIGINT ended.
EXIT_INTERRUPTED = 130


class ConfigurationError(Exception):
    """The server cannot start as it is told to; the text is one line that says why."""


class ApplicationError(Exception):
    """The application's module raised an exception while it was imported, which is the cause of this one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    :param argv: the arguments without the program's name; those of the process by default.
    """
    try:
        command = read(sys.argv[1:] if argv is None else argv, os.environ)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error} ({PROGRAM} --help shows all options)", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        # A configuration file may be a pipe.
        return EXIT_INTERRUPTED
    if not isinstance(command, Command):
        show(help_text() if command is HELP else f"{PROGRAM} {__version__}")
        return EXIT_OK
    options = command.options
    if options.check_config:
        from .check import effective

        show(effective(command.settings))
    elif control.is_worker():
        control.protect()
    elif options.workers:
        return run_master(options, argv)
    patch()
    try:
        return run(options)
    except KeyboardInterrupt:
        # Before the server handles signals, such as while the application is imported.
        return EXIT_INTERRUPTED


def show(text: str) -> None:
    """Print ``text``, in whatever encoding; whoever reads may stop in the middle of it, as ``head`` does."""
    encoding = sys.stdout.encoding
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The interpreter will flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def patch() -> None:
    """Make the standard library cooperative, for the application and everything that it will import, asyncio included."""
    from gevent import monkey

    monkey.patch_all()
    # Before there is a hub.  It imports asyncio, which has to come after the patches.
    from .aio import hub

    hub.install()


def run_master(options: Options, argv: Sequence[str] | None) -> int:
    """Run the master of several processes, which is not patched; returns the exit code."""
    import logging

    from .endpoints import EndpointError
    from .processes import setup

    logs = open_logs(options)
    if logs is None:
        return EXIT_FAILURE
    try:
        return setup.run_master(options, endpoint_descriptions(options), listening_options(options), argv, logs.reopen)
    except (ConfigurationError, EndpointError) as error:
        logging.getLogger(LOGGER).error("%s", error)
        return EXIT_FAILURE
    finally:
        logs.close()


def open_logs(options: Options) -> Logs | None:
    """Set up ``logging`` for a process that this command runs in; ``None`` where that is not possible as the options say."""
    from .logs import LogError, Logs

    try:
        return Logs(options)
    except LogError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return None


def run(options: Options) -> int:
    """Serve until told to stop, in a process that is patched; returns the exit code."""
    import signal

    from .signals import survive

    # They ask a server for something.  While one is still starting, or ending already, there is nothing to do, and they must not end it.
    with survive((signal.SIGHUP, signal.SIGUSR1)):
        logs = open_logs(options)
        if logs is None:
            return EXIT_FAILURE
        try:
            logs.adopt_hub()
            return serve(options, logs)
        finally:
            logs.close()


def serve(options: Options, logs: Logs) -> int:
    """Serve until told to stop, once there is a log; returns the exit code."""
    import logging

    logger = logging.getLogger(LOGGER)
    from .endpoints import EndpointError
    from .inline import ConfigurationError as InlineWorkerError
    from .logs import LogError

    try:
        if options.check_config:
            check(options, logs)
        else:
            make_server(options, logs).run()
    except (ConfigurationError, EndpointError, InlineWorkerError, LogError) as error:
        logger.error("%s", error)
        return EXIT_FAILURE
    except ApplicationError as error:
        cause = error.__cause__
        logger.error("%s", error, exc_info=cause and (type(cause), cause, _own_frames_removed(cause.__traceback__)))
        return EXIT_FAILURE
    return EXIT_OK


def check(options: Options, logs: Logs) -> None:
    """Find what would keep the server from starting (``--check-config``); raises what :func:`make_server` and :meth:`Server.check` do."""
    import logging

    from .check import no_new_file

    with no_new_file(options.access_log):
        make_server(options, logs).check()
    logging.getLogger(LOGGER).info("Nothing is wrong")


def make_server(options: Options, logs: Logs) -> Server:
    """Return a server for ``options``; it does not listen yet.

    :raises ConfigurationError: when the channel layer cannot be had.
    :raises LogError: when the access log cannot be had.
    :raises ApplicationError: when the channel layer's module raises an exception.
    :raises EndpointError: for a wrong endpoint string.
    """
    import logging

    from . import compat
    from .processes.setup import prepare

    access = logs.access()
    # Applications for daphne import names from it.
    compat.install()
    channel_layer = load_channel_layer(options.channel_layer)
    endpoints = endpoint_descriptions(options)
    if not options.check_config:
        logging.getLogger(LOGGER).info("Starting server at %s, channel layer %s.", ", ".join(endpoints), options.channel_layer)
    observers: list[Observer] = [] if access is None else [access]
    return build(options, channel_layer, endpoints, observers, logs, prepare(options, endpoints, channel_layer))


def build(
    options: Options, channel_layer: Any, endpoints: list[str], observers: list[Observer], logs: Logs, process: Process | None = None
) -> Server:
    """Return the server that ``options`` describe."""
    from .server import Server

    fields = proxy_fields(options)
    check_monitoring(options)
    return Server(
        channel_layer,
        endpoints=endpoints,
        http_timeout=options.http_timeout,
        websocket_timeout=options.websocket_timeout,
        websocket_connect_timeout=options.websocket_connect_timeout,
        ping_interval=options.ping_interval,
        ping_timeout=options.ping_timeout,
        ws_protocols=list(options.ws_protocols) or None,
        root_path=options.root_path,
        proxy_forwarded_address_header=fields and fields.address,
        proxy_forwarded_port_header=fields and fields.port,
        proxy_forwarded_proto_header=fields and fields.proto,
        forwarded_allow_ips=options.forwarded_allow_ips,
        force_sync=options.force_sync,
        verbosity=options.verbosity,
        limits=options.limits(),
        timeouts=options.timeouts(),
        stream_request_body=options.stream_request_body,
        server_name=options.server_name,
        inline_workers=options.inline_workers,
        websocket_compression=options.websocket_compression,
        certfile=options.certfile,
        keyfile=options.keyfile,
        tls_options=tls_options(options),
        tls_dev=options.tls_dev,
        acme=acme_options(options),
        http2_limits=http2_limits(options),
        http2_cleartext=options.http2_cleartext,
        on_layer_loss=options.on_layer_loss,
        reply_channels=options.reply_channels,
        listening=listening_options(options),
        proxy_allow_from=options.proxy_allow_from,
        health_path=options.health_path,
        metrics_path=options.metrics_path,
        metrics=options.metrics,
        watchdog=options.watchdog,
        lifecycle=process.lifecycle if process is not None else (),
        reopen_logs=logs.reopen,
        observers=[*observers, *(process.observers if process is not None else ())],
    )


def proxy_fields(options: Options) -> ForwardedFields | None:
    """Return the header fields in which proxies tell about the client; ``None`` where they are not believed.

    :raises ConfigurationError: when everybody would be believed in a field that has no such way of reading.
    """
    fields = options.forwarded_headers
    if options.forwarded_allow_ips is None:
        if fields.address == FORWARDED:
            raise ConfigurationError("--forwarded-headers=forwarded needs --forwarded-allow-ips, the proxies that are believed.")
        if not options.proxy_headers:
            return None
    return fields


def check_monitoring(options: Options) -> None:
    """Make sure that there can be metrics as the options want them.

    :raises ConfigurationError: without what they need, or when one path is to show two things.
    """
    if options.metrics is None and options.metrics_path is None:
        return
    try:
        from .monitoring import exposition  # noqa: F401 - what it imports may be missing
    except ImportError as error:
        raise ConfigurationError(str(error)) from None
    from .monitoring.monitor import HEALTH_PATH, METRICS_PATH

    health = options.health_path or (HEALTH_PATH if options.metrics is not None else None)
    if health == (options.metrics_path or METRICS_PATH):
        raise ConfigurationError(f"{health} cannot answer both health checks and Prometheus.")


def tls_options(options: Options) -> TLSOptions | None:
    """Return what holds for every endpoint with TLS; ``None`` where the command line says nothing about it.

    :raises ConfigurationError: when that contradicts itself.
    """
    if options.keyfile is not None and options.certfile is None:
        raise ConfigurationError("--keyfile needs --certfile, the certificate that it belongs to.")
    if options.tls_client_ca is None and options.tls_verify is None:
        return None
    from .tls import TLSError, TLSOptions

    try:
        return TLSOptions(client_ca=options.tls_client_ca, verify=options.tls_verify)
    except TLSError as error:
        raise ConfigurationError(f"{error}.") from None


def acme_options(options: Options) -> AcmeOptions | None:
    """Return what holds for certificates from an authority; ``None`` where the command line says nothing about it.

    :raises ConfigurationError: when that contradicts itself, or a file cannot be read.
    """
    given = (options.acme_email, options.acme_domains, options.acme_challenge, options.acme_eab_kid, options.acme_ca)
    keys = (options.acme_eab_hmac_key, options.acme_eab_hmac_key_file)
    if not options.acme_agree_tos and all(value is None for value in given + keys):
        return None
    from .acme import AcmeError, AcmeOptions, read_hmac_key

    if all(value is not None for value in keys):
        raise ConfigurationError("--acme-eab-hmac-key and --acme-eab-hmac-key-file cannot both be given.")
    try:
        key = options.acme_eab_hmac_key
        return AcmeOptions(
            email=options.acme_email,
            agree_tos=options.acme_agree_tos,
            domains=tuple(name for name in (options.acme_domains or "").split(",") if name.strip()),
            eab_kid=options.acme_eab_kid,
            eab_hmac_key=read_hmac_key(options.acme_eab_hmac_key_file) if options.acme_eab_hmac_key_file is not None else key,
            ca=options.acme_ca,
            challenge=options.acme_challenge,
        )
    except AcmeError as error:
        raise ConfigurationError(f"{error}.") from None


def http2_limits(options: Options) -> Http2Limits:
    """Return the limits of HTTP/2 connections.

    :raises ConfigurationError: for a value that the protocol does not allow.
    """
    from .http2 import Http2Limits

    try:
        return Http2Limits(
            max_concurrent_streams=options.http2_max_concurrent_streams,
            initial_window_size=options.http2_initial_window_size,
            max_frame_size=options.http2_max_frame_size,
            max_header_list_size=options.http2_max_header_list_size,
        )
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ConfigurationError(f"--http2-{name.replace('_', '-')} {rest}.") from None


def endpoint_descriptions(options: Options) -> list[str]:
    """Return the strings of all endpoints to listen on, sorted and with duplicates, as daphne did.

    Where no option names any, they are the sockets that systemd handed down, and only without those the default address.
    A file descriptor 0 and a port 0 count as given; daphne listened on its default address as well, or instead.
    """
    from .endpoints import build_endpoint_description_strings, systemd

    host, port = options.host or None, options.port
    given = (host, port, options.unix_socket or None, options.file_descriptor, options.socket_strings or None)
    nothing = all(value is None for value in given)
    if nothing and (inherited := control.opened()):
        # The master put the one for metrics behind them.
        return inherited[:-1] if options.metrics is not None else inherited
    if nothing and (inherited := systemd.descriptions()):
        return inherited
    if nothing or host is not None or port is not None:
        host = DEFAULT_HOST if host is None else host
        port = DEFAULT_PORT if port is None else port
    built = build_endpoint_description_strings(host, port, options.unix_socket, options.file_descriptor)
    return sorted([*options.socket_strings, *built])


def listening_options(options: Options) -> ListeningOptions:
    """Return what holds for all endpoints that do not say it themselves."""
    from .endpoints import PROXY_PROTOCOL, ListeningOptions

    return ListeningOptions(options.backlog, options.reuse_port, PROXY_PROTOCOL[options.proxy_protocol])


def load_channel_layer(place: str) -> Any:
    """Import the channel layer at ``place``, ``module.path:attribute.path``, with the current directory before all other places.

    :raises ConfigurationError: when there is no such module or attribute, or what is there is no channel layer.
    :raises ApplicationError: when the module raises an exception.
    """
    module_path, colon, attribute_path = place.partition(":")
    if not colon or not all(module_path.split(".")) or not all(attribute_path.split(".")):
        raise ConfigurationError(f"The channel layer {place!r} is not written module.path:attribute.path.")
    sys.path.insert(0, ".")
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_path}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"Cannot import the channel layer {place}: {error}.") from None
        raise ApplicationError(f"Cannot import the channel layer {place}:") from error
    except Exception as error:
        raise ApplicationError(f"Cannot import the channel layer {place}:") from error
    value: Any = module
    for name in attribute_path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise ConfigurationError(f"Cannot find the channel layer {place}: {error}.") from None
    if isinstance(value, type):
        raise ConfigurationError(f"{place} is a class, not a channel layer made with it.")
    if not callable(getattr(value, "send", None)):
        raise ConfigurationError(f"{place} is not a channel layer: it is of type {type(value).__name__} and has no send().")
    return value


def _own_frames_removed(traceback: TracebackType | None) -> TracebackType | None:
    """Leave out this module's and the import system's frames at the beginning, which tell the user nothing."""
    own = (__file__, importlib.__file__)
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename not in own and not filename.startswith("<frozen importlib"):
            break
        traceback = traceback.tb_next
    return traceback
