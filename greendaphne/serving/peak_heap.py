"""Allocates the small objects of a peak on the C library's heap, because only that heap returns single pages to the system.

Python allocates objects of at most 512 bytes in arenas of 1 MiB (256 KiB before Python 3.10), and returns an arena to the system only when
all of its objects are gone.  Objects that are born during a peak and stay, such as numbers, timers and caches of the server, lie between
the objects of thousands of requests: some 300 of these kept all of the 20 to 25 arenas of a peak.  The C library's heap returns every free
page of 4 KiB (:func:`.memory.trim`), so that the same objects keep about 1 MiB.

The C library is slower than Python's allocator, so it is used only while clients hold much memory.  Blocks of both kinds can be released at
any time: the release functions of Python's allocator pass on what is not in their arenas.  Therefore only the two functions that allocate
are replaced (``PyMem_SetAllocator``).  ``sys.getallocatedblocks`` does not count the objects of a peak.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Final

from .memory import can_trim


class _Allocator(ctypes.Structure):
    """``PyMemAllocatorEx`` of the C API."""

    _fields_ = (
        ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )

    def is_like(self, other: _Allocator) -> bool:
        """Whether both are the same functions."""
        return bytes(self) == bytes(other)


class _Symbol(ctypes.Structure):
    """``Dl_info`` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


#: The first and the last version of Python whose functions were tried.
VERSIONS: Final = ((3, 10), (3, 13))
#: PyMemAllocatorDomain: the C library's functions, and the two domains that use arenas.
_RAW: Final = 0
_DOMAINS: Final = (1, 2)


def _has_arenas() -> bool:
    """Whether this Python allocates objects in arenas, by functions that also release blocks of the C library."""
    return (
        sys.implementation.name == "cpython"
        and VERSIONS[0] <= sys.version_info[:2] <= VERSIONS[1]
        # Without the GIL it has another allocator.  Not by sysconfig, whose import of all build variables delays the start.
        and "t" not in getattr(sys, "abiflags", "")
        and os.environ.get("PYTHONMALLOC", "") in ("", "default", "pymalloc")
    )


class PeakHeap:
    """Switches the allocation of the process' small objects; there is one for each server.  Used by one hub."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        #: Whether :meth:`enter` was called and :meth:`leave` was not.
        self.active = False

    def enter(self) -> None:
        """Allocate small objects on the C library's heap from now on, if this Python and the system allow it."""
        if not self.active:
            self.active = True
            _active.add(self)
            if len(_active) == 1:
                _switch()

    def leave(self) -> None:
        """Undo :meth:`enter`."""
        if self.active:
            self.active = False
            _active.discard(self)
            if not _active:
                _switch_back()


#: Those between :meth:`PeakHeap.enter` and :meth:`PeakHeap.leave`.
_active: Final[set[PeakHeap]] = set()
#: The allocators of the domains before, and those that replaced them.
_before: Final = [_Allocator() for _ in _DOMAINS]
_during: Final = [_Allocator() for _ in _DOMAINS]


def _switch() -> None:
    if _api is None:
        return
    raw = _Allocator()
    _api.PyMem_GetAllocator(_RAW, ctypes.byref(raw))
    found = [_Allocator() for _ in _DOMAINS]
    for each, domain in zip(found, _DOMAINS, strict=True):
        _api.PyMem_GetAllocator(domain, ctypes.byref(each))
    if raw.ctx or any(each.ctx or each.malloc == raw.malloc for each in found):
        # tracemalloc or Python's debugging functions are active, or the C library is used anyway: by a Python without arenas, by
        # PYTHONMALLOC, or since tracemalloc was started during a peak and stopped after it, which restores the functions of the peak.
        return
    if any(_library(function) != _python for each in (raw, *found) for function in (each.malloc, each.calloc, each.realloc, each.free)):
        # A profiler's functions, which may release only what they have allocated.
        return
    _before[:] = found
    for before, during, domain in zip(_before, _during, _DOMAINS, strict=True):
        during.malloc, during.calloc = raw.malloc, raw.calloc
        during.realloc, during.free = before.realloc, before.free
        _api.PyMem_SetAllocator(domain, ctypes.byref(during))


def _library(function: object) -> int | None:
    """Where the library or the program with the function at the address ``function`` begins in memory."""
    symbol = _Symbol()
    return symbol.base if _api.dladdr(function, ctypes.byref(symbol)) else None


def _switch_back() -> None:
    if _api is None:
        return
    now = _Allocator()
    for before, during, domain in zip(_before, _during, _DOMAINS, strict=True):
        _api.PyMem_GetAllocator(domain, ctypes.byref(now))
        # Not if tracemalloc was started meanwhile: it calls these functions.
        if during.malloc and now.is_like(during):
            _api.PyMem_SetAllocator(domain, ctypes.byref(before))


def _load() -> Any:
    """The C API, or ``None`` where the switch is of no use or not safe."""
    if not can_trim() or not _has_arenas():
        return None
    try:
        # An instance of its own, so that nothing else sees its types of arguments.
        api = ctypes.PyDLL(None)
        for function in (api.PyMem_GetAllocator, api.PyMem_SetAllocator):
            function.argtypes = [ctypes.c_int, ctypes.c_void_p]
            function.restype = None
        api.dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        api.dladdr.restype = ctypes.c_int
    except (OSError, TypeError, AttributeError):  # pragma: no cover - a system without dynamic linking
        return None
    return api


_api = _load()
#: Where the interpreter's machine code begins.
_python = None if _api is None else _library(ctypes.cast(_api.PyMem_GetAllocator, ctypes.c_void_p))
