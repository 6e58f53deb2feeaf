"""Certificates from a directory that an authority fills, and the answers to TLS-ALPN-01 challenges on the same port.

A client gets ``<host>.pem`` or ``DEFAULT.pem`` as with ``txsni:``.  Without either file, for example before the first certificate is
issued, the handshake is refused.  While a challenge is open, the ClientHello is inspected before OpenSSL reads it, because an ALPN callback
is too late for a change between ECDSA and RSA on TLS 1.2.
"""

from __future__ import annotations

import _socket
import logging
import os
from time import monotonic
from typing import Final

import gevent
from cryptography import x509
from OpenSSL import SSL

from ..net.tls import pem
from ..net.tls.contexts import Contexts
from ..net.tls.factory import ContextFactory
from ..net.tls.handshake import ACME_TLS
from ..net.tls.options import TLSOptions
from ..net.tls.pem import TLSError
from ..net.tls.sni import HostDirectory, host_name
from .challenges import Challenges
from .names import NameRefused, host_of_file
from .options import AcmeError
from .store import Store

logger = logging.getLogger(__name__)

#: The list of protocols in a challenge's ClientHello, which contains only this one (RFC 8737 section 3, RFC 7301 section 3.1).
_PROTOCOLS: Final = b"\x00" + bytes([len(ACME_TLS) + 1, len(ACME_TLS)]) + ACME_TLS.encode()
#: The longest first record, in bytes, including its header (RFC 8446 section 5.1).
_MAX_HELLO: Final = 5 + 16 * 1024
#: The type of that record.
_HANDSHAKE: Final = b"\x16"
#: Seconds between two checks of an incomplete ClientHello; doubled up to the second value.  The bytes are left in the socket, which
#: therefore stays readable, so there is no event to wait for.
_LOOK_AGAIN: Final = 0.01
_LOOK_SELDOM: Final = 0.5


class AcmeContexts(HostDirectory):
    """The certificates of one endpoint that obtains them from an authority.

    :param directory: the directory of the certificates.
    :param authority: the directory URL of the ACME server.
    """

    def __init__(self, directory: str, authority: str, options: TLSOptions | None = None) -> None:
        super().__init__(directory, options)
        self.authority = authority
        self.store = Store(directory)
        self.directory = self.store.path
        self.challenges = Challenges(self.store)
        self._challenge_contexts = _ChallengeContexts(self.challenges)

    def describe(self) -> str:
        return f"{super().describe()}, certificates from {self.authority} in {self.directory}"

    def for_connection(self, sock: _socket.socket, deadline: float) -> SSL.Context:
        if self.challenges.tls_pending() and _PROTOCOLS in _client_hello(sock, deadline):
            # A new context each time: challenges are few and last less than a minute.
            self._challenge_contexts.load()
            return self._challenge_contexts.front()
        return self.front()

    def write_lines(self) -> None:
        super().write_lines()
        self._challenge_contexts.write_lines()

    def _queue_validity(self, certificate: x509.Certificate, path: str) -> None:
        # The manager reports the certificates that it renews, together with the reason of a failed renewal.
        try:
            managed = host_of_file(os.path.basename(path)) is not None and not os.path.islink(path)
        except NameRefused:
            managed = False
        if not managed:
            super()._queue_validity(certificate, path)

    def refresh(self, host: str) -> None:
        """Reload the file of ``host``."""
        self._context(host, forced=True)
        self.write_lines()

    def _load(self) -> None:
        """Read every file.  None needs to be usable: the server listens first, and certificates are issued later."""
        try:
            if (line := self.store.check()) is not None:
                logger.error("%s; certificates there are served and none is issued", line)
        except AcmeError as error:
            raise TLSError(str(error)) from None
        self._read_all()
        if exposed := self.store.exposed():
            more = f" and in {len(exposed) - 1} more files there" if len(exposed) > 1 else ""
            logger.warning(
                "Every user of this machine can read or change the private key in %s%s; remove these permissions with chmod 600",
                exposed[0],
                more,
            )


class _ChallengeContexts(Contexts):
    """The certificates that answer TLS-ALPN-01 challenges; offers no other protocol and requests no client certificate."""

    def __init__(self, challenges: Challenges) -> None:
        super().__init__(TLSOptions(alpn=(ACME_TLS,)))
        self._challenges = challenges

    def select(self, server_name: bytes | None) -> SSL.Context | None:
        host = host_name(server_name)
        if host is None:
            return None
        path = self._challenges.certificate_path(host)
        try:
            file = pem.read(path)
            return self.factory.with_certificate(pem.assemble(file, file), path)
        except TLSError:
            self.pending_lines.append((logging.DEBUG, f"No challenge is open for {host}"))
            return None

    def _make_factory(self) -> ContextFactory:
        return self._factory or ContextFactory(self.options)

    def _load(self) -> None:
        pass

    def _refresh(self, forced: bool) -> None:
        pass


def _client_hello(sock: _socket.socket, deadline: float) -> bytes:
    """The first record that a client sends, left in the socket; ``b""`` where the client has disconnected.

    :raises TimeoutError: at the deadline.
    """
    pause = _LOOK_AGAIN
    while True:
        try:
            data = sock.recv(_MAX_HELLO, _socket.MSG_PEEK)
        except BlockingIOError:
            pass  # woken without a byte
        except OSError:
            return b""
        else:
            if data[:1] != _HANDSHAKE or len(data) >= min(_MAX_HELLO, 5 + int.from_bytes(data[3:5], "big")) > 5:
                return data
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        gevent.sleep(min(pause, left))
        pause = min(pause * 2, _LOOK_SELDOM)
