"""The endpoints that listen: TCP, UNIX sockets and inherited file descriptors.

Each gives a listening socket that is non-blocking and not inheritable, or an :class:`~.grammar.EndpointError` of one line, and leaves
nothing behind when it is closed.  Accepting, TLS handshakes and PROXY headers are the server's business.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

import gevent
from gevent import socket

from .grammar import EndpointError

#: Connections that the kernel completes and holds until they are accepted, a number.  Twisted's 50 overflows when clients reconnect all
#: at once, and each client turned away then waits a second for its next SYN.  The kernel caps it at ``net.core.somaxconn``.
DEFAULT_BACKLOG: Final = 2048

#: Permissions of a UNIX socket; Twisted's default.  Connecting needs the write permission.
DEFAULT_UNIX_MODE: Final = 0o666

#: Seconds to wait for another process that is binding a UNIX socket in the same directory.
UNIX_LOCK_TIMEOUT: Final = 5.0

#: Seconds between two tries at that lock.
UNIX_LOCK_INTERVAL: Final = 0.02

#: Seconds for an existing UNIX socket to answer a connection attempt; one that does not answer is taken to be in use.
UNIX_PROBE_TIMEOUT: Final = 1.0


class Endpoint:
    """Where to listen.  ``str()`` gives the description as it was written.

    ``tls`` is what the server needs for the TLS handshake of accepted connections, as :mod:`greendaphne.tls` defines it, and ``None``
    for plain connections.  ``proxy_protocol`` tells whether each connection starts with a PROXY header, which precedes the handshake.
    """

    tls: Any = None
    proxy_protocol: bool = False

    def __init__(self, description: str) -> None:
        self.description = description

    def __str__(self) -> str:
        return self.description

    def bind(self) -> socket.socket:
        """Return a socket that listens, does not block and is not inherited by child processes.

        :raises EndpointError: when that is not possible.
        """
        raise NotImplementedError

    def close(self, sock: socket.socket) -> None:
        """Close ``sock``, which :meth:`bind` returned, and remove what binding left in the file system."""
        sock.close()


class WrappingEndpoint(Endpoint):
    """An endpoint that adds something to another; it listens where ``inner`` listens and has its properties until it sets its own."""

    def __init__(self, description: str, inner: Endpoint) -> None:
        super().__init__(description)
        self.inner = inner
        self.tls = inner.tls
        self.proxy_protocol = inner.proxy_protocol

    def bind(self) -> socket.socket:
        return self.inner.bind()

    def close(self, sock: socket.socket) -> None:
        self.inner.close(sock)


def _cannot_listen(where: str, reason: object) -> EndpointError:
    return EndpointError(f"Couldn't listen on {where}: {reason}.")


class TCPEndpoint(Endpoint):
    """A TCP address.

    :param port: 0 lets the kernel choose.
    :param interface: an address, or a host name of which the first IPv4 address counts and the first IPv6 address otherwise.  ``""``
        is every IPv4 address, ``"::"`` every IPv4 and IPv6 address.
    :param backlog: see :data:`DEFAULT_BACKLOG`.
    :param family: the address family that the interface must have; either when left out.
    """

    def __init__(
        self,
        description: str,
        port: int,
        interface: str = "",
        backlog: int = DEFAULT_BACKLOG,
        family: int = socket.AF_UNSPEC,
    ) -> None:
        super().__init__(description)
        self.port = port
        self.interface = interface[1:-1] if interface.startswith("[") and interface.endswith("]") else interface
        self.backlog = backlog
        self.family = family

    def bind(self) -> socket.socket:
        where = f"[{self.interface}]:{self.port}" if ":" in self.interface else f"{self.interface or 'any'}:{self.port}"
        try:
            family, address = self._resolve()
            sock = socket.socket(family, socket.SOCK_STREAM)
        except UnicodeError:
            raise _cannot_listen(where, "not a host name") from None
        except OSError as error:
            raise _cannot_listen(where, error) from error
        try:
            # Connections of a previous process in TIME_WAIT must not keep this one from starting.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Dual-stack whatever net.ipv6.bindv6only says; it means nothing for an address other than "::".
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            sock.listen(self.backlog)
        except OSError as error:
            sock.close()
            raise _cannot_listen(where, error) from error
        return sock

    def _resolve(self) -> tuple[int, Any]:
        # Here and not in the resolver, whose thread pool would print a traceback of its own.
        self.interface.encode("idna")
        results = socket.getaddrinfo(self.interface or "0.0.0.0", self.port, self.family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A host name with addresses of both families listens on IPv4, where daphne listened.
        chosen = next((result for result in results if result[0] == socket.AF_INET), results[0])
        return chosen[0], chosen[4]


class UNIXEndpoint(Endpoint):
    """A UNIX domain socket.

    A socket that a dead process left at ``address`` is replaced.  One that answers, and a file of any other type, is left alone.  The
    processes that bind in one directory take turns under a lock on that directory, so that none replaces a socket that another has
    just bound and does not listen on yet.

    :param address: its path, at most 107 bytes.
    :param mode: permissions, :data:`DEFAULT_UNIX_MODE`; they do not depend on the umask.
    :param backlog: see :data:`DEFAULT_BACKLOG`.
    :param lockfile: accepted and ignored: Twisted's ``<address>.lock`` is not needed here and never touched.
    """

    def __init__(
        self,
        description: str,
        address: str,
        mode: int = DEFAULT_UNIX_MODE,
        backlog: int = DEFAULT_BACKLOG,
        lockfile: bool = True,
    ) -> None:
        super().__init__(description)
        self.address = address
        self.mode = mode
        self.backlog = backlog
        #: Device, inode and process of the socket file; only the process that bound it may remove it.
        self._bound: tuple[int, int, int] | None = None

    def bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _directory_lock(self.address):
                self._bind(sock)
        except EndpointError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            raise _cannot_listen(self.address, error) from error
        return sock

    def _bind(self, sock: socket.socket) -> None:
        try:
            sock.bind(self.address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if not stat.S_ISSOCK(os.lstat(self.address).st_mode):
                raise _cannot_listen(self.address, "a file that is not a socket is there") from None
            if not _is_dead(self.address):
                raise
            os.unlink(self.address)
            sock.bind(self.address)
        # Nobody can connect before listen(), so there is no moment with the wrong permissions.
        os.chmod(self.address, self.mode)
        sock.listen(self.backlog)
        status = os.lstat(self.address)
        self._bound = (status.st_dev, status.st_ino, os.getpid())

    def close(self, sock: socket.socket) -> None:
        bound, self._bound = self._bound, None
        if bound is not None:
            # Before the socket closes: the kernel cannot give the inode to another file until then.
            try:
                status = os.lstat(self.address)
                if (status.st_dev, status.st_ino, os.getpid()) == bound:
                    os.unlink(self.address)
            except OSError:
                pass  # Gone, or out of reach by now: there is nothing left that could be removed.
        sock.close()


def _is_dead(address: str) -> bool:
    """Whether nobody listens on the UNIX socket ``address``; any doubt counts as alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(UNIX_PROBE_TIMEOUT)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


