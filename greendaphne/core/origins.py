"""Lists of hosts and of origins (RFC 6454), as written in options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .listed import Listed

if TYPE_CHECKING:
    from .message import Request

#: The word for the origin with the host and port of the request.
SAME_HOST: Final = "same-host"
#: The value that browsers send for pages without an origin.
NULL: Final = "null"
_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.\-]*)://((?:\*\.)?[a-z0-9._~\-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_HOST: Final = re.compile(r"\.?[a-z0-9._~\-]+|\[[0-9a-f:.]+\]")


class OriginList(Listed):
    """Origins that are allowed: ``https://example.com,https://*.example.org:8443`` or ``same-host``.

    ``*.`` in front of a host stands for all of its subdomains.  ``same-host`` allows the origin with the host and port of the request's
    ``Host`` and any scheme, because a proxy may have terminated TLS.  ``null`` allows pages without an origin.

    :param text: origins separated by commas.
    :raises ValueError: for any other text; the message continues the name of an option.
    """

    __slots__ = ("_origins", "_same_host", "_suffixes")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._same_host = False
        self._origins: set[tuple[str, str, str]] = set()
        self._suffixes: list[tuple[str, str, str]] = []
        for item in filter(None, (part.strip().lower() for part in text.split(","))):
            if item == SAME_HOST:
                self._same_host = True
            elif item == NULL:
                self._origins.add((NULL, "", ""))
            else:
                origin = _parse(item)
                if origin is None:
                    raise ValueError(
                        f"must be {SAME_HOST}, {NULL} or origins such as https://example.com, separated by commas "
                        f"({item!r} is none of these)"
                    )
                scheme, host, port = origin
                if host.startswith("*."):
                    self._suffixes.append((scheme, host[1:], port))
                else:
                    self._origins.add(origin)
        if not (self._same_host or self._origins or self._suffixes):
            raise ValueError("must have at least one origin")

    def allow(self, request: Request) -> bool:
        """Whether a browser may send ``request`` for a page of its origin.  A client without an ``Origin`` field is not a browser."""
        values = _values(request, b"origin")
        if not values:
            return True
        text = values[0].decode("latin-1").lower()
        if text == NULL:
            return (NULL, "", "") in self._origins
        origin = _parse(text)
        if origin is None or "*" in origin[1]:
            return False
        if origin in self._origins:
            return True
        scheme, host, port = origin
        if any(scheme == each and port == number and host.endswith(suffix) for each, suffix, number in self._suffixes):
            return True
        if not self._same_host:
            return False
        hosts = _values(request, b"host")
        return len(hosts) == 1 and _authority(hosts[0].decode("latin-1").lower(), scheme) == (host, port)


class HostList(Listed):
    """Hosts that requests may name: ``example.com,.example.org``; a leading dot stands for the host and all of its subdomains.

    :param text: hosts separated by commas, without ports.
    :raises ValueError: for any other text; the message continues the name of an option.
    """

    __slots__ = ("_hosts", "_suffixes")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        names = [item for item in (part.strip().lower().rstrip(".") for part in text.split(",")) if item]
        for name in names:
            if _HOST.fullmatch(name) is None:
                raise ValueError(f"must be host names without ports, separated by commas ({name!r} is none)")
        if not names:
            raise ValueError("must have at least one host")
        self._hosts = frozenset(name.lstrip(".") for name in names)
        self._suffixes = tuple(name for name in names if name.startswith("."))

    def allow(self, request: Request) -> bool:
        """Whether ``request`` is for one of the hosts; one without a ``Host`` field is not."""
        values = _values(request, b"host")
        if len(values) != 1:
            return False
        host = _authority(values[0].decode("latin-1").lower(), "")[0].rstrip(".")
        return host in self._hosts or host.endswith(self._suffixes)


def _values(request: Request, name: bytes) -> list[bytes]:
    return [value for key, value in request.headers if key == name]


def _parse(text: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of an origin in lower case; ``None`` for other texts."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme, host, port = match.groups()
    return scheme, host, port or _DEFAULT_PORTS.get(scheme, "")


def _authority(text: str, scheme: str) -> tuple[str, str]:
    """Host and port of a ``Host`` field in lower case."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return host, port or _DEFAULT_PORTS.get(scheme, "")
