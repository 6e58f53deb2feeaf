"""The state of a server at the time of a scrape: open connections, streams, greenlets, certificates.

The values are read at each scrape; serving requests does not count them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Final

from ..logs.sink import lost_lines
from ..net.endpoints import Endpoint
from ..serving.connections import Connections
from .families import Family, counter, counters, gauge, gauges

logger = logging.getLogger("greendaphne.monitoring")


class State:
    """A source of metrics on one server.

    :param endpoints: the endpoints whose certificates are reported.
    """

    def __init__(self, connections: Connections, endpoints: Sequence[Endpoint]) -> None:
        self._connections = connections
        self._endpoints = endpoints
        #: Whether the server is draining.
        self.draining = False

    def families(self) -> Iterable[Family]:
        """All families."""
        yield gauge("greendaphne_draining", "1 while the server is draining.", self.draining)
        yield from self._open()
        yield from self._overload()
        yield from self._certificates()

    def _open(self) -> Iterable[Family]:
        http1, http2, streams = self._connections.census()
        undecided = max(len(self._connections) - http1 - http2, 0)
        connections = {("http/1",): http1, ("http/2",): http2, ("none",): undecided}
        yield gauges("greendaphne_connections", "Open connections by protocol; none where it is not known yet.", ("protocol",), connections)
        yield gauge("greendaphne_http2_streams", "HTTP/2 requests and WebSockets that are being served.", streams)
        # Each connection of either protocol has one greenlet; HTTP/2 has another for writing.
        greenlets = {("connection",): len(self._connections), ("http2-writer",): http2, ("http2-stream",): streams}
        yield gauges("greendaphne_greenlets", "The server's greenlets by purpose.", ("purpose",), greenlets)

    def _overload(self) -> Iterable[Family]:
        overload = self._connections.overload
        yield gauge("greendaphne_overload", "1 while memory or disk for clients is used up.", bool(overload.since))
        yield counter("greendaphne_overloads", "Times that an overload began.", overload.number)
        shortages = overload.shortages()
        resources = ("resource",)
        held = {(each.name,): each.allowance.held for each in shortages}
        yield gauges("greendaphne_clients_bytes", "Bytes that are held for clients.", resources, held)
        sizes = {(each.name,): each.allowance.size for each in shortages}
        yield gauges("greendaphne_clients_limit_bytes", "Bytes that may be held for clients.", resources, sizes)
        evicted = {(each.name,): each.evicted for each in shortages}
        yield counters("greendaphne_clients_evicted", "Times that a connection was told to release memory or disk.", resources, evicted)
        refused = {(each.name,): each.refused for each in shortages}
        yield counters("greendaphne_clients_refused", "Bodies and messages that were refused in an overload.", resources, refused)
        yield gauge("greendaphne_connections_limit", "The greatest number of connections; 0 for no limit.", overload.connections)
        yield counter("greendaphne_connections_displaced", "Idle connections that were closed for new ones.", overload.displaced)
        addresses = self._connections.addresses
        refusals = 0 if addresses is None else addresses.refused
        yield counter("greendaphne_connections_refused", "Connections beyond --limit-connections-per-address.", refusals)

    def _certificates(self) -> Iterable[Family]:
        # Only base names, because directories and endpoint strings would show readers of metrics where keys are.
        values: dict[tuple[str, str], float] = {}
        for endpoint in self._endpoints:
            if endpoint.tls is None:
                continue
            for path, certificate in endpoint.tls.certificates():
                # Imported only where there is TLS.
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


#: The name of a log in its sink, and in metrics.
_LOGS: Final = {"the log": "error", "the access log": "access"}


def log_families() -> Iterable[Family]:
    """A source of metrics on the logs of this process."""
    lost = lost_lines()
    values = {(label,): lost.get(name, 0) for name, label in _LOGS.items()}
    yield counters("greendaphne_log_lines_dropped", "Lines of a log that could not be written, or not in time.", ("log",), values)
