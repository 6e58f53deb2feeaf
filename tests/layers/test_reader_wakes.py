"""A reader without a hub is told to end its wait."""

from __future__ import annotations

import threading

import pytest

from greendaphne.layers import reader as reader_module
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.layers.reader import Reader
from greendaphne.layers.wake import Wake

PATIENCE = 20.0


def test_a_reader_in_a_plain_thread_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the wake it would wait for longer than the test.
    monkeypatch.setattr(reader_module, "IDLE_LIMIT", 100 * PATIENCE)
    layer = MemoryChannelLayer()
    wake = Wake()
    received: list[object] = []

    def receive() -> None:
        reader = Reader(layer, ["a"], threaded=False)
        received.append(reader.receive(wake=wake))
        received.append(reader.receive(wake=wake))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    layer.send("a", {"n": 1})
    while not received and thread.is_alive():
        thread.join(0.01)
    wake.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert received == [[("a", {"n": 1})], []]
