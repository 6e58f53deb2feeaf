"""Live tests: a server with workers in the process of the tests, for clients that connect over the network.

:func:`live_server` works in any test framework; ``pytest_plugin`` offers it as fixtures.  In a project of Channels 1 it serves the
project's routing on an in-memory channel layer that replaces the project's while the block runs.  So other processes share nothing with
the tests, and messages that a test sends with ``Group`` and ``Channel`` reach the clients.  Without such a project it serves the given
layer.

Server and workers run in separate threads; the process of the tests may be monkey-patched or not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import Server

#: The address of the server; the system chooses the port.
HOST = "127.0.0.1"
#: Seconds for the unfinished requests of a failed test.
GRACEFUL_TIMEOUT = 2.0
#: Seconds between two checks of a worker in a thread whether to stop, because it cannot be interrupted.
BLOCK_LIMIT = 0.1
#: The alias of the channel layer in a project of Channels.
ALIAS = "default"

Consumer = Callable[[Any], Any]


class LiveServer:
    """A running server: ``server`` itself, and the ``layer`` that it serves, in a project of Channels without Channels' wrapper.

    ``layer`` is ``None`` if the server serves an application.
    """

    def __init__(self, server: Server, layer: Any, scheme: str) -> None:
        self.server = server
        self.layer = layer
        self.host = HOST
        self.port = server.port
        #: The URL, such as ``http://127.0.0.1:12345``, without a slash at the end.
        self.url = f"http{scheme}://{self.host}:{self.port}"
        #: The same for WebSockets.
        self.ws_url = f"ws{scheme}://{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.url


@contextmanager
def live_server(
    layer: Any = None,
    *,
    application: Any = None,
    routes: Mapping[str, Consumer] | None = None,
    workers: int | None = None,
    serve_static: bool = True,
    **options: Any,
) -> Iterator[LiveServer]:
    """Serve while the block runs; at its end, requests in flight have two seconds to finish.

    :param layer: a channel layer; by default a new one in memory, which in a project of Channels replaces the project's.
    :param application: a WSGI or ASGI application in the place of a layer, as :class:`greendaphne.server.Server` takes it; ``options``
        for layers have no effect then.
    :param routes: consumers by channel name, for a layer that is not one of Channels.
    :param workers: the number of workers in this process; by default 1 where there are consumers.  With 0 the test acts as the application.
    :param serve_static: serve the files of ``django.contrib.staticfiles``, as ``runserver`` does; with ``DEBUG`` they are always served.
    :param options: further keyword arguments of :class:`greendaphne.server.Server`.
    """
    from .config import Timeouts
    from .layers.memory import MemoryChannelLayer
    from .server import Server
    from .threaded import ServerThread

    if "config" not in options:
        options.setdefault("timeouts", Timeouts(graceful=GRACEFUL_TIMEOUT))
    options.setdefault("endpoints", [f"tcp:0:interface={HOST}"])
    encrypted = bool(options.get("certfile") or options.get("tls_dev"))
    with ExitStack() as stack:
        if application is not None:
            server = Server(application=application, signal_handlers=False, **options)
            stack.enter_context(ServerThread(server))
            yield LiveServer(server, None, "s" if encrypted else "")
            return
        project = routes is None and is_channels_project()
        if layer is None:
            layer = stack.enter_context(channels_in_memory()) if project else MemoryChannelLayer()
        if project:
            stack.enter_context(_django(serve_static, layer))
        if routes is not None:
            layer.routes = dict(routes)
        if workers is None:
            workers = int(project or bool(getattr(layer, "routes", None)))
        server = Server(layer, signal_handlers=False, inline_workers=workers, **options)
        stack.enter_context(ServerThread(server))
        yield LiveServer(server, layer, "s" if encrypted else "")


def is_django_configured() -> bool:
    """Whether the process has a configured Django project; does not import Django."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return True
    conf = sys.modules.get("django.conf")
    return conf is not None and bool(conf.settings.configured)


def is_channels_project() -> bool:
    """Whether the process has a Django project with Channels 1 and a default channel layer; sets such a project up."""
    if not is_django_configured():
        return False
    import django
    from django.apps import apps
    from django.conf import settings

    if "channels" not in settings.INSTALLED_APPS or ALIAS not in getattr(settings, "CHANNEL_LAYERS", {}):
        return False
    if not apps.ready:
        from . import compat

        # Channels imports daphne's names, as in the command.
        compat.install()
        django.setup(set_prefix=False)
    return True


@contextmanager
def channels_in_memory(alias: str = ALIAS) -> Iterator[Any]:
    """Replace the project's layer by an in-memory one while the block runs; yields the new layer."""
    from channels.asgi import ChannelLayerWrapper, channel_layers
    from channels.routing import Router

    from .layers.memory import MemoryChannelLayer

    # Read from the configuration, because creating the project's own layer may open connections.
    made = channel_layers.backends.get(alias)
    routing = made.routing if made is not None else channel_layers.configs[alias]["ROUTING"]
    layer = MemoryChannelLayer()
    layer.block_limit = BLOCK_LIMIT
    # A copy, because a router adds its defaults to the given list.
    replaced = channel_layers.set(alias, ChannelLayerWrapper(layer, alias, list(Router.resolve_routing(routing))))
    try:
        yield layer
    finally:
        if replaced is None:
            del channel_layers.backends[alias]
        else:
            channel_layers.set(alias, replaced)


@contextmanager
def _django(serve_static: bool, layer: Any) -> Iterator[None]:
    """Set up what Django's own live server test case does: the host's name, static files, and shared in-memory databases."""
    from channels.asgi import channel_layers
    from channels.signals import consumer_started
    from channels.staticfiles import StaticFilesConsumer
    from django.apps import apps
    from django.db import connections
    from django.test.utils import modify_settings

    if serve_static and apps.is_installed("django.contrib.staticfiles"):
        for wrapper in channel_layers.backends.values():
            if layer in (wrapper, wrapper.channel_layer):
                wrapper.router.check_default(http_consumer=StaticFilesConsumer())
    shared = [connection for connection in connections.all() if connection.vendor == "sqlite" and connection.is_in_memory_db()]

    def share(**details: object) -> None:
        # Called in the worker's thread.
        for connection in shared:
            connections[connection.alias] = connection

    for connection in shared:
        connection.inc_thread_sharing()
    consumer_started.connect(share, weak=False)
    try:
        with modify_settings(ALLOWED_HOSTS={"append": HOST}):
            yield
    finally:
        consumer_started.disconnect(share)
        for connection in shared:
            connection.dec_thread_sharing()
