"""Converters from text to values, for the command line and endpoint strings.

A converter takes the user's text and returns the value.  It raises :class:`ValueError` with words that continue the name of the value and
say which texts are valid: "must be a number from 0 to 65535".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

#: The suffixes of sizes and their factors in bytes.
SIZE_UNITS: Final = {"K": 1024, "M": 1024**2, "G": 1024**3}

#: The largest number of seconds, about thirty years.  Larger values are reduced to it, because the system's timers have a maximum.
LONGEST: Final = 10**9


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a converter to a whole number from ``minimum`` to ``maximum``, both included."""
    bounds = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"must be a number {bounds}")
        return number

    return convert


def integer(text: str) -> int:
    """Convert a whole number of any size."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a number") from None


def seconds(text: str) -> float:
    """Convert a number of seconds above 0; decimals are allowed."""
    value = _decimal(text)
    if value is None or value <= 0:
        raise ValueError("must be a number of seconds above 0")
    return value


def seconds_or_zero(text: str) -> float:
    """Convert a number of seconds, 0 included."""
    value = _decimal(text)
    if value is None or value < 0:
        raise ValueError("must be a number of seconds, 0 or more")
    return value


def octal(kind: str) -> Callable[[str], int]:
    """Return a converter to an octal number up to 777, with or without ``0`` or ``0o`` before it; errors say that ``kind`` is expected."""

    def convert(text: str) -> int:
        if re.fullmatch("(0o?)?[0-7]{1,3}", text) is None:
            raise ValueError(f"must be {kind}")
        return int(text, 8)

    return convert


umask: Final = octal("an octal number from 0 to 777")


def seconds_or_never(text: str) -> float:
    """Convert a number of seconds; a negative number stands for never."""
    value = _decimal(text)
    if value is None:
        raise ValueError("must be a number of seconds")
    return value


def _decimal(text: str) -> float | None:
    """The number, an ``int`` where written as one, at most :data:`LONGEST`; ``None`` for text that is not a finite number."""
    value: float
    try:
        value = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
    return max(-LONGEST, min(value, LONGEST))


def choice(*names: str) -> Callable[[str], str]:
    """Return a converter that accepts the texts in ``names`` and returns them unchanged."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}")
        return text

    return convert


def field_value(text: str) -> str:
    """Return ``text`` when it is a valid value of a header field (RFC 9110 section 5.5) of printable ASCII characters."""
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII characters")
    return text


def host(text: str) -> str:
    """Return ``text`` if it can be an address or a host name; other servers also accept a port or a path here, which is refused."""
    name, colon, port = text.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or (name.startswith("[") and name.endswith("]"))):
        raise ValueError(f"must be an address without a port, as in --bind={name or '::'} --port={port}")
    if text.startswith("unix:"):
        raise ValueError(f"must be an address; a UNIX socket is --unix-socket={text.removeprefix('unix:')}")
    return text


def environ_entry(text: str) -> tuple[str, str]:
    """A name and a string, written ``NAME=VALUE``, for the environ of WSGI applications, whose characters stand for bytes."""
    name, equals, value = text.partition("=")
    if not equals or not name or "." in name or not name.isascii() or any(character.isspace() for character in name):
        raise ValueError("must be written NAME=VALUE, with a name without dots")
    return name, value.encode("utf-8", "surrogateescape").decode("latin-1")


#: The allowed interfaces of a mount.
_INTERFACES = ("auto", "channels", "asgi3", "asgi2", "wsgi")


def mount(text: str) -> tuple[str, str, str]:
    """A path, the place of an application and its interface, written ``/path=module.path:attribute,interface``."""
    path, equals, rest = text.partition("=")
    place, comma, interface = rest.partition(",")
    if not equals or not place or (comma and interface not in _INTERFACES):
        raise ValueError(f"must be written /path=module.path:attribute[,interface], the interface one of {', '.join(_INTERFACES)}")
    url_path(path)
    path = path.rstrip("/")
    if not path:
        raise ValueError("must have a path below /; the argument names the application at /")
    return path, place, interface or "auto"


def header_name(text: str) -> str:
    """The name of a header field."""
    if not text.isascii() or not text.replace("-", "").replace("_", "").isalnum():
        raise ValueError("must be the name of a header field")
    return text


def url_path(text: str) -> str:
    """Return ``text`` when it is the path of a URL as a request carries it: percent-encoded, without a query."""
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or any(letter in text for letter in ' ?#"<>\\^`{|}'):
        raise ValueError("must be a path that begins with a slash, percent-encoded")
    return text


def size(text: str) -> int:
    """Convert a number of bytes, such as ``1048576``, ``1024K``, ``1M`` or ``2G``."""
    unit = SIZE_UNITS.get(text[-1:].upper())
    try:
        number = int(text[:-1] if unit else text)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError("must be a number of bytes, such as 65536, 64K, 1M or 2G")
    return number * (unit or 1)


def size_above_zero(text: str) -> int:
    """Convert a number of bytes of at least 1."""
    number = size(text)
    if number == 0:
        raise ValueError("must be at least 1 byte")
    return number


def size_text(number: int) -> str:
    """Write ``number`` bytes the way :func:`size` reads it, in the largest unit that divides it."""
    for suffix, unit in reversed(SIZE_UNITS.items()):
        if number and number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)
