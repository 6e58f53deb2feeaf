"""The TLS properties of a connection: names and numbers of the negotiated parameters, and the certificates of both sides.

:class:`TLSInfo` has the names, which a PROXY header can carry too.  :class:`greendaphne.net.tls.transport.ConnectionTLS` adds the
certificates for connections that this server encrypts itself.  Everything except the names is computed on access, so the other values
cost nothing where the application does not read them.
"""

from __future__ import annotations

from typing import Final

#: The numbers of TLS versions (RFC 8446 section 4.2.1) by OpenSSL's names.
VERSIONS: Final = {"SSLv3": 0x0300, "TLSv1": 0x0301, "TLSv1.0": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

#: The numbers of cipher suites (IANA's registry "TLS Cipher Suites") by OpenSSL's names: the suites of this server, and those that proxies
#: with usual configurations report.
CIPHERS: Final = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    "TLS_AES_128_CCM_SHA256": 0x1304,
    "TLS_AES_128_CCM_8_SHA256": 0x1305,
    "DHE-RSA-AES128-GCM-SHA256": 0x009E,
    "DHE-RSA-AES256-GCM-SHA384": 0x009F,
    "ECDHE-ECDSA-AES128-SHA256": 0xC023,
    "ECDHE-ECDSA-AES256-SHA384": 0xC024,
    "ECDHE-RSA-AES128-SHA256": 0xC027,
    "ECDHE-RSA-AES256-SHA384": 0xC028,
    "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B,
    "ECDHE-ECDSA-AES256-GCM-SHA384": 0xC02C,
    "ECDHE-RSA-AES128-GCM-SHA256": 0xC02F,
    "ECDHE-RSA-AES256-GCM-SHA384": 0xC030,
    "ECDHE-RSA-CHACHA20-POLY1305": 0xCCA8,
    "ECDHE-ECDSA-CHACHA20-POLY1305": 0xCCA9,
    "DHE-RSA-CHACHA20-POLY1305": 0xCCAA,
}


class TLSInfo:
    """The negotiated parameters of a TLS connection.

    :param version: such as ``"TLSv1.3"``.
    :param cipher: the cipher suite by its OpenSSL name.
    """

    __slots__ = ("cipher", "version")

    def __init__(self, version: str, cipher: str) -> None:
        self.version = version
        self.cipher = cipher

    @property
    def version_number(self) -> int | None:
        """The version number of TLS, such as ``0x0304``; ``None`` where unknown."""
        return VERSIONS.get(self.version)

    @property
    def cipher_number(self) -> int | None:
        """The cipher suite's number in IANA's registry, such as ``0x1301``; ``None`` where unknown."""
        return CIPHERS.get(self.cipher)

    @property
    def server_certificate(self) -> str | None:
        """The certificate that the server presented, as PEM; ``None`` where unknown, such as behind a proxy."""
        return None

    @property
    def client_chain(self) -> tuple[str, ...]:
        """The client's verified certificate and its issuers, as PEM, the client's first; empty where the client sent none.

        After a session resumption it may contain the client's own certificate only, because tickets carry no chain.
        """
        return ()

    @property
    def client_name(self) -> str | None:
        """The subject of the client's verified certificate (RFC 4514), such as ``CN=alice,O=Example``; ``None`` without a certificate."""
        return None

    @property
    def client_fingerprint(self) -> str | None:
        """The SHA-256 of the client's verified certificate (DER) in lower-case hexadecimal; ``None`` without a certificate."""
        return None

    def message(self) -> dict[str, str]:
        """The value of the key ``tls`` in messages of a channel layer; see ``docs/messages.rst``."""
        value = {"version": self.version, "cipher": self.cipher}
        name, fingerprint = self.client_name, self.client_fingerprint
        if name is not None and fingerprint is not None:
            value["client_subject"] = name
            value["client_fingerprint"] = fingerprint
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TLSInfo) and (self.version, self.cipher) == (other.version, other.cipher)

    def __hash__(self) -> int:
        return hash((self.version, self.cipher))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.version!r}, {self.cipher!r})"
