"""The grammar that all protocols share."""

from __future__ import annotations

import pytest

from greendaphne.core.grammar import elements, valid_authority


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"a:80",
        b"a:",
        b"a:00080",
        b"a:65535",
        b"example.com.",
        b"a_b.c-d~e",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[::1]:80",
        b"[::ffff:1.2.3.4]",
        b"xn--bcher-kva.example",
        b"b%c3%bccher.example",
        b"a!$&'()*+;=b",
    ],
)
def test_valid_authorities(host: bytes) -> None:
    assert valid_authority(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a:65536",
        b"a:99999",
        b"a:123456",
        b"a:b",
        b"a:-1",
        b"a:80:80",
        b"a,b",
        b"a b",
        b"a\tb",
        b"a/b",
        b"a@b",
        b"a#b",
        b"a?b",
        b"a\\b",
        b"a%00b",
        b"a%0ab",
        b"a%7fb",
        b"a%1Fb",
        b"a%b",
        b"a%zz",
        b"[::1",
        b"::1",
        b"[]",
        b"[:::]",
        b"[1.2.3.4]",
        b"[fe80::1%25eth0]",
        b"[v1.a]",
        b"[::1]a",
        b"\xff",
        b"a\n",
    ],
)
def test_invalid_authorities(host: bytes) -> None:
    assert not valid_authority(host)


def test_empty_elements_are_ignored() -> None:
    """RFC 9110 section 5.6.1."""
    assert elements([b"a, b,,c\t,", b"", b" , d"]) == [b"a", b"b", b"c", b"d"]
