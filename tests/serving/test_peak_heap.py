"""The small objects of a peak: allocated by the C library while clients hold much memory, and by Python otherwise."""

from __future__ import annotations

import ctypes
import gc
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from greendaphne.config import MIB, Limits
from greendaphne.serving import peak_heap
from greendaphne.serving.memory import forget_names
from greendaphne.serving.overload import PEAK, PEAK_END, Overload
from greendaphne.serving.peak_heap import PeakHeap

switches = pytest.mark.skipif(peak_heap._api is None, reason="this Python or this system has no such allocator")
NUMBER = 5000


def allocators() -> list[bytes]:
    """The functions of all domains."""
    assert peak_heap._api is not None
    result = []
    for domain in range(3):
        found = peak_heap._Allocator()
        peak_heap._api.PyMem_GetAllocator(domain, ctypes.byref(found))
        result.append(bytes(found))
    return result


@pytest.fixture
def heap() -> Iterator[PeakHeap]:
    heap = PeakHeap()
    yield heap
    heap.leave()


def make() -> list[tuple[object, ...]]:
    return [(float(number), str(number), [number], {number: number}, b"x" * (number % 600)) for number in range(NUMBER)]


@switches
def test_objects_of_a_peak_are_in_no_arena(heap: PeakHeap) -> None:
    heap.enter()
    before = sys.getallocatedblocks()
    objects = [[object()] for _ in range(NUMBER)]
    assert sys.getallocatedblocks() - before < NUMBER / 10
    heap.leave()
    before = sys.getallocatedblocks()
    others = [[object()] for _ in range(NUMBER)]
    assert sys.getallocatedblocks() - before > NUMBER
    del objects, others


@switches
def test_objects_outlive_the_switch_in_both_directions(heap: PeakHeap) -> None:
    kept = make()
    for _ in range(4):
        heap.enter()
        born = make()
        for _, _, numbers, mapping, _ in kept:
            numbers.extend(range(40))  # type: ignore[attr-defined]
            mapping.update((key, key) for key in range(10))  # type: ignore[attr-defined]
        del kept[::2]
        heap.leave()
        for _, _, numbers, mapping, _ in born:
            numbers.extend(range(40))  # type: ignore[attr-defined]
            mapping.update((key, key) for key in range(10))  # type: ignore[attr-defined]
        del born[::3]
        kept += born
        del born
        gc.collect()
        assert all(text == str(int(number)) for number, text, *_ in kept)  # type: ignore[call-overload]


@switches
def test_the_last_server_switches_back(heap: PeakHeap) -> None:
    before = allocators()
    other = PeakHeap()
    heap.enter()
    heap.enter()
    other.enter()
    during = allocators()
    assert during != before
    heap.leave()
    heap.leave()
    assert allocators() == during
    other.leave()
    assert allocators() == before


@switches
def test_tracing_that_begins_or_goes_on_meanwhile_stays(heap: PeakHeap) -> None:
    before = allocators()
    tracemalloc.start()
    try:
        tracing = allocators()
        heap.enter()
        assert allocators() == tracing
        heap.leave()
        assert allocators() == tracing
    finally:
        tracemalloc.stop()
    heap.enter()
    during = allocators()
    tracemalloc.start()
    try:
        tracing = allocators()
        heap.leave()
        assert allocators() == tracing
    finally:
        tracemalloc.stop()
    # It restores what it found; the next peak changes that.
    assert allocators() == during
    heap.enter()
    heap.leave()
    assert allocators() == before


@switches
@pytest.mark.parametrize("domain", range(3))
@pytest.mark.parametrize("function", ["malloc", "calloc", "realloc", "free"])
def test_a_profilers_functions_stay(domain: int, function: str, heap: PeakHeap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another library, which need not be able to release what the C library has allocated."""
    api = peak_heap._api
    assert api is not None
    changed: list[int] = []
    foreign = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p).value

    class Profiled:
        dladdr = staticmethod(api.dladdr)

        @staticmethod
        def PyMem_GetAllocator(number: int, allocator: Any) -> None:  # noqa: N802 - the C API's name
            api.PyMem_GetAllocator(number, allocator)
            if number == domain:
                setattr(allocator._obj, function, foreign)

        @staticmethod
        def PyMem_SetAllocator(number: int, allocator: Any) -> None:  # noqa: N802
            changed.append(number)

    monkeypatch.setattr(peak_heap, "_api", Profiled)
    heap.enter()
    heap.leave()
    assert changed == []


@switches
def test_a_server_switches_while_clients_hold_much_memory() -> None:
    before = allocators()
    overload = Overload(Limits(memory=160 * MIB))
    memory = overload.memory
    try:
        low, high = int(memory.size * PEAK_END), int(memory.size * PEAK)
        overload.charge(high)
        overload._tick()
        assert allocators() == before
        overload.charge(1)
        overload._tick()
        assert allocators() != before
        memory.give(high - low)
        overload._tick()
        assert allocators() != before
        memory.give(2)
        overload._tick()
        assert allocators() == before
        overload.charge(high)
        overload._tick()
        assert allocators() != before
    finally:
        overload.stop()
    assert allocators() == before


def test_the_cache_of_methods_forgets_names() -> None:
    class Watcher:
        def stop(self) -> None:
            """As gevent's watchers."""

    watcher = Watcher()
    # Not a constant, as libev's callbacks make it.
    name = b"stop".decode()
    before = sys.getrefcount(name)
    getattr(watcher, name)
    forget_names()
    assert sys.getrefcount(name) <= before
