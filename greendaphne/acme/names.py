"""Host names as file names, and the check which of them an authority can issue for.

A certificate's file is ``<host>.pem``, with the host name as clients send it: lower case, internationalised names in their ASCII form
(RFC 5890 section 2.3.2.1).  :func:`to_host` converts the operator's text, :func:`host_of_file` a file name.  Every refused name raises
:class:`NameRefused` with one line that says what to do.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

#: The name of the file, without its suffix, for clients that send no server name or an unknown one.
DEFAULT: Final = "DEFAULT"
SUFFIX: Final = ".pem"

#: RFC 1035 section 2.3.4, in characters.
_MAX_NAME: Final = 253
#: RFC 1123 section 2.1.  Authorities refuse underscores.
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)


class NameRefused(ValueError):
    """No certificate can be issued for this name; the text is one line."""


def to_host(text: str) -> str:
    """Convert the operator's ``text`` to the host name that clients send.

    :raises NameRefused: for wildcards, addresses and invalid host names.
    """
    name = text.strip().removesuffix(".")
    if name.startswith(("*.", "_.")) or name == "*":
        raise NameRefused(f"{text!r} is a wildcard, which an authority issues only after a change of the DNS (DNS-01); name each host")
    if not name.isascii():
        name = _ascii_form(name, text)
    name = name.lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        raise NameRefused(f"{text!r} is an address; clients send no server name for one, so no certificate can be chosen by it")
    labels = name.split(".")
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise NameRefused(f"{text!r} is not a host name")
    if labels[-1].isdigit():
        raise NameRefused(f"{text!r} is not a host name: the last label is a number")
    return name


def _ascii_form(name: str, text: str) -> str:
    import idna  # comes with requests, which acme needs

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        raise NameRefused(f"{text!r} is not a host name") from None


def host_of_file(file_name: str) -> str | None:
    """The host of ``<host>.pem``; ``None`` for the default's file, hidden files and other suffixes.

    :raises NameRefused: where no certificate can be issued for this name, or the file would never be chosen.
    """
    if not file_name.endswith(SUFFIX) or file_name.startswith("."):
        return None
    name = file_name.removesuffix(SUFFIX)
    if name == DEFAULT:
        return None
    host = to_host(name)
    if host != name:
        raise NameRefused(f"{file_name!r} is never chosen; rename it to {host}{SUFFIX}")
    return host
