"""Checks at start-up whether the temporary directory can hold data that does not fit in memory.

Large request bodies and replies to slow clients are stored there.  With a full or read-only directory the server works until the
first large upload and then refuses each of them, so the problem is logged at start-up.
"""

from __future__ import annotations

import os
import tempfile

from ..config import MIB

#: Free bytes below which the directory counts as full: less than the smallest body that is stored.
LEAST = 1 * MIB
#: Bytes written for the check; more than a file system keeps inside of an inode.
_PROBE = bytes(64 * 1024)


def temporary_directory_problem() -> str | None:
    """One line if large bodies cannot be stored as configured, ``None`` otherwise; writes and removes a small file."""
    wanted = os.environ.get("TMPDIR")
    try:
        place = tempfile.gettempdir()
    except OSError as error:
        return f"Large request bodies and replies cannot be stored: {error.strerror or error}; set TMPDIR to a directory with room"
    problem = _problem(place)
    if problem is not None:
        return f"Large request bodies and replies cannot be stored: the temporary directory {place} {problem}; set TMPDIR to one with room"
    # Python uses the first directory of a list in which it can write a few bytes, so it skips a full TMPDIR silently.
    if wanted and not _same(wanted, place):
        return f"TMPDIR is {wanted}, which cannot be written to ({_reason(wanted)}); large request bodies and replies are stored in {place}"
    return None


def _problem(place: str) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(_PROBE)
        state = os.statvfs(place)
    except OSError as error:
        return f"cannot be written to ({error.strerror or error})"
    free = state.f_bavail * state.f_frsize
    return None if free >= LEAST else f"is full ({free // 1024} KiB left)"


def _reason(place: str) -> str:
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(_PROBE)
    except OSError as error:
        return error.strerror or str(error)
    return "it failed when it was first checked"


def _same(wanted: str, place: str) -> bool:
    try:
        return os.path.samefile(wanted, place)
    except OSError:
        return False
