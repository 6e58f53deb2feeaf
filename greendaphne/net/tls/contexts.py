"""OpenSSL contexts: the versions, ciphers and protocols that a server offers, and the choice of the certificate.

A listening endpoint holds :class:`Contexts`.  Every connection starts on its *front* context, which has no certificate but owns the
session ticket keys.  When the ClientHello has the server name, OpenSSL asks :meth:`Contexts.select` for the context with the
certificate.  So certificates can be replaced at any time: open connections keep theirs, and clients can still resume their
sessions.  :class:`FileContexts` serves one certificate from given files; :mod:`.sni` serves many from a directory.

OpenSSL's callbacks must not switch greenlets, so they do not log.  They append lines to :attr:`Contexts.pending_lines`, and
:func:`.handshake.handshake` logs them afterwards.
"""

from __future__ import annotations

import _socket
import logging
import tempfile
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from ...config import Tls
from . import pem
from .exposure import exposed
from .pem import Credentials, Signature, TLSError
from .validity import ValidityLog

logger = logging.getLogger(__name__)

#: Mozilla's "intermediate" list for TLS 1.2: forward secrecy and AEAD only, so no suite that RFC 9113 appendix A forbids for HTTP/2.
#: The DHE suites are used only with Diffie-Hellman parameters.
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:"
    b"DHE-RSA-CHACHA20-POLY1305"
)
#: SSL_OP_PRIORITIZE_CHACHA, which pyOpenSSL does not name: a client that puts ChaCha20 first has no AES hardware, so it gets ChaCha20.
_OP_PRIORITIZE_CHACHA = 1 << 21
#: SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets but does not name.
_MODE_ENABLE_PARTIAL_WRITE = 1

#: Seconds for which a session can be resumed.
SESSION_LIFETIME = 2 * 60 * 60
#: Seconds after which the front context and its ticket keys are replaced, which limits the traffic that a stolen key can decrypt.
TICKET_KEY_LIFETIME = 12 * 60 * 60
#: Seconds between two checks of a file's modification time.
CHECK_INTERVAL = 1.0
#: At most this many certificates between a client's certificate and the root.
_VERIFY_DEPTH = 10

#: The protocols offered by default, in order of preference.
ALPN = Tls().alpn

#: The ``sslmethod`` names of Twisted's ``ssl:`` endpoint that allow TLS 1.2 or 1.3, with the lowest and the highest version.
#: ``TLSv1_3_METHOD`` is an addition: OpenSSL never had a method of that name.
_METHODS: dict[str, tuple[int, int]] = {
    "TLS_METHOD": (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION),
    "TLS_SERVER_METHOD": (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION),
    "SSLv23_METHOD": (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION),
    "TLSv1_2_METHOD": (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION),
    "TLSv1_3_METHOD": (SSL.TLS1_3_VERSION, SSL.TLS1_3_VERSION),
}
_OBSOLETE_METHODS = frozenset({"SSLv2_METHOD", "SSLv3_METHOD", "TLSv1_METHOD", "TLSv1_1_METHOD"})

