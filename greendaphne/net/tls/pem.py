"""Reads private keys and certificates from PEM files and checks that they match.

:func:`read` splits a file into keys and certificates, in any order.  :func:`assemble` makes :class:`Credentials` of them: the certificate
that matches the key, followed by its chain, issuer by issuer.  Every error raises :class:`TLSError` with one line that names the
file.  The module does not use OpenSSL's contexts.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

#: The types of server keys in TLS 1.2 and 1.3.
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

#: The largest PEM file that is read, in bytes: a long chain takes 20 KiB, so a larger file is of another kind.
MAX_PEM_SIZE = 1024 * 1024
#: The smallest Diffie-Hellman group, in bits; smaller ones fall to precomputation (RFC 7919 section 1).
MIN_DH_BITS = 2048

#: The most private keys in one file; the check of each key takes milliseconds.
_MAX_KEYS = 16
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
#: The exceptions of cryptography for a missing or unreadable extension.
NO_EXTENSION = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)
_DH_BLOCK = re.compile(rb"-----BEGIN (?:X9\.42 )?DH PARAMETERS-----(.*?)-----END", re.DOTALL)
_CERTIFICATES = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})


class TLSError(ValueError):
    """The TLS configuration is unusable; the text is one line and names the file or the option."""


#: Returns the password of an encrypted private key, ``None`` for no password.
Password = Callable[[], bytes | None]

#: The state of a file, to detect changes: modification time in nanoseconds, size in bytes, inode.
Signature = tuple[int, int, int]


class PemObjects(NamedTuple):
    """The keys and certificates in one file."""

    path: str
    keys: tuple[PrivateKey, ...]
    certificates: tuple[x509.Certificate, ...]


class Credentials(NamedTuple):
    """A private key, its certificate and the certificates between that and the root."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]


def signature(path: str) -> Signature | None:
    """The state of the regular file ``path``, ``None`` where it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def read_file(path: str, what: str) -> bytes:
    """The bytes of the regular file ``path``; ``what`` names its purpose in errors."""
    try:
        # O_NONBLOCK, because open(2) of a FIFO would block the process; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise TLSError(f"Cannot read {what} {path}: not a regular file")
            data = file.read(MAX_PEM_SIZE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, TLSError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TLSError(f"Cannot read {what} {path}: {reason}") from None
    if len(data) > MAX_PEM_SIZE:
        raise TLSError(f"Cannot read {what} {path}: larger than {MAX_PEM_SIZE} bytes")
    return data


def read(path: str, what: str = "PEM file", password: Password | None = None) -> PemObjects:
    """Read the keys and certificates of the PEM file ``path``; other blocks, such as ``EC PARAMETERS``, are skipped.

    :param what: the purpose of the file, for errors.
    :param password: called for an encrypted key; may raise :class:`TLSError`.
    :raises TLSError: for an unreadable file, a malformed block or an unsupported key.
    """
    keys: list[PrivateKey] = []
    certificates: list[x509.Certificate] = []
    for label, block in _blocks(path, read_file(path, what)):
        if label in _CERTIFICATES:
            certificates.append(_certificate(path, block))
        elif label.endswith(b"PRIVATE KEY"):
            if len(keys) == _MAX_KEYS:
                raise TLSError(f"There are more than {_MAX_KEYS} private keys in {path}")
            keys.append(_private_key(path, block, password))
    return PemObjects(path, tuple(keys), tuple(certificates))


def _blocks(path: str, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The labels and the texts of the blocks in ``data`` (RFC 7468), in one pass."""
    position = 0
    while (begin := _BEGIN.search(data, position)) is not None:
        end = b"-----END %b-----" % begin[1]
        at = data.find(end, begin.end())
        if at < 0:
            raise TLSError(f"The {begin[1].decode('ascii').lower()} in {path} is cut short")
        position = at + len(end)
        yield begin[1], data[begin.start() : position]


