"""The rules for how long commands wait for others, on their own."""

from __future__ import annotations

import time

import pytest

from greendaphne.layers import LayerUnavailable
from greendaphne.layers.redis import RedisChannelLayer
from greendaphne.layers.redis.pace import (
    IN_A_ROW,
    LARGER_PART,
    LATER,
    LEAST,
    LEAST_PART,
    LIMIT,
    LONG_LIMIT,
    LONG_PART,
    LONGER,
    MANY_REPLIES,
    MUCH_LONGER,
    MULTIPLE,
    PART,
    PROBE_LIFE,
    PROBES,
    SATURATED,
    SHORTER,
    SOONER,
    Pace,
)
from tests.support.ports import free_port
from tests.support.redis_server import PATIENCE


def paced() -> Pace:
    """A pace that has measured a time of a hundredth of a second."""
    pace = Pace()
    pace._usual = 0.1
    pace.sent("reply")
    pace.received("reply")
    assert pace.patience > 0
    return pace


def test_pipelines_with_many_replies_halve_the_moment_and_others_bring_it_back() -> None:
    pace = paced()
    full = pace.patience
    pace.took(MANY_REPLIES)
    assert (pace.patience, pace._part) == (full, 1.0)
    for number in range(1, 10):
        pace.took(MANY_REPLIES + 1)
        assert pace.patience == full / 2**number
        assert pace._part == max(0.5**number, LEAST_PART)
    for _ in range(100):
        part = pace._part
        pace.took(MANY_REPLIES)
        assert pace._part == (1.0 if part * LARGER_PART > 1 else part * LARGER_PART)
    assert pace._part == 1.0


def test_messages_that_find_others_lengthen_the_moment_up_to_twice() -> None:
    pace = Pace()
    for length in (0, 1):
        pace.queued(length)
        assert pace._multiple == 1.0
    before = 1.0
    while before < MULTIPLE:
        assert pace.is_saturated is (before >= SATURATED)
        pace.queued(2)
        assert pace._multiple == min(before * LATER, MULTIPLE) > before
        before = pace._multiple
    assert pace.is_saturated
    for length in (1, 0):
        pace.queued(length)
        assert pace._multiple == before * SOONER
        before = pace._multiple
    assert not pace.is_saturated


def test_a_moment_that_is_fixed_stays_so() -> None:
    for fix, seconds in ((lambda pace: pace.fix(0.5), 0.5), (Pace.has_workers, 0.0)):
        pace = paced()
        fix(pace)
        pace.has_workers()
        for _ in range(50):
            pace.queued(2)
            pace.took(MANY_REPLIES + 1)
        pace.sent("another")
        pace.received("another")
        assert pace.patience == seconds
        assert not pace.is_saturated


def test_some_messages_at_a_time_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("greendaphne.layers.redis.pace.monotonic", lambda: now[0])
    pace = Pace()
    for number in range(PROBES + 1):
        pace.sent(str(number))
    assert [*pace._probes] == [str(number) for number in range(PROBES)]
    now[0] += PROBE_LIFE - 0.01
    pace.sent("too many")
    assert "too many" not in pace._probes
    now[0] += 0.01
    pace.sent("late")
    assert [*pace._probes] == ["late"]
    # The first message on a channel counts.
    now[0] += 0.1
    pace.sent("late")
    assert pace._probes == {"late": 101.0}
    pace.received("late")
    assert not pace._probes
    usual = pace._usual
    pace.received("late")
    assert pace._usual == usual == LEAST * LONGER


def test_the_usual_time_follows_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("greendaphne.layers.redis.pace.monotonic", lambda: now[0])
    pace = Pace()

    def reply(seconds: float) -> float:
        """What a time to a reply makes of the usual one, as a factor."""
        before = pace._usual
        pace.sent("reply")
        now[0] += seconds
        pace.received("reply")
        usual = pace._usual
        assert pace.patience == min(max(min(usual * PART, LIMIT), min(usual * LONG_PART, LONG_LIMIT)), LONG_LIMIT)
        return usual / before

    for _ in range(IN_A_ROW):
        assert reply(1) == pytest.approx(LONGER)
    assert reply(1) == pytest.approx(MUCH_LONGER)
    assert reply(0) == pytest.approx(SHORTER)
    assert reply(1) == pytest.approx(LONGER)
    while pace._usual > LEAST:
        reply(0)
    assert pace._usual == LEAST


def test_when_a_server_that_is_down_may_be_tried() -> None:
    layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{free_port()}"])
    [shard] = layer._shards
    assert shard.wait_time() == 0
    with pytest.raises(LayerUnavailable):
        layer.send("n", {})
    assert shard._down
    shard._next_attempt = time.monotonic() - 0.1
    assert shard.wait_time() == 0
    shard._next_attempt = time.monotonic() + PATIENCE
    assert 0 < shard.wait_time() <= PATIENCE
    layer.close()
