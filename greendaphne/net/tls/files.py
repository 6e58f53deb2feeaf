"""One certificate from files that the user names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cryptography import x509
from OpenSSL import SSL

from . import pem
from .contexts import Contexts
from .factory import ContextFactory
from .options import TLSOptions, check_method
from .pem import Signature, TLSError

logger = logging.getLogger(__name__)


class FileContexts(Contexts):
    """One certificate from given files: the arguments of Twisted's ``ssl:``.

    :param private_key: file with the private key.
    :param certificate: file with the certificate, optionally with its chain; by default the key's file.
    :param extra_chain: file with further certificates of the chain.
    :param dh_parameters: file with a Diffie-Hellman group.
    :param sslmethod: see :func:`check_method`.
    """

    def __init__(
        self,
        private_key: str,
        certificate: str | None = None,
        *,
        extra_chain: str | None = None,
        dh_parameters: str | None = None,
        sslmethod: str | None = None,
        options: TLSOptions | None = None,
    ) -> None:
        super().__init__(options)
        check_method(sslmethod)
        self._private_key = private_key
        self._certificate = private_key if certificate is None else certificate
        # Errors call a single file by the argument that named it.
        self._what = "the private key" if certificate is None else "the certificate"
        self._extra_chain = extra_chain
        self._dh_parameters = dh_parameters
        self._sslmethod = sslmethod
        self._paths = tuple(dict.fromkeys(path for path in (self._private_key, self._certificate, extra_chain) if path is not None))
        self._seen: tuple[Signature | None, ...] = ()
        self._context: SSL.Context | None = None
        self._in_service: x509.Certificate | None = None

    def select(self, server_name: bytes | None) -> SSL.Context | None:
        return self._context

    def _served(self) -> list[tuple[str, x509.Certificate]]:
        return [] if self._in_service is None else [(self._certificate, self._in_service)]

    def _places(self) -> tuple[Sequence[str], Sequence[str]]:
        return (), self._paths

    def _make_factory(self) -> ContextFactory:
        return ContextFactory(self.options, self._sslmethod, self._dh_parameters)

    def _signatures(self) -> tuple[Signature | None, ...]:
        return tuple(map(pem.signature, self._paths))

    def _load(self) -> None:
        # Before the files are read, so that the next check finds a change during the reading.
        self._seen = self._signatures()
        password = self.options.password
        same = self._certificate == self._private_key
        # The certificate first: where both files are missing, the error then names the option that the user gave.
        certificate = pem.read(self._certificate, self._what, password)
        key = certificate if same else pem.read(self._private_key, "the private key", password)
        extra = [] if self._extra_chain is None else [pem.read(self._extra_chain, "the certificate chain")]
        if extra and not extra[0].certificates:
            raise TLSError(f"There is no certificate in {self._extra_chain}")
        credentials = pem.assemble(key, certificate, extra)
        self._context = self.factory.with_certificate(credentials, self._certificate)
        self._in_service = credentials.certificate
        self._queue_validity(credentials.certificate, self._certificate)

    def _refresh(self, forced: bool) -> None:
        if not forced and self._signatures() == self._seen:
            return
        try:
            self._load()
        except TLSError as error:
            logger.error("%s; the previous certificate stays in service", error)
        else:
            logger.info("Certificate reloaded from %s", self._certificate)
