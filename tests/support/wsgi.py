"""A server with a WSGI application, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.validate import validator

from greendaphne.config import ApplicationOptions, Config

from .server import LiveServer, in_thread

Application = Callable[..., Any]


@contextmanager
def serve_wsgi(
    application: Application,
    *,
    validate: bool = True,
    endpoints: list[str] | None = None,
    options: ApplicationOptions | None = None,
    config: Config | None = None,
    **keywords: Any,
) -> Iterator[LiveServer]:
    """Run a server in a thread while the block runs.

    :param validate: whether ``wsgiref.validate`` watches both sides.
    :param options: how the application is called.
    :param keywords: those of ``Server``.
    """
    changed = (config or Config()).changed({"application": options or ApplicationOptions(interface="wsgi")})
    served = validator(application) if validate else application
    with in_thread(endpoints=endpoints, application=served, config=changed, **keywords) as server:
        yield LiveServer(server)
