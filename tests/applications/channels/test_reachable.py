"""Warnings about layers that exist in each process anew."""

from __future__ import annotations

import pytest

from greendaphne.applications.channels.reachable import warnings
from greendaphne.config import Channels, Config, Processes
from greendaphne.layers.memory import MemoryChannelLayer


@pytest.mark.parametrize(("layer", "workers", "number"), [(MemoryChannelLayer(), 1, 0), (MemoryChannelLayer(), 2, 1), (object(), 2, 0)])
def test_a_layer_that_several_processes_have_anew_is_warned_of(layer: object, workers: int, number: int) -> None:
    config = Config(processes=Processes(workers=workers), channels=Channels(inline_workers=1))
    assert len([*warnings([layer], config)]) == number


def test_a_layer_that_no_worker_reads_is_warned_of_once() -> None:
    unserved, served = MemoryChannelLayer(), MemoryChannelLayer()
    # As a worker of the module's own does.
    assert served.receive_batch(["http.request"], 1, 0) == []
    none = Config(channels=Channels(inline_workers=0))
    [warning] = warnings([unserved, served, MemoryChannelLayer()], none)
    assert "--inline-workers" in warning
    assert not [*warnings([served, object()], none)]
    assert not [*warnings([unserved], Config(channels=Channels(inline_workers=1)))]
