"""Makes OpenSSL contexts: the versions, ciphers and protocols that a server offers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from . import pem
from .options import TLSOptions, check_method
from .pem import Credentials, TLSError

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
#: The longest list of ALPN protocols in bytes; browsers send 15.
_ALPN_SIZE = 1024
#: SSL_CTX_set_alpn_select_cb(3): the type of its callback, and SSL_TLSEXT_ERR_ALERT_FATAL.
_ALPN_TYPE = "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"
_ALERT_FATAL = 2

#: Seconds for which a session can be resumed.
SESSION_LIFETIME = 2 * 60 * 60
#: At most this many certificates between a client's certificate and the root.
_VERIFY_DEPTH = 10


class NoCommonProtocol(SSL.Error):
    """ALPN found no common protocol.  Raised in OpenSSL's callback, because that is pyOpenSSL's only way to send a fatal alert."""


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
            _bound_alpn(context)
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


def _bound_alpn(context: SSL.Context) -> None:
    """Refuse a long list of protocols before pyOpenSSL splits it, which takes a time that grows with the square of its length.

    A list of 64 KiB of names of one octet would block the process for tens of milliseconds.  This uses private members of pyOpenSSL.
    Without them it does nothing, but a test fails.
    """
    lib: Any = getattr(SSL, "_lib", None)
    ffi: Any = getattr(SSL, "_ffi", None)
    split: Any = getattr(context, "_alpn_select_callback", None)
    pointer: Any = getattr(context, "_context", None)
    if lib is None or ffi is None or split is None or pointer is None:  # pragma: no cover - another pyOpenSSL
        return

    def bounded(ssl: Any, out: Any, outlen: Any, names: Any, size: int, argument: Any) -> int:
        return _ALERT_FATAL if size > _ALPN_SIZE else split(ssl, out, outlen, names, size, argument)

    callback = ffi.callback(_ALPN_TYPE, bounded)
    # OpenSSL does not keep it alive.
    context._alpn_select_callback = callback
    lib.SSL_CTX_set_alpn_select_cb(pointer, callback, ffi.NULL)


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
