"""What ``--check-config`` does: shows what is in force, and finds what would keep the server from starting, without listening.

What it prints is a configuration file with everything written out, and where each value is from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .option import Option
from .options import GROUPS, OPTIONS
from .sources import CHANNEL_LAYER, Setting, default_text, key

if TYPE_CHECKING:
    from ..net.endpoints import Endpoint

#: What stands for a value that must not be shown.
_HIDDEN = '"..."'
_DEFAULT = "default"


def effective(settings: Mapping[str, Setting]) -> str:
    """Return the text of a configuration file with every option as it is in force.

    :param settings: by field, those that are set.
    """
    lines = [_entry(CHANNEL_LAYER, settings)]
    for group in GROUPS:
        items = [item for item in OPTIONS if item.group == group and not item.command_line_only]
        if items:
            lines += ["", f"# {group}", *(_entry(item, settings) for item in items)]
    config = settings.get("config")
    if config is not None:
        lines[:0] = [f"# Configuration file: {config.value} ({config.origin})"]
    return "\n".join(lines)


def _entry(item: Option, settings: Mapping[str, Setting]) -> str:
    setting = settings.get(item.field)
    if setting is not None:
        text, origin = _HIDDEN if item.secret else setting.text, setting.origin
    else:
        text, origin = default_text(item), _DEFAULT
    return f"{key(item)} = {text}  # {origin}" if text else f"# {key(item)} is not set"


@contextmanager
def no_new_file(path: str | None) -> Iterator[None]:
    """Remove ``path`` again where the block made it: whoever checks may be another user than the server, which could not write to it."""
    made = path is not None and not os.path.lexists(path)
    try:
        yield
    finally:
        if made and path is not None and os.path.lexists(path):
            os.unlink(path)


def check_endpoints(endpoints: Iterable[Endpoint]) -> None:
    """Look for what would keep a server from listening, apart from sockets that are in use.

    Whether an address is free is not asked: the server that this configuration is for may be running.

    :raises EndpointError: for a certificate that cannot be used, an unknown host, or a directory without a place for a UNIX socket.
    """
    from gevent import socket

    from ..net.endpoints import EndpointError, TCPEndpoint, UNIXEndpoint, WrappingEndpoint

    for endpoint in endpoints:
        if endpoint.tls is not None:
            from ..net.tls import TLSError

            try:
                endpoint.tls.load()
            except TLSError as error:
                raise EndpointError(f"{error}.") from None
        while isinstance(endpoint, WrappingEndpoint):
            endpoint = endpoint.inner
        try:
            if isinstance(endpoint, TCPEndpoint) and endpoint.interface:
                endpoint.interface.encode("idna")
                socket.getaddrinfo(endpoint.interface, endpoint.port, endpoint.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            elif isinstance(endpoint, UNIXEndpoint) and not endpoint.abstract:
                directory = os.path.dirname(endpoint.address) or "."
                if not os.path.isdir(directory):
                    raise OSError("there is no such directory")
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise OSError("its directory cannot be written to")
        except UnicodeError:
            raise EndpointError(f"Cannot listen on {endpoint}: not a host name.") from None
        except OSError as error:
            raise EndpointError(f"Cannot listen on {endpoint}: {error}.") from None
