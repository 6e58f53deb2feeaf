"""The banner that the command shows on a terminal once it serves: addresses, application, and how to stop it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core.version import __version__
from .lifecycle import Silent

if TYPE_CHECKING:
    from ..config import Config
    from .lifecycle import RunningServer

#: SGR sequences (ECMA-48 section 8.3.117).
_BOLD, _CYAN, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[0m"


def wanted(config: Config) -> bool:
    """Whether to show a banner: the log is text and goes to a terminal."""
    logging = config.logging
    if (
        logging.verbosity < 1
        or logging.level in ("warning", "error", "critical")
        or logging.format is not None
        or logging.config is not None
    ):
        return False
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def has_colours(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal has colours and its user wants them (https://no-color.org)."""
    return not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"


def banner(places: Iterable[tuple[str, bool]], application: str, config: Config, *, colours: bool) -> str:
    """Return the text.

    :param places: URLs, and whether the socket takes connections at every address.
    :param application: what is served, such as ``channel layer project.asgi:channel_layer``.
    """
    bold, cyan, plain = (_BOLD, _CYAN, _PLAIN) if colours else ("", "", "")
    workers = [_number(config.processes.workers, "process", "processes")] if config.processes.workers else []
    inline = config.channels.inline_workers
    workers.append(f"{_number(inline, 'inline worker', 'inline workers')}{' each' if workers else ''}" if inline else "")
    lines = [f"{bold}greendaphne {__version__}{plain}", ""]
    for url, everywhere in places:
        lines.append(f"  {cyan}{_shown(url)}{plain}{' and every other address of this machine' if everywhere else ''}")
    lines += [f"  {', '.join(filter(None, [_shown(application), *workers]))}", "  Ctrl-C to stop", ""]
    return "\n".join(["", *lines, ""])


def _number(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def show(text: str) -> None:
    """Write ``text`` to the terminal."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # the terminal is gone


class Banner(Silent):
    """Shows the banner once a server that is a process of its own serves."""

    def __init__(self, application: str, config: Config) -> None:
        self._application = application
        self._config = config

    def started(self, server: RunningServer) -> None:
        import gevent

        # After the lines that the application logs as it starts.
        gevent.spawn(self._show, server)

    def _show(self, server: RunningServer) -> None:
        import logging

        from ..net.urls import every_address, url

        places = [(url(each.endpoint, each.socket), every_address(each.socket)) for each in server.listeners]
        for handler in logging.getLogger().handlers:
            handler.flush()
        show(banner(places, self._application, self._config, colours=has_colours()))


def show_for_master(sockets: Sequence[tuple[object, object]], application: str, config: Config) -> None:
    """Show the banner of a master.

    :param sockets: its endpoints and their sockets.
    """
    from ..net.endpoints import Endpoint
    from ..net.urls import every_address, url

    secured = config.tls.certfile is not None or config.tls.dev
    places = [
        (url(endpoint, sock, tls=endpoint.tls is not None or secured), every_address(sock))
        for endpoint, sock in sockets
        if isinstance(endpoint, Endpoint)
    ]
    show(banner(places, application, config, colours=has_colours()))
