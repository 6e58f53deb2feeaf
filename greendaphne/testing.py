"""Live tests: a server with workers in the process of the tests, for clients that speak over the network.

:func:`live_server` is for any test framework; ``pytest_plugin`` makes fixtures of it.  In a project of Channels 1 it serves the project's
routing on an in-memory channel layer that stands in for the project's while the block runs.  So nothing is shared with other processes,
and what a test sends with ``Group`` and ``Channel`` reaches the clients.  Without such a project it serves whatever layer it is given.

Server and workers run in threads of their own; the process of the tests may be monkey-patched or not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import Server

#: Where the server listens; the system chooses the port.
HOST = "127.0.0.1"
#: Seconds for requests that a failed test leaves behind.
GRACEFUL_TIMEOUT = 2.0
#: Seconds after which a worker in a thread, which cannot be interrupted, looks whether it is to stop.
BLOCK_LIMIT = 0.1
#: The alias of the channel layer in a project of Channels.
ALIAS = "default"

Consumer = Callable[[Any], Any]


class LiveServer:
    """A server that runs; ``server`` itself, and the ``layer`` that it serves, in a project of Channels without Channels' wrapper.

    ``layer`` is ``None`` where an application is served.
    """

    def __init__(self, server: Server, layer: Any, scheme: str) -> None:
        self.server = server
        self.layer = layer
        self.host = HOST
        self.port = server.port
        #: ``http://127.0.0.1:12345``, without a slash at the end.
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
    """Serve while the block runs; on leaving it, requests in flight have two seconds.

    :param layer: a channel layer; by default a new one in memory, in a project of Channels in the place of the project's.
    :param application: a WSGI or ASGI application in the place of a layer, as :class:`greendaphne.server.Server` takes it; only the
        further ``options`` have a meaning then.
    :param routes: consumers by channel name, for a layer that is not one of Channels.
    :param workers: how many run in this process; by default one where there are consumers.  With 0 the test plays the application.
    :param serve_static: serve the files of ``django.contrib.staticfiles``, as ``runserver`` does; where ``DEBUG`` is on they are always.
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
    """Whether this is the process of a Django project; Django is not imported to find out."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return True
    conf = sys.modules.get("django.conf")
    return conf is not None and bool(conf.settings.configured)


def is_channels_project() -> bool:
    """Whether this is the process of a Django project with Channels 1 and a default channel layer; sets Django up where it is."""
    if not is_django_configured():
        return False
    import django
    from django.apps import apps
    from django.conf import settings

    if "channels" not in settings.INSTALLED_APPS or ALIAS not in getattr(settings, "CHANNEL_LAYERS", {}):
        return False
    if not apps.ready:
        from . import compat

        # Channels imports names of daphne, as in the command.
        compat.install()
        django.setup(set_prefix=False)
    return True


@contextmanager
def channels_in_memory(alias: str = ALIAS) -> Iterator[Any]:
    """Put an in-memory layer in the place of the project's while the block runs; gives the layer."""
    from channels.asgi import ChannelLayerWrapper, channel_layers
    from channels.routing import Router

    from .layers.memory import MemoryChannelLayer

    # The project's own is not made for this, as it may connect somewhere.
    made = channel_layers.backends.get(alias)
    routing = made.routing if made is not None else channel_layers.configs[alias]["ROUTING"]
    layer = MemoryChannelLayer()
    layer.block_limit = BLOCK_LIMIT
    # A copy, as a router adds its defaults to the list that it is given.
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
    """What Django's own live server test case sets up: the host's name, static files, and databases that exist in one connection only."""
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
