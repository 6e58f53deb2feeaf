"""``manage.py runserver`` for Django 3.1 and later: the project's ``ASGI_APPLICATION`` with static files and the automatic reloader.

It has the options of daphne 4's command.  ``DaphneCommand`` is the command of ``INSTALLED_APPS = ["daphne"]``, which refuses a project
without ``ASGI_APPLICATION`` as daphne 4 does; the other serves such a project by Django's WSGI development server.
"""

from __future__ import annotations

import datetime
import logging
from importlib import import_module
from typing import Any, ClassVar, Final

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.management import CommandError
from django.core.management.commands import runserver as core
from django.db import connections

from ..aio import hub
from ..compat.runserver import DevelopmentServer
from ..config import Config
from ..core.version import __version__
from ..net.endpoints import build_endpoint_description_strings
from ..settings.django import django_config

#: daphne 4's logger, a child of Django's.
logger = logging.getLogger("django.channels.server")

_STATIC_FILES: Final = "django.contrib.staticfiles"
#: Django's command, or that of static files, which serves them with ``--noasgi`` too.
_Base: Any = import_module(f"{_STATIC_FILES}.management.commands.runserver").Command if apps.is_installed(_STATIC_FILES) else core.Command

#: For each option of the command, or setting of daphne 4, the value of the configuration that it sets.
_OPTIONS: Final = {
    "http_timeout": "asgi.response_timeout",
    "websocket_handshake_timeout": "timeouts.websocket_connect",
    "websocket_max_message_size": "limits.websocket_message",
    "websocket_max_frame_size": "limits.websocket_frame",
}
_SETTINGS: Final = {
    "DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE": "limits.websocket_message",
    "DAPHNE_WEBSOCKET_MAX_FRAME_SIZE": "limits.websocket_frame",
}

#: The word for each outcome of a WebSocket in the log.
_WEBSOCKETS: Final = {"connecting": "HANDSHAKING", "connected": "CONNECT", "disconnected": "DISCONNECT", "rejected": "REJECT"}


