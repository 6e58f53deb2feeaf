"""Sockets that systemd passes on (``sd_listen_fds(3)``), and the endpoint kind ``systemd:`` that listens on one of them.

systemd sets ``LISTEN_PID`` to the process that the sockets are for, ``LISTEN_FDS`` to their number, counted from descriptor 3, and
``LISTEN_FDNAMES`` to their names.  :func:`inherited` reads these variables once and removes them, so that child processes do not use the
sockets.
"""

from __future__ import annotations

import _socket
import os
from typing import Final, NamedTuple

from gevent import socket

from .base import Endpoint
from .descriptors import DOMAINS, adopt, cannot_listen, domain_name
from .grammar import EndpointError

#: The descriptor of the first socket.
FIRST: Final = 3
#: The largest accepted value of ``LISTEN_FDS``; a larger one is an error.
MAX_SOCKETS: Final = 65536
#: The separator in ``LISTEN_FDNAMES``.
_SEPARATOR: Final = ":"
#: The variables that systemd sets; the last one since version 258.
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Inherited(NamedTuple):
    """One socket: its descriptor and its name, ``unknown`` where systemd gave none."""

    fileno: int
    name: str


_sockets: tuple[Inherited, ...] = ()
#: The reason for an empty tuple, in words that continue "there are no sockets from systemd: ".
_reason = "LISTEN_FDS is not set"


def inherited() -> tuple[Inherited, ...]:
    """The sockets that systemd passes to this process, in systemd's order; empty without such sockets.

    The first call reads and removes the environment variables and makes the descriptors not inheritable.

    :raises EndpointError: for variables that contradict each other or the open descriptors.
    """
    global _sockets, _reason
    if "LISTEN_FDS" in os.environ or "LISTEN_PID" in os.environ:
        values = {name: os.environ.pop(name, None) for name in _VARIABLES}
        _sockets, _reason = (), "LISTEN_FDS is wrong"
        _sockets, _reason = _read(values["LISTEN_PID"], values["LISTEN_FDS"], values["LISTEN_FDNAMES"])
    return _sockets


def _read(pid: str | None, count: str | None, names: str | None) -> tuple[tuple[Inherited, ...], str]:
    """The sockets that the variables describe, and the reason where there are none."""
    if pid is None or count is None:
        return (), f"{'LISTEN_PID' if pid is None else 'LISTEN_FDS'} is not set"
    if _number(pid, "LISTEN_PID") != os.getpid():
        return (), f"LISTEN_PID is {pid} and this is process {os.getpid()} (a shell in between has to start it with exec)"
    size = _number(count, "LISTEN_FDS")
    if not 0 < size <= MAX_SOCKETS:
        return (), f"LISTEN_FDS is {count}"
    labels = names.split(_SEPARATOR) if names else ["unknown"] * size
    if len(labels) != size:
        raise EndpointError(f"LISTEN_FDS says {size} sockets, and LISTEN_FDNAMES names {len(labels)}: {names!r}.")
    for fileno in range(FIRST, FIRST + size):
        try:
            os.set_inheritable(fileno, False)
        except OSError as error:
            raise EndpointError(f"LISTEN_FDS says {size} sockets, and descriptor {fileno} is not open: {error}.") from None
    return tuple(Inherited(FIRST + index, label) for index, label in enumerate(labels)), ""


def _number(text: str, variable: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise EndpointError(f"{variable} must be a number, not {text!r}.")
    return int(text)


def descriptions() -> list[str]:
    """Endpoint strings for all sockets from systemd, for a server without other endpoints.

    :raises EndpointError: as :func:`inherited`, and for an unsupported socket.
    """
    strings = []
    for index, item in enumerate(inherited()):
        domain = domain_name(_family(item.fileno))
        if not domain:
            raise cannot_listen(f"socket {index} ({item.name}) of systemd", "it is neither a TCP nor a UNIX socket")
        strings.append(f"systemd:domain={domain}:index={index}")
    return strings


def domain_argument(text: str) -> str:
    """Convert the name of an address family, with or without ``AF_``."""
    name = text.removeprefix("AF_")
    if name not in DOMAINS:
        raise ValueError(f"must be {', '.join(DOMAINS)}")
    return name


class SystemdEndpoint(Endpoint):
    """A socket that systemd passes on.

    :param domain: its address family, one of :data:`~.descriptors.DOMAINS`.
    :param index: its number, from 0.
    :param name: its name (``FileDescriptorName=``), which exactly one socket of this domain must have.
    :raises EndpointError: unless exactly one of ``index`` and ``name`` is given.
    """

    shared = True

    def __init__(self, description: str, domain: str, index: int | None = None, name: str | None = None) -> None:
        super().__init__(description)
        if (index is None) == (name is None):
            raise EndpointError(f"Endpoint {description!r} needs either index or name, which selects one of systemd's sockets.")
        self.domain = domain
        self.index = index
        self.name = name

    def open(self) -> socket.socket:
        where = str(self)
        sockets = inherited()
        if not sockets:
            raise cannot_listen(where, f"there are no sockets from systemd: {_reason}")
        if self.index is not None:
            if self.index >= len(sockets):
                raise cannot_listen(where, f"the sockets from systemd have the numbers 0 to {len(sockets) - 1}")
            return adopt(sockets[self.index].fileno, where, self.options.backlog, self.domain)
        candidates = [item for item in sockets if item.name == self.name]
        if len(candidates) > 1:
            candidates = [item for item in candidates if _family(item.fileno) == DOMAINS[self.domain]] or candidates[:1]
        if len(candidates) > 1:
            raise cannot_listen(where, f"{len(candidates)} sockets have this name; select one with index=N")
        if not candidates:
            raise cannot_listen(where, f"the sockets from systemd are named {', '.join(item.name for item in sockets)}")
        return adopt(candidates[0].fileno, where, self.options.backlog, self.domain)


def _family(fileno: int) -> int | None:
    """The address family of a socket; ``None`` where the descriptor is not a socket."""
    try:
        # A plain socket, because gevent's class makes the descriptor non-blocking; detach(), because a discarded object closes it.
        sock = _socket.socket(fileno=fileno)
    except OSError:
        return None
    family = sock.family
    sock.detach()
    return family
