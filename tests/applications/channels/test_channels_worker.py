"""The layer that a worker of Channels reads, without Channels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from greendaphne.applications.channels.channels_worker import _WorkerLayer
from greendaphne.layers.unreadable import LIMIT


def test_a_layer_that_cannot_read_many_messages_in_a_row_is_broken() -> None:
    errors = [*[ValueError] * LIMIT, None, *[ValueError] * (LIMIT + 1)]

    def receive_many(channels: list[str]) -> tuple[Any, Any]:
        error = errors.pop(0)
        if error is not None:
            raise error
        return None, None

    layer = _WorkerLayer(SimpleNamespace(receive_many=receive_many, router=None), cooperative=True)
    # An empty wait in between begins the count anew.
    for _ in range(2 * LIMIT + 1):
        assert layer.receive_many(["a"]) == (None, None)
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        layer.receive_many(["a"])
    assert errors == []
