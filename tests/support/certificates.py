"""Certificates for tests: an authority, what it issues, and the PEM files made of that."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and whoever issued it (``None`` for a root)."""

    key: Key
    certificate: x509.Certificate
    issuer: Issued | None = field(default=None, repr=False)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def encrypted_key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """The intermediates, nearest first; the root is left out."""
        chain = b""
        issuer = self.issuer
        while issuer is not None and issuer.issuer is not None:
            chain += issuer.pem
            issuer = issuer.issuer
        return chain

    def write(self, path: Path) -> Path:
        """Write key, certificate and chain to one file."""
        path.write_bytes(self.key_pem + self.pem + self.chain_pem)
        return path


def new_key(kind: str = "ec") -> Key:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    client: bool = False,
    kind: str = "ec",
    days: float = 30,
    since: float = 1,
    key: Key | None = None,
) -> Issued:
    """Make a key and a certificate; self-signed without ``issuer``.  ``since`` days ago it began, in ``days`` days it ends."""
    key = new_key(kind) if key is None else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((key if issuer is None else issuer.key).public_key()), critical=False
        )
    )
    if authority:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = builder.add_extension(usage, critical=True)
    else:
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    signer = key if issuer is None else issuer.key
    return Issued(key, builder.sign(signer, hashes.SHA256()), issuer)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Authority:
    """A root, an intermediate below it, and the file that clients trust."""

    root: Issued
    intermediate: Issued
    file: Path

    @classmethod
    def make(cls, directory: Path, name: str = "Test") -> Authority:
        root = issue(f"{name} Root", authority=True)
        intermediate = issue(f"{name} Intermediate", root, authority=True)
        file = directory / f"{name.lower()}-root.pem"
        file.write_bytes(root.pem)
        return cls(root, intermediate, file)

    def server(self, *names: str, kind: str = "ec", days: float = 30, since: float = 1) -> Issued:
        return issue(names[0], self.intermediate, names=names, kind=kind, days=days, since=since)

    def client(self, name: str = "client") -> Issued:
        return issue(name, self.intermediate, client=True)
