"""The client's address and scheme as proxies report them: ``X-Forwarded-For``, ``-Port`` and ``-Proto``, or ``Forwarded`` (RFC 7239).

There are two strategies.  :class:`Locator` is daphne's: it trusts every peer and uses the leftmost address, so a proxy that sets
the fields has to be the only way to the server.  :class:`TrustedLocator` trusts only the listed proxies, hop by hop from the right.  Both
take a request and return it with the reported client and scheme.  Neither raises an exception for any input, and input that is invalid
changes nothing.

``values`` parses addresses, ports and schemes; ``hops`` splits lists; :mod:`greendaphne.core.forwarded` names the fields; ``located`` puts
the result into the request.
:func:`parse_x_forwarded_for` is for code written for ``daphne.utils``.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.addresses import AddressList
from ...core.forwarded import DEFAULT_FIELDS, X_FORWARDED, ForwardedFields, forwarded_fields
from ...core.message import Request
from .leftmost import Locator, client_and_scheme, parse_x_forwarded_for
from .trusted import TrustedLocator

__all__ = [
    "DEFAULT_FIELDS",
    "X_FORWARDED",
    "ForwardedFields",
    "Locator",
    "TrustedLocator",
    "client_and_scheme",
    "forwarded_fields",
    "locator",
    "parse_x_forwarded_for",
]


def locator(
    trusted: AddressList | str | None, address_header: str | None, port_header: str | None, proto_header: str | None
) -> Callable[[Request], Request] | None:
    """Return the function that puts the client and scheme reported by proxies into requests; ``None`` where no peer is trusted.

    :param trusted: the trusted proxies; ``None`` trusts every peer, as daphne does.
    :param address_header: name of the field with the client's address, likewise port and scheme.  With a list, and without this name,
        the three are ``X-Forwarded-For``, ``-Port`` and ``-Proto``; ``Forwarded`` is read in its own syntax.
    :raises ValueError: for an invalid list.
    """
    if trusted is None:
        return Locator(address_header, port_header, proto_header) if address_header else None
    if isinstance(trusted, str):
        trusted = AddressList(trusted)
    return TrustedLocator(trusted, ForwardedFields(address_header, port_header, proto_header) if address_header else X_FORWARDED)
