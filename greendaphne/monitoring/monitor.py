"""Assembles health checks, metrics and the watchdog of one server from the configuration.

:class:`Monitor` is created first, because the other parts of the server get their meters from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..core.converters import url_path
from ..core.message import Request, header_values
from ..core.observer import Observer
from ..net.endpoints import Endpoint
from ..processes.control import RUN_DIR, WORKER
from ..serving.connections import Connections
from ..serving.localpages import LocalPages, Page
from .health import Health

if TYPE_CHECKING:
    from .endpoint import MonitoringEndpoint
    from .gauges import State
    from .lag import HubLag
    from .metrics import Metrics
    from .watchdog import Watchdog
    from .workers import Workers

logger = logging.getLogger("greendaphne.monitoring")

#: Default paths on the separate endpoint.
METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/health"


class Monitor:
    """Health checks, metrics and the watchdog of one server.

    :param health_path: the path of health checks on all endpoints; ``None`` for none.
    :param metrics_path: the path of scrapes on all endpoints; ``None`` for none.
    :param endpoint: a separate endpoint that serves both, and nothing else.
    :param watchdog: seconds for which the hub may be blocked before it is logged; 0 for no watchdog.
    :raises ValueError: for an invalid path.
    :raises ImportError: for metrics without ``prometheus_client``.
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
        self._health: Health | None = None
        self._state: State | None = None
        self._lag: HubLag | None = None
        self._workers: Workers | None = None
        self._watchdog: Watchdog | None = None
        #: The separate listening socket.
        self.endpoint: MonitoringEndpoint | None = None
        #: The counters; ``None`` without metrics.
        self.metrics: Metrics | None = None
        #: The observers of requests.
        self.observers: Sequence[Observer] = ()
        if watchdog:
            from .watchdog import Watchdog

            self._watchdog = Watchdog(watchdog)
        #: The separate endpoint, or none.
        self.endpoints: Sequence[Endpoint] = () if endpoint is None else (endpoint,)
        if endpoint is not None:
            from .endpoint import MonitoringEndpoint

            self.endpoint = MonitoringEndpoint(endpoint)
        if metrics_path is not None or endpoint is not None:
            self._count()

    def _count(self) -> None:
        from .exposition import process_families
        from .gauges import log_families
        from .instruments import MetricsObserver
        from .lag import HubLag
        from .metrics import Metrics

        self.metrics = Metrics()
        self.observers = (MetricsObserver(self.metrics),)
        self._lag = HubLag()
        self.metrics.add_source(self._lag.families)
        if self._watchdog is not None:
            self.metrics.add_source(self._watchdog.families)
        self.metrics.add_source(process_families)
        self.metrics.add_source(log_families)

    def add_pages(self, pages: LocalPages, health: Callable[[], str]) -> None:
        """Add the pages for health checks and scrapes.

        :param pages: the local pages of the server's ordinary endpoints.
        :param health: returns the reason why the application cannot serve, ``""`` where it can.
        :raises ValueError: where two pages have the same path.
        """
        if self._health_path is not None or self.endpoint is not None:
            self._health = Health(health)
        if self._health_path is not None and self._health is not None:
            pages.add(self._health_path.encode(), self._health, reported=False)
        if self._metrics_path is not None:
            pages.add(self._metrics_path.encode(), self._page, reported=False)
        if self.endpoint is not None and self._health is not None:
            self.endpoint.pages.add((self._metrics_path or METRICS_PATH).encode(), self._page)
            self.endpoint.pages.add((self._health_path or HEALTH_PATH).encode(), self._health)

    def watch(self, connections: Connections, endpoints: Sequence[Endpoint]) -> None:
        """Add the state of ``connections`` and the certificates of ``endpoints`` to the metrics."""
        if self.metrics is not None:
            from .gauges import State

            self._state = State(connections, endpoints)
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
        """Start to listen and to watch, in the server's hub.

        :raises EndpointError: where the separate endpoint cannot be listened on.
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
        """Report from now on that the server is draining."""
        self._set_draining(True)
        if self.endpoint is not None:
            self.endpoint.drain()

    def stop(self, *, at_once: bool) -> None:
        """Stop everything; idempotent.

        :param at_once: whether pending requests are cut off.
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

    def _set_draining(self, draining: bool) -> None:
        if self._health is not None:
            self._health.draining = draining
        if self._state is not None:
            self._state.draining = draining
