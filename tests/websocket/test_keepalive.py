"""When a ping is due, and how long its answer may take; what the peer sees of it is in the tests of connections."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

import pytest

from greendaphne.config import Timeouts
from greendaphne.websocket.keepalive import _DELIVERY_LOOK, Keepalive

#: No stream is asked where it has said nothing before the ping.
NONE: Any = None


class Delivering:
    """A stream that tells how many bytes the peer has taken, and how many wait."""

    def delivery(self) -> tuple[int, int]:
        return 5, 3


@pytest.mark.parametrize(("interval", "timeout", "expected"), [(100, 30, 30), (100, 0, 100), (100, 300, 300)])
def test_the_answer_has_its_time_or_that_of_another_ping(interval: int, timeout: int, expected: int) -> None:
    keepalive = Keepalive(Timeouts(ping_interval=interval, ping_timeout=timeout))
    now = monotonic()
    keepalive.heard(now)
    assert keepalive.deadline == now + interval
    keepalive.sent(NONE, None)
    assert now + expected <= keepalive.deadline <= monotonic() + expected


@pytest.mark.parametrize(("waits", "timeout", "expected"), [(0, 30, 30), (2, 30, _DELIVERY_LOOK), (2, 0.5, 0.5), (2, 0, 100)])
def test_a_ping_behind_other_data_is_looked_after(waits: int, timeout: float, expected: float) -> None:
    keepalive = Keepalive(Timeouts(ping_interval=100, ping_timeout=timeout))
    stream: Any = Delivering()
    now = monotonic()
    keepalive.sent(stream, (4, waits))
    assert now + expected <= keepalive.deadline <= monotonic() + expected


def test_without_an_interval_nothing_is_due() -> None:
    keepalive = Keepalive(Timeouts(ping_interval=0))
    assert keepalive.deadline == inf
    keepalive.heard(monotonic())
    assert keepalive.deadline == inf
