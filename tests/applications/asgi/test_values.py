"""Values in events: header fields that come again are checked as those that come first."""

from __future__ import annotations

from typing import Any

import pytest

from greendaphne.applications.asgi.values import as_headers

TYPE = (b"content-type", b"text/plain")
LENGTH = (b"content-length", b"5")


def test_the_same_fields_each_time() -> None:
    first = as_headers([TYPE, LENGTH])
    assert first == [TYPE, LENGTH]
    assert as_headers([TYPE, (b"content-length", bytes(bytearray(b"5")))]) is first
    assert as_headers((TYPE, LENGTH)) == [TYPE, LENGTH]
    assert as_headers(iter([TYPE])) == [TYPE]
    assert as_headers([]) == as_headers(()) == []


def test_an_application_may_change_its_list() -> None:
    headers = [TYPE, LENGTH]
    first = as_headers(headers)
    headers.append((b"x-more", b"1"))
    assert as_headers(headers) == [TYPE, LENGTH, (b"x-more", b"1")]
    assert first == [TYPE, LENGTH]
    headers.clear()
    assert as_headers(headers) == []


def test_fields_that_can_change_are_copied() -> None:
    name, value = bytearray(b"x-a"), bytearray(b"1")
    headers: list[Any] = [[name, value]]
    assert as_headers(headers) == [(b"x-a", b"1")]
    value[:] = b"2"
    assert as_headers(headers) == [(b"x-a", b"2")]
    headers[0] = (name, value)
    for wanted in (b"2", b"3", b"4"):
        value[:] = wanted
        (field,) = as_headers(headers)
        assert field == (b"x-a", wanted)
        assert [type(part) for part in field] == [bytes, bytes]


def test_transfer_encoding_is_left_out_each_time() -> None:
    for _ in range(3):
        assert as_headers([TYPE, (b"Transfer-Encoding", b"chunked")]) == [TYPE]
        assert as_headers([TYPE]) == [TYPE]


@pytest.mark.parametrize("wrong", [[("content-type", "text/plain")], [(b"content-type",)], [5], [(b"content-type", 5)]])
def test_what_is_no_pair_of_bytes_is_refused_each_time(wrong: list[Any]) -> None:
    as_headers([TYPE])
    for _ in range(2):
        with pytest.raises(TypeError):
            as_headers(wrong)