def _certificate(path: str, block: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        # cryptography parses these fields on access, so malformed ones raise here and not later.
        for name in ("subject", "issuer", "not_valid_before_utc", "not_valid_after_utc", "serial_number"):
            getattr(certificate, name)
    except (KeyError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        # KeyError: cryptography 46 has no other answer to some damaged names.
        raise TLSError(f"A certificate in {path} is malformed") from None
    return certificate


def _private_key(path: str, block: bytes, password: Password | None) -> PrivateKey:
    # PKCS #8 has ENCRYPTED in its label (RFC 7468 section 11), the older form in the field "Proc-Type: 4,ENCRYPTED" (RFC 1421).
    secret = password() if password is not None and b"ENCRYPTED" in block else None
    if secret is None and b"ENCRYPTED" in block:
        raise TLSError(
            f"The private key in {path} is encrypted; name the file with its password (--keyfile-password-file), or store the key "
            "unencrypted, readable by the server's user alone"
        )
    try:
        key = load_pem_private_key(block, password=secret)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # Not every format lets OpenSSL distinguish a wrong password from damage.
        problem = "is malformed" if secret is None else "cannot be decrypted: the password is wrong, or the key is malformed"
        raise TLSError(f"The private key in {path} {problem}") from None
    if not isinstance(key, PrivateKey):
        raise TLSError(f"The private key in {path} is of a type that TLS servers do not use; use RSA, ECDSA, Ed25519 or Ed448")
    return key


def public_bytes(of: PrivateKey | x509.Certificate) -> bytes:
    """The public key of a private key or a certificate, for comparison; empty for a certificate with an unsupported key."""
    try:
        return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        # Such a certificate may still be a part of the chain.
        return b""


def assemble(key_file: PemObjects, certificate_file: PemObjects, extra: Sequence[PemObjects] = ()) -> Credentials:
    """Return the key, its certificate and the chain from the objects of the files.

    :param extra: files with further certificates of the chain.
    :raises TLSError: unless there is exactly one key with a matching certificate.
    """
    if not key_file.keys:
        raise TLSError(f"There is no private key in {key_file.path}")
    if len(key_file.keys) > 1:
        raise TLSError(f"There are {len(key_file.keys)} private keys in {key_file.path}; one is expected")
    if not certificate_file.certificates:
        raise TLSError(f"There is no certificate in {certificate_file.path}")
    (key,) = key_file.keys
    public = public_bytes(key)
    for certificate in certificate_file.certificates:
        if public_bytes(certificate) == public:
            break
    else:
        if key_file.path == certificate_file.path:
            raise TLSError(f"The private key and the certificate in {key_file.path} do not match")
        raise TLSError(f"The private key in {key_file.path} does not match the certificate in {certificate_file.path}")
    others = [other for file in (certificate_file, *extra) for other in file.certificates if other != certificate]
    return Credentials(key, certificate, in_order(certificate, others))


def in_order(
    certificate: x509.Certificate, others: Iterable[x509.Certificate], *, related_only: bool = False
) -> tuple[x509.Certificate, ...]:
    """The chain of ``certificate``: each certificate certifies the one before it (RFC 8446 section 4.4.2).

    Unrelated certificates of ``others`` follow in their order; with ``related_only`` they are omitted.
    """
    left = [other for other in dict.fromkeys(others) if other != certificate]
    chain = []
    last = certificate
    while following := next((other for other in left if other.subject == last.issuer), None):
        left.remove(following)
        chain.append(following)
        last = following
    return tuple(chain) if related_only else (*chain, *left)


def read_dh_parameters(path: str) -> bytes:
    """The content of the PEM file ``path``, which must have a Diffie-Hellman group of at least :data:`MIN_DH_BITS` bits."""
    data = read_file(path, "the Diffie-Hellman parameters")
    block = _DH_BLOCK.search(data)
    bits = 0
    if block is not None:
        try:
            bits = _prime_bits(base64.b64decode(block[1]))
        except (ValueError, IndexError):
            pass
    if not bits:
        raise TLSError(f"There are no Diffie-Hellman parameters in {path}")
    if bits < MIN_DH_BITS:
        raise TLSError(f"The Diffie-Hellman parameters in {path} have {bits} bits; at least {MIN_DH_BITS} are needed")
    return data


def _prime_bits(der: bytes) -> int:
    """The size of p in ``SEQUENCE { p INTEGER, g INTEGER, … }`` (PKCS #3 section 9); parsed here as cryptography deprecates such groups."""
    outside, inside = _der(der, 0x30)
    start, end = _der(der[outside:inside], 0x02)
    return int.from_bytes(der[outside:inside][start:end], "big").bit_length()


def _der(data: bytes, tag: int) -> tuple[int, int]:
    """Start and end of the first element's content (X.690 section 8.1.3)."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if data[0] != tag or start + length > len(data):
        raise ValueError("not the element expected")
    return start, start + length


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The host names of a certificate, lower-cased; the common name does not count (RFC 9525 section 2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except NO_EXTENSION:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
