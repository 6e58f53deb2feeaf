"""What a proxy says about the client: every form of it, and whatever else stands in its place."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greendaphne.serving.forwarded import client_and_scheme, parse_x_forwarded_for
from tests.support.server import serve

FOR, PORT, PROTO = b"x-forwarded-for", b"x-forwarded-port", b"x-forwarded-proto"
PEER: list[object] = ["127.0.0.1", 40000]


def resolve(*headers: tuple[bytes, bytes], scheme: str = "http", client: list[object] | None = PEER) -> tuple[Any, str]:
    return client_and_scheme(list(headers), FOR, PORT, PROTO, client, scheme)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"1.2.3.4", ["1.2.3.4", 0]),
        (b" 1.2.3.4\t", ["1.2.3.4", 0]),
        (b"1.2.3.4, 5.6.7.8", ["1.2.3.4", 0]),
        (b" , 5.6.7.8", ["5.6.7.8", 0]),
        (b"1.1.1.1:55", ["1.1.1.1", 55]),
        (b"1.1.1.1:55, 2.2.2.2:66", ["1.1.1.1", 55]),
        (b"1.1.1.1:", ["1.1.1.1", 0]),
        (b"1.1.1.1:x", ["1.1.1.1", 0]),
        (b"1.1.1.1:65536", ["1.1.1.1", 0]),
        (b"::1", ["::1", 0]),
        (b"1043::a321:0001, 10.0.5.6", ["1043::a321:0001", 0]),
        (b"::ffff:10.0.0.1", ["::ffff:10.0.0.1", 0]),
        (b"fe80::1%eth0", ["fe80::1%eth0", 0]),
        (b"[::1]", ["::1", 0]),
        (b"[::1]:55", ["::1", 55]),
        (b"[fe80::1%eth0]:55", ["fe80::1%eth0", 55]),
    ],
)
def test_addresses(value: bytes, client: list[object]) -> None:
    assert resolve((FOR, value)) == (client, "http")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" , ,",
        b"unknown",
        b"_hidden",
        b"localhost",
        b"1.2.3",
        b"1.2.3.4.5",
        b"01.2.3.4x",
        b"256.1.1.1",
        b"1.2.3.4 5.6.7.8",
        b"1.2.3.4%eth0",
        b"[::1",
        b"[::1]55",
        b"[1.2.3.4]",
        b"::1::2",
        b"1:2:3",
        b"\xff\xfe",
        b"1.2.3.4\x00",
        b"<script>",
        b"for=1.2.3.4",
        b"1" * 10000,
    ],
)
def test_what_is_no_address_leaves_the_peer(value: bytes) -> None:
    assert resolve((FOR, value), (PORT, b"1")) == (PEER, "http")
    assert resolve((FOR, value), client=None) == (None, "http")


def test_the_first_of_several_fields_counts() -> None:
    assert resolve((FOR, b"1.1.1.1"), (FOR, b"2.2.2.2"), (PORT, b"1"), (PORT, b"2"), (PROTO, b"https"), (PROTO, b"http")) == (
        ["1.1.1.1", 1],
        "https",
    )


def test_port_and_scheme_count_only_with_an_address_field() -> None:
    assert resolve((PORT, b"1"), (PROTO, b"https")) == (PEER, "http")
    assert resolve((b"forwarded", b"for=1.2.3.4;proto=https")) == (PEER, "http")


def test_the_scheme_counts_beside_an_address_that_is_hidden() -> None:
    assert resolve((FOR, b"unknown"), (PROTO, b"https")) == (PEER, "https")


@pytest.mark.parametrize(
    ("value", "port"), [(b"443", 443), (b" 443 ", 443), (b"443, 80", 443), (b"0", 0), (b"-1", 0), (b"+5", 0), (b"65536", 0), (b"1e3", 0)]
)
def test_ports(value: bytes, port: int) -> None:
    assert resolve((FOR, b"1.2.3.4"), (PORT, value)) == (["1.2.3.4", port], "http")


def test_the_port_beside_the_address_wins() -> None:
    assert resolve((FOR, b"1.2.3.4:55"), (PORT, b"443")) == (["1.2.3.4", 55], "http")
    assert resolve((FOR, b"1.2.3.4:x"), (PORT, b"443")) == (["1.2.3.4", 443], "http")


@pytest.mark.parametrize(
    ("value", "http", "websocket"),
    [
        (b"http", "http", "ws"),
        (b"https", "https", "wss"),
        (b"HTTPS", "https", "wss"),
        (b"ws", "http", "ws"),
        (b"wss", "https", "wss"),
        (b"https,http", "https", "wss"),
    ],
)
def test_schemes(value: bytes, http: str, websocket: str) -> None:
    for scheme in ("http", "https"):
        assert resolve((FOR, b"1.2.3.4"), (PROTO, value), scheme=scheme)[1] == http
    for scheme in ("ws", "wss"):
        assert resolve((FOR, b"1.2.3.4"), (PROTO, value), scheme=scheme)[1] == websocket


@pytest.mark.parametrize("value", [b"", b"javascript", b"httpss", b"https ftp", b"\xff"])
@pytest.mark.parametrize("scheme", ["http", "https", "ws", "wss"])
def test_other_schemes_are_ignored(value: bytes, scheme: str) -> None:
    assert resolve((FOR, b"1.2.3.4"), (PROTO, value), scheme=scheme)[1] == scheme


def test_fields_that_are_not_asked_for() -> None:
    headers = [(FOR, b"1.2.3.4"), (PORT, b"5"), (PROTO, b"https")]
    assert client_and_scheme(headers, FOR, None, None, PEER, "http") == (["1.2.3.4", 0], "http")
    assert client_and_scheme(headers, b"x-real-ip", PORT, PROTO, PEER, "http") == (PEER, "http")


@settings(deadline=None)
@given(address=st.binary() | st.text("0123456789.:[]%, abcdef").map(str.encode), port=st.binary(), proto=st.binary())
def test_whatever_arrives_the_answer_is_an_address(address: bytes, port: bytes, proto: bytes) -> None:
    client, scheme = resolve((FOR, address), (PORT, port), (PROTO, proto))
    assert scheme in {"http", "https"}
    ipaddress.ip_address(client[0].partition("%")[0])
    assert 0 <= client[1] <= 65535


@settings(deadline=None)
@given(host=st.ip_addresses(), port=st.integers(1, 65535))
def test_every_address_is_understood(host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    text = f"[{host}]" if host.version == 6 else str(host)
    assert resolve((FOR, f"{text}:{port}".encode())) == ([str(host), port], "http")
    assert resolve((FOR, str(host).encode()), (PORT, str(port).encode())) == ([str(host), port], "http")


class TwistedHeaders:
    """The one method of Twisted's ``Headers`` that counts, with its canonical names."""

    def __init__(self, values: dict[bytes, list[bytes]]) -> None:
        self.values = values

    def getAllRawHeaders(self) -> list[tuple[bytes, list[bytes]]]:  # noqa: N802 -- Twisted's name
        return list(self.values.items())