class Command(_Base):  # type: ignore[misc]
    """Serves the project for development."""

    #: Whether a project without ``ASGI_APPLICATION`` is an error.
    asgi_required: ClassVar[bool] = False

    def add_arguments(self, parser: Any) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi", action="store_false", dest="use_asgi", help="Run Django's WSGI development server instead of the ASGI one."
        )
        parser.add_argument("--http_timeout", type=int, help="Seconds for a whole response (default: no limit).")
        parser.add_argument("--websocket_handshake_timeout", type=int, help="Seconds to accept a WebSocket (default: 20).")
        parser.add_argument(
            "--websocket-max-message-size", type=int, help="Maximum size of a WebSocket message in bytes; 0 is no limit (default: 1 MiB)."
        )
        parser.add_argument(
            "--websocket-max-frame-size", type=int, help="Maximum size of a WebSocket frame in bytes; 0 is no limit (default: 1 MiB)."
        )

    def handle(self, *args: Any, **options: Any) -> Any:
        if options["use_asgi"] and getattr(settings, "ASGI_APPLICATION", None) is None and self.asgi_required:
            raise CommandError("ASGI_APPLICATION is not set in the settings. Set it, or run runserver --noasgi.")
        return super().handle(*args, **options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        if options["use_asgi"] and getattr(settings, "ASGI_APPLICATION", None) is not None:
            self._serve(options)
            return
        if options["use_asgi"]:
            self.stdout.write("ASGI_APPLICATION is not set; Django's WSGI development server serves WSGI_APPLICATION.")
        super().inner_run(*args, **options)

    def _serve(self, options: dict[str, Any]) -> None:
        # An exception that ended the previous run under the reloader.
        import_module("django.utils.autoreload").raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        for connection in connections.all():
            connection.close()
        try:
            application = self.get_application(options)
        except CommandError as error:
            if not options["use_reloader"]:
                raise
            # The reloader goes on, until the settings change.
            self.stderr.write(f"CommandError: {error}")
            return
        host = "0.0.0.0" if self.addr == "0" else self.addr
        # In this thread, before it has a hub.
        hub.install()
        server = DevelopmentServer(
            application=application,
            endpoints=build_endpoint_description_strings(host=host, port=int(self.port)),
            # Under the reloader this is not the main thread.
            signal_handlers=not options["use_reloader"],
            action_logger=self.log_action,
            root_path=getattr(settings, "FORCE_SCRIPT_NAME", None) or "",
            config=_config(options),
        )
        address = f"[{self.addr}]" if self._raw_ipv6 else host
        self.stdout.write(
            f"{datetime.datetime.now():%B %d, %Y - %X}\n"
            f"Django version {self.get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting ASGI/greendaphne version {__version__} development server at {self.protocol}://{address}:{self.port}/\n"
            "Quit the server with CONTROL-C."
        )
        try:
            server.run()
        except KeyboardInterrupt:
            if options.get("shutdown_message"):
                self.stdout.write(options["shutdown_message"])

    def get_application(self, options: dict[str, Any]) -> Any:
        """Return the ASGI application, which serves static files too where the settings and options say so."""
        application = _application(settings.ASGI_APPLICATION)
        serves_static = options.get("use_static_handler", apps.is_installed(_STATIC_FILES))
        if serves_static and (settings.DEBUG or options.get("insecure_serving", False)):
            return ASGIStaticFilesHandler(application)
        return application

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """Log one line for a request or a stage of a WebSocket, in daphne 4's words and the terminal's colours."""
        if protocol == "websocket":
            if action in _WEBSOCKETS:
                logger.info("WebSocket %s %s [%s]", _WEBSOCKETS[action], details["path"], details["client"])
            return
        if action != "complete":
            return
        status = details["status"]
        level, style = _look(status)
        message = getattr(self.style, style)("HTTP %(method)s %(path)s %(status)s [%(time_taken).2f, %(client)s]")
        logger.log(level, message, details)


class DaphneCommand(Command):
    """The command of ``"daphne"`` in ``INSTALLED_APPS``."""

    asgi_required = True


def _look(status: int) -> tuple[int, str]:
    """The level of the line of a response with this status, and its name in Django's styles."""
    if status == 304:
        return logging.INFO, "HTTP_NOT_MODIFIED"
    if status == 404:
        return logging.WARNING, "HTTP_NOT_FOUND"
    if status < 400:
        return logging.INFO, ("HTTP_INFO", "HTTP_SUCCESS", "HTTP_REDIRECT")[status // 100 - 1]
    if status < 500:
        return logging.WARNING, "HTTP_BAD_REQUEST"
    return logging.ERROR, "HTTP_SERVER_ERROR"


def _config(options: dict[str, Any]) -> Config:
    """The configuration of the project and the environment, changed by daphne 4's settings and the options of the command."""
    values = {target: getattr(settings, name) for name, target in _SETTINGS.items() if getattr(settings, name, None) is not None}
    values |= {target: options[name] for name, target in _OPTIONS.items() if options.get(name) is not None}
    return (django_config() or Config()).changed(values)


def _application(place: Any) -> Any:
    """Return what ``ASGI_APPLICATION`` names.

    :raises CommandError: where there is no such module or attribute; an exception of the module itself goes on.
    """
    module_path, dot, name = str(place).rpartition(".")
    if not dot:
        raise CommandError(f"ASGI_APPLICATION = {place!r} is not written module.path.name.")
    try:
        return getattr(import_module(module_path), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_path}.".startswith(f"{error.name}."):
            raise
        raise CommandError(f"ASGI_APPLICATION = {place!r}: {error}.") from None
    except AttributeError as error:
        if error.name != name:
            raise
        raise CommandError(f"ASGI_APPLICATION = {place!r}: {error}.") from None
