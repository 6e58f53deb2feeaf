"""Relative paths of options: they begin where the command was given, wherever the application changes to afterwards."""

from __future__ import annotations

import os

#: The directory in which the command was given; empty in a library, whose paths begin in the current directory.
_base: list[str] = []


def remember_directory() -> None:
    """Let relative paths begin in the current directory from now on."""
    _base[:] = [os.getcwd()]


def resolve(path: str) -> str:
    """Return ``path``, made absolute only where it is relative and the current directory is another one by now."""
    if not _base or os.path.isabs(path):
        return path
    try:
        if os.getcwd() == _base[0]:
            return path
    except OSError:
        pass  # it was removed
    return os.path.join(_base[0], path)
