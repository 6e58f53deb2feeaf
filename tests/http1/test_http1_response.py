"""Response heads of HTTP/1: what may not leave."""

from __future__ import annotations

import pytest

from greendaphne.core.message import ResponseError
from greendaphne.http1 import response
from greendaphne.http1.response import build_head


@pytest.mark.parametrize("reason", ["OK", "", "Nicht gefunden", "Zur\xfcck", "a\tb"])
def test_reason_phrases(reason: str) -> None:
    head = build_head("GET", "1.1", 404, [], False, reason)
    assert head.data.startswith(b"HTTP/1.1 404 " + reason.encode("latin-1") + b"\r\n")


def test_a_reason_phrase_is_for_one_response() -> None:
    for _ in range(2):
        assert build_head("GET", "1.1", 404, [], False, None).data.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert build_head("GET", "1.1", 404, [], False, "Nowhere").data.startswith(b"HTTP/1.1 404 Nowhere\r\n")


@pytest.mark.parametrize("reason", ["OK\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\x7fb", "a\x1bb", "\u20ac"])
def test_reason_phrases_that_would_break_the_head(reason: str) -> None:
    """RFC 9112 section 4."""
    with pytest.raises(ResponseError, match="reason phrase"):
        build_head("GET", "1.1", 200, [], False, reason)


@pytest.mark.parametrize("status", [0, 99, 101, 199, 1000])
@pytest.mark.parametrize("reason", [None, "Fine"])
def test_statuses_that_are_not_final(status: int, reason: str | None) -> None:
    with pytest.raises(ResponseError, match="status"):
        build_head("GET", "1.1", status, [], False, reason)


def test_heads_of_an_earlier_second_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of no use, and would keep memory of a peak."""
    dates = iter([b"first", b"second"])
    for _ in range(2):
        date = next(dates)
        monkeypatch.setattr(response, "http_date", lambda date=date: date)
        heads = [build_head("GET", "1.1", status, [], False) for status in (200, 404, 200)]
        assert all(b"Date: " + date + b"\r\n" in head.data for head in heads)
        assert heads[0] is heads[2]
        assert len(response._heads) == 2
