"""Which header fields tell about the client: the value of ``--forwarded-headers``.

There is no way to find out from a request which of them the proxy has set.  Whichever it does not set comes from the client as it is, and
no order of precedence helps: a client sends the one that would win, or the one that is missing.  So the operator names them, ``Forwarded``
never counts beside ``X-Forwarded-For``, and the ``X-Forwarded-*`` fields are the default because they are what proxies set.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: RFC 7239; it tells the port and the scheme too.
FORWARDED: Final = "forwarded"


class ForwardedFields(NamedTuple):
    """Names of the fields with the client's address, its port and the scheme; ``None`` for one that is not read.

    ``str()`` gives the text that :func:`forwarded_fields` reads.
    """

    address: str
    port: str | None = None
    proto: str | None = None

    def __str__(self) -> str:
        return ",".join(name.lower() for name in self if name is not None)


#: daphne's three.
X_FORWARDED: Final = ForwardedFields("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto")
DEFAULT_FIELDS: Final = str(X_FORWARDED)


def forwarded_fields(text: str) -> ForwardedFields:
    """Return the fields that ``text`` names, separated by commas, in any case and order.

    :raises ValueError: where they are none that go together, in words that continue the name of an option.
    """
    names = [name.strip().lower() for name in text.split(",")]
    if names == [FORWARDED]:
        return ForwardedFields(FORWARDED)
    known = {name.lower(): name for name in X_FORWARDED if name is not None}
    if len(set(names)) < len(names) or not set(names) <= set(known) or X_FORWARDED.address.lower() not in names:
        raise ValueError(f"must be {FORWARDED}, or {X_FORWARDED.address.lower()} with or without the others of {DEFAULT_FIELDS}")
    return ForwardedFields(*(name if name is not None and name.lower() in names else None for name in X_FORWARDED))  # type: ignore[arg-type]
