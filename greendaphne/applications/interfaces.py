"""Makes the :class:`~greendaphne.applications.base.Application` for an object of the user's, by its interface and the configuration.

What a server does not serve is not imported.
"""

from __future__ import annotations

from typing import Any

from ..config import Config, ConfigurationError
from ..core.interfaces import ASGI2, ASGI3, CHANNELS, WSGI
from .base import Application
from .detection import detect


def interface_of(target: Any, config: Config, name: str = "") -> str:
    """The interface of ``target``: what the configuration says, or what the object tells.

    :raises ConfigurationError: as :func:`.detection.detect`.
    """
    said = config.application.interface
    if said == "auto":
        found = detect(target, name)
        if config.application.asgi and found not in (ASGI2, ASGI3):
            return ASGI3
        return WSGI if config.application.wsgi else found
    return said


def make_application(target: Any, config: Config, name: str = "") -> Application:
    """The application that serves ``target``, a WSGI or ASGI application or an :class:`Application` already.

    :raises ConfigurationError: where the interface is not known, or is that of a channel layer.
    """
    application = target if isinstance(target, Application) else _wrapped(target, config, name)
    application.check()
    options = config.application
    if options.concurrency or options.request_timeout:
        from .concurrency import Bounded

        if not isinstance(application, Bounded):
            return Bounded(application, options.concurrency, options.queue, options.request_timeout)
    return application


def _wrapped(target: Any, config: Config, name: str) -> Application:
    interface = interface_of(target, config, name)
    options = config.application
    if interface == WSGI:
        from .wsgi import WSGIApplication
        from .wsgi.buffering import Buffers

        return WSGIApplication(
            target,
            multiprocess=config.processes.workers > 1,
            environ=dict(options.environ),
            websocket_eager=options.wsgi_websocket == "eager",
            buffers=Buffers(options.buffer_request_body, config.limits) if options.buffer_request_body else None,
        )
    if interface == CHANNELS:
        raise ConfigurationError(f"{name or target!r} is a channel layer, not an application.")
    try:
        from .asgi import ASGIApplication  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConfigurationError(f"{name or repr(target)} is an ASGI application ({interface}), which is not served yet.") from None
    made: Application = ASGIApplication(target, config, double_callable=interface == ASGI2)
    return made
