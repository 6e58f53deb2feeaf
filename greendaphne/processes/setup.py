"""Sets up the command's process as the master, as one of its workers, or as the only process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from . import banner, control
from .identity import become, changes_user, check_user, process_file
from .lifecycle import Lifecycle
from .systemd import Notifier, service_manager

if TYPE_CHECKING:
    from ..config import Config, Processes
    from ..core.observer import Observer
    from .watching import Watcher

logger = logging.getLogger("greendaphne.processes")


class Process(NamedTuple):
    """The values that a server needs to know about its process."""

    lifecycle: list[Lifecycle]
    observers: list[Observer]


def prepare(config: Config, descriptions: Sequence[str], application: str = "", *, failed: bool = False) -> Process:
    """Set up this process for the server at the endpoints ``descriptions``.

    :param application: the name of the application, for the banner.

    :raises EndpointError: in a worker whose master opened other endpoints.
    """
    lifecycle: list[Lifecycle] = []
    observers: list[Observer] = []
    replace = None
    given = control.inheritance()
    if given is not None:
        from ..net.endpoints import inherit
        from .link import MasterLink

        control.check(given.sockets, _all(config, descriptions))
        sockets: dict[str, list[int]] = {}
        for description, number in given.sockets:
            sockets.setdefault(description, []).append(number)
        inherit(sockets)
        link = MasterLink(given, application, failed=failed)
        lifecycle.append(link)
        replace = link.recycle
    else:
        manager = service_manager()
        if manager is not None:
            lifecycle.append(Notifier(manager))
        if banner.wanted(config):
            lifecycle.append(banner.Banner(application, config))
    processes = config.processes
    if processes.max_requests or processes.max_rss:
        from .recycling import Recycler

        recycler = Recycler(processes.max_requests, processes.max_requests_jitter, processes.max_rss, replace)
        lifecycle.append(recycler)
        if processes.max_requests:
            observers.append(recycler)
    return Process(lifecycle, observers)


def _all(config: Config, descriptions: Sequence[str]) -> list[str]:
    """The endpoints of the master: those for clients, then the one for metrics."""
    return [*descriptions, *([config.monitoring.metrics] if config.monitoring.metrics is not None else ())]


def run_master(
    config: Config,
    descriptions: Sequence[str],
    argv: Sequence[str] | None,
    reopen: Callable[[], None] | None = None,
) -> int:
    """Run the master of ``config.processes.workers`` workers; return the exit code.

    :param argv: the arguments, if they are not those of the process.
    :param reopen: reopens the master's own log files.
    :raises EndpointError: where an endpoint cannot be listened on.
    """
    from ..net.endpoints import parse
    from ..net.endpoints.descriptions import listening_options
    from .master import Master

    endpoints = [parse(description) for description in _all(config, descriptions)]
    for endpoint in endpoints:
        endpoint.configure(listening_options(config.listening))
    announce = None
    if banner.wanted(config):

        def announce(sockets: Sequence[tuple[Any, Any]], application: str) -> None:
            # The last one is for metrics only.
            banner.show_for_master(sockets[: len(descriptions)], application, config)

    manager = service_manager()
    processes = config.processes
    check_user(processes)
    master = Master(
        command(argv),
        max(processes.workers, 1),
        endpoints,
        config.timeouts.graceful,
        manager,
        reopen,
        announce,
        partial(become, processes),
        watcher_of(processes),
    )
    with process_file(processes.pid_file):
        return master.run()


def watcher_of(processes: Processes) -> Watcher | None:
    """The watcher of source files; ``None`` without ``--reload``."""
    if not processes.reload:
        return None
    from .watching import Watcher

    directories, include, exclude = (
        [part.strip() for part in (text or "").split(",") if part.strip()]
        for text in (processes.reload_dirs, processes.reload_include, processes.reload_exclude)
    )
    return Watcher(directories or [os.getcwd()], include, exclude)


@contextmanager
def opened_as_root(config: Config, descriptions: Sequence[str]) -> Iterator[None]:
    """Open the sockets of the endpoints ``descriptions``, then change to the user of ``--user``; the block imports the application.

    Does nothing in a worker, whose master has done it, and without ``--user``.

    :raises EndpointError: where an endpoint cannot be listened on.
    :raises ConfigurationError: if the process cannot change to that user.
    """
    if control.is_worker() or not changes_user(config.processes):
        yield
        return
    from ..net.endpoints import inherit, innermost, parse
    from ..net.endpoints.descriptions import listening_options

    check_user(config.processes)
    opened: list[tuple[Any, Any]] = []
    sockets: dict[str, list[int]] = {}
    try:
        for description in _all(config, descriptions):
            endpoint = parse(description)
            endpoint.configure(listening_options(config.listening))
            inner = innermost(endpoint)
            sock = inner.bind()
            opened.append((inner, sock))
            sockets.setdefault(description, []).append(sock.fileno())
        become(config.processes)
        inherit(sockets, shared=False)
        for _, sock in opened:
            sock.detach()
        yield
    finally:
        # Removes what they left in the file system; the server owns the sockets.
        for inner, sock in opened:
            inner.close(sock)


def command(argv: Sequence[str] | None) -> list[str]:
    """The executable and arguments that start this command again.

    :param argv: as for :func:`run_master`; the interpreter's own options are kept only without it.
    """
    if argv is None and os.path.isfile(sys.argv[0]):
        return [sys.executable, *sys.orig_argv[1:]]
    return [sys.executable, "-m", "greendaphne", *(sys.argv[1:] if argv is None else argv)]
