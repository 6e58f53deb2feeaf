"""Channel layers as tests want them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import gevent
import pytest
from gevent._hub_local import get_hub_if_exists

from greendaphne.layers.memory import BLOCK_LIMIT, MemoryChannelLayer
from greendaphne.layers.receiver import Receiver

_Batch = list[tuple[str, dict[str, Any]]]


def receive_by_lasting_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have memory layers wait by lasting receivers: one for each greenlet and set of channels."""
    receivers: WeakKeyDictionary[Any, dict[Any, Receiver]] = WeakKeyDictionary()
    plain_batch, plain = MemoryChannelLayer.receive_batch, MemoryChannelLayer.receive

    def receive_batch(
        layer: MemoryChannelLayer, channels: Iterable[str], limit: int, timeout: float | None = None, wake: Any = None
    ) -> _Batch:
        if limit < 1 or isinstance(channels, str) or (timeout is not None and timeout <= 0) or get_hub_if_exists() is None:
            return plain_batch(layer, channels, limit, timeout, wake)
        names = list(channels)
        mine = receivers.setdefault(gevent.getcurrent(), {})
        key = layer, tuple(names)
        receiver = mine.get(key)
        if receiver is None:
            made = layer.receiver(names)
            if made is None:
                return plain_batch(layer, names, limit, timeout, wake)
            receiver = mine[key] = made
        if not receiver.signalled:
            # It falls back to this method.
            return plain_batch(layer, names, limit, timeout, wake)
        return receiver.receive(limit, timeout, wake)

    def receive(layer: MemoryChannelLayer, channels: Iterable[str], block: bool = False) -> Any:
        if not block:
            return plain(layer, channels, block)
        batch = receive_batch(layer, channels, 1, layer.block_limit or BLOCK_LIMIT)
        return batch[0] if batch else (None, None)

    monkeypatch.setattr(MemoryChannelLayer, "receive_batch", receive_batch)
    monkeypatch.setattr(MemoryChannelLayer, "receive", receive)
