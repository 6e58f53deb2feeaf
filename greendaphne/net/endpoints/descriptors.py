"""Listening sockets that somebody else opened: descriptors that a parent process handed down.

:func:`adopt` makes a socket of one, checked and ready.  :func:`inherit` and :func:`take` are for a process that is started anew by one of
its own kind and gets the sockets of its endpoints from it, whatever kind they are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakValueDictionary

from gevent import socket

from .grammar import EndpointError

#: The address families that are served, by the names that endpoint strings and systemd have for them.
DOMAINS: Final = {"INET": socket.AF_INET, "INET6": socket.AF_INET6, "UNIX": socket.AF_UNIX}

_REASONS: Final = {errno.EBADF: "it is not open", errno.ENOTSOCK: "it is not a socket"}

#: Sockets made of inherited descriptors, by number: two objects that close one descriptor would close a stranger's in the end.
_adopted: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()
#: What :func:`inherit` was given and :func:`take` has not taken.
_inherited: dict[str, list[int]] = {}
#: Whether other processes may accept on these.
_shared: list[bool] = [True]


def cannot_listen(where: str, reason: object) -> EndpointError:
    """The error for an address that cannot be listened on; ``reason`` is words without a full stop, or an exception."""
    return EndpointError(f"Couldn't listen on {where}: {reason}.")


def domain_name(family: int | None) -> str:
    """The name of an address family, ``""`` for one that is not served."""
    return next((name for name, value in DOMAINS.items() if value == family), "")


def adopt(fileno: int, where: str, backlog: int, domain: str | None = None) -> socket.socket:
    """Return the socket that ``fileno`` is, listening, non-blocking and not inheritable.  It stays as it was when that fails.

    :param where: what to call it in an error.
    :param backlog: used when it does not listen yet; on one that does it would change what its owner chose.
    :param domain: one of :data:`DOMAINS` that it must have; any of them where it is ``None``.
    :raises EndpointError: when it cannot be listened on, or another endpoint has it.
    """
    other = _adopted.get(fileno)
    if other is not None and other.fileno() == fileno:
        raise cannot_listen(where, "another endpoint has it already")
    blocking = is_blocking(fileno)
    try:
        # Reads SO_DOMAIN, SO_TYPE and SO_PROTOCOL, and makes the descriptor non-blocking.
        sock = socket.socket(fileno=fileno)
    except OSError as error:
        raise cannot_listen(where, _REASONS.get(error.errno or 0, error)) from error
    try:
        _listen(sock, where, backlog, domain)
    except (OSError, EndpointError) as error:
        # Not made for this process: whoever shares it may count on it to block.
        os.set_blocking(fileno, blocking)
        sock.detach()
        if isinstance(error, OSError):
            raise cannot_listen(where, error) from error
        raise
    _adopted[fileno] = sock
    return sock


def is_blocking(fileno: int) -> bool:
    """Whether the descriptor blocks; ``True`` for one that is not open."""
    try:
        return os.get_blocking(fileno)
    except OSError:
        return True


def _listen(sock: socket.socket, where: str, backlog: int, domain: str | None) -> None:
    family = domain_name(sock.family)
    if not family:
        raise cannot_listen(where, "it is neither a TCP nor a UNIX socket")
    if sock.type != socket.SOCK_STREAM:
        raise cannot_listen(where, "it is not a stream socket")
    if domain is not None and domain != family:
        raise cannot_listen(where, f"its domain is {family}, not {domain}")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        name = sock.getsockname()
        if name in ("", b"") or (isinstance(name, tuple) and name[1] == 0):
            raise cannot_listen(where, "it is not bound to an address")
        try:
            sock.listen(backlog)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise cannot_listen(where, "it is, or was, a connection to somebody") from None
    os.set_inheritable(sock.fileno(), False)


def inherit(sockets: Mapping[str, Sequence[int]], *, shared: bool = True) -> None:
    """Have endpoints use listening sockets that this process got from its parent instead of opening their own.

    :param sockets: endpoint strings as they are given to :func:`~greendaphne.net.endpoints.parse`, and for each the descriptors of its
        sockets: as many as the string is there.  Each :meth:`~greendaphne.net.endpoints.Endpoint.bind` of an endpoint with that
        string takes one, and opens a socket only when none is left.  What was given before and is not used is forgotten.
    :param shared: whether other processes may accept on them, which a process that opened them itself knows.
    """
    _shared[0] = shared
    _inherited.clear()
    _inherited.update({description: list(numbers) for description, numbers in sockets.items()})


def are_shared() -> bool:
    """Whether other processes may accept on the sockets that were inherited."""
    return _shared[0]


def take(description: str) -> int | None:
    """The next descriptor that was inherited for the endpoint ``description``; ``None`` where there is none."""
    numbers = _inherited.get(description)
    return numbers.pop(0) if numbers else None
