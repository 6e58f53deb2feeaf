r"""Turns endpoint strings into listening sockets, in the grammar of Twisted's ``serverFromString`` that daphne's ``-e`` takes.

:func:`parse` turns a string such as ``tcp:8000:interface=\:\:1`` into an :class:`Endpoint`, whose :meth:`~Endpoint.bind` returns a
listening socket.  Kind names are case-sensitive; the last of several keyword arguments of one name applies.  Every error in a string and
every obstacle to listening raises :class:`EndpointError` with one line of text.

The kinds are in a registry: other modules add kinds with :func:`register`, and :data:`PROVIDERS` names modules that are imported
when one of their kinds is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gevent import socket

from .base import DEFAULT_BACKLOG, PROXY_PROTOCOL, Endpoint, ListeningOptions, WrappingEndpoint, innermost
from .descriptors import inherit
from .grammar import EndpointError, Field, backlog_size, file_number, flag, octal_mode, path, port_number, quote, split
from .systemd import SystemdEndpoint, domain_argument
from .tcp import TCPEndpoint
from .unix import DEFAULT_UNIX_MODE, UNIXEndpoint, group_id, user_id
from .wrappers import FDEndpoint, HAProxyEndpoint

__all__ = [
    "DEFAULT_BACKLOG",
    "DEFAULT_UNIX_MODE",
    "PROVIDERS",
    "PROXY_PROTOCOL",
    "REQUIRED",
    "TCP_OPTIONS",
    "Endpoint",
    "EndpointError",
    "FDEndpoint",
    "Field",
    "HAProxyEndpoint",
    "Kind",
    "ListeningOptions",
    "Parameter",
    "SystemdEndpoint",
    "TCPEndpoint",
    "UNIXEndpoint",
    "WrappingEndpoint",
    "backlog_size",
    "build_endpoint_description_strings",
    "file_number",
    "flag",
    "inherit",
    "innermost",
    "known_kinds",
    "octal_mode",
    "parse",
    "path",
    "port_number",
    "quote",
    "register",
    "split",
]

#: Modules that register further kinds when imported, by the kind's name.
PROVIDERS: Final[dict[str, str]] = {
    **dict.fromkeys(("ssl", "tls", "txsni"), "greendaphne.net.tls.endpoints"),
    **dict.fromkeys(("le", "lets", "acme"), "greendaphne.acme.endpoints"),
}

#: Marks a parameter without a default.
REQUIRED: Final = object()


class Parameter(NamedTuple):
    """One argument of a kind.

    ``convert`` is a converter as :mod:`greendaphne.core.converters` describes it.  ``argument`` is the constructor's name for the value,
    where it differs from ``name``.  ``aliases`` are further names; ``positional`` tells whether the value may be given without a name.
    """

    name: str
    convert: Callable[[str], Any] = str
    default: Any = REQUIRED
    argument: str = ""
    aliases: tuple[str, ...] = ()
    positional: bool = True


class Kind(NamedTuple):
    """One kind of endpoint: its ``parameters`` in positional order and its constructor.

    ``construct`` is called with the description and the values as keyword arguments.  A kind that ``wraps`` has another endpoint's string
    after its own fields, and passes that endpoint on as the argument ``inner``.  Its required parameters are positional, the others
    keywords.
    """

    name: str
    parameters: tuple[Parameter, ...]
    construct: Callable[..., Endpoint]
    wraps: bool = False


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Add ``kind`` to the kinds that :func:`parse` knows; it replaces a kind of the same name."""
    _kinds[kind.name] = kind


def known_kinds() -> list[str]:
    """The names of all kinds, including those of :data:`PROVIDERS`, in alphabetical order."""
    return sorted({*_kinds, *PROVIDERS})


def parse(description: str) -> Endpoint:
    """Return the endpoint that ``description`` names; opens nothing.

    :raises EndpointError: for an unknown kind, unknown or missing arguments and invalid values.
    """
    endpoint = _parse(split(description), description)
    endpoint.set_origin(description)
    return endpoint


def _parse(fields: list[Field], description: str) -> Endpoint:
    position = next((number for number, field in enumerate(fields) if field.name is None), None)
    name = "" if position is None else fields[position].value
    if name not in _kinds and name in PROVIDERS:
        importlib.import_module(PROVIDERS[name])
    kind = _kinds.get(name)
    if position is None or kind is None:
        raise EndpointError(f"Unknown endpoint kind {name!r} in {description!r}; known kinds: {', '.join(known_kinds())}.")
    values, rest = _arguments(kind, fields[:position] + fields[position + 1 :], description)
    if kind.wraps:
        # The raw text of the fields, so that each level of nesting needs only one level of quoting.
        inner = ":".join(field.raw for field in rest)
        values["inner"] = _parse(rest, inner)
    return kind.construct(description, **values)


