"""UNIX domain sockets to listen on: permissions, owners and the replacement of stale socket files."""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import gevent
from gevent import socket

from .base import Endpoint
from .descriptors import cannot_listen
from .grammar import EndpointError

logger = logging.getLogger("daphne.server")

#: Permissions of a UNIX socket; Twisted's default.  Connecting requires the write permission.
DEFAULT_UNIX_MODE: Final = 0o666

#: The first character of a name in Linux' abstract namespace, as systemd and ``ss`` write it.
ABSTRACT: Final = "@"

#: Seconds to wait for a process that holds the lock on the directory.
UNIX_LOCK_TIMEOUT: Final = 5.0

#: Seconds between two attempts to get that lock.
UNIX_LOCK_INTERVAL: Final = 0.02

#: Seconds for an existing UNIX socket to answer a connection attempt; after that it counts as in use.
UNIX_PROBE_TIMEOUT: Final = 1.0

_MAX_ID: Final = 2**32 - 2


def user_id(text: str) -> int:
    """Convert a user's name or number."""
    return _id(text, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group_id(text: str) -> int:
    """Convert a group's name or number."""
    return _id(text, "group", lambda name: grp.getgrnam(name).gr_gid)


class UNIXEndpoint(Endpoint):
    """A UNIX domain socket.

    A socket file of a dead process at ``address`` is replaced.  A socket that answers, and a file of any other type, is an error.
    Processes that bind in the same directory take a lock on that directory, so that none replaces a socket that another process has
    bound but does not listen on yet.

    :param address: its path, at most 107 bytes.  A path that begins with ``@`` is a name in the abstract namespace, which has no file
        and therefore no permissions: every process in the same network namespace can connect.
    :param mode: permissions, by default :data:`DEFAULT_UNIX_MODE`; they do not depend on the umask.
    :param backlog: see :data:`~.base.DEFAULT_BACKLOG`; by default the value in :attr:`options`.
    :param lockfile: accepted and ignored: Twisted's ``<address>.lock`` is not needed here and never touched.
    :param user: number of the file's owner; by default the server's user.
    :param group: number of the file's group; by default the group that new files in its directory get.
    :raises EndpointError: for an abstract name with a mode or an owner.
    """

    def __init__(
        self,
        description: str,
        address: str,
        mode: int | None = None,
        backlog: int | None = None,
        lockfile: bool = True,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        super().__init__(description)
        self.address = address
        self.mode = DEFAULT_UNIX_MODE if mode is None else mode
        self.backlog = backlog
        self.user = user
        self.group = group
        self.abstract = address.startswith(ABSTRACT)
        if self.abstract and not (mode is user is group is None):
            raise EndpointError(f"Endpoint {description!r}: an abstract socket has no file whose mode, user or group could be set.")
        #: Device, inode and process of the socket file; only the process that bound the socket may remove the file.
        self._bound: tuple[int, int, int] | None = None

    def open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.abstract:
                sock.bind("\0" + self.address.removeprefix(ABSTRACT))
                self._listen(sock)
            else:
                with _directory_lock(self.address):
                    self._bind(sock)
        except EndpointError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            explanation = "; another program listens there" if error.errno == errno.EADDRINUSE else ""
            raise cannot_listen(self.address, f"{error}{explanation}") from error
        return sock

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(self.options.backlog if self.backlog is None else self.backlog)

    def _bind(self, sock: socket.socket) -> None:
        # bind() creates the file with these permissions without those in the umask, so it never has too many.  Where fchmod() fails, the
        # file has other permissions until listen(); clients cannot connect before that.
        with suppress(OSError):
            os.fchmod(sock.fileno(), self.mode)
        try:
            sock.bind(self.address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if not stat.S_ISSOCK(os.lstat(self.address).st_mode):
                raise cannot_listen(self.address, "a file that is not a socket is there") from None
            if not _is_dead(self.address):
                raise
            os.unlink(self.address)
            sock.bind(self.address)
        status = os.lstat(self.address)
        self._bound = (status.st_dev, status.st_ino, os.getpid())
        try:
            # Clients cannot connect before listen(), so none connects while the owner is wrong.
            if self.user is not None or self.group is not None:
                self._set_owner()
            if stat.S_IMODE(status.st_mode) != self.mode:
                _chmod(self.address, self.mode)
            self._listen(sock)
        except BaseException:
            self._remove()
            raise

    def _set_owner(self) -> None:
        user, group = (-1 if number is None else number for number in (self.user, self.group))
        try:
            os.chown(self.address, user, group, follow_symlinks=False)
        except PermissionError:
            to = " and ".join(f"{kind} {number}" for kind, number in (("user", user), ("group", group)) if number >= 0)
            raise cannot_listen(self.address, f"only root may give the socket to {to}, or a member to a group") from None

    def _remove(self) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            return
        try:
            status = os.lstat(self.address)
            if (status.st_dev, status.st_ino, os.getpid()) == bound:
                os.unlink(self.address)
        except OSError:
            pass  # The file is gone or inaccessible, so there is nothing to remove.

    def close(self, sock: socket.socket) -> None:
        # Before the socket closes: until then the kernel cannot reuse the inode for another file.
        self._remove()
        sock.close()


def _id(text: str, kind: str, look_up: Callable[[str], int]) -> int:
    try:
        number = int(text) if text.isascii() and text.isdigit() else look_up(text)
    except (KeyError, ValueError):
        number = -1
    if not 0 <= number <= _MAX_ID:
        raise ValueError(f"must be the name or number of a {kind} of this machine")
    return number


def _chmod(address: str, mode: int) -> None:
    """Set the permissions of a socket file; does nothing when another process has replaced it by a file of another type."""
    descriptor = os.open(address, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return
        # There is no fchmod() for such a descriptor.
        os.chmod(f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else address, mode)
    finally:
        os.close(descriptor)


def _is_dead(address: str) -> bool:
    """Whether no process listens on the UNIX socket ``address``; ``False`` in case of doubt."""
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
    """Hold an exclusive lock on the directory of ``address``; no lock file remains.

    Continues without a lock where the directory is unreadable or the file system has no locks.  Also continues when another process
    holds the lock for longer than :data:`UNIX_LOCK_TIMEOUT`: bind() is instant, so that process is doing something else.  Every user who
    can read the directory can take the lock, and must not be able to prevent the server from starting.
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
            logger.warning("Another process has held a lock on %s for %g seconds; going on without it", directory, UNIX_LOCK_TIMEOUT)
        yield
    finally:
        os.close(descriptor)
