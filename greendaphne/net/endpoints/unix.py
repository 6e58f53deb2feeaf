"""UNIX domain sockets to listen on: their permissions and owners, and who may replace whose."""

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

#: Permissions of a UNIX socket; Twisted's default.  Connecting needs the write permission.
DEFAULT_UNIX_MODE: Final = 0o666

#: What a name in Linux' abstract namespace begins with, as systemd and ``ss`` write it.
ABSTRACT: Final = "@"

#: Seconds to wait for other processes that bind UNIX sockets in the same directory.
UNIX_LOCK_TIMEOUT: Final = 5.0

#: Seconds between two tries at that lock.
UNIX_LOCK_INTERVAL: Final = 0.02

#: Seconds for an existing UNIX socket to answer a connection attempt; one that does not answer is taken to be in use.
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

    A socket that a dead process left at ``address`` is replaced.  One that answers, and a file of any other type, is left alone.  The
    processes that bind in one directory take turns under a lock on that directory, so that none replaces a socket that another has
    just bound and does not listen on yet.

    :param address: its path, at most 107 bytes; one that begins with ``@`` is a name in the abstract namespace, which has no file and
        therefore no permissions: every process in the same network namespace can connect.
    :param mode: permissions, by default :data:`DEFAULT_UNIX_MODE`; they do not depend on the umask.
    :param backlog: see :data:`~.base.DEFAULT_BACKLOG`; :attr:`options` say it where it is ``None``.
    :param lockfile: accepted and ignored: Twisted's ``<address>.lock`` is not needed here and never touched.
    :param user: number of the user that it belongs to; by default the server's.
    :param group: number of the group that it belongs to; by default the one that new files in its directory get.
    :raises EndpointError: for a mode or an owner of an abstract name.
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
        #: Device, inode and process of the socket file; only the process that bound it may remove it.
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
        # The file gets these permissions, less those in the umask: never more than it is to have.  Where the system cannot do that, it has
        # others until listen(), before which nobody can connect.
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
            # Nobody can connect before listen(), so there is no moment with the wrong owner.
            if self.user is not None or self.group is not None:
                self._give_away()
            if stat.S_IMODE(status.st_mode) != self.mode:
                _chmod(self.address, self.mode)
            self._listen(sock)
        except BaseException:
            self._remove()
            raise

    def _give_away(self) -> None:
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
            pass  # Gone, or out of reach by now: there is nothing left that could be removed.

    def close(self, sock: socket.socket) -> None:
        # Before the socket closes: the kernel cannot give the inode to another file until then.
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
    """Set the permissions of a socket file, and of nothing else that somebody may just have put in its place."""
    descriptor = os.open(address, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return
        # There is no fchmod() for such a descriptor.
        os.chmod(f"/proc/self/fd/{descriptor}" if os.path.isdir("/proc/self/fd") else address, mode)
    finally:
        os.close(descriptor)


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

    Without permission to read the directory, or on a file system without locks, there is no lock.  Nor is there when another process keeps
    it for longer than :data:`UNIX_LOCK_TIMEOUT`: binding takes no time, so it is none that binds, and everybody who may read the directory
    can take the lock and must not keep the server from starting.
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
