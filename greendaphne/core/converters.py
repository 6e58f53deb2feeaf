"""Texts to values, for the command line and endpoint strings alike.

A converter takes the text that a user wrote and raises a :class:`ValueError` that says, in words that continue the name of the value,
what it must be: "must be a number from 0 to 65535".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

#: What the suffix of a size stands for; K is 1024 as in every server's configuration.
SIZE_UNITS: Final = {"K": 1024, "M": 1024**2, "G": 1024**3}

#: Seconds that stand for all that are more, some thirty years: the system's timers take no number of any size.
LONGEST: Final = 10**9


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a converter to a whole number within the bounds, both included."""
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
    """Convert a whole number without bounds."""
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


def seconds_or_never(text: str) -> float:
    """Convert a number of seconds; a negative number stands for never."""
    value = _decimal(text)
    if value is None:
        raise ValueError("must be a number of seconds")
    return value


def _decimal(text: str) -> float | None:
    """The number, an ``int`` where it is written as one, at most :data:`LONGEST`; ``None`` for what is none or not finite."""
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
    """Return a converter that takes one of ``names`` as it is."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be {', '.join(names[:-1])} or {names[-1]}")
        return text

    return convert


def field_value(text: str) -> str:
    """Return ``text`` when it can be the value of a header field (RFC 9110 section 5.5), in the ASCII characters that are safe there."""
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII characters")
    return text


def environ_entry(text: str) -> tuple[str, str]:
    """A name and a string, written ``NAME=VALUE``, for the environ of WSGI applications, whose characters stand for bytes."""
    name, equals, value = text.partition("=")
    if not equals or not name or "." in name or not name.isascii() or any(character.isspace() for character in name):
        raise ValueError("must be written NAME=VALUE, with a name without dots")
    return name, value.encode("utf-8", "surrogateescape").decode("latin-1")


#: What the interface of a mount may be.
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
    """Return ``text`` when it is the path of a URL as a request has it: percent-encoded, without a query."""
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
