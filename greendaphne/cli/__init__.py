"""The ``greendaphne`` command: starts the server that a command line describes, and runs it until a signal stops it.

:func:`main` returns the exit code: 0 after a clean end, 2 for a wrong command line and 1 when the configuration, an import or a bind
fails.  A user's mistake is one line on standard error; only an exception of the application's own module shows its traceback.

gevent patches the process after the command line is read and before anything else is imported, the application above all.  So this module
and its top-level imports must not import ``logging``, ``threading``, ``socket``, ``ssl`` or modules that import them.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..config import Config, ConfigurationError
from ..core.paths import remember_directory
from ..core.version import __version__
from ..processes import control
from ..settings.arguments import SHORT_HELP, VERSION, Command, read
from ..settings.help import help_text, short_help, show, terminal_width
from ..settings.option import UsageError
from .outcome import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, LOGGER

if TYPE_CHECKING:
    from ..logs.setup import Logs

PROGRAM = "greendaphne"

#: New objects that make the garbage collector look at them.
_YOUNG_OBJECTS: Final = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    :param argv: the arguments without the program's name; those of the process by default.
    """
    from ..processes.signals import ending

    with ending():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    """The rest of :func:`main`, called after the signal handlers are set."""
    from ..processes.signals import start_hub

    try:
        command = read(sys.argv[1:] if argv is None else argv, os.environ)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error} ({PROGRAM} --help shows all options)", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        # A configuration file may be a pipe.
        return EXIT_INTERRUPTED
    if not isinstance(command, Command):
        if command is VERSION:
            show(f"{PROGRAM} {__version__}")
        else:
            show(short_help(terminal_width()) if command is SHORT_HELP else help_text(width=terminal_width()))
        return EXIT_OK
    remember_directory()
    if command.check:
        from ..settings.check import effective

        show(effective(command.settings))
    elif control.is_worker():
        control.protect()
    elif command.config.processes.has_master:
        return run_master(command, argv)
    if patches(command.config):
        patch()
    else:
        share_hub()
    collect_less_often()
    try:
        start_hub()
        return run(command)
    except KeyboardInterrupt:
        # Before the server handles signals, for example while the application is imported.
        return EXIT_INTERRUPTED


def collect_less_often() -> None:
    """Let the garbage collector wait for as many new objects as newer versions of Python do: 2000 instead of 700.

    Some dozens of requests in process consist of more than 700 objects, and none of these is garbage.
    """
    young, *others = gc.get_threshold()
    if 0 < young < _YOUNG_OBJECTS:
        gc.set_threshold(_YOUNG_OBJECTS, *others)


def patches(config: Config) -> bool:
    """Whether gevent patches the process: as the options say, otherwise unless the process serves only asyncio applications."""
    options = config.application
    return not options.no_patch and (options.patch or not options.is_asgi_alone)


def patch() -> None:
    """Make the standard library cooperative for the application and all modules that it imports, including asyncio."""
    from gevent import monkey

    monkey.patch_all()
    # Before a hub exists.  It imports asyncio, which must be imported after the patches.
    share_hub()


def share_hub() -> None:
    """Let asyncio share the hub in a process that is not patched."""
    # Before there is a hub.
    from ..aio import hub

    hub.install()


def run_master(command: Command, argv: Sequence[str] | None) -> int:
    """Run the master of several processes, which is not patched; returns the exit code."""
    import logging

    from ..net.endpoints import EndpointError
    from ..net.endpoints.descriptions import command_descriptions
    from ..processes import setup

    config = command.config
    logs = open_logs(config)
    if logs is None:
        return EXIT_FAILURE
    try:
        return setup.run_master(config, command_descriptions(config), argv, logs.reopen)
    except (ConfigurationError, EndpointError) as error:
        logging.getLogger(LOGGER).error("%s", error)
        return EXIT_FAILURE
    finally:
        logs.close()


def open_logs(config: Config) -> Logs | None:
    """Set up ``logging`` for the command's process; ``None`` if the options make that impossible."""
    from ..logs.setup import LogError, Logs

    try:
        return Logs(config.logging)
    except LogError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return None


def run(command: Command) -> int:
    """Serve until a signal stops the server, after patching; returns the exit code."""
    logs = open_logs(command.config)
    if logs is None:
        return EXIT_FAILURE
    try:
        logs.adopt_hub()
        from .serving import serve

        return serve(command, logs)
    finally:
        logs.close()