@contextmanager
def _directory_lock(address: str) -> Iterator[None]:
    """Hold an exclusive lock on the directory of ``address``, which leaves no file behind.

    Without permission to read the directory, or on a file system without locks, there is no lock.

    :raises EndpointError: when another process holds it for longer than :data:`UNIX_LOCK_TIMEOUT`.
    """
    directory = os.path.dirname(address) or "."
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield
        return
    try:
        for _ in range(int(UNIX_LOCK_TIMEOUT / UNIX_LOCK_INTERVAL)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                gevent.sleep(UNIX_LOCK_INTERVAL)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                    raise
                break
            else:
                break
        else:
            raise _cannot_listen(address, f"another process has held a lock on {directory} for {UNIX_LOCK_TIMEOUT:g} seconds")
        yield
    finally:
        os.close(descriptor)


#: Sockets made of inherited descriptors, by number: two objects that close one descriptor would close a stranger's in the end.
_adopted: WeakValueDictionary[int, socket.socket] = WeakValueDictionary()


class FDEndpoint(Endpoint):
    """A socket that a process manager opened and handed down; its address family is the socket's own.

    :param fileno: the descriptor's number.
    :param domain: accepted and ignored; daphne needed it to tell the address family.
    """

    def __init__(self, description: str, fileno: int, domain: str = "") -> None:
        super().__init__(description)
        self.fileno = fileno

    def bind(self) -> socket.socket:
        where = f"fd {self.fileno}"
        other = _adopted.get(self.fileno)
        if other is not None and other.fileno() == self.fileno:
            raise _cannot_listen(where, "another endpoint has it already")
        try:
            # Reads SO_DOMAIN, SO_TYPE and SO_PROTOCOL, and makes the descriptor non-blocking.
            sock = socket.socket(fileno=self.fileno)
        except OSError as error:
            reasons = {errno.EBADF: "it is not open", errno.ENOTSOCK: "it is not a socket"}
            raise _cannot_listen(where, reasons.get(error.errno or 0, error)) from error
        try:
            self._listen(sock)
        except OSError as error:
            sock.detach()
            raise _cannot_listen(where, error) from error
        except EndpointError:
            sock.detach()
            raise
        _adopted[self.fileno] = sock
        return sock

    def _listen(self, sock: socket.socket) -> None:
        where = f"fd {self.fileno}"
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise _cannot_listen(where, "it is neither a TCP nor a UNIX socket")
        if sock.type != socket.SOCK_STREAM:
            raise _cannot_listen(where, "it is not a stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            if sock.getsockname() in ("", b"") or (sock.family != socket.AF_UNIX and sock.getsockname()[1] == 0):
                raise _cannot_listen(where, "it is not bound to an address")
            # On a socket that listens already it would change the backlog that its owner chose.
            sock.listen(DEFAULT_BACKLOG)
        os.set_inheritable(self.fileno, False)
