"""asgiref's suite for channel layers, whole, over the memory layer: in either way of waiting, and with a taker of what it hands over."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import pytest
from asgiref import conformance
from gevent import get_hub

from greendaphne.layers.memory import MemoryChannelLayer
from tests.support.layers import receive_by_lasting_receivers


class TestQueued(conformance.ConformanceTestCase):  # type: ignore[misc]
    channel_layer = MemoryChannelLayer(expiry=1, group_expiry=1, capacity=5)
    expiry_delay = 1.1
    capacity_limit = 5


class TestLastingReceivers(TestQueued):
    channel_layer = MemoryChannelLayer(expiry=1, group_expiry=1, capacity=5)

    def setUp(self) -> None:
        super().setUp()
        patch = pytest.MonkeyPatch()
        receive_by_lasting_receivers(patch)
        self.addCleanup(patch.undo)


class HandedOver(MemoryChannelLayer):
    """Hands over one message of each channel, and receives that first; what the taker refuses is queued."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.taken: dict[str, deque[tuple[str, dict[str, Any]]]] = defaultdict(deque)

    def receive(self, channels: Iterable[str], block: bool = False) -> Any:
        for name in channels:
            self.valid_channel_name(name, receive=True)
            if self.taken[name]:
                return self.taken[name].popleft()
        return super().receive(channels, block)

    def flush(self) -> None:
        super().flush()
        self.taken.clear()

    def _channel(self, name: str) -> Any:
        channel = super()._channel(name)

        def take(channel: str, message: dict[str, Any]) -> bool:
            # The others wait in the queue, and what comes after them waits too.
            taken = self.taken[name]
            if taken:
                return False
            taken.append((channel, message))
            return True

        channel.taker = channel.taker or (get_hub(), take)
        return channel


class TestHandedOver(conformance.ConformanceTestCase):  # type: ignore[misc]
    expiry_delay = 1.1
    # One message is in the taker's hands.
    capacity_limit = 6

    def setUp(self) -> None:
        self.channel_layer = HandedOver(expiry=1, group_expiry=1, capacity=5)
        super().setUp()

    # From the moment when it has a message, expiry is the taker's affair.
    test_message_expiry = None
