"""Proxies that are on a list are believed, hop by hop from the right; nobody else is, whatever they send."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greendaphne import cli
from greendaphne.config import ConfigurationError, Proxies
from greendaphne.core.addresses import AddressList
from greendaphne.core.message import ConnectionInfo, Request
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.running.assembly import locate
from greendaphne.server import Server
from greendaphne.serving.forwarded import X_FORWARDED, ForwardedFields, Locator, TrustedLocator, forwarded_fields, locator
from greendaphne.serving.forwarded.hops import MAX_ELEMENT, UNKNOWN, Hop, forwarded_hops, x_forwarded_hops
from greendaphne.serving.forwarded.trusted import MAX_HOPS
from greendaphne.settings.arguments import read
from greendaphne.settings.check import check_options
from greendaphne.settings.option import UsageError
from tests.support.http2 import Peer
from tests.support.server import Client, RunningServer, serve
from tests.support.settings import LAYER, configured

FOR, PORT, PROTO, FORWARDED, ROOT = b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto", b"forwarded", b"daphne-root-path"
PEER: list[object] = ["10.0.0.1", 40000]
TRUSTED = "10.0.0.0/24,fd00::/8,unix"
STANDARD = ForwardedFields("forwarded")
HOST = (b"host", b"localhost")

Field = tuple[bytes, bytes]


def request(*fields: Field, client: Any = PEER, scheme: str = "http", peer: Any = None) -> Request:
    return Request("GET", b"/", b"/", b"", "1.1", [HOST, *fields], 0, b"", ConnectionInfo(scheme, client, ["10.0.0.9", 80], None, peer))


def resolve(*fields: Field, trusted: str = TRUSTED, standard: bool = False, **connection: Any) -> tuple[Any, str]:
    """The client and scheme that a request seems to have; asked twice, since outcomes are remembered."""
    locate = TrustedLocator(AddressList(trusted), STANDARD if standard else X_FORWARDED)
    found = [locate(request(*fields, **connection)).connection for _ in range(2)]
    assert found[0] == found[1]
    return found[0].client, found[0].scheme


# --- Who is believed ---


@pytest.mark.parametrize("client", [["10.0.0.1", 1], ["::ffff:10.0.0.1", 1], ["fd00::1%eth0", 1], None])
def test_peers_on_the_list(client: Any) -> None:
    assert resolve((FOR, b"1.2.3.4"), (PROTO, b"https"), client=client) == (["1.2.3.4", 0], "https")


@pytest.mark.parametrize("client", [["10.0.1.1", 1], ["::ffff:10.0.1.1", 1], ["2001:db8::1", 1], ["1.2.3.4", 1]])
def test_peers_that_are_not(client: Any) -> None:
    fields = [(FOR, b"1.2.3.4"), (PORT, b"5"), (PROTO, b"https"), (FORWARDED, b"for=1.2.3.4;proto=https")]
    for standard in (False, True):
        assert resolve(*fields, client=client, standard=standard) == (client, "http")
        assert resolve(*fields, client=client, standard=standard, scheme="https") == (client, "https")


def test_a_unix_socket_is_believed_only_where_the_list_says_so() -> None:
    assert resolve((FOR, b"1.2.3.4"), client=None, trusted="10.0.0.1") == (None, "http")
    assert resolve((FOR, b"1.2.3.4"), client=None, trusted="unix") == (["1.2.3.4", 0], "http")
    assert resolve((FOR, b"1.2.3.4"), client=PEER, trusted="unix") == (PEER, "http")


@pytest.mark.parametrize(
    "text", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "::ffff:0:0/96", "10.0.0.0/255.255.255.0", "0.0.0.0/0", "10.0.0.1/32"]
)
def test_forms_of_the_list(text: str) -> None:
    assert resolve((FOR, b"::1"), trusted=text) == (["::1", 0], "http")
    assert resolve((FOR, b"::1"), trusted=f" 192.0.2.1 ,, {text}, ") == (["::1", 0], "http")
    assert resolve((FOR, b"::1"), trusted=text, client=["fd00::1", 1]) == (["fd00::1", 1], "http")


def test_an_asterisk_is_everybody() -> None:
    for client in (PEER, ["8.8.8.8", 1], ["2001:db8::1", 1], None):
        assert resolve((FOR, b"1.2.3.4, 5.6.7.8"), client=client, trusted="*") == (["1.2.3.4", 0], "http")


def test_an_empty_list_is_nobody() -> None:
    for client in (PEER, None):
        assert resolve((FOR, b"1.2.3.4"), client=client, trusted="") == (client, "http")


def test_the_client_of_a_proxy_header_is_a_hop_of_its_own() -> None:
    """A proxy that sends PROXY headers may pass on bytes that it has not read."""
    fields = [(FOR, b"1.2.3.4"), (PROTO, b"https")]
    assert resolve(*fields, client=["8.8.8.8", 5], peer=PEER) == (["8.8.8.8", 5], "http")
    assert resolve(*fields, client=["10.0.0.2", 5], peer=PEER) == (["1.2.3.4", 0], "https")
    assert resolve(*fields, client=["10.0.0.2", 5], peer=["8.8.8.8", 1]) == (["10.0.0.2", 5], "http")
    assert resolve(*fields, client=["10.0.0.2", 5], peer=[]) == (["1.2.3.4", 0], "https")
    assert resolve(*fields, client=["10.0.0.2", 5], peer=[], trusted="10.0.0.2") == (["10.0.0.2", 5], "http")


def test_what_others_claim_reaches_nobody() -> None:
    claims = [
        (FOR, b"1.2.3.4"), (PORT, b"5"), (PROTO, b"https"), (b"x-forwarded-host", b"evil"), (FORWARDED, b"for=1.2.3.4"), (ROOT, b"/x"),
        (b"x-forwarded-prefix", b"/x"), (b"x-script-name", b"/x"), (b"x-real-ip", b"1.2.3.4"), (b"x-forwarded-protocol", b"ssl"),
        (b"x-forwarded-ssl", b"on"), (b"x-forwarded-scheme", b"https"), (b"x-scheme", b"https"),
    ]  # fmt: skip
    locate = TrustedLocator(AddressList("10.0.0.1"))
    assert locate(request(*claims, client=["8.8.8.8", 1])).headers == [HOST]
    assert locate(request(*claims)).headers == [HOST, *claims]
    unchanged = request((b"x-forwarded", b"1"), client=["8.8.8.8", 1])
    assert locate(unchanged) is unchanged
    named = TrustedLocator(AddressList("10.0.0.1"), ForwardedFields("X-Real-IP", None, "X-Scheme"))
    assert named(request((b"x-real-ip", b"1.2.3.4"), (b"x-scheme", b"https"), client=["8.8.8.8", 1])).headers == [HOST]


def test_the_request_tells_who_is_at_the_other_end() -> None:
    locate = TrustedLocator(AddressList(TRUSTED))
    for client, peer, expected in ((PEER, None, PEER), (None, None, []), (["10.0.0.2", 1], PEER, PEER)):
        located = locate(request((FOR, b"1.2.3.4"), client=client, peer=peer)).connection
        assert (located.client, located.peer) == (["1.2.3.4", 0], expected)
        assert located.server == ["10.0.0.9", 80]
    same = request((b"a", b"b"))
    assert locate(same) is same


# --- Which hop is the client ---


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["1.2.3.4"], ["1.2.3.4", 0]),
        (["evil, 1.2.3.4"], ["1.2.3.4", 0]),
        (["127.0.0.1, 10.0.0.7, 1.2.3.4"], ["1.2.3.4", 0]),
        (["9.9.9.9, 1.2.3.4, 10.0.0.2"], ["1.2.3.4", 0]),
        (["9.9.9.9, 1.2.3.4:55, 10.0.0.2:66"], ["1.2.3.4", 55]),
        (["9.9.9.9,[2001:db8::1]:55,[fd00::1]:66,::ffff:10.0.0.2"], ["2001:db8::1", 55]),
        (["1.2.3.4", "10.0.0.2"], ["1.2.3.4", 0]),
        (["9.9.9.9, 1.2.3.4", "10.0.0.3", "", " , ", "10.0.0.2,"], ["1.2.3.4", 0]),
        (["9.9.9.9", "1.2.3.4"], ["1.2.3.4", 0]),
        # All are proxies: the one furthest away.
        (["10.0.0.3, 10.0.0.2"], ["10.0.0.3", 0]),
        (["10.0.0.3:5", "10.0.0.2"], ["10.0.0.3", 5]),
        # A proxy that does not know whom it serves: its own address.
        (["unknown"], PEER),
        (["9.9.9.9, unknown"], PEER),
        (["9.9.9.9, _hidden, 10.0.0.2:5"], ["10.0.0.2", 5]),
        (["9.9.9.9, 1.2.3.4.5"], PEER),
        (["9.9.9.9, [::1"], PEER),
        (["9.9.9.9, ::1%<b>"], PEER),
        (["9.9.9.9, \xff"], PEER),
        (["9.9.9.9, " + "1" * 1000], PEER),
        # nginx behind nginx, over a UNIX socket.
        (["9.9.9.9, 1.2.3.4, unix:"], ["1.2.3.4", 0]),
        (["unix:"], PEER),
        ([""], PEER),
        ([","], PEER),
        ([], PEER),
    ],
)
def test_chains(values: list[str], client: list[object]) -> None:
    assert resolve(*((FOR, value.encode("latin-1")) for value in values)) == (client, "http")


def test_a_chain_that_comes_over_a_unix_socket() -> None:
    assert resolve((FOR, b"unknown"), client=None) == (None, "http")
    assert resolve((FOR, b"1.2.3.4, 10.0.0.1"), client=None) == (["1.2.3.4", 0], "http")
    assert resolve((FOR, b"1.2.3.4, unix:"), client=PEER, trusted="10.0.0.1") == (PEER, "http")


@pytest.mark.parametrize(
    ("addresses", "ports", "client"),
    [
        (b"1.2.3.4", [b"55"], ["1.2.3.4", 55]),
        (b"9.9.9.9, 1.2.3.4", [b"44, 55"], ["1.2.3.4", 55]),
        (b"9.9.9.9, 1.2.3.4", [b"44", b" 55 ,"], ["1.2.3.4", 55]),
        (b"1.2.3.4:66", [b"55"], ["1.2.3.4", 66]),
        (b"1.2.3.4:x", [b"55"], ["1.2.3.4", 55]),
        # The field is about the hop that the nearest proxy knows.
        (b"1.2.3.4, 10.0.0.2", [b"55"], ["1.2.3.4", 0]),
        (b"1.2.3.4", [b"55x"], ["1.2.3.4", 0]),
        (b"1.2.3.4", [b"65536"], ["1.2.3.4", 0]),
        (b"1.2.3.4", [b"55, "], ["1.2.3.4", 55]),
        (b"unknown", [b"55"], PEER),
    ],
)
def test_ports(addresses: bytes, ports: list[bytes], client: list[object]) -> None:
    assert resolve((FOR, addresses), *((PORT, port) for port in ports)) == (client, "http")


@pytest.mark.parametrize(
    ("protos", "scheme"),
    [
        ([b"https"], "https"),
        ([b"HTTPS"], "https"),
        ([b"wss"], "https"),
        ([b"ws"], "http"),
        ([b"https, http"], "http"),
        ([b"http,https"], "https"),
        ([b"http", b"https"], "https"),
        ([b"https", b"http"], "http"),
        ([b"javascript"], "http"),
        ([b"https, javascript"], "http"),
        ([b""], "http"),
        ([b"https,"], "https"),
        ([], "http"),
    ],
)
def test_schemes(protos: list[bytes], scheme: str) -> None:
    fields = [(PROTO, proto) for proto in protos]
    assert resolve((FOR, b"1.2.3.4"), *fields) == (["1.2.3.4", 0], scheme)
    # Nothing is said about whoever a proxy does not name.
    assert resolve(*fields) == (PEER, "http")


def test_a_proxy_takes_the_scheme_back() -> None:
    assert resolve((FOR, b"1.2.3.4"), (PROTO, b"http"), scheme="https") == (["1.2.3.4", 0], "http")
    assert resolve((FOR, b"1.2.3.4"), (PROTO, b"https"), scheme="ws") == (["1.2.3.4", 0], "wss")


def test_fields_that_are_not_named_do_not_count() -> None:
    fields = [(FOR, b"1.2.3.4"), (PORT, b"5"), (PROTO, b"https"), (FORWARDED, b"for=5.6.7.8;proto=https")]

    def located(names: str) -> tuple[Any, str]:
        connection = TrustedLocator(AddressList(TRUSTED), forwarded_fields(names))(request(*fields)).connection
        return connection.client, connection.scheme

    assert located("x-forwarded-for") == (["1.2.3.4", 0], "http")
    assert located("x-forwarded-for,x-forwarded-port") == (["1.2.3.4", 5], "http")
    assert located("x-forwarded-proto, X-Forwarded-For") == (["1.2.3.4", 0], "https")
    assert located("x-forwarded-for,x-forwarded-port,x-forwarded-proto") == (["1.2.3.4", 5], "https")
    assert located("Forwarded") == (["5.6.7.8", 0], "https")
    assert resolve(*fields[:3], standard=True) == (PEER, "http")
    assert resolve(fields[3]) == (PEER, "http")


def test_an_endless_chain_ends() -> None:
    chain = b", ".join([b"1.2.3.4"] + [b"10.0.0.%d" % (n % 250) for n in range(MAX_HOPS, 0, -1)])
    assert resolve((FOR, chain)) == (["10.0.0.100", 0], "http")
    assert resolve(*((FOR, element) for element in chain.split(b", "))) == (["10.0.0.100", 0], "http")
    assert resolve((FOR, b"1.2.3.4, " + b"10.0.0.2," * 5000), trusted="*") == (["10.0.0.2", 0], "http")
    assert resolve((FOR, b"1.2.3.4" + b" ," * 50000)) == (["1.2.3.4", 0], "http")
    assert resolve((FOR, b"," * 100000)) == (PEER, "http")


def test_outcomes_are_forgotten_before_they_are_too_many() -> None:
    locate = TrustedLocator(AddressList(TRUSTED))
    for number in range(5000):
        host = str(ipaddress.IPv4Address(0x0B000000 + number))
        assert locate(request((FOR, host.encode()))).connection.client == [host, 0]
    assert len(locate._found) <= 1024
    # Long ones are not kept at all.
    before = len(locate._found)
    assert locate(request((FOR, b"x" * 10000 + b",1.2.3.4"))).connection.client == ["1.2.3.4", 0]
    assert len(locate._found) == before


# --- Forwarded ---


@pytest.mark.parametrize(
    ("value", "hops"),
    [
        ("for=1.2.3.4", [Hop(True, "1.2.3.4")]),
        ("For=1.2.3.4;Proto=https;by=203.0.113.43;host=example.com", [Hop(True, "1.2.3.4", 0, b"https")]),
        ('for="[2001:db8::1]:4711"', [Hop(True, "2001:db8::1", 4711)]),
        ('for="[2001:db8::1]"', [Hop(True, "2001:db8::1")]),
        ('for="1.2.3.4:55"', [Hop(True, "1.2.3.4", 55)]),
        ('for="1.2.3.4:_port"', [Hop(True, "1.2.3.4")]),
        (r'for="1\.2.3\.4"', [Hop(True, "1.2.3.4")]),
        ("for=1.2.3.4:55", [Hop(True, "1.2.3.4", 55)]),
        ("for=[2001:db8::1]:4711", [Hop(True, "2001:db8::1", 4711)]),
        ("for=1.2.3.4, for=5.6.7.8;proto=http", [Hop(True, "5.6.7.8", 0, b"http"), Hop(True, "1.2.3.4")]),
        ("for=1.2.3.4 ; proto=https , ,", [Hop(True, "1.2.3.4", 0, b"https")]),
        (";for=1.2.3.4;;", [Hop(True, "1.2.3.4")]),
        ("for=unknown;proto=https", [Hop(False, proto=b"https")]),
        ("for=_gazonk", [UNKNOWN]),
        ('for="_SEVKISEK:8080"', [UNKNOWN]),
        ("proto=https", [Hop(False, proto=b"https")]),
        ('for="unix:";proto=https', [Hop(True, None, 0, b"https")]),
        ('for=1.2.3.4;ext="a,b;c=\\"d\\",e"', [Hop(True, "1.2.3.4")]),
        ('host="a,b", for=1.2.3.4', [Hop(True, "1.2.3.4"), UNKNOWN]),
        ('for=1.2.3.4;x="\\\\", for=5.6.7.8', [Hop(True, "5.6.7.8"), Hop(True, "1.2.3.4")]),
        ('for="1.2.3.4', [UNKNOWN]),
        ('for=1.2.3.4"', [UNKNOWN]),
        ('for=""', [UNKNOWN]),
        ("for=", [UNKNOWN]),
        ("1.2.3.4", [UNKNOWN]),
        ("for = 1.2.3.4", [UNKNOWN]),
        ("for=1.2.3.4 proto=https", [UNKNOWN]),
        ("for=1.2.3.4;for=5.6.7.8", [UNKNOWN]),
        ("for=1.2.3.4;proto=http;PROTO=https", [UNKNOWN]),
        ("f\xfcr=1.2.3.4", [UNKNOWN]),
        # What is malformed ends the chain.
        ("for=9.9.9.9, x, for=1.2.3.4", [Hop(True, "1.2.3.4"), UNKNOWN]),
        ("", []),
        (" ,, ", []),
    ],
)
def test_elements_of_forwarded(value: str, hops: list[Hop]) -> None:
    assert list(forwarded_hops(value.encode("latin-1"))) == hops


@pytest.mark.parametrize("size", [MAX_ELEMENT - 1, MAX_ELEMENT, MAX_ELEMENT + 1, 16 * MAX_ELEMENT])
@pytest.mark.parametrize("filling", [b"a", b" ", b"\t", b";", b'"', b"\\", b'\\"', b'a="b";', b"=", b"a="])
def test_long_elements_of_forwarded_are_read_in_bounded_time(size: int, filling: bytes) -> None:
    value = (filling * size)[:size]
    for field in (
        value,
        b"for=1.2.3.4;" + value,
        b'for=1.2.3.4;x="' + value,
        b'for=1.2.3.4;x="' + value + b'"',
        b"for=1.2.3.4 " + value + b"!",
    ):
        assert next(forwarded_hops(b"for=9.9.9.9, " + field + b", for=5.6.7.8")) == Hop(True, "5.6.7.8")
        assert len(list(forwarded_hops(field))) <= 2


@pytest.mark.parametrize(
    ("values", "client", "scheme"),
    [
        (["for=1.2.3.4;proto=https"], ["1.2.3.4", 0], "https"),
        (['for=evil, for="1.2.3.4:55"'], ["1.2.3.4", 55], "http"),
        (["for=9.9.9.9;proto=https, for=1.2.3.4;proto=http, for=10.0.0.2;proto=https"], ["1.2.3.4", 0], "http"),
        (["for=9.9.9.9;proto=http, for=1.2.3.4;proto=https", 'for="10.0.0.2:5"'], ["1.2.3.4", 0], "https"),
        (['for="[2001:db8::1]:5";proto=wss', 'for="[fd00::1]"'], ["2001:db8::1", 5], "https"),
        (["for=1.2.3.4;proto=gopher"], ["1.2.3.4", 0], "http"),
        # The scheme is about the same hop; nothing is said about this one.
        (["for=1.2.3.4, for=10.0.0.2;proto=https"], ["1.2.3.4", 0], "http"),
        (["for=unknown;proto=https"], PEER, "https"),
        (["for=9.9.9.9, for=_x, for=10.0.0.2"], ["10.0.0.2", 0], "http"),
        (["by=10.0.0.1;proto=https"], PEER, "https"),
        (["for=10.0.0.3;proto=https, for=10.0.0.2"], ["10.0.0.3", 0], "https"),
        (['for="', "for=1.2.3.4"], ["1.2.3.4", 0], "http"),
        (['for=", for=1.2.3.4'], ["1.2.3.4", 0], "http"),
        (['for="\\, for=1.2.3.4'], ["1.2.3.4", 0], "http"),
        (['for="\\, for="1.2.3.4:5"'], ["1.2.3.4", 5], "http"),
    ],
)
def test_chains_of_forwarded(values: list[str], client: list[object], scheme: str) -> None:
    fields = [(FORWARDED, value.encode()) for value in values]
    # The others are whatever a client makes of them, and so is a port beside it.
    assert resolve(*fields, (FOR, b"6.6.6.6"), (PORT, b"6"), (PROTO, b"https"), standard=True) == (client, scheme)


# --- Whatever arrives ---


LISTS = st.binary(max_size=60) | st.text('0123456789.:[]%, abcdef_for=proto;"\\\t', max_size=60).map(str.encode)
FIELDS = st.lists(st.tuples(st.sampled_from([FOR, PORT, PROTO, FORWARDED]), LISTS), max_size=6)


@settings(deadline=None)
@given(
    fields=FIELDS,
    trusted=st.sampled_from([TRUSTED, "*", "", "::/0,unix"]),
    standard=st.booleans(),
    scheme=st.sampled_from(["http", "https"]),
)
def test_whatever_arrives_the_answer_is_an_address(fields: list[Field], trusted: str, standard: bool, scheme: str) -> None:
    client, found = resolve(*fields, trusted=trusted, standard=standard, scheme=scheme)
    assert found in {"http", "https"}
    ipaddress.ip_address(client[0])
    assert type(client[1]) is int
    assert 0 <= client[1] <= 65535


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6).filter(lambda address: address not in ipaddress.ip_network("fd00::/8"))
OUTSIDE = ADDRESSES.filter(lambda address: address not in ipaddress.ip_network("10.0.0.0/24") and "10.0.0." not in str(address)).filter(
    lambda address: str(address) not in AddressList(TRUSTED)
)
INSIDE = st.integers(1, 254).map(lambda n: ipaddress.ip_address(f"10.0.0.{n}")) | st.integers(1, 9).map(
    lambda n: ipaddress.ip_address(f"fd00::{n}")
)
PORTS = st.integers(0, 65535)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Any], Any, int]:
    """The addresses that honest proxies append, from the client to the one before the peer."""
    client, port = draw(OUTSIDE), draw(PORTS)
    return [client, *draw(st.lists(INSIDE, max_size=4))], client, port


def appended(attack: list[bytes], separators: list[bool], elements: list[bytes]) -> list[bytes]:
    """The fields behind proxies that each append an element, to the last field or as a field of its own."""
    values = list(attack)
    for element, separate in zip(elements, separators, strict=False):
        if values and not separate:
            values[-1] += b", " + element
        else:
            values.append(element)
    return values


@settings(deadline=None)
@given(chain=chains(), attacks=st.lists(LISTS, max_size=3), separators=st.lists(st.booleans(), min_size=5, max_size=5), noise=FIELDS)
def test_nothing_that_a_client_writes_changes_who_it_is(
    chain: Any, attacks: list[bytes], separators: list[bool], noise: list[Field]
) -> None:
    hops, client, port = chain
    elements = [str(hop).encode() for hop in hops]
    elements[0] = (f"[{client}]:{port}" if client.version == 6 else f"{client}:{port}").encode()
    fields = [(FOR, value) for value in appended(attacks, separators, elements)]
    # Port and scheme are set by the nearest proxy; Forwarded is not among the fields that are read.
    fields += [field for field in noise if field[0] != FOR]
    fields += [(PORT, b"77"), (PROTO, b"https")]
    expected = port or (77 if len(hops) == 1 else 0)
    assert resolve(*fields) == ([str(client), expected], "https")


@settings(deadline=None)
@given(chain=chains(), attacks=st.lists(LISTS, max_size=3), separators=st.lists(st.booleans(), min_size=5, max_size=5), noise=FIELDS)
@example(
    chain=([ipaddress.ip_address("1.2.3.4")], ipaddress.ip_address("1.2.3.4"), 5), attacks=[b'for="'], separators=[False] * 5, noise=[]
)
@example(
    chain=([ipaddress.ip_address("1.2.3.4")], ipaddress.ip_address("1.2.3.4"), 5), attacks=[b'x="\\'], separators=[False] * 5, noise=[]
)
def test_nothing_that_a_client_writes_into_forwarded_changes_who_it_is(
    chain: Any, attacks: list[bytes], separators: list[bool], noise: list[Field]
) -> None:
    hops, client, port = chain
    elements = [f'for="[{hop}]"'.encode() if hop.version == 6 else f"for={hop}".encode() for hop in hops]
    elements[0] = f'for="{f"[{client}]" if client.version == 6 else client}:{port}";proto=https'.encode()
    fields = [(FORWARDED, value) for value in appended(attacks, separators, elements)]
    fields = [field for field in noise if field[0] != FORWARDED] + fields
    assert resolve(*fields, standard=True) == ([str(client), port], "https")


@settings(deadline=None)
@given(fields=FIELDS, client=OUTSIDE)
def test_nothing_that_a_stranger_sends_is_believed(fields: list[Field], client: Any) -> None:
    stranger: Any = [str(client), 5]
    for standard in (False, True):
        assert resolve(*fields, standard=standard, client=stranger) == (stranger, "http")


@settings(deadline=None)
@given(values=st.lists(LISTS, max_size=4))
def test_hops_from_the_right_are_those_from_the_left_reversed(values: list[bytes]) -> None:
    value = b",".join(values)
    elements = [element for element in (part.strip() for part in value.split(b",")) if element]
    assert [hop.known for hop in x_forwarded_hops(value)] == [next(x_forwarded_hops(element)).known for element in reversed(elements)]


# --- On the wire ---


FIELDS_ON_THE_WIRE = (
    "X-Forwarded-For: 6.6.6.6, 2001:db8::1\r\nX-Forwarded-Port: 55\r\nX-Forwarded-Proto: HTTPS\r\nDaphne-Root-Path: /mnt\r\n"
)
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def trusting() -> Iterator[RunningServer]:
    with serve(forwarded_allow_ips="127.0.0.1", http2_cleartext=True) as server:
        yield server


@pytest.fixture
def wary() -> Iterator[RunningServer]:
    with serve(forwarded_allow_ips=AddressList("192.0.2.1,unix"), http2_cleartext=True) as server:
        yield server


def exchange(server: RunningServer, fields: str) -> tuple[Any, dict[str, Any]]:
    """The client's own address, and the message for a request with ``fields``."""
    with server.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        message = server.app.answer()
        assert client.read_response().status == 200
        return list(client.sock.getsockname()), message


