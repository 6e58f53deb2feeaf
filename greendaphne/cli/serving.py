"""The part of the command after the log is set up: checks the configuration, or creates and runs the server.

This module and its imports are loaded after gevent has patched the process.
"""

from __future__ import annotations

import gc
import logging
import os

from .. import compat
from ..applications.channels.reachable import warnings
from ..applications.loading import ApplicationError
from ..applications.serving import served
from ..config import ConfigurationError
from ..logs.setup import LogError, Logs
from ..net.endpoints import EndpointError
from ..net.endpoints.descriptions import command_descriptions
from ..processes import control, identity
from ..processes.lifecycle import Warned
from ..processes.setup import opened_as_root, prepare
from ..server import Server
from ..settings.arguments import Command
from ..settings.check import check_interface, check_options, no_new_file, spelled
from ..settings.paths import with_paths
from .outcome import EXIT_FAILURE, EXIT_OK, LOGGER

logger = logging.getLogger(LOGGER)


def serve(command: Command, logs: Logs) -> int:
    """Serve until a signal stops the server; returns the exit code."""
    try:
        if command.check:
            check(command, logs)
        else:
            serve_as_told(command, logs)
    except ConfigurationError as error:
        logger.error("%s", spelled(error))
        return EXIT_FAILURE
    except (EndpointError, LogError) as error:
        logger.error("%s", error)
        return EXIT_FAILURE
    except ApplicationError as error:
        logger.error("%s", error, exc_info=error.details())
        return EXIT_FAILURE
    return EXIT_OK


def serve_as_told(command: Command, logs: Logs) -> None:
    """Serve until a signal stops the server, with the user, the directory and the process file of the options; raises errors."""
    config = command.config
    alone = not control.is_worker()
    with (
        identity.process_file(config.processes.pid_file if alone else None),
        opened_as_root(config, command_descriptions(config) if alone else ()),
    ):
        server = make_server(command, logs)
        server.reload_in_terminal = True
        # What is there now stays, so the collector need not look at it again and again: 15 ms for a small Django site each time.
        gc.freeze()
        server.run()


def check(command: Command, logs: Logs) -> None:
    """Find errors that would prevent the server from starting (``--check-config``); raises those of :func:`make_server` and
    :meth:`Server.check`."""
    identity.check_user(command.config.processes)
    with no_new_file(command.config.logging.access_log):
        try:
            server = make_server(command, logs)
            server.check()
        finally:
            # Otherwise its thread would find that the file has been removed, and make it again.
            logs.close()
    warned = [*warnings(server.channel_layers, command.config)]
    for text in warned:
        logger.warning("%s", text)
    logger.info("Nothing else is wrong" if warned else "Nothing is wrong")


def make_server(command: Command, logs: Logs) -> Server:
    """Return the server that ``command`` asks for; it does not listen yet.

    :raises ConfigurationError: if the application cannot be found, or values contradict each other.
    :raises LogError: if the access log cannot be opened.
    :raises ApplicationError: when the application's module raises an exception.
    :raises EndpointError: for a wrong endpoint string.
    """
    identity.enter(command.config.processes)
    access = logs.access()
    # Applications for daphne import names from it.
    compat.install()
    config = command.config
    check_options(config)
    place = command.channel_layer
    channel_layer, application = served(config, place, check_interface)
    config = with_paths(config)
    endpoints = command_descriptions(config, control.opened())
    kind = "channel layer" if application is None else f"{application.interface.upper()} application"
    if not command.check:
        logger.info("Starting server at %s, %s %s.", ", ".join(endpoints), kind, place)
    failed = application is not None and application.interface == "failure"
    process = prepare(config, endpoints, f"{kind} {place}", failed=failed)
    if os.environ.get(control.WORKER, "0") == "0":
        process.lifecycle.append(Warned(lambda server: warnings(server.channel_layers, config)))
    return Server(
        channel_layer,
        application=application,
        endpoints=endpoints,
        config=config,
        observers=[*([access] if access is not None else ()), *process.observers],
        lifecycle=process.lifecycle,
        reopen_logs=logs.reopen,
    )