_VERIFY = {
    "none": SSL.VERIFY_NONE,
    "optional": SSL.VERIFY_PEER,
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """Options of all certificates of an endpoint.

    :param alpn: the protocols to offer, in order of preference; empty for no ALPN.
    :param client_ca: PEM file with the authorities that issue client certificates.
    :param verify: ``none``, ``optional`` (a certificate, where sent, must be valid) or ``require``; by default ``require`` with
        ``client_ca`` and ``none`` without.
    :param key_password: the password of encrypted private keys.
    :param key_password_file: a file with that password, as an alternative; read each time an encrypted key is read.
    :raises TLSError: for invalid or contradictory values.
    """

    alpn: tuple[str, ...] = ALPN
    client_ca: str | None = None
    verify: str | None = None
    key_password: str | None = field(default=None, repr=False)
    key_password_file: str | None = None

    def __post_init__(self) -> None:
        for protocol in self.alpn:
            if not 1 <= len(protocol.encode()) <= 255:
                raise TLSError(f"{protocol!r} is no ALPN protocol name: 1 to 255 bytes are expected")
        if self.verify is not None and self.verify not in _VERIFY:
            raise TLSError(f"Client certificates can be verified as none, optional or require, not {self.verify!r}")
        if self.verify not in (None, "none") and self.client_ca is None:
            raise TLSError(f"Client certificates cannot be verified ({self.verify}) without a file of authorities (--tls-client-ca)")

        if self.key_password is not None and self.key_password_file is not None:
            raise TLSError("The password of private keys is given twice: itself and in a file (--keyfile-password-file)")

    def password(self) -> bytes | None:
        """The password of encrypted private keys, without the line end of its file; ``None`` where none is given.

        :raises TLSError: where the file is unreadable or empty.
        """
        if self.key_password_file is None:
            return None if self.key_password is None else self.key_password.encode("utf-8", "surrogateescape")
        data = pem.read_file(self.key_password_file, "the password of the private key")
        password = data.removesuffix(b"\n").removesuffix(b"\r")
        if not password:
            raise TLSError(f"There is no password in {self.key_password_file}")
        return password

    @property
    def verify_mode(self) -> int:
        """OpenSSL's ``VERIFY_`` flags."""
        return _VERIFY[self.verify or ("require" if self.client_ca else "none")]


class NoCommonProtocol(SSL.Error):
    """ALPN found no common protocol.  Raised in OpenSSL's callback, because that is pyOpenSSL's only way to send a fatal alert."""


def check_method(sslmethod: str | None) -> tuple[int, int]:
    """The lowest and highest TLS version for a Twisted ``sslmethod`` name; ``None`` means TLS 1.2 and 1.3.

    :raises TLSError: for an unknown or obsolete name.
    """
    if sslmethod is None:
        sslmethod = "TLS_METHOD"
    versions = _METHODS.get(sslmethod)
    if versions is None:
        if sslmethod in _OBSOLETE_METHODS:
            raise TLSError(f"sslmethod={sslmethod} is refused: only TLS 1.2 and TLS 1.3 are safe; use TLS_METHOD or TLSv1_2_METHOD")
        raise TLSError(f"sslmethod={sslmethod} is unknown; known are {', '.join(_METHODS)}")
    return versions


class ContextFactory:
    """Creates the contexts of one endpoint, which differ only in the certificate.

    :param options: the protocols to offer and the verification of client certificates.
    :param sslmethod: Twisted's name for the versions to offer; by default TLS 1.2 and 1.3.
    :param dh_parameters: PEM file with a Diffie-Hellman group for clients without elliptic curves.
    :raises TLSError: where a file is unusable.
    """

    def __init__(self, options: TLSOptions, sslmethod: str | None = None, dh_parameters: str | None = None) -> None:
        self.options = options
        self._versions = check_method(sslmethod)
        self._choose = _alpn_callback(options.alpn)
        # Read once and kept, so that a file that breaks later does not affect new contexts.
        self._dh_parameters = None if dh_parameters is None else pem.read_dh_parameters(dh_parameters)
        self._authorities: tuple[x509.Certificate, ...] = ()
        if options.client_ca is not None:
            self._authorities = pem.read(options.client_ca, "the client certificate authorities").certificates
            if not self._authorities:
                raise TLSError(f"There is no certificate in {options.client_ca}")

    def bare(self) -> SSL.Context:
        """A context without a certificate."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        lowest, highest = self._versions
        context.set_min_proto_version(lowest)
        context.set_max_proto_version(highest)
        context.set_cipher_list(CIPHERS)
        context.set_options(
            SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
            | SSL.OP_SINGLE_DH_USE
            | SSL.OP_SINGLE_ECDH_USE
            | _OP_PRIORITIZE_CHACHA
        )
        # Releases the record buffers (up to 34 KiB) of an idle connection.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        # One call then encrypts a whole piece; with partial writes it returns after each record, which slows large answers by a seventh.
        context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
        context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
        # Where client certificates are verified, OpenSSL resumes sessions only with a session id context.
        context.set_session_id(b"greendaphne")
        context.set_timeout(SESSION_LIFETIME)
        if self._choose is not None:
            context.set_alpn_select_callback(self._choose)
        context.set_verify(self.options.verify_mode)
        if self._authorities:
            context.set_verify_depth(_VERIFY_DEPTH)
            store = context.get_cert_store()
            assert store is not None
            for authority in self._authorities:
                store.add_cert(X509.from_cryptography(authority))
                context.add_client_ca(authority)
        if self._dh_parameters is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(self._dh_parameters)
                file.flush()
                context.load_tmp_dh(file.name)
        return context

    def with_certificate(self, credentials: Credentials, path: str) -> SSL.Context:
        """A context that presents ``credentials``; ``path`` is their file, for errors."""
        context = self.bare()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)
                context.use_privatekey(credentials.key)
                context.use_certificate(credentials.certificate)
                for certificate in credentials.chain:
                    context.add_extra_chain_cert(certificate)
            context.check_privatekey()
        except SSL.Error as error:
            raise TLSError(f"OpenSSL refuses the certificate in {path}: {reason(error)}") from None
        return context


def reason(error: SSL.Error) -> str:
    """OpenSSL's reason as text."""
    if isinstance(error, SSL.SysCallError):
        return str(error.args[1])
    if isinstance(error, NoCommonProtocol):
        return str(error)
    texts = [str(entry[2]) for entry in (error.args[0] if error.args else ()) if entry[2]]
    return ", ".join(texts) or type(error).__name__


def _alpn_callback(offered: tuple[str, ...]) -> Callable[[SSL.Connection, list[bytes]], Any] | None:
    if not offered:
        return None
    protocols = tuple(protocol.encode() for protocol in offered)
    if b"http/1.1" in protocols and b"http/1.0" not in protocols:
        # A client that offers only http/1.0 is served like a client without ALPN.
        protocols += (b"http/1.0",)

    def choose(connection: SSL.Connection, client: list[bytes]) -> bytes:
        for protocol in protocols:
            if protocol in client:
                return protocol
        # RFC 7301 section 3.2: "no_application_protocol" is fatal.
        raise NoCommonProtocol("no common protocol: the client offers only " + ", ".join(ascii(name)[2:-1] for name in client[:8]))

    return choose


class Contexts(ABC):
    """The certificates of one endpoint; only the hub's thread uses them.

    Call :meth:`load` first.  Before that, :meth:`configure` may replace ``options``.
    """

    #: The authority that issues certificates while the server runs, empty for none; see :mod:`greendaphne.acme`.
    authority = ""

    def __init__(self, options: TLSOptions | None = None) -> None:
        self.options = options or TLSOptions()
        #: Log lines from callbacks of OpenSSL, as (level, text).
        self.pending_lines: list[tuple[int, str]] = []
        #: Decides about log lines on expiring certificates; the endpoints of one server share it.
        self.validity = ValidityLog()
        self._factory: ContextFactory | None = None
        self._front: SSL.Context | None = None
        self._front_expires = 0.0
        self._check_after = 0.0

    def configure(self, options: TLSOptions) -> None:
        """Replace the options; :meth:`load` applies them."""
        self.options = options

    def load(self) -> None:
        """Read all files for the first time.

        :raises TLSError: where a file is missing or broken, or key and certificate do not match.
        """
        self._factory = self._make_factory()
        self._load()
        self._new_front()
        directories, files = self._places()
        if self.options.key_password_file is not None:
            files = [*files, self.options.key_password_file]
        for line in exposed(directories, files):
            logger.warning("%s", line)
        self.write_lines()

    def reload(self) -> None:
        """Read all files again.  Each broken file is logged with one ERROR line, and its previous content stays in service."""
        try:
            self._factory = self._make_factory()
        except TLSError as error:
            logger.error("%s; the previous one stays in service", error)
        self._refresh(forced=True)
        # The options may name another set of client authorities, which the front context contains too.
        self._new_front()
        self.write_lines()

    def front(self) -> SSL.Context:
        """The context for a new connection; checks for changed files at most once a second."""
        now = monotonic()
        if now >= self._check_after:
            self._check_after = now + CHECK_INTERVAL
            self._refresh(forced=False)
            if now >= self._front_expires:
                self._new_front()
            self.write_lines()
        if self._front is None:
            raise RuntimeError("load() was not called")
        return self._front

    def for_connection(self, sock: _socket.socket, deadline: float) -> SSL.Context:
        """The context for the connection ``sock``, which has unread input.

        :param deadline: the deadline of the handshake, on the monotonic clock.
        :raises TimeoutError: at the deadline.
        """
        return self.front()

    def write_lines(self) -> None:
        """Log the lines from callbacks."""
        while self.pending_lines:
            level, line = self.pending_lines.pop(0)
            logger.log(level, "%s", line)

    def certificates(self) -> list[tuple[str, x509.Certificate]]:
        """The certificates in service, each with its file; empty before :meth:`load`."""
        if self._front is None:
            return []
        # Reloads changed files, as for a connection.
        self.front()
        found = self._served()
        self.write_lines()
        return found

    def report_validity(self) -> list[x509.Certificate]:
        """Log the certificates that are about to expire or have expired, where a line is due; returns those in service."""
        found = self.certificates()
        for path, certificate in found:
            self._queue_validity(certificate, path)
        self.write_lines()
        return [certificate for _, certificate in found]

    def _queue_validity(self, certificate: x509.Certificate, path: str) -> None:
        """Queue the line that is due about the validity of ``certificate``, if any; safe within a callback."""
        if (line := self.validity.line(certificate, path)) is not None:
            self.pending_lines.append(line)

    def describe(self) -> str:
        """The protocols that clients can negotiate, for the start-up log: ``ALPN h2,http/1.1``."""
        return f"ALPN {','.join(self.options.alpn)}" if self.options.alpn else "no ALPN"

    @property
    def factory(self) -> ContextFactory:
        if self._factory is None:
            raise RuntimeError("load() was not called")
        return self._factory

    def _make_factory(self) -> ContextFactory:
        return ContextFactory(self.options)

    def _new_front(self) -> None:
        context = self.factory.bare()
        context.set_tlsext_servername_callback(self._on_client_hello)
        self._front = context
        self._front_expires = monotonic() + TICKET_KEY_LIFETIME

    def _on_client_hello(self, connection: SSL.Connection) -> None:
        # OpenSSL calls this for every ClientHello, with or without a server name.  pyOpenSSL would print an exception to stderr.  Without
        # a certificate OpenSSL refuses the handshake.
        try:
            context = self.select(connection.get_servername())
        except Exception:  # noqa: BLE001
            self.pending_lines.append((logging.ERROR, f"Cannot choose a certificate\n{traceback.format_exc().rstrip()}"))
            return
        if context is not None:
            connection.set_context(context)

    @abstractmethod
    def select(self, server_name: bytes | None) -> SSL.Context | None:
        """The context for a server name as the client sent it; ``None`` refuses the connection.  Must not switch greenlets."""

    def _served(self) -> list[tuple[str, x509.Certificate]]:
        """The result of :meth:`certificates`."""
        return []

    def _places(self) -> tuple[Sequence[str], Sequence[str]]:
        """Directories of which every ``.pem`` file is served, and single files that are read."""
        return (), ()

    @abstractmethod
    def _load(self) -> None:
        """Read all certificates; raises :class:`TLSError`."""

    @abstractmethod
    def _refresh(self, forced: bool) -> None:
        """Read the changed files, or all files where ``forced``; never raises."""


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