def handshake(server: RunningServer, fields: str) -> tuple[Any, dict[str, Any]]:
    with server.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{WEBSOCKET}{fields}\r\n".encode())
        message = server.app.receive("websocket.connect")[1]
        server.app.reply(message, close=True)
        assert client.read_head().status == 403
        server.app.receive("websocket.disconnect")
        return list(client.sock.getsockname()), message


def http2(server: RunningServer, fields: str) -> tuple[Any, dict[str, Any]]:
    with Peer(server) as peer:
        pairs = [line.lower().split(": ") for line in fields.split("\r\n") if line]
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"localhost")]
        stream_id = peer.request(head + [(name.encode(), value.encode()) for name, value in pairs])
        message = server.app.answer()
        assert peer.response(stream_id)[0] == 200
        return list(peer.sock.getsockname()), message


@pytest.mark.parametrize(("send", "scheme"), [(exchange, "https"), (handshake, "wss"), (http2, "https")])
def test_a_trusted_peer(trusting: RunningServer, send: Any, scheme: str) -> None:
    message = send(trusting, FIELDS_ON_THE_WIRE)[1]
    assert (message["client"], message["scheme"], message["root_path"]) == (["2001:db8::1", 55], scheme, "/mnt")


@pytest.mark.parametrize(("send", "scheme"), [(exchange, "http"), (handshake, "ws"), (http2, "http")])
def test_any_other_peer(wary: RunningServer, send: Any, scheme: str) -> None:
    address, message = send(wary, FIELDS_ON_THE_WIRE)
    assert (message["client"], message["scheme"], message["root_path"]) == (address, scheme, "")
    assert not [name for name, _ in message["headers"] if b"forwarded" in name]


