"""What proxies in front say about the client: ``X-Forwarded-For``, ``-Port`` and ``-Proto``, or ``Forwarded`` (RFC 7239).

There are two ways to read it.  :class:`Locator` is daphne's: everybody is believed and the leftmost address counts, so a proxy that sets
the fields has to be the only way in.  :class:`TrustedLocator` believes only those on a list, hop by hop from the right.  Both take a
request and return it with the client and scheme that the proxies report; neither raises an exception for anything a peer can send, and
what cannot be understood changes nothing.

``values`` reads addresses, ports and schemes; ``hops`` takes lists apart; :mod:`greendaphne.core.forwarded` names the fields that are read;
``located`` puts what was found into the request.
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
    """Return what puts the client and scheme that proxies report into requests; ``None`` where nobody is to be believed.

    :param trusted: the proxies that are believed; without a list it is everybody, in daphne's way.
    :param address_header: name of the field with the client's address, likewise port and scheme.  With a list, and without this name,
        the three are ``X-Forwarded-For``, ``-Port`` and ``-Proto``; ``Forwarded`` is read in its own syntax.
    :raises ValueError: for a wrong list.
    """
    if trusted is None:
        return Locator(address_header, port_header, proto_header) if address_header else None
    if isinstance(trusted, str):
        trusted = AddressList(trusted)
    return TrustedLocator(trusted, ForwardedFields(address_header, port_header, proto_header) if address_header else X_FORWARDED)
