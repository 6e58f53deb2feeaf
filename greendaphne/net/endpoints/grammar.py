r"""The grammar of endpoint strings: fields, quoting and the values of arguments.

A string is ``kind:field:field…``.  Only ``:`` and the first ``=`` of a field are operators, and a backslash quotes the next character.  A
field without ``=`` is a positional argument, a field with ``=`` a keyword argument.  This module does not know the kinds and their
parameters.  Its converters follow the rules of :mod:`greendaphne.core.converters`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ...core.converters import octal, whole_number
from ...core.paths import resolve


class EndpointError(ValueError):
    """An invalid endpoint string, or an address that cannot be listened on; the text is one line."""


class Field(NamedTuple):
    """One field of an endpoint string; ``name`` is ``None`` for a positional argument, ``raw`` is the field as written."""

    name: str | None
    value: str
    raw: str


def quote(text: str) -> str:
    """Return ``text`` with a backslash before every operator of endpoint strings."""
    return text.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def split(description: str) -> list[Field]:
    """Return the fields of ``description``, at least one.

    :raises EndpointError: when the string ends with an unfinished quotation.
    """
    fields: list[Field] = []
    name: str | None = None
    value: list[str] = []
    start = 0
    characters = enumerate(description)
    for position, character in characters:
        if character == ":":
            fields.append(Field(name, "".join(value), description[start:position]))
            name, value, start = None, [], position + 1
        elif character == "=" and name is None:
            name, value = "".join(value), []
        elif character == "\\":
            _, quoted = next(characters, (position, None))
            if quoted is None:
                raise EndpointError(f"Endpoint {description!r} ends with a backslash that quotes nothing.")
            value.append(quoted)
        else:
            value.append(character)
    fields.append(Field(name, "".join(value), description[start:]))
    return fields


#: Converts a file mode.
octal_mode: Final = octal("a file mode in octal digits, such as 660")


def flag(text: str) -> bool:
    """Convert ``yes`` or ``no``, or Twisted's ``1`` or ``0``."""
    if text not in ("yes", "no", "1", "0"):
        raise ValueError("must be yes or no")
    return text in ("yes", "1")


def path(text: str) -> str:
    """Return ``text`` when it is a valid file name, as a path that does not depend on later changes of the directory."""
    if not text or "\0" in text:
        raise ValueError("must be a path")
    # An abstract UNIX socket has no file.
    return text if text.startswith("@") else resolve(text)


port_number = whole_number(0, 65535)
backlog_size = whole_number(1, 2**31 - 1)
file_number = whole_number(0, 2**31 - 1)
