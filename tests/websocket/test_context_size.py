"""What the contexts of compression are taken to occupy."""

from __future__ import annotations

from greendaphne.websocket.deflate import context_size


def test_a_larger_window_is_larger_by_its_size() -> None:
    assert context_size(0, 0) == 0
    assert context_size(0, 15) - context_size(0, 10) == 2**15 - 2**10
    # The sender has a window of four bytes for each, twice.
    assert context_size(15, 0) - context_size(10, 0) == 8 * (2**15 - 2**10)
    assert context_size(15, 15) == context_size(15, 0) + context_size(0, 15)
