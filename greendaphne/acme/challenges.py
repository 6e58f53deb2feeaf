"""The open challenges, as files from which every process of the server can answer.

An authority connects to any of the processes, not only to the one that requests the certificate.  So the proofs of control are in
``.acme/challenges`` while they are needed: the text for HTTP-01 (RFC 8555 section 8.3), key and certificate for TLS-ALPN-01 (RFC
8737).  acme 5 no longer creates that certificate, so this module does.
"""

from __future__ import annotations

import hashlib
import os
import re
from datetime import timedelta
from typing import Final

from cryptography import x509

from ..net.tls.selfsigned import self_signed
from .names import SUFFIX
from .options import HTTP_01, TLS_ALPN_01, AcmeError
from .store import Store

#: The path of HTTP-01 challenges (RFC 8555 section 8.3).
HTTP_PREFIX: Final = b"/.well-known/acme-challenge/"

_DIRECTORY: Final = "challenges"
#: RFC 8555 section 8.3: base64url of at least 128 bits.  The upper bound keeps a token usable as a file name.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}", re.ASCII)
#: id-pe-acmeIdentifier (RFC 8737 section 3).
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
#: A challenge's certificate is not needed after the challenge.
_LIFETIME: Final = timedelta(days=1)
#: The longest text of a challenge, in bytes: a token, a full stop and a digest.
_MAX_TEXT: Final = 1024


class Challenges:
    """The open challenges of one directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = os.path.join(store.private, _DIRECTORY)

    def offer(self, kind: str, host: str, token: str, key_authorization: str) -> None:
        """Start to answer a challenge.

        :param kind: ``http-01`` or ``tls-alpn-01``.
        :param key_authorization: see RFC 8555 section 8.1.
        :raises AcmeError: where the file cannot be written.
        """
        path = self._path(kind, host, token)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise AcmeError(f"Cannot make {self.path}: {error.strerror}") from None
        self._store.write(path, key_authorization.encode() if kind == HTTP_01 else challenge_certificate(host, key_authorization))

    def withdraw(self, kind: str, host: str, token: str) -> None:
        """Stop answering the challenge."""
        _remove(self._path(kind, host, token))

    def clear(self) -> None:
        """Withdraw all challenges; a process that was killed may have left some."""
        for name in self._names():
            _remove(os.path.join(self.path, name))

    def _path(self, kind: str, host: str, token: str) -> str:
        if not _TOKEN.fullmatch(token):
            raise AcmeError("The authority sent a challenge whose token is not base64url")
        return os.path.join(self.path, f"{HTTP_01}.{token}" if kind == HTTP_01 else f"{TLS_ALPN_01}.{host}{SUFFIX}")

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except OSError:
            return []

    def text(self, token: str) -> bytes | None:
        """The answer to the HTTP-01 challenge ``token``, which is untrusted; ``None`` for an unknown one."""
        if not _TOKEN.fullmatch(token):
            return None
        try:
            with open(os.path.join(self.path, f"{HTTP_01}.{token}"), "rb") as file:
                return file.read(_MAX_TEXT)
        except OSError:
            return None

    def tls_pending(self) -> bool:
        """Whether any TLS-ALPN-01 challenge is open."""
        return any(name.startswith(TLS_ALPN_01) for name in self._names())

    def certificate_path(self, host: str) -> str:
        """The path of key and certificate for a TLS-ALPN-01 challenge of ``host``, if there is one; ``host`` must be validated."""
        return os.path.join(self.path, f"{TLS_ALPN_01}.{host}{SUFFIX}")


def challenge_certificate(host: str, key_authorization: str) -> bytes:
    """Create the key and the self-signed certificate that answer a TLS-ALPN-01 challenge (RFC 8737 section 3), as PEM."""
    digest = hashlib.sha256(key_authorization.encode()).digest()
    # The value is an OCTET STRING of 32 bytes in DER.
    proof = x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest)
    return self_signed("ACME challenge", [x509.DNSName(host)], _LIFETIME, (proof, True))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # gone already
