"""A self-signed certificate for development, for ``--tls-dev``.

One file with key and certificate in the user's cache directory, readable by its owner only.  It is reused until shortly before it
expires, so that an exception in the browser needs to be made only once.  The certificate is for ``localhost`` and the loopback
addresses; other users and machines must not trust it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import tempfile
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import pem
from .pem import TLSError
from .selfsigned import self_signed

logger = logging.getLogger(__name__)

#: How long a certificate is valid.
LIFETIME = timedelta(days=365)
#: A certificate with less time left is replaced, so that it does not expire while a server runs for a day.
MARGIN = timedelta(days=7)

FILE_NAME = "development.pem"
_HOST = "localhost"
_ADDRESSES = ("127.0.0.1", "::1")


def cache_directory() -> str:
    """``greendaphne`` below ``$XDG_CACHE_HOME``, which is ``~/.cache`` by default (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "greendaphne")


def development_certificate(directory: str | None = None) -> str:
    """Return the path of a PEM file with a development certificate and its key; creates the file unless a usable one exists.

    :param directory: the directory of the file; by default :func:`cache_directory`.
    :raises TLSError: where the file cannot be written.
    """
    directory = cache_directory() if directory is None else directory
    path = os.path.join(directory, FILE_NAME)
    if not _is_usable(path):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _write(directory, path, make_self_signed())
        except OSError as error:
            raise TLSError(f"Cannot write the development certificate {path}: {error.strerror}") from None
        logger.info("Made a self-signed certificate for %s: %s", _HOST, path)
    logger.warning("Using the self-signed certificate %s; it is for development only", path)
    return path


def _is_usable(path: str) -> bool:
    if pem.signature(path) is None:
        return False
    try:
        if os.stat(path).st_mode & 0o077 or os.stat(path).st_uid != os.geteuid():
            return False
        file = pem.read(path)
        certificate = pem.assemble(file, file).certificate
    except (TLSError, OSError):
        return False
    now = datetime.now(timezone.utc)
    return certificate.not_valid_before_utc <= now and certificate.not_valid_after_utc - MARGIN > now


def _write(directory: str, path: str, data: bytes) -> None:
    # Renamed into place, so that two servers starting together each find a complete file.  mkstemp creates it with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".development-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def make_self_signed() -> bytes:
    """A new ECDSA P-256 key and its self-signed certificate for localhost, as PEM."""
    names: list[x509.GeneralName] = [x509.DNSName(_HOST)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _ADDRESSES]
    # Not an authority: trust in it covers localhost only, and a stolen key cannot sign other certificates.
    no_authority = x509.BasicConstraints(ca=False, path_length=None)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return self_signed(f"greendaphne development ({_HOST})", names, LIFETIME, (no_authority, True), (usage, False))
