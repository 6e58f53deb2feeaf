"""Lists of trusted addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greendaphne.core.addresses import LOCAL, AddressList


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", [], ["127.0.0.1", "::1", None, "", "x"]),
        ("*", ["127.0.0.1", "::1", None, "x"], []),
        (LOCAL, ["127.0.0.1", "::1", None, "::ffff:127.0.0.1", "0:0::1"], ["127.0.0.2", "::2", "127.0.0.1:80", "[::1]", " 127.0.0.1", ""]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", None, "::10.1.2.3"]),
        (" 10.1.2.3 ,, 2001:db8::/32 ", ["10.1.2.3", "2001:db8::1", "2001:DB8:0::1"], ["10.1.2.4", "2001:db9::1"]),
        ("fe80::/10", ["fe80::1%eth0"], ["fec0::1"]),
        ("::ffff:1.2.3.4", ["1.2.3.4", "::ffff:1.2.3.4"], ["1.2.3.5"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.1", "::ffff:10.0.0.1"], ["11.0.0.1", "::1"]),
        ("unix", [None], ["unix", "127.0.0.1"]),
        ("0.0.0.0/0", ["1.2.3.4"], ["::1", None]),
    ],
)
def test_membership(text: str, inside: list[str | None], outside: list[str | None]) -> None:
    addresses = AddressList(text)
    # The second time from the answers kept.
    for _ in range(2):
        assert [host for host in inside if host not in addresses] == []
        assert [host for host in outside if host in addresses] == []
    # An empty list is a list: nobody must take it for none, which is everybody.
    assert addresses  # type: ignore[truthy-bool]
    assert str(addresses) == text
    assert {addresses: 1}[AddressList(text)] == 1
    assert repr(addresses) == f"AddressList({text!r})"
    assert b"127.0.0.1" not in addresses or text == "*"


@pytest.mark.parametrize("item", ["x", "10.0.0.0/33", "localhost", "1.2.3", "10.0.0.1-2", "10.0.0.0/8/8", "[::1]", "127.0.0.1:80"])
def test_refused(item: str) -> None:
    with pytest.raises(ValueError, match=r"^must be addresses, networks such as") as caught:
        AddressList(f"127.0.0.1,{item}")
    assert repr(item) in str(caught.value)


def test_network_with_an_address_in_it_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^must have networks without host bits \('10\.0\.0\.1/8' should be '10\.0\.0\.0/8' or an address\)$"
    ):
        AddressList("10.0.0.1/8")


@given(st.text(max_size=20))
def test_any_host(host: str) -> None:
    try:
        expected = ipaddress.ip_address(host.partition("%")[0]) == ipaddress.ip_address("127.0.0.1")
    except ValueError:
        expected = False
    assert (host in AddressList("127.0.0.1")) == expected


def test_answers_kept_are_bounded() -> None:
    addresses = AddressList("10.0.0.0/8")
    for number in range(5000):
        assert f"10.0.{number // 250}.{number % 250}" in addresses
    assert len(addresses._answers) <= 1024
