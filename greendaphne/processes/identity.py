"""Attributes of the process: directory, umask, user and groups, and the file with its process ID."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..config import ConfigurationError, Processes

#: The number of bytes that are read from a file with a process ID.
_MAX: Final = 32


def enter(processes: Processes) -> None:
    """Set umask and directory from the options, before the application is imported.

    :raises ConfigurationError: if the directory does not exist.
    """
    if processes.umask is not None:
        os.umask(processes.umask)
    if processes.directory is not None:
        try:
            os.chdir(processes.directory)
        except OSError as error:
            raise ConfigurationError(f"--chdir: cannot change to {processes.directory}: {error.strerror}.") from None
        os.environ["PWD"] = os.getcwd()


def changes_user(processes: Processes) -> bool:
    """Whether the options ask for another user or group than the process was started with."""
    return processes.user is not None or processes.group is not None


def check_user(processes: Processes) -> None:
    """Check whether :func:`become` would succeed.

    :raises ConfigurationError: if not.
    """
    if not changes_user(processes):
        return
    user, group, _ = _wanted(processes)
    if os.geteuid() != 0 and (user, group) != (os.geteuid(), os.getegid()):
        raise ConfigurationError("Only root may run the server as another user (--user, --group).")


def become(processes: Processes) -> None:
    """Change to the user and group of the options permanently, with the supplementary groups of this user.

    :raises ConfigurationError: if that is not possible.
    """
    check_user(processes)
    if not changes_user(processes) or os.geteuid() != 0:
        return
    user, group, name = _wanted(processes)
    if name is not None:
        os.initgroups(name, group)
        import pwd

        entry = pwd.getpwnam(name)
        os.environ.update(HOME=entry.pw_dir, USER=name, LOGNAME=name)
    else:
        os.setgroups([group])
    # The saved IDs as well, so that the process cannot change back.
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _wanted(processes: Processes) -> tuple[int, int, str | None]:
    """The numbers of the user and of the group, and the user's name if it has one.

    :raises ConfigurationError: for names that do not exist.
    """
    import grp
    import pwd

    user, group, name = os.geteuid(), os.getegid(), None
    if processes.user is not None:
        try:
            entry = pwd.getpwuid(int(processes.user)) if processes.user.isdecimal() else pwd.getpwnam(processes.user)
        except KeyError:
            if not processes.user.isdecimal():
                raise ConfigurationError(f"There is no user {processes.user} (--user).") from None
            user = group = int(processes.user)
        else:
            user, group, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    if processes.group is not None:
        try:
            group = int(processes.group) if processes.group.isdecimal() else grp.getgrnam(processes.group).gr_gid
        except KeyError:
            raise ConfigurationError(f"There is no group {processes.group} (--group).") from None
    return user, group, name


@contextmanager
def process_file(path: str | None) -> Iterator[None]:
    """Keep the ID of this process in the file at ``path`` while the block runs; does nothing without a path.

    :raises ConfigurationError: if the file cannot be written, or names another running process.
    """
    if path is None:
        yield
        return
    path = os.path.abspath(path)
    other = _number(path)
    if other is not None and other != os.getpid() and _lives(other):
        raise ConfigurationError(f"--pid: {path} names process {other}, which runs.")
    try:
        # Replaces the file atomically, so a reader never sees a part of the number.
        temporary = f"{path}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, f"{os.getpid()}\n".encode())
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigurationError(f"--pid: cannot write {path}: {error.strerror}.") from None
    try:
        yield
    finally:
        if _number(path) == os.getpid():
            try:
                os.unlink(path)
            except OSError:
                pass  # the new user may lack the permission


def _number(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
