"""Memory of the process and of the machine: its size, the part in use, and how to return free memory to the system."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = "/proc/self/statm"
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: Assumed where the system does not report it: 1 GiB, the memory of the smallest machines.
_GUESS: Final = 1 << 30


def resident() -> int:
    """Bytes of memory that the process occupies."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def available() -> int:
    """Bytes of memory of the machine, or the limit of the control group of the process if it is lower."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (ValueError, OSError):
        machine = _GUESS
    return min([machine, *_limits()])


def _limits() -> list[int]:
    """The memory limits of the control groups of the process, including those of their parents."""
    limits = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        place = root / path.lstrip("/")
        # In a container the path may be the one outside of it; its group is then at the root.
        for directory in (place, *place.parents):
            try:
                limits.append(int((directory / name).read_text()))
            except (OSError, ValueError):
                pass  # no such file, or "max"
            if directory == root:
                break
    return [limit for limit in limits if limit > 0]


def trim() -> None:
    """Make the allocator return free memory to the system; called in a native thread.

    Buffers between 512 bytes and some hundred KiB, such as the bytes of clients, come from the C library's heap.  By itself glibc returns
    only the free end of this heap (M_TRIM_THRESHOLD in mallopt(3)).  Our explanation for memory that stays after a peak, which is not
    measured, is that small objects in use between the free buffers keep this end short.  ``malloc_trim`` returns every free page (since
    glibc 2.8).  It took 0.05 to 0.2 ms for each MiB in our measurements.  Meanwhile other threads that allocate from the heap wait for its
    lock, even without Python's lock.  Without such a function, as in musl, this does nothing.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


def can_trim() -> bool:
    """Whether :func:`trim` returns memory."""
    return _malloc_trim is not None


def forget_names() -> None:
    """Release the names of attributes that Python's cache of methods refers to.

    libev's callbacks in gevent look up ``stop`` by a new string each time.  The cache keeps up to 4096 of them.  A peak left 1000, which
    kept most of its memory from being returned.  The cache fills again within milliseconds.
    """
    _clear_cache()


try:
    # At import: objects that are made during a peak and stay keep memory of the peak.
    _malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
except (OSError, TypeError):  # pragma: no cover - a system without dynamic linking
    _malloc_trim = None


def _nothing() -> None:
    pass


#: The more general function exists since Python 3.13, which deprecates the other.
_clear_cache: Callable[[], object] = getattr(sys, "_clear_internal_caches", getattr(sys, "_clear_type_cache", _nothing))