def test_each_request_of_a_connection_has_its_own_client(trusting: RunningServer) -> None:
    with trusting.connect() as client:
        for number in (1, 2, 1):
            client.send(f"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.{number}\r\n\r\n".encode())
            assert trusting.app.answer()["client"] == [f"192.0.2.{number}", 0]
            client.read_response()
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert trusting.app.answer()["client"] == list(client.sock.getsockname())
        client.read_response()


def test_the_root_path_of_the_option_stays() -> None:
    with serve(forwarded_allow_ips="192.0.2.1", root_path="/own") as server:
        assert exchange(server, "Daphne-Root-Path: /evil\r\n")[1]["root_path"] == "/own"


def test_forwarded_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    endpoints = ["tcp:0:interface=127.0.0.1", f"unix:{path}"]
    lines: list[Any] = []
    with serve(
        endpoints=endpoints,
        forwarded_allow_ips="unix",
        proxy_forwarded_address_header="Forwarded",
        action_logger=lambda _, action, details: lines.append(details["client"]),
    ) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            client = Client(sock)
            client.send(b'GET / HTTP/1.1\r\nHost: localhost\r\nForwarded: for="\r\nForwarded: for="[2001:db8::1]:4711";proto=https\r\n\r\n')
            message = server.app.answer()
            assert (message["client"], message["scheme"], message["server"]) == (["2001:db8::1", 4711], "https", None)
            client.read_response()
            client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
            assert server.app.answer()["client"] is None
            client.read_response()
        address, message = exchange(server, "Forwarded: for=1.2.3.4\r\n")
        assert message["client"] == address
    assert lines[0] == "2001:db8::1:4711"


