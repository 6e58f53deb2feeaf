"""The endpoint kinds with TLS: ``ssl:``, ``txsni:`` and ``tls:``, and TLS for endpoints of all other kinds.

Importing this module registers the kinds.  An endpoint reads its certificates when it binds, before it listens; errors in them raise
:class:`~greendaphne.net.endpoints.EndpointError`.
"""

from __future__ import annotations

from typing import Any

from gevent import socket

from ..endpoints import (
    TCP_OPTIONS,
    Endpoint,
    EndpointError,
    Kind,
    Parameter,
    TCPEndpoint,
    WrappingEndpoint,
    backlog_size,
    path,
    port_number,
    register,
)
from .contexts import Contexts
from .files import FileContexts
from .options import TLSOptions, check_method
from .pem import TLSError
from .sni import HostDirectory, ScannedDirectory

#: Twisted's default for ``privateKey``, in the current directory.
DEFAULT_PRIVATE_KEY = "server.pem"
#: The default port of ``tls:``.
HTTPS_PORT = 443


class TLSEndpoint(WrappingEndpoint):
    """An endpoint whose connections begin with a TLS handshake.

    :param contexts: the certificates; :meth:`bind` reads them.
    """

    def __init__(self, description: str, inner: Endpoint, contexts: Contexts) -> None:
        super().__init__(description, inner)
        if inner.tls is not None:
            raise EndpointError(f"Endpoint {description!r} has TLS inside TLS.")
        self.tls: Contexts = contexts

    def bind(self) -> socket.socket:
        try:
            self.tls.load()
        except TLSError as error:
            raise EndpointError(f"{error}.") from None
        return super().bind()


def wrap(endpoint: Endpoint, certfile: str, keyfile: str | None = None, options: TLSOptions | None = None) -> Endpoint:
    """Add TLS to a plain endpoint (``--certfile``, ``--keyfile``); an endpoint with TLS is returned unchanged.

    :param certfile: PEM file with the certificate and its chain.
    :param keyfile: PEM file with the private key; by default ``certfile``.
    """
    if endpoint.tls is not None:
        return endpoint
    return TLSEndpoint(str(endpoint), endpoint, FileContexts(certfile if keyfile is None else keyfile, certfile, options=options))


def _method(text: str) -> str:
    try:
        check_method(text)
    except TLSError as error:
        raise EndpointError(f"{error}.") from None
    return text


def _ssl(
    description: str,
    port: int,
    private_key: str,
    certificate: str | None,
    sslmethod: str | None,
    interface: str,
    backlog: int | None,
    extra_chain: str | None,
    dh_parameters: str | None,
    **tcp_options: Any,
) -> Endpoint:
    contexts = FileContexts(private_key, certificate, extra_chain=extra_chain, dh_parameters=dh_parameters, sslmethod=sslmethod)
    return TLSEndpoint(description, TCPEndpoint(description, port, interface, backlog, **tcp_options), contexts)


def _txsni(description: str, directory: str, inner: Endpoint) -> Endpoint:
    return TLSEndpoint(description, inner, HostDirectory(directory))


def _tls(description: str, certificates: str, **values: Any) -> Endpoint:
    return TLSEndpoint(description, TCPEndpoint(description, **values), ScannedDirectory(certificates))


_PORT = Parameter("port", port_number)
_BACKLOG = Parameter("backlog", backlog_size, None)

register(
    Kind(
        "ssl",
        (
            _PORT,
            Parameter("privateKey", path, DEFAULT_PRIVATE_KEY, "private_key"),
            Parameter("certKey", path, None, "certificate"),
            Parameter("sslmethod", _method, None),
            Parameter("interface", default=""),
            _BACKLOG,
            Parameter("extraCertChain", path, None, "extra_chain"),
            Parameter("dhParameters", path, None, "dh_parameters"),
            *TCP_OPTIONS,
        ),
        _ssl,
    )
)
register(Kind("txsni", (Parameter("directory", path),), _txsni, wraps=True))
register(
    Kind(
        "tls",
        (
            Parameter("path", path, argument="certificates"),
            Parameter("port", port_number, HTTPS_PORT),
            _BACKLOG,
            Parameter("interface", default="::"),
            *TCP_OPTIONS,
        ),
        _tls,
    )
)
