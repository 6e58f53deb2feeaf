"""The server's interface to ACME: one manager per directory of its endpoints, and the page that answers HTTP-01 challenges.

A server without ACME endpoints does not import this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import gevent

from ..core.message import Request
from ..net.endpoints import Endpoint, EndpointError
from ..serving.localpages import LocalPages, Page
from .challenges import HTTP_PREFIX
from .contexts import AcmeContexts
from .manager import Manager
from .options import HTTP_01, TLS_ALPN_01, AcmeOptions

if TYPE_CHECKING:
    from ..monitoring.families import Family

#: The ports that an authority connects to: RFC 8555 section 8.3 and RFC 8737 section 3.
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443

#: Seconds to wait for the managers to end.
_PATIENCE: Final = 2.0

_FIELDS: Final = [(b"Content-Type", b"application/octet-stream")]


class Service:
    """The certificates of one server.

    :param endpoints: all endpoints of the server.
    :raises EndpointError: where two authorities use one directory.
    """

    def __init__(self, endpoints: Sequence[Endpoint], options: AcmeOptions | None = None) -> None:
        options = options or AcmeOptions()
        by_directory: dict[str, list[AcmeContexts]] = {}
        for endpoint in endpoints:
            if isinstance(endpoint.tls, AcmeContexts):
                by_directory.setdefault(endpoint.tls.directory, []).append(endpoint.tls)
        kinds = challenge_kinds(endpoints, options.challenge)
        #: The managers, one per directory.
        self.managers: list[Manager] = []
        for directory, served in by_directory.items():
            urls = {contexts.authority for contexts in served}
            if len(urls) > 1:
                raise EndpointError(f"Two authorities cannot both fill the directory {directory}: {' and '.join(sorted(urls))}.")
            self.managers.append(Manager(served[0].store, urls.pop(), options, served, kinds))
        self._ending: list[gevent.Greenlet[..., None]] = []
        self._challenges = [served[0].challenges for served in by_directory.values()]

    def start(self) -> None:
        """Start the managers, in greenlets of this thread's hub."""
        for manager in self.managers:
            manager.start()

    def drain(self) -> None:
        """Stop obtaining certificates, because the server can no longer answer challenges."""
        self._ending += [greenlet for manager in self.managers if (greenlet := manager.end()) is not None]

    def stop(self) -> None:
        """Stop; certificates in service stay in service."""
        self.drain()
        gevent.joinall(self._ending, timeout=_PATIENCE)
        self._ending.clear()

    def families(self) -> Iterable[Family]:
        """The metrics; see :meth:`greendaphne.monitoring.metrics.Metrics.add_source`."""
        from ..monitoring.families import counters, gauges

        expires: dict[tuple[str, str], float] = {}
        renews: dict[tuple[str, str], float] = {}
        danger: dict[tuple[str, str], float] = {}
        failures: dict[tuple[str, str], float] = {}
        for manager in self.managers:
            for status in manager.statuses():
                key = manager.store.path, status.host
                danger[key], failures[key] = status.danger, status.failures
                if status.expires is not None and status.renews is not None:
                    expires[key], renews[key] = status.expires, status.renews
        labels = ("directory", "host")
        yield gauges("greendaphne_acme_danger", "1 where a certificate is missing or its renewal is overdue.", labels, danger)
        yield gauges("greendaphne_acme_failures_in_a_row", "Failures to obtain a certificate since the last success.", labels, failures)
        yield gauges("greendaphne_acme_expiry_timestamp_seconds", "When a certificate ceases to be valid.", labels, expires)
        yield gauges("greendaphne_acme_renewal_timestamp_seconds", "When a certificate is due for renewal.", labels, renews)
        outages = {(manager.store.path,): float(manager.outages) for manager in self.managers}
        yield gauges("greendaphne_acme_outages_in_a_row", "Failures to reach the authority since the last success.", labels[:1], outages)
        issued = {(manager.store.path,): float(manager.issued) for manager in self.managers}
        yield counters("greendaphne_acme_certificates_issued", "Certificates that this process has obtained.", labels[:1], issued)
        failed = {(manager.store.path,): float(manager.failed) for manager in self.managers}
        yield counters("greendaphne_acme_failures", "Failed attempts of this process to obtain a certificate.", labels[:1], failed)

    def add_pages(self, pages: LocalPages) -> None:
        """Add the page that answers HTTP-01 challenges."""
        pages.add_prefix(HTTP_PREFIX, self._answer)

    def _answer(self, request: Request) -> Page | None:
        # A path that is not an open challenge may belong to the application.
        token = request.path.removeprefix(HTTP_PREFIX).decode("latin-1")
        for challenges in self._challenges:
            text = challenges.text(token)
            if text is not None:
                return 200, _FIELDS, text
        return None


def challenge_kinds(endpoints: Sequence[Endpoint], only: str | None) -> tuple[str, ...]:
    """The challenges that a server can answer, the one most likely to succeed first.

    An authority connects to port 443 for TLS-ALPN-01 and to port 80 for HTTP-01.  Endpoints on other ports may receive these connections
    through a packet filter or a proxy.
    """
    if only is not None:
        return (only,)
    plain = [endpoint for endpoint in endpoints if endpoint.tls is None]
    secure = [endpoint for endpoint in endpoints if isinstance(endpoint.tls, AcmeContexts)]
    if not plain:
        return (TLS_ALPN_01,)
    if _HTTPS_PORT not in map(_port, secure) and _HTTP_PORT in map(_port, plain):
        return HTTP_01, TLS_ALPN_01
    return TLS_ALPN_01, HTTP_01


def _port(endpoint: Endpoint) -> int | None:
    inner: Endpoint | None = endpoint
    while inner is not None:
        port = getattr(inner, "port", None)
        if isinstance(port, int):
            return port
        inner = getattr(inner, "inner", None)
    return None
