"""What proxies in front say about the client: ``X-Forwarded-For``, ``-Port`` and ``-Proto``, or ``Forwarded`` (RFC 7239).

There are two ways to read it.  :class:`Locator` is daphne's: everybody is believed and the leftmost address counts, so a proxy that sets
the fields has to be the only way in.  :class:`TrustedLocator` believes only those on a list, hop by hop from the right.  Both take a
request and return it with the client and scheme that the proxies report; neither raises an exception for anything a peer can send, and
what cannot be understood changes nothing.

``values`` reads addresses, ports and schemes; ``hops`` takes lists apart; ``fields`` names the fields that are read.
:func:`parse_x_forwarded_for` is for code written for ``daphne.utils``.
"""

from .fields import DEFAULT_FIELDS, X_FORWARDED, ForwardedFields, forwarded_fields
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
    "parse_x_forwarded_for",
]
