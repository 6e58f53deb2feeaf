"""The operator's options for certificates from an authority, and the error that this package raises."""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass
from typing import Final

from ..config import Acme
from .names import NameRefused, to_host

#: The challenges that the server can answer, by the names of RFC 8555 section 8.3 and RFC 8737.
HTTP_01: Final = "http-01"
TLS_ALPN_01: Final = "tls-alpn-01"

_EMAIL = re.compile(r"[^\s@,:?&]+@[^\s@,:?&]+")
#: RFC 8555 section 7.3.4: the key is base64url.  Authorities give at least 32 bytes.
_MIN_HMAC_KEY = 16


class AcmeError(Exception):
    """Certificates cannot be obtained; the text is one line for the operator."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AcmeOptions(Acme):
    """Options of all endpoints that obtain certificates: :class:`greendaphne.config.Acme`, validated.

    With ``eab_hmac_key_file`` the key is read from that file.

    :raises AcmeError: for an invalid value.
    """

    def __post_init__(self) -> None:
        if self.email is not None and not all(map(_EMAIL.fullmatch, self.email.split(","))):
            raise AcmeError(f"{self.email!r} is not an e-mail address (--acme-email)")
        if self.challenge not in (None, HTTP_01, TLS_ALPN_01):
            raise AcmeError(f"Challenges are {HTTP_01} and {TLS_ALPN_01}, not {self.challenge!r}")
        if self.eab_hmac_key_file is not None:
            if self.eab_hmac_key is not None:
                raise AcmeError("--acme-eab-hmac-key and --acme-eab-hmac-key-file cannot both be given")
            # The dataclass is frozen; only its own initialization sets values.
            object.__setattr__(self, "eab_hmac_key", read_hmac_key(self.eab_hmac_key_file))
            object.__setattr__(self, "eab_hmac_key_file", None)
        if (self.eab_kid is None) != (self.eab_hmac_key is None):
            raise AcmeError("An external account binding needs both --acme-eab-kid and --acme-eab-hmac-key (or --acme-eab-hmac-key-file)")
        if self.eab_hmac_key is not None:
            check_hmac_key(self.eab_hmac_key)
        if self.ca is not None and not os.path.isfile(self.ca):
            raise AcmeError(f"There is no file {self.ca} (--acme-ca)")
        try:
            hosts = tuple(to_host(name) for name in self.domains)
        except NameRefused as error:
            raise AcmeError(f"--acme-domains: {error}") from None
        object.__setattr__(self, "domains", tuple(dict.fromkeys(hosts)))


def check_hmac_key(text: str) -> None:
    """Refuse a key for external account binding that is not base64url or too short."""
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _MIN_HMAC_KEY:
        raise AcmeError("The key of the external account binding is not the base64url text that the authority gave")


def read_hmac_key(path: str) -> str:
    """Read the key for external account binding from the file ``path``; blanks around it are removed."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except OSError as error:
        raise AcmeError(f"Cannot read {path} (--acme-eab-hmac-key-file): {error.strerror}") from None
