"""Finds certificate files and directories that other users of the machine can change.

A user who can write to a directory of certificates can make the server present another certificate.  A user who can write to the
directory of a key can replace the key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def exposed(directories: Iterable[str], files: Iterable[str] = ()) -> list[str]:
    """One line for each directory and file that is writable for its group or for all users, for a warning.

    :param directories: the server uses every ``.pem`` file in them, so write permission to the directory suffices.
    :param files: files that the server uses.  Write permission to a file's directory suffices, unless that directory is sticky.
    """
    lines = {}
    for path in directories:
        mode = _mode(path)
        if mode & _OTHERS:
            lines[path] = (
                f"{_group_or_everyone(mode)} can write to the directory of certificates {path}; remove that permission with chmod go-w"
            )
    for path in files:
        directory = os.path.dirname(os.path.abspath(path))
        mode = _mode(directory)
        if mode & _OTHERS and not mode & stat.S_ISVTX:
            lines.setdefault(
                directory, f"{_group_or_everyone(mode)} can exchange {path}: the directory {directory} is writable; use chmod go-w"
            )
        mode = _mode(path)
        if mode & _OTHERS:
            lines[path] = f"{_group_or_everyone(mode)} can write to {path}; remove that permission with chmod go-w"
    return list(lines.values())


def _mode(path: str) -> int:
    """The permissions of ``path``; 0 where it is missing or on a read-only file system."""
    try:
        mode = os.stat(path).st_mode
        # Kubernetes mounts secrets with mode 1777, and read-only.
        return 0 if mode & _OTHERS and os.statvfs(path).f_flag & os.ST_RDONLY else mode
    except (OSError, ValueError):
        return 0


def _group_or_everyone(mode: int) -> str:
    return "Everyone" if mode & stat.S_IWOTH else "The group"