def test_lists_of_any_length_are_answered(trusting: RunningServer) -> None:
    for value in ("," * 16000, "127.0.0.1," * 1600, "x" * 16000, '"' * 16000):
        assert exchange(trusting, f"X-Forwarded-For: {value}\r\n" * 3 + f"X-Forwarded-Proto: {value}\r\n")[1]["scheme"] == "http"


# --- How it is asked for ---


def fields_of(*argv: str) -> ForwardedFields | None:
    """The fields that a server with these options believes."""
    config = configured(*argv)
    check_options(config)
    return config.proxies.forwarded_headers if config.proxies.headers or config.proxies.forwarded_allow_ips is not None else None


def test_options() -> None:
    assert configured().proxies == Proxies()
    assert Proxies().forwarded_headers == X_FORWARDED
    assert locate(configured()) is None
    assert isinstance(locate(configured("--proxy-headers")), Locator)
    assert isinstance(locate(configured("--forwarded-allow-ips=*")), TrustedLocator)
    assert fields_of("--proxy-headers") == X_FORWARDED
    assert str(configured("--forwarded-allow-ips", "10.0.0.0/8, ::1,unix").proxies.forwarded_allow_ips) == "10.0.0.0/8, ::1,unix"
    assert fields_of("--forwarded-allow-ips", "10.0.0.0/8, ::1,unix") == X_FORWARDED
    assert fields_of("--forwarded-allow-ips=*", "--forwarded-headers=forwarded") == STANDARD
    assert fields_of("--proxy-headers", "--forwarded-headers=x-forwarded-for") == ("X-Forwarded-For", None, None)
    for argv in (["--proxy-headers"], []):
        with pytest.raises(ConfigurationError, match=r"^--forwarded-headers=forwarded needs --forwarded-allow-ips,"):
            fields_of(*argv, "--forwarded-headers=forwarded")


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "10.0.0.256", "proxy.example.com", "10.0.0.1 10.0.0.2", "10.0.0.0/33", "::1/129", "[::1]", "UNIX"]
)
def test_wrong_lists(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([f"--forwarded-allow-ips=127.0.0.1,{text}", LAYER]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(r"greendaphne: error: argument --forwarded-allow-ips: must (be addresses,|have networks) .*\n", output.err)
    assert repr(text) in output.err
    with pytest.raises(ValueError, match=r"^forwarded_allow_ips must (be addresses|have networks)"):
        Server(MemoryChannelLayer(), endpoints=["tcp:0"], forwarded_allow_ips=text)


@pytest.mark.parametrize("text", ["", "x-real-ip", "x-forwarded-proto", "forwarded,x-forwarded-for", "x-forwarded-for,x-forwarded-for"])
def test_wrong_fields(text: str) -> None:
    with pytest.raises(UsageError, match="argument --forwarded-headers: must be forwarded, or x-forwarded-for with or without"):
        read([f"--forwarded-headers={text}", LAYER], {})


def test_names_of_fields() -> None:
    assert locator(None, None, None, None) is None
    locate = locator("10.0.0.1", "X-Real-IP", None, "X-Scheme")
    assert locate is not None
    located = locate(request((b"x-real-ip", b"6.6.6.6,1.2.3.4"), (b"x-scheme", b"https"), (FOR, b"5.5.5.5"), (PORT, b"5"))).connection
    assert (located.client, located.scheme) == (["1.2.3.4", 0], "https")