FORMS: list[Any] = [
    {b"X-Forwarded-For": b"10.1.2.3, 10.1.2.4", b"X-Forwarded-Port": b"1234", b"X-Forwarded-Proto": b"https"},
    {b"x-forwarded-for": [b"10.1.2.3", b"9.9.9.9"], b"x-forwarded-port": [b"1234"], b"x-forwarded-proto": [b"https"]},
    {"X-Forwarded-For": "10.1.2.3", "X-Forwarded-Port": "1234", "X-Forwarded-Proto": "HTTPS"},
    TwistedHeaders({b"X-Forwarded-For": [b"10.1.2.3"], b"X-Forwarded-Port": [b"1234"], b"X-Forwarded-Proto": [b"https"]}),
]


@pytest.mark.parametrize("headers", FORMS)
def test_the_legacy_function_takes_every_form(headers: Any) -> None:
    address, scheme = parse_x_forwarded_for(headers)
    assert (address, scheme) == (["10.1.2.3", 1234], "https")
    assert address is not None
    assert type(address[0]) is str
    assert parse_x_forwarded_for(headers, port_header_name=None, proto_header_name=None) == (["10.1.2.3", 0], None)
    assert parse_x_forwarded_for(headers, address_header_name=None, original_addr=PEER, original_scheme="http") == (PEER, "http")
    assert parse_x_forwarded_for(headers, address_header_name="X-Real-IP") == (None, None)


def test_the_legacy_function_without_fields() -> None:
    assert parse_x_forwarded_for({}) == (None, None)
    assert parse_x_forwarded_for({}, original_addr=["127.0.0.1", 80]) == (["127.0.0.1", 80], None)
    assert parse_x_forwarded_for({}, original_scheme="http") == (None, "http")
    assert parse_x_forwarded_for({"X-Forwarded-For": []}, original_addr=PEER) == (PEER, None)
    assert parse_x_forwarded_for({"X-Forwarded-For": "garbage", "X-Forwarded-Proto": "gopher"}, original_addr=PEER) == (PEER, None)


FIELDS = "X-Forwarded-For: [2001:db8::1]:55, 10.0.0.1\r\nX-Forwarded-Proto: HTTPS\r\n"


def upgrade(fields: str) -> bytes:
    return (
        f"GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    ).encode()


def test_requests_and_websockets_carry_what_the_proxy_says() -> None:
    lines: list[tuple[str, Any]] = []
    with serve(
        action_logger=lambda _, action, details: lines.append((action, details["client"])),
        proxy_forwarded_address_header="X-Forwarded-For",
        proxy_forwarded_port_header="X-Forwarded-Port",
        proxy_forwarded_proto_header="X-Forwarded-Proto",
    ) as server:
        with server.connect() as client:
            client.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{FIELDS}\r\n".encode())
            message = server.app.answer()
            assert (message["client"], message["scheme"]) == (["2001:db8::1", 55], "https")
            assert client.read_head().status == 200
        with server.connect() as client:
            client.send(upgrade(FIELDS))
            message = server.app.receive("websocket.connect")[1]
            assert (message["client"], message["scheme"]) == (["2001:db8::1", 55], "wss")
            server.app.reply(message, close=True)
            assert client.read_head().status == 403
            server.app.receive("websocket.disconnect")
    assert ("complete", "2001:db8::1:55") in lines
    assert ("connecting", "2001:db8::1:55") in lines


def test_fields_count_only_where_they_were_asked_for() -> None:
    with serve() as server, server.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: localhost\r\n{FIELDS}\r\n".encode())
        message = server.app.answer()
        assert message["client"] == list(client.sock.getsockname())
        assert message["scheme"] == "http"
        client.read_head()
