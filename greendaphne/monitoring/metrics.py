"""The counters of a server, and the collection of all its metrics.

:class:`Metrics` has plain counters, which ``instruments`` change, and a list of sources that are called at each scrape.  A *source* is a
function that returns families; :meth:`Metrics.add_source` adds one.  Only one hub uses an instance.
"""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import gevent

from ..core.causes import CAUSES
from ..core.version import __version__
from .families import REQUEST_BUCKETS, Family, Histogram, counter, counters, gauge, gauges, histograms

logger = logging.getLogger("greendaphne.monitoring")

#: Called at every scrape, in the greenlet of that request; must not wait for a peer.
Source = Callable[[], Iterable[Family]]

#: Methods that are counted by name (RFC 9110 section 9.1, RFC 5789).  Others are counted together, because a client may send any word.
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
#: At most this many close codes from 3000 to 4999 are counted separately, because a client may send any of them.
PRIVATE_CODES: Final = 32
_FIRST_PRIVATE_CODE = 3000


# These counters start at 0: a counter that appears with its first event shows no increase.
PROTOCOLS: Final = ("http", "websocket")


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        #: Connections by protocol, ``none`` for connections that ended before it was known.
        self.connections: Counter[tuple[str]] = Counter()
        self.received_bytes = 0
        self.sent_bytes = 0
        #: TLS handshakes by version, and failed ones by reason.
        self.tls_handshakes: Counter[tuple[str]] = Counter()
        self.tls_failures: Counter[tuple[str]] = Counter()
        #: Requests by method, status and HTTP version.
        self.requests: dict[tuple[str, int, str], int] = {}
        #: The durations of requests in seconds, by HTTP version.
        self.request_seconds: dict[str, Histogram] = {}
        #: Streams being served, including WebSockets.
        self.streams = 0
        #: Failures by cause and protocol (``http`` or ``websocket``).
        self.failures: Counter[tuple[str, str]] = Counter({(cause, protocol): 0 for cause in CAUSES for protocol in PROTOCOLS})
        self.websockets_connecting = 0
        self.websockets_open = 0
        self.websockets_accepted = 0
        self.websockets_rejected = 0
        self.websocket_codes: Counter[tuple[str]] = Counter()
        self.websocket_messages_received = 0
        self.websocket_messages_sent = 0
        self.websocket_bytes_received = 0
        self.websocket_bytes_sent = 0
        self._sources: list[Source] = []
        self._broken: set[Source] = set()

    def add_source(self, source: Source) -> None:
        """Add a source that is called at every scrape.  A source that raises is omitted, and logged the first time."""
        self._sources.append(source)

    # ---- counting

    def request_done(self, method: str, status: int, version: str, seconds: float) -> None:
        """Count an answered request."""
        key = method, status, version
        try:
            self.requests[key] += 1
            self.request_seconds[version].observe(seconds)
        except KeyError:
            self._first_request_done(method if method in METHODS else "other", status, version, seconds)

    def _first_request_done(self, method: str, status: int, version: str, seconds: float) -> None:
        """Count an answered request that may be the first of its method, status or version."""
        key = method, status, version
        self.requests[key] = self.requests.get(key, 0) + 1
        if version not in self.request_seconds:
            self.request_seconds[version] = Histogram(REQUEST_BUCKETS)
        self.request_seconds[version].observe(seconds)

    def websocket_closed(self, code: int) -> None:
        """Count the end of an open WebSocket."""
        key = (str(code),)
        if code >= _FIRST_PRIVATE_CODE and key not in self.websocket_codes:
            known = sum(name != "other" and int(name) >= _FIRST_PRIVATE_CODE for (name,) in self.websocket_codes)
            if known >= PRIVATE_CODES:
                key = ("other",)
        self.websocket_codes[key] += 1

    # ---- reading

    def families(self) -> list[Family]:
        """All families with their current values."""
        result = self._own()
        for source in self._sources:
            try:
                result.extend(source())
            except Exception:
                # Return the other families, because they are needed most during a failure.
                if source not in self._broken:
                    self._broken.add(source)
                    logger.exception("A source of metrics failed; it is left out")
        return result

    def _own(self) -> list[Family]:
        # Status 0 means that the client disconnected before the answer.
        requests = {(method, str(status or "none"), version): number for (method, status, version), number in self.requests.items()}
        websockets = {("connecting",): self.websockets_connecting, ("open",): self.websockets_open}
        handshakes = {("accepted",): self.websockets_accepted, ("rejected",): self.websockets_rejected}
        in_progress = self.streams - self.websockets_connecting - self.websockets_open
        build = {(__version__, platform.python_version(), gevent.__version__): 1}
        return [
            gauges("greendaphne_build_info", "Versions of the software.", ("version", "python", "gevent"), build),
            counters(
                "greendaphne_connections_accepted",
                "Connections by protocol; none where they ended before it was known.",
                ("protocol",),
                self.connections,
            ),
            counter("greendaphne_received_bytes", "Bytes received from clients, after decryption.", self.received_bytes),
            counter("greendaphne_sent_bytes", "Bytes sent to clients, before encryption.", self.sent_bytes),
            counters("greendaphne_tls_handshakes", "Completed TLS handshakes by version.", ("version",), self.tls_handshakes),
            counters("greendaphne_tls_handshake_failures", "TLS handshakes that failed, by reason.", ("reason",), self.tls_failures),
            counters("greendaphne_requests", "Answered HTTP requests.", ("method", "status", "protocol"), requests),
            histograms(
                "greendaphne_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                "protocol",
                self.request_seconds,
            ),
            gauge("greendaphne_requests_in_progress", "HTTP requests that are being served.", in_progress),
            counters("greendaphne_failures", "Error responses and broken exchanges, by cause.", ("cause", "protocol"), self.failures),
            gauges("greendaphne_websockets", "WebSockets by state.", ("state",), websockets),
            counters("greendaphne_websocket_handshakes", "WebSockets by the application's decision.", ("outcome",), handshakes),
            counters("greendaphne_websockets_closed", "WebSockets that have ended, by close code.", ("code",), self.websocket_codes),
            counter("greendaphne_websocket_messages_received", "Messages from WebSocket clients.", self.websocket_messages_received),
            counter("greendaphne_websocket_messages_sent", "Messages to WebSocket clients.", self.websocket_messages_sent),
            counter("greendaphne_websocket_received_bytes", "Payload of messages from WebSocket clients.", self.websocket_bytes_received),
            counter("greendaphne_websocket_sent_bytes", "Payload of messages to WebSocket clients.", self.websocket_bytes_sent),
        ]
