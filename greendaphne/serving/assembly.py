"""Parts of a server that only some servers have: TLS on endpoints without it, certificates from an authority, monitoring.

What a server does not use is not imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..net.endpoints import Endpoint, EndpointError, parse

if TYPE_CHECKING:
    from ..acme import AcmeOptions
    from ..acme.service import Service
    from ..monitoring.monitor import Monitor
    from ..net.tls import TLSOptions


def monitor(health_path: str | None, metrics_path: str | None, metrics: str | None, watchdog: float) -> Monitor | None:
    """What watches the server, ``None`` where nothing is to.

    :raises EndpointError: for a malformed endpoint string.
    """
    if health_path is None and metrics_path is None and metrics is None and not watchdog:
        return None
    from ..monitoring.monitor import Monitor

    return Monitor(health_path, metrics_path, None if metrics is None else parse(metrics), watchdog)


def with_tls(
    endpoints: list[Endpoint], certfile: str | None, keyfile: str | None, options: TLSOptions | None, development: bool
) -> list[Endpoint]:
    """``endpoints`` with TLS where it is wanted, all under the same ``options``.

    :raises EndpointError: where a certificate for development cannot be made.
    """
    if certfile is None and development:
        from ..net.tls import TLSError, development_certificate

        try:
            certfile, keyfile = development_certificate(), None
        except TLSError as error:
            raise EndpointError(f"{error}.") from None
    if certfile is not None:
        from ..net.tls.endpoints import wrap

        endpoints = [wrap(endpoint, certfile, keyfile) for endpoint in endpoints]
    if options is not None:
        for endpoint in endpoints:
            if endpoint.tls is not None:
                endpoint.tls.configure(options)
    return endpoints


def certificates(endpoints: list[Endpoint], options: AcmeOptions | None) -> Service | None:
    """What obtains certificates for ``endpoints``, ``None`` where none of them asks for it.

    :raises EndpointError: where there is something to obtain and no endpoint for it.
    """
    if not any(endpoint.tls is not None and endpoint.tls.authority for endpoint in endpoints):
        if options is not None and options.domains:
            raise EndpointError("There are domains to obtain certificates for, but no le:, lets: or acme: endpoint.")
        return None
    from ..acme.service import Service

    return Service(endpoints, options)