def _arguments(kind: Kind, fields: list[Field], description: str) -> tuple[dict[str, Any], list[Field]]:
    """Return the constructor's arguments and, for a kind that wraps, the fields of the inner endpoint."""
    names = {name: parameter.name for parameter in kind.parameters for name in (parameter.name, *parameter.aliases)}
    given = {names[field.name]: field.value for field in fields if field.name is not None and field.name in names}
    by_keyword = set(given)
    if kind.wraps:
        positional = [item.name for item in kind.parameters if item.default is REQUIRED and item.name not in by_keyword]
    else:
        positional = [item.name for item in kind.parameters if item.positional]
    rest: list[Field] = []
    for field in fields:
        if field.name in names:
            continue
        if field.name is None and positional:
            name = positional.pop(0)
            if name in by_keyword:
                raise EndpointError(f"Endpoint {description!r} gives {name} twice.")
            given[name] = field.value
        elif kind.wraps:
            rest.append(field)
        elif field.name is None:
            raise EndpointError(f"Endpoint {description!r} has too many arguments; {_usage(kind)}.")
        else:
            raise EndpointError(f"Endpoint {description!r} has an unknown argument {field.name!r}; {_usage(kind)}.")
    return _convert(kind, given, description), rest


def _convert(kind: Kind, given: dict[str, str], description: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for parameter in kind.parameters:
        value = parameter.default
        if parameter.name in given:
            text = given[parameter.name]
            try:
                value = parameter.convert(text)
            except EndpointError:
                raise
            except ValueError as error:
                raise EndpointError(f"Endpoint {description!r}: {parameter.name} {error}, not {text!r}.") from None
        elif value is REQUIRED:
            raise EndpointError(f"Endpoint {description!r} lacks {parameter.name}; {_usage(kind)}.")
        values[parameter.argument or parameter.name] = value
    return values


def _usage(kind: Kind) -> str:
    parts = [kind.name]
    parts.extend(parameter.name.upper() if parameter.default is REQUIRED else f"[{parameter.name}=…]" for parameter in kind.parameters)
    if kind.wraps:
        parts.append("ENDPOINT")
    return "it is written " + ":".join(parts).replace(":[", "[:")


def _tcp6(description: str, **values: Any) -> Endpoint:
    return TCPEndpoint(description, family=socket.AF_INET6, **values)


#: Parameters of every kind that listens on TCP, after those that Twisted has.
TCP_OPTIONS: Final = (
    Parameter("v6only", flag, False, positional=False),
    Parameter("reusePort", flag, None, "reuse_port", ("reuse_port",), positional=False),
)
_PORT = Parameter("port", port_number)
_BACKLOG = Parameter("backlog", backlog_size, None)

register(Kind("tcp", (_PORT, Parameter("interface", default=""), _BACKLOG, *TCP_OPTIONS), TCPEndpoint))
register(Kind("tcp6", (_PORT, _BACKLOG, Parameter("interface", default="::"), *TCP_OPTIONS), _tcp6))
register(
    Kind(
        "unix",
        (
            Parameter("address", path),
            Parameter("mode", octal_mode, None),
            _BACKLOG,
            Parameter("lockfile", flag, True),
            Parameter("user", user_id, None, positional=False),
            Parameter("group", group_id, None, positional=False),
        ),
        UNIXEndpoint,
    )
)
register(Kind("fd", (Parameter("fileno", file_number), Parameter("domain", default="")), FDEndpoint))
register(
    Kind(
        "systemd",
        (Parameter("domain", domain_argument), Parameter("index", file_number, None), Parameter("name", default=None)),
        SystemdEndpoint,
    )
)
register(Kind("haproxy", (), HAProxyEndpoint, wraps=True))


def build_endpoint_description_strings(
    host: str | None = None,
    port: int | str | None = None,
    unix_socket: str | None = None,
    file_descriptor: int | str | None = None,
) -> list[str]:
    r"""Return the endpoint strings for daphne's options, in the order TCP, UNIX socket, file descriptor.

    Colons of an IPv6 ``host`` are quoted and its brackets removed.  ``unix_socket`` is copied unchanged, as in daphne: a colon or ``=`` in
    a path needs a backslash, and ``-u path:mode=660`` works.

    :raises ValueError: when only one of ``host`` and ``port`` is given.
    """
    descriptions = []
    if host and port is not None:
        descriptions.append(f"tcp:port={int(port)}:interface={quote(host.strip('[]'))}")
    elif host or port is not None:
        raise ValueError("TCP binding requires both port and host kwargs.")
    if unix_socket:
        descriptions.append(f"unix:{unix_socket}")
    if file_descriptor is not None:
        descriptions.append(f"fd:fileno={int(file_descriptor)}")
    return descriptions
