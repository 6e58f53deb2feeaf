"""Makes the :class:`~greendaphne.applications.base.Application` for an object of the user's, by its interface and the configuration.

What a server does not serve is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..config import Config, ConfigurationError
from ..core.interfaces import ASGI2, ASGI3, CHANNELS, WSGI
from .base import Application
from .detection import detect
from .loading import checked_layer, load


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
    try:
        application.check()
    except ConfigurationError as error:
        # Of several applications, the line names the wrong one.
        if not name or error.target:
            raise
        raise ConfigurationError(f"{name}: {error}") from None
    options = config.application
    if options.concurrency or options.request_timeout:
        from .concurrency import Bounded

        if not isinstance(application, Bounded):
            return Bounded(application, options.concurrency, options.queue, options.request_timeout)
    return application


def combined(main: Application, config: Config, serve_layer: Callable[[Any], Application]) -> Application:
    """``main`` with the further applications of the configuration beside it: that for WebSockets, and those with a path of their own.

    :param serve_layer: makes the application for a channel layer.
    :raises ConfigurationError: as :func:`make_application` and :func:`.loading.load`.
    :raises ApplicationError: as :func:`.loading.load`.
    """
    options = config.application
    if options.websocket_app is not None:
        from .dispatch import ByKind

        main = ByKind(main, _further(options.websocket_app, "auto", config, serve_layer))
    if options.mounts:
        from .dispatch import Mounts

        main = Mounts([(path, _further(place, said, config, serve_layer)) for path, place, said in options.mounts], main)
    return main


def _further(place: str, interface: str, config: Config, serve_layer: Callable[[Any], Application]) -> Application:
    """The application at ``place``, which is never a factory."""
    target = load(place, app_dir=config.application.app_dir)
    found = detect(target, place) if interface == "auto" else interface
    if found == CHANNELS:
        return serve_layer(checked_layer(target, place))
    options = replace(config.application, interface=found, wsgi=False, asgi=False)
    return make_application(target, replace(config, application=options), place)


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
    from .asgi import ASGIApplication

    measured = config.monitoring.metrics is not None or config.monitoring.metrics_path is not None
    return ASGIApplication(target, config.asgi, double_callable=interface == ASGI2, measured=measured)
