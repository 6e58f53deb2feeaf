"""Resolves relative paths of options from the directory in which the command was given, even if the application changes it later."""

from __future__ import annotations

import os

#: The directory in which the command was given; empty in a library, which resolves paths from the current directory.
_base: list[str] = []


def remember_directory() -> None:
    """Resolve relative paths from the directory that is current now."""
    _base[:] = [os.getcwd()]


def resolve(path: str) -> str:
    """Return ``path``; a relative one becomes absolute if the current directory has changed since."""
    if not _base or os.path.isabs(path):
        return path
    try:
        if os.getcwd() == _base[0]:
            return path
    except OSError:
        pass  # it was removed
    return os.path.join(_base[0], path)
