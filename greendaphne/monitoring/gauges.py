"""The state of a server at the moment of a scrape: what is open, what waits, what is up.

Nothing of it is counted while requests are served; it is looked up when somebody asks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..applications.base import Application
from ..applications.channels import ChannelLayerApplication
from ..net.endpoints import Endpoint
from .families import Family, counter, gauge, gauges

if TYPE_CHECKING:
    from .instruments import MeteredConnections

logger = logging.getLogger("greendaphne.monitoring")


class State:
    """A source of metrics on one server.

    :param endpoints: those that may have certificates.
    """

    def __init__(self, application: Application, connections: MeteredConnections, endpoints: Sequence[Endpoint]) -> None:
        self._application = application
        self._connections = connections
        self._endpoints = endpoints
        #: Whether the server is about to end.
        self.draining = False

    def families(self) -> Iterable[Family]:
        """Everything."""
        yield gauge("greendaphne_draining", "1 while the server is about to end.", self.draining)
        yield from self._open()
        if isinstance(self._application, ChannelLayerApplication):
            yield from self._layer(self._application)
            yield from self._waiting(self._application)
        yield from self._application.metric_families()
        yield from self._certificates()

    def _open(self) -> Iterable[Family]:
        http1, http2, streams = self._connections.census()
        undecided = max(len(self._connections) - http1 - http2, 0)
        connections = {("http/1",): http1, ("http/2",): http2, ("none",): undecided}
        yield gauges("greendaphne_connections", "Open connections by protocol; none where it is not known yet.", ("protocol",), connections)
        yield gauge("greendaphne_http2_streams", "HTTP/2 requests and WebSockets that are being served.", streams)
        # A connection of either protocol has one; HTTP/2 has one more for what it sends.
        greenlets = {("connection",): len(self._connections), ("http2-writer",): http2, ("http2-stream",): streams}
        yield gauges("greendaphne_greenlets", "The server's greenlets by what they are for.", ("purpose",), greenlets)

    def _layer(self, application: ChannelLayerApplication) -> Iterable[Family]:
        watch = application.watch
        yield gauge("greendaphne_layer_up", "1 while the channel layer is in reach, as far as traffic has shown.", watch.reachable)
        yield counter("greendaphne_layer_outages", "Times that the channel layer went out of reach.", watch.outages)
        yield counter("greendaphne_layer_losses", "Times that messages and groups may have been lost.", watch.losses)

    def _waiting(self, application: ChannelLayerApplication) -> Iterable[Family]:
        clients = list(application.router.clients.values())
        yield gauge("greendaphne_reply_channels", "Clients that wait for replies of the application.", len(clients))
        held = [client.held for client in clients]
        yield gauge("greendaphne_replies_waiting_bytes", "Memory of replies that wait for their clients.", sum(held))
        yield gauge(
            "greendaphne_replies_waiting_max_bytes", "Memory of the replies that wait for one client, at most.", max(held, default=0)
        )
        replies = application.replies_on_disk
        yield gauge("greendaphne_replies_disk_bytes", "Disk of replies that wait for slow clients.", replies.size - replies.left)
        yield gauge("greendaphne_disconnects_waiting", "Disconnect messages that the layer has not taken yet.", len(application.notifier))
        for name, what, allowance in (
            ("memory", "Memory", application.bodies.memory),
            ("disk", "Disk", application.bodies.disk),
        ):
            yield gauge(f"greendaphne_bodies_{name}_bytes", f"{what} that request bodies hold.", allowance.size - allowance.left)
            yield gauge(f"greendaphne_bodies_{name}_limit_bytes", f"{what} that they may hold.", allowance.size)

    def _certificates(self) -> Iterable[Family]:
        # Directories and whole endpoint strings, which tell where keys are, are for nobody who only reads metrics.
        values: dict[tuple[str, str], float] = {}
        for endpoint in self._endpoints:
            if endpoint.tls is None:
                continue
            for path, certificate in endpoint.tls.certificates():
                # Imported where there is TLS at all.
                from ..net.tls.pem import dns_names

                name = next(iter(dns_names(certificate)), "")
                key = os.path.basename(path), name
                end = certificate.not_valid_after_utc.timestamp()
                values[key] = min(end, values.get(key, end))
        if values:
            yield gauges(
                "greendaphne_certificate_not_after_timestamp_seconds",
                "When a certificate ceases to be valid.",
                ("file", "name"),
                values,
            )
