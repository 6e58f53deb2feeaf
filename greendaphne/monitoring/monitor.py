"""Everything that a server has for being watched, put together as it was asked for.

:class:`Monitor` is made first, since its :attr:`~Monitor.parts` decide what the server is made of; then it is told of the server's other
parts with :meth:`~Monitor.attach`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from ..applications.base import Application
from ..applications.channels import ChannelLayerApplication
from ..core.converters import url_path
from ..core.message import Request, header_values
from ..core.observer import Observer
from ..net.endpoints import Endpoint
from ..processes.control import RUN_DIR, WORKER
from ..serving.connections import Connections
from ..serving.localpages import LocalPages, Page
from ..serving.parts import Parts
from .health import Health, LayerHealth, LayerProbe

if TYPE_CHECKING:
    from .endpoint import MonitoringEndpoint
    from .gauges import State
    from .instruments import MeteredConnections
    from .lag import HubLag
    from .metrics import Metrics
    from .watchdog import Watchdog
    from .workers import Workers

logger = logging.getLogger("greendaphne.monitoring")

#: Paths on an endpoint of its own, where no option says them.
METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/health"


class Monitor:
    """Health, metrics and the watchdog of one server.

    :param health_path: answers health checks on all endpoints; ``None`` for nowhere.
    :param metrics_path: answers scrapes on all endpoints; ``None`` for nowhere.
    :param endpoint: answers both, and nothing else, on a socket of its own.
    :param watchdog: seconds for which the hub may be blocked without a word; 0 for ever.
    :raises ValueError: for a path that is none.
    :raises ImportError: where metrics are wanted and ``prometheus_client`` is missing.
    """

    def __init__(
        self, health_path: str | None = None, metrics_path: str | None = None, endpoint: Endpoint | None = None, watchdog: float = 0
    ) -> None:
        for name, path in (("health_path", health_path), ("metrics_path", metrics_path)):
            if path is not None:
                try:
                    url_path(path)
                except ValueError as error:
                    raise ValueError(f"{name} {error}") from None
        self._health_path = health_path
        self._metrics_path = metrics_path
        self._probe: LayerProbe | None = None
        self._health: Health | None = None
        self._state: State | None = None
        self._lag: HubLag | None = None
        self._workers: Workers | None = None
        self._watchdog: Watchdog | None = None
        #: The listening socket for it alone.
        self.endpoint: MonitoringEndpoint | None = None
        #: What is counted; ``None`` where nothing is.
        self.metrics: Metrics | None = None
        #: What the server is to be made of, and who is to be told what becomes of requests.
        self.parts = Parts()
        self.observers: Sequence[Observer] = ()
        if watchdog:
            from .watchdog import Watchdog

            self._watchdog = Watchdog(watchdog)
        #: What it listens on.
        self.endpoints: Sequence[Endpoint] = () if endpoint is None else (endpoint,)
        if endpoint is not None:
            from .endpoint import MonitoringEndpoint

            self.endpoint = MonitoringEndpoint(endpoint)
        if metrics_path is not None or endpoint is not None:
            self._count()

    def _count(self) -> None:
        from .exposition import process_families
        from .instruments import MetricsObserver, metered
        from .lag import HubLag
        from .metrics import Metrics

        self.metrics = Metrics()
        self.parts = metered(self.metrics)
        self.observers = (MetricsObserver(self.metrics),)
        self._lag = HubLag()
        self.metrics.add_source(self._lag.families)
        if self._watchdog is not None:
            self.metrics.add_source(self._watchdog.families)
        self.metrics.add_source(process_families)

    def attach(self, application: Application, layer: object, endpoints: Sequence[Endpoint], pages: LocalPages) -> None:
        """Make the pages for a server.

        :param pages: those of its ordinary endpoints.
        :raises ValueError: for one path for two pages.
        """
        self._application = application
        self._endpoints = endpoints
        if self._health_path is not None or self.endpoint is not None:
            if isinstance(application, ChannelLayerApplication):
                self._probe = LayerProbe(layer, application.router.channels.prefixes)
                self._health = Health(LayerHealth(self._probe, application.watch))
            else:
                self._health = Health(application.health)
        if self._health_path is not None and self._health is not None:
            pages.add(self._health_path.encode(), self._health, reported=False)
        if self._metrics_path is not None:
            pages.add(self._metrics_path.encode(), self._page, reported=False)
        if self.endpoint is not None and self._health is not None:
            self.endpoint.pages.add((self._metrics_path or METRICS_PATH).encode(), self._page)
            self.endpoint.pages.add((self._health_path or HEALTH_PATH).encode(), self._health)

    def watch(self, connections: Connections) -> None:
        """Have the state of ``connections``, made of :attr:`parts`, among the metrics."""
        if self.metrics is not None:
            from .gauges import State

            self._state = State(self._application, cast("MeteredConnections", connections), self._endpoints)
            self.metrics.add_source(self._state.families)

    def _page(self, request: Request) -> Page:
        """Answer a scrape."""
        from .exposition import render

        assert self.metrics is not None
        families = self.metrics.families() if self._workers is None else self._workers.families()
        accept = b",".join(header_values(request.headers, b"accept")).decode("latin-1")
        content_type, body = render(families, accept)
        return 200, ((b"Content-Type", content_type.encode("latin-1")), (b"Cache-Control", b"no-store")), body

    # ---- the server's life

    def start(self) -> None:
        """Listen and begin to watch, in the server's hub.

        :raises EndpointError: where the endpoint of its own cannot be listened on.
        """
        self._set_draining(False)
        if self.endpoint is not None:
            self.endpoint.start()
        directory, index = os.environ.get(RUN_DIR), os.environ.get(WORKER)
        if self.metrics is not None and directory and index:
            self._join(directory, int(index))
        if self._lag is not None:
            self._lag.start()
        if self._watchdog is not None:
            self._watchdog.start()

    def _join(self, directory: str, index: int) -> None:
        from .workers import Workers

        assert self.metrics is not None
        workers = Workers(directory, index, self.metrics.families)
        try:
            workers.start()
        except OSError as error:
            logger.error("The metrics of this worker are its own only: %s", error)
        else:
            self._workers = workers

    def drain(self) -> None:
        """Say from now on that the server is about to end."""
        self._set_draining(True)
        if self.endpoint is not None:
            self.endpoint.drain()

    def stop(self, *, at_once: bool) -> None:
        """End all of it; may be repeated.

        :param at_once: whether what is being answered is cut short.
        """
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._lag is not None:
            self._lag.stop()
        if self._workers is not None:
            self._workers.stop()
            self._workers = None
        if self.endpoint is not None:
            self.endpoint.stop(at_once=at_once)
        if self._probe is not None:
            self._probe.close()

    def _set_draining(self, draining: bool) -> None:
        if self._health is not None:
            self._health.draining = draining
        if self._state is not None:
            self._state.draining = draining
