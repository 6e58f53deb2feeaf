"""The options of TLS: protocols, versions, verification of client certificates, the password of private keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from OpenSSL import SSL

from ...config import Tls
from . import pem
from .pem import TLSError

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
