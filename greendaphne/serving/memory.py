"""Memory of the process and of the machine: how much there is, how much is in use, and how to give back what is free."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = "/proc/self/statm"
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: Where Linux says it, 1 GiB is what the smallest machines have.
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
    """Bytes of memory of the machine, or of the control group of the process where that has a limit."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (ValueError, OSError):
        machine = _GUESS
    return min([machine, *_limits()])


def _limits() -> list[int]:
    """The memory limits of the control groups that the process is in, their parents' included."""
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
        # In a container the path may be that outside of it; its own group is at the root then.
        for directory in (place, *place.parents):
            try:
                limits.append(int((directory / name).read_text()))
            except (OSError, ValueError):
                pass  # no such file, or "max"
            if directory == root:
                break
    return [limit for limit in limits if limit > 0]


def trim() -> None:
    """Have the allocator give free memory back to the system; for a native thread.

    Buffers between 512 bytes and some hundred KiB, which is what clients' bytes are in, come from the C library's heap.  glibc returns
    only its end by itself, and a few small objects between the buffers keep that from coming down.  ``malloc_trim`` returns every free
    page (since glibc 2.8).  It takes 0.05 to 0.2 ms for each MiB, for which other threads that allocate such buffers wait, whether or not
    they have Python's lock: the heap has its own.  Other C libraries have no such function and need none: musl returns what is free.
    """
    function = getattr(_LIBC, "malloc_trim", None)
    if function is not None:
        function(0)


try:
    _LIBC: ctypes.CDLL | None = ctypes.CDLL(None)
except (OSError, TypeError):  # pragma: no cover - a system without dynamic linking
    _LIBC = None
