"""The server of Channels' ``manage.py runserver``: reports errors as one line and an exit code, and uses the project's options.

``runserver`` always passes keyword arguments to its server.  The project's options (:mod:`greendaphne.settings.django`) replace those that
have runserver's default.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from ..config import ConfigurationError
from ..net.endpoints import EndpointError
from ..net.urls import url
from ..server import Server
from ..settings.django import django_settings

#: Keyword arguments that it always passes, their default there, and the option that replaces that default.
_DEFAULTS: Final = (("http_timeout", 60, "http-timeout"), ("root_path", "", "root-path"))

Result = TypeVar("Result")


class DevelopmentServer(Server):
    """Serves ``runserver``."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        def make() -> None:
            given = django_settings()
            for name, default, option in _DEFAULTS:
                if keywords.get(name) == default and option in given:
                    del keywords[name]
            super(DevelopmentServer, self).__init__(*args, **keywords)

        _in_one_line(make)

    def _open(self) -> None:
        _in_one_line(super()._open)

    def _announce(self) -> None:
        super()._announce()
        # runserver has printed the given address as plain HTTP.
        if any(listener.endpoint.tls is not None for listener in self.listeners):
            for listener in self.listeners:
                print(f"Serving at {url(listener.endpoint, listener.socket)}", flush=True)


def _in_one_line(function: Callable[[], Result]) -> Result:
    try:
        return function()
    except (EndpointError, ConfigurationError) as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    """End the process with 1: under the reloader the server is in a thread, whose SystemExit would only end the thread."""
    # In one write, because other threads log.
    sys.stderr.write(f"Error: {text}\n")
    sys.stderr.flush()
    if threading.current_thread() is not threading.main_thread():
        os._exit(1)
    raise SystemExit(1)
