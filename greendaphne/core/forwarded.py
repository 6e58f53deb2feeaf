"""The header fields with the client's address, port and scheme: the value of ``--forwarded-headers``.

A request does not show which of these fields the proxy has set.  A field that the proxy does not set arrives as the client sent it.  No
order of precedence helps, because a client can send the field that wins, or the one that is missing.  So the operator names the fields,
``Forwarded`` is never combined with ``X-Forwarded-For``, and the ``X-Forwarded-*`` fields are the default because most proxies set them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: The field of RFC 7239; it carries the port and the scheme too.
FORWARDED: Final = "forwarded"


class ForwardedFields(NamedTuple):
    """The names of the fields with the client's address, its port and the scheme; ``None`` for a field that is not read.

    ``str()`` gives the text that :func:`forwarded_fields` reads.
    """

    address: str
    port: str | None = None
    proto: str | None = None

    def __str__(self) -> str:
        return ",".join(name.lower() for name in self if name is not None)


#: The three fields that daphne reads.
X_FORWARDED: Final = ForwardedFields("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto")
DEFAULT_FIELDS: Final = str(X_FORWARDED)


def forwarded_fields(text: str) -> ForwardedFields:
    """Return the fields that ``text`` names, separated by commas, in any case and any order.

    :raises ValueError: for any other combination; the message continues the name of an option.
    """
    names = [name.strip().lower() for name in text.split(",")]
    if names == [FORWARDED]:
        return ForwardedFields(FORWARDED)
    known = {name.lower(): name for name in X_FORWARDED if name is not None}
    if len(set(names)) < len(names) or not set(names) <= set(known) or X_FORWARDED.address.lower() not in names:
        raise ValueError(f"must be {FORWARDED}, or {X_FORWARDED.address.lower()} with or without the others of {DEFAULT_FIELDS}")
    return ForwardedFields(*(name if name is not None and name.lower() in names else None for name in X_FORWARDED))  # type: ignore[arg-type]
