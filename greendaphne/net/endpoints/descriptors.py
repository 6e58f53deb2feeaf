"""Listening sockets that another process opened: descriptors inherited from a parent process.

:func:`adopt` turns a descriptor into a checked listening socket.  :func:`inherit` and :func:`take` are for a process that another process
of this server starts: it gets the sockets of its endpoints, of any kind, from that process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakValueDictionary

from gevent import socket

from .grammar import EndpointError

#: The supported address families, by the names in endpoint strings and in systemd.
DOMAINS: Final = {"INET": socket.AF_INET, "INET6": socket.AF_INET6, "UNIX": socket.AF_UNIX}

_REASONS: Final = {errno.EBADF: "it is not open", errno.ENOTSOCK: "it is not a socket"}

#: Sockets of adopted descriptors, by number.  Two objects for one descriptor would both close it, and by then it may be another file's.
_adopted: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()
#: Descriptors given to :func:`inherit` that :func:`take` has not taken yet.
_inherited: dict[str, list[int]] = {}
#: Whether other processes may accept on these.
_shared: list[bool] = [True]


def cannot_listen(where: str, reason: object) -> EndpointError:
    """The error for an address that cannot be listened on; ``reason`` is text without a full stop, or an exception."""
    return EndpointError(f"Couldn't listen on {where}: {reason}.")


def domain_name(family: int | None) -> str:
    """The name of an address family, ``""`` for an unsupported one."""
    return next((name for name, value in DOMAINS.items() if value == family), "")


def adopt(fileno: int, where: str, backlog: int, domain: str | None = None) -> socket.socket:
    """Return the socket of ``fileno``, listening, non-blocking and not inheritable.  A failure leaves the descriptor unchanged.

    :param where: the name of the socket for errors.
    :param backlog: used when the socket does not listen yet; otherwise its owner has chosen the backlog.
    :param domain: one of :data:`DOMAINS`, the family that the socket must have; any of them for ``None``.
    :raises EndpointError: when the socket cannot be listened on, or another endpoint uses it.
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
        # The descriptor belongs to another process too, which may rely on blocking mode.
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
            raise cannot_listen(where, "it is, or was, a connected socket") from None
    os.set_inheritable(sock.fileno(), False)


def inherit(sockets: Mapping[str, Sequence[int]], *, shared: bool = True) -> None:
    """Make endpoints use listening sockets inherited from the parent process instead of opening sockets.

    :param sockets: for each endpoint string, as given to :func:`~greendaphne.net.endpoints.parse`, the descriptors of its sockets, one
        for each endpoint with that string.  Each :meth:`~greendaphne.net.endpoints.Endpoint.bind` of such an endpoint takes one, and opens
        a socket when none is left.  Descriptors of an earlier call that are still unused are forgotten.
    :param shared: whether other processes may accept on them; the process that opened them gives this value.
    """
    _shared[0] = shared
    _inherited.clear()
    _inherited.update({description: list(numbers) for description, numbers in sockets.items()})


def are_shared() -> bool:
    """Whether other processes may accept on the sockets that were inherited."""
    return _shared[0]


def take(description: str) -> int | None:
    """The next descriptor inherited for the endpoint ``description``; ``None`` where none is left."""
    numbers = _inherited.get(description)
    return numbers.pop(0) if numbers else None
