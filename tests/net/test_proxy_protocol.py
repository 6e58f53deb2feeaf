"""The PROXY protocol: the headers by themselves, read from sockets in any pieces, and in front of every protocol that the server speaks."""

from __future__ import annotations

import http.client
import ipaddress
import itertools
import logging
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket as cooperative
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect as connect_websocket

from greendaphne.config import Timeouts
from greendaphne.core.addresses import AddressList
from greendaphne.core.message import ClientDisconnected
from greendaphne.core.tlsinfo import TLSInfo
from greendaphne.net.endpoints import PROXY_PROTOCOL, ListeningOptions
from greendaphne.net.proxy_protocol import (
    LOG_PEERS,
    V1_MAX,
    V2_MAX,
    V2_SIGNATURE,
    HeaderReader,
    ProxyError,
    ProxyHeader,
    ProxyProtocol,
    crc32c,
    parse_v1,
    parse_v2,
)
from tests.support.certificates import Authority
from tests.support.proxy_headers import CLIENT, LOCAL, PROXY, SERVER, V1, V2, tlv, v2
from tests.support.server import PATIENCE, Client, RunningServer, serve
from tests.support.tls import client_context

ANY = PROXY_PROTOCOL["auto"]
GET = b"GET /path HTTP/1.1\r\nHost: localhost\r\n\r\n"


def v2_raw(command: int, protocol: int, rest: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack("!BBH", command, protocol, len(rest)) + rest


LONGEST = b":".join([b"ffff"] * 8)
UNIX_ADDRESSES = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")

# --- Headers ---

HEADERS = [
    (V1, ProxyHeader(CLIENT, SERVER)),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", ProxyHeader(["0.0.0.0", 0], ["255.255.255.255", 65535])),
    (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", ProxyHeader(["2001:db8::7", 4711], ["::1", 443])),
    (b"PROXY TCP6 2001:DB8:0::7 ::ffff:1.2.3.4 1 2\r\n", ProxyHeader(["2001:db8::7", 1], ["::ffff:1.2.3.4", 2])),
    (b"PROXY TCP6 " + LONGEST + b" " + LONGEST + b" 65535 65535\r\n", ProxyHeader([LONGEST.decode(), 65535], [LONGEST.decode(), 65535])),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + LONGEST + b" " + LONGEST + b" 65535 65535\r\n", None),
    (V2, ProxyHeader(CLIENT, SERVER)),
    (v2(["2001:db8::7", 4711], ["::1", 443]), ProxyHeader(["2001:db8::7", 4711], ["::1", 443])),
    (v2(CLIENT, SERVER, transport=2), ProxyHeader(CLIENT, SERVER)),
    (v2(CLIENT, SERVER, tlvs=tlv(4, b"") + tlv(2, b"www.example.com") + tlv(0xEE, bytes(300))), ProxyHeader(CLIENT, SERVER)),
    (v2_raw(PROXY, 0x31, UNIX_ADDRESSES), ProxyHeader(None, None)),
    (v2_raw(PROXY, 0x00, b""), None),
    (v2_raw(PROXY, 0x00, tlv(4, b"x")), None),
    (v2_raw(PROXY, 0x10, bytes(12)), None),
    (v2_raw(LOCAL, 0x00, b""), None),
    (v2_raw(LOCAL, 0xFF, b"anything"), None),
    (v2_raw(PROXY, 0x00, tlv(4, bytes(V2_MAX - 3))), None),
]

MALFORMED_V1 = [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY  TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 04711 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4_7 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 \xb2 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1  443\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.7\0 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 ::1 ::1 4711 443\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY tcp4 192.0.2.7 198.51.100.1 4711 443\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN \nx\r\n",
    b"PROXY \r\n",
    b"PROXY\r\n",
    b"PROXY",
    b"\r\n",
    b"",
]
MALFORMED_V2 = [
    b"",
    V2[:15],
    V2[:-1],
    V2 + b"x",
    V2_SIGNATURE[:-1] + b"x" + V2[12:],
    v2_raw(0x11, 0x11, bytes(12)),
    v2_raw(0x22, 0x11, bytes(12)),
    v2_raw(0x31, 0x11, bytes(12)),
    v2_raw(PROXY, 0x11, bytes(11)),
    v2_raw(PROXY, 0x21, bytes(35)),
    v2_raw(PROXY, 0x31, bytes(215)),
    v2_raw(PROXY, 0x41, bytes(12)),
    v2_raw(PROXY, 0x13, bytes(12)),
    v2(CLIENT, SERVER, tlvs=b"\x04"),
    v2(CLIENT, SERVER, tlvs=tlv(4, b"") * 65),
    v2(CLIENT, SERVER, tlvs=b"\x04\x00\x01"),
    v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x01")),
    v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x01" + bytes(4) + b"\x21\x00\x05")),
    v2(CLIENT, SERVER, tlvs=tlv(0x03, bytes(3))),
]


@pytest.mark.parametrize(("data", "expected"), HEADERS)
def test_parse(data: bytes, expected: ProxyHeader | None) -> None:
    assert (parse_v2 if data.startswith(V2_SIGNATURE) else parse_v1)(data) == expected


def test_longest_header_of_version_1() -> None:
    data = b"PROXY UNKNOWN " + LONGEST + b" " + LONGEST + b" 65535 65535\r\n"
    assert len(data) == V1_MAX
    with pytest.raises(ProxyError):
        parse_v1(data.replace(b"UNKNOWN ", b"UNKNOWN  "))


@pytest.mark.parametrize("line", MALFORMED_V1)
def test_malformed_version_1(line: bytes) -> None:
    with pytest.raises(ProxyError, match="malformed"):
        parse_v1(line)


@pytest.mark.parametrize("data", MALFORMED_V2)
def test_malformed_version_2(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_v2(data)


def test_tls_between_client_and_proxy() -> None:
    details = tlv(0x22, b"client.example") + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
    header = v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x01" + bytes(4) + details))
    assert parse_v2(header) == ProxyHeader(CLIENT, SERVER, TLSInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256"))
    assert parse_v2(v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x01" + bytes(4)))) == ProxyHeader(CLIENT, SERVER, TLSInfo("", ""))
    long = tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"x" * 10_000) + tlv(0x23, b"\xff"))
    assert parse_v2(v2(CLIENT, SERVER, tlvs=long)) == ProxyHeader(CLIENT, SERVER, TLSInfo("x" * 64, "\ufffd"))
    # The client spoke no TLS.
    assert parse_v2(v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x00" + bytes(4)))) == ProxyHeader(CLIENT, SERVER)


def test_checksum() -> None:
    # RFC 3720 appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E
    before = v2(CLIENT, SERVER, tlvs=tlv(4, b"x") + tlv(3, bytes(4)) + tlv(4, b"y"))
    place = len(before) - 8
    right = before[:place] + struct.pack("!I", crc32c(before)) + before[place + 4 :]
    assert parse_v2(right) == ProxyHeader(CLIENT, SERVER)
    with pytest.raises(ProxyError, match="checksum"):
        parse_v2(right[:-1] + b"z")


@given(st.binary(max_size=V1_MAX + 20) | st.builds(lambda rest: b"PROXY " + rest + b"\r\n", st.binary(max_size=110)))
def test_any_line(line: bytes) -> None:
    try:
        outcome = parse_v1(line)
    except ProxyError:
        return
    assert line.startswith((b"PROXY UNKNOWN", b"PROXY TCP4 ", b"PROXY TCP6 "))
    assert (outcome is None) == line.startswith(b"PROXY UNKNOWN")


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))
def test_any_header_of_version_2(command: int, protocol: int, rest: bytes) -> None:
    try:
        parse_v2(v2_raw(command, protocol, rest))
    except ProxyError:
        return
    assert command in (LOCAL, PROXY)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535))
def test_round_trip(client: Any, server: Any, client_port: int, server_port: int) -> None:
    if client.version != server.version:
        server = client
    first, second = [str(client), client_port], [str(server), server_port]
    found = parse_v2(v2(first, second))
    assert found is not None
    assert parse_v1(f"PROXY TCP{client.version} {client} {server} {client_port} {server_port}\r\n".encode()) == found
    for address, (host, port) in ((found.client, first), (found.server, second)):
        assert address is not None
        assert (ipaddress.ip_address(str(address[0])), address[1]) == (ipaddress.ip_address(str(host)), port)


# --- Sockets ---


@contextmanager
def pair() -> Iterator[tuple[Any, Any]]:
    """A peer that waits cooperatively, and the accepted side."""
    peer, accepted = cooperative.socketpair()
    try:
        yield peer, accepted
    finally:
        peer.close()
        accepted.close()


def send_in_pieces(peer: Any, data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        peer.sendall(data[start:end])
        gevent.sleep(0)
        gevent.sleep(0)


@settings(deadline=None)
@given(st.sampled_from(HEADERS), st.binary(max_size=40), st.lists(st.integers(0, 400), max_size=8))
def test_any_segmentation_and_not_a_byte_too_much(header: tuple[bytes, ProxyHeader | None], behind: bytes, cuts: list[int]) -> None:
    data, expected = header
    with pair() as (peer, accepted):
        sender = gevent.spawn(send_in_pieces, peer, data + behind, cuts)
        assert HeaderReader(accepted._sock, ANY, PATIENCE).read() == expected
        sender.join()
        peer.shutdown(socket.SHUT_WR)
        rest = b""
        while more := accepted.recv(1000):
            rest += more
    assert rest == behind


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda rest: V2_SIGNATURE + rest, st.binary(max_size=100)),
        st.builds(lambda rest: b"PROXY " + rest, st.binary(max_size=150)),
        st.builds(lambda header, end: header[0][:end], st.sampled_from(HEADERS), st.integers(0, 100)),
    ),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_any_garbage_has_a_defined_end(data: bytes, cuts: list[int]) -> None:
    with pair() as (peer, accepted):

        def send() -> None:
            try:
                send_in_pieces(peer, data, cuts)
                peer.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        sender = gevent.spawn(send)
        try:
            HeaderReader(accepted._sock, ANY, PATIENCE).read()
        except ProxyError:
            assert data
        except ClientDisconnected:
            assert not data
        accepted.close()
        sender.join()


@pytest.mark.parametrize(
    ("versions", "data", "reason"),
    [
        ("auto", b"G", "it does not begin with a PROXY header"),
        ("auto", GET, "it does not begin with a PROXY header"),
        ("auto", b"PROXX", "it does not begin with a PROXY header"),
        ("auto", b"\r\n\r\n\r\n", "it does not begin with a PROXY header"),
        ("auto", b"\x16\x03\x01", "it does not begin with a PROXY header"),
        ("auto", b"PROXY T", "it ended within its PROXY header"),
        ("auto", V1[:-1], "it ended within its PROXY header"),
        ("auto", V1[:-2] + b"x" * 200, "its PROXY header is longer than 107 bytes"),
        ("auto", b"PROXY TCP4 \r\n", "its PROXY header is malformed"),
        ("auto", V2[:14], "it ended within its PROXY header"),
        ("auto", V2[:-1], "it ended within its PROXY header"),
        ("auto", V2[:14] + b"\xff\xff" + bytes(70000), "its PROXY header is longer than 16384 bytes"),
        ("v1", V2, "its PROXY header has version 2, which this endpoint does not accept"),
        ("v2", V1, "its PROXY header has version 1, which this endpoint does not accept"),
    ],
)
def test_reasons(versions: str, data: bytes, reason: str) -> None:
    with pair() as (peer, accepted):
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(ProxyError) as caught:
            HeaderReader(accepted._sock, PROXY_PROTOCOL[versions], PATIENCE).read()
    assert str(caught.value) == reason


def test_time_limit_is_for_the_whole_header() -> None:
    with pair() as (peer, accepted):

        def drip() -> None:
            for byte in V1:
                peer.sendall(bytes([byte]))
                gevent.sleep(0.01)

        sender = gevent.spawn(drip)
        with pytest.raises(ProxyError) as caught:
            HeaderReader(accepted._sock, ANY, 0.1).read()
        sender.kill()
    assert str(caught.value) == "its PROXY header did not arrive within 0.1 seconds"


def test_peer_that_resets_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    peer: Any
    accepted: Any
    with cooperative.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        peer = cooperative.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    reader = HeaderReader(accepted._sock, ANY, PATIENCE)
    peer.sendall(V2[:5])
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gevent.spawn(peer.close)
    with pytest.raises(ClientDisconnected):
        ProxyProtocol().read(reader, "127.0.0.1")
    accepted.close()
    assert caplog.records == []


def test_the_log_hears_of_a_bounded_number_of_peers(caplog: pytest.LogCaptureFixture) -> None:
    protocol = ProxyProtocol(AddressList("10.0.0.1"))
    with pair() as (_, accepted):
        reader = HeaderReader(accepted._sock, ANY, PATIENCE)
        for host in (*(f"10.0.{number}.2" for number in range(LOG_PEERS + 50)), "10.0.0.2"):
            with pytest.raises(ClientDisconnected):
                protocol.read(reader, host)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == LOG_PEERS
    assert lines[0] == "Connection from 10.0.0.2 closed: PROXY headers are not taken from it (--proxy-allow-from)"


# --- Servers ---


@contextmanager
def behind_proxy(endpoint: str = "haproxy:tcp:0:interface=127.0.0.1", **options: Any) -> Iterator[RunningServer]:
    with serve(endpoints=[endpoint], **options) as server:
        yield server


def check_request(running: RunningServer, connection: Client, **expected: Any) -> None:
    connection.send(GET)
    message = running.app.answer(b"hello")
    assert {name: message[name] for name in expected} == expected
    assert connection.read_response().body == b"hello"


@pytest.mark.parametrize("header", [V1, V2])
def test_http1(header: bytes) -> None:
    with behind_proxy() as server, server.connect() as client:
        client.send(header)
        for _ in range(2):
            check_request(server, client, client=CLIENT, server=SERVER, scheme="http")


def test_header_and_requests_in_one_packet() -> None:
    with behind_proxy() as server, server.connect() as client:
        client.send(V1 + GET + GET)
        for _ in range(2):
            assert server.app.answer(b"hello")["client"] == CLIENT
            assert client.read_response().body == b"hello"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2_raw(LOCAL, 0, b"")])
def test_without_addresses_those_of_the_connection_count(header: bytes) -> None:
    with behind_proxy() as server, server.connect() as client:
        client.send(header)
        check_request(server, client, client=list(client.sock.getsockname()), server=["127.0.0.1", server.port])


def test_client_that_spoke_tls_with_the_proxy_is_https() -> None:
    with behind_proxy() as server, server.connect() as client:
        client.send(v2(CLIENT, SERVER, tlvs=tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3"))))
        check_request(server, client, client=CLIENT, scheme="https")


def test_unix_sockets(tmp_path: Path) -> None:
    with behind_proxy(f"haproxy:unix:{tmp_path}/x") as server, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(f"{tmp_path}/x")
        client = Client(sock)
        client.send(V1)
        check_request(server, client, client=CLIENT, server=SERVER)


def test_client_on_a_unix_socket() -> None:
    with behind_proxy() as server, server.connect() as client:
        client.send(v2_raw(PROXY, 0x31, UNIX_ADDRESSES))
        client.send(GET)
        message = server.app.answer(b"hello")
        assert "client" not in message or message["client"] is None
        assert client.read_response().body == b"hello"


@pytest.mark.parametrize(
    ("endpoint", "value", "header"),
    [("tcp:0:interface=127.0.0.1", "v1", V1), ("tcp:0:interface=127.0.0.1", "v2", V2), ("haproxy:tcp:0:interface=127.0.0.1", "v2", V1)],
)
def test_option_for_all_endpoints(endpoint: str, value: str, header: bytes) -> None:
    listening = ListeningOptions(proxy_protocol=PROXY_PROTOCOL[value])
    with behind_proxy(endpoint, listening=listening) as server, server.connect() as client:
        client.send(header)
        check_request(server, client, client=CLIENT)


def test_websocket() -> None:
    with behind_proxy() as server, ThreadPoolExecutor() as pool:
        sock = socket.create_connection(server.address, timeout=PATIENCE)
        sock.sendall(V1)
        opened = pool.submit(connect_websocket, f"ws://127.0.0.1:{server.port}/", sock=sock)
        _, message = server.app.receive("websocket.connect")
        assert message["client"] == CLIENT
        server.app.reply(message, accept=True)
        with opened.result(PATIENCE) as websocket:
            server.app.reply(message, text="hello")
            assert websocket.recv(PATIENCE) == "hello"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority.server("localhost", "127.0.0.1").write(directory / "DEFAULT.pem")
    return directory


@pytest.fixture(params=["haproxy:ssl:0:{0}/DEFAULT.pem", "haproxy:txsni:{0}:tcp:0", "txsni:{0}:haproxy:tcp:0"])
def secure_endpoint(request: pytest.FixtureRequest, certificates: Path) -> str:
    return f"{request.param.format(certificates)}:interface=127.0.0.1"


@pytest.mark.parametrize("header", [V1, V2])
def test_header_precedes_tls(authority: Authority, secure_endpoint: str, header: bytes) -> None:
    with behind_proxy(secure_endpoint) as server:
        sock = socket.create_connection(server.address, timeout=PATIENCE)
        # Together with the first record, of which nothing may be lost.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = client_context(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            secure.do_handshake()
        sock.sendall(header + outgoing.read())
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(sock.recv(65536))
        secure.write(GET)
        sock.sendall(outgoing.read())
        message = server.app.answer(b"hello")
        assert (message["client"], message["server"], message["scheme"]) == (CLIENT, SERVER, "https")
        sock.close()


def listening_fd() -> str:
    return f"fd:{socket.create_server(('127.0.0.1', 0)).detach()}"


KINDS: dict[str, Callable[[Path], str]] = {
    "tcp": lambda _: "tcp:0:interface=127.0.0.1",
    "tcp6": lambda _: r"tcp6:0:interface=\:\:1",
    "unix": lambda path: f"unix:{path}/x",
    "abstract": lambda path: f"unix:@greendaphne{path}",
    "fd": lambda _: listening_fd(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", ["", "haproxy:", "txsni:{0}:", "haproxy:txsni:{0}:", "txsni:{0}:haproxy:"])
def test_every_kind_with_and_without(authority: Authority, certificates: Path, tmp_path: Path, kind: str, wrapper: str) -> None:
    endpoint = wrapper.format(certificates) + KINDS[kind](tmp_path)
    with serve(endpoints=[endpoint]) as server:
        listener = server.server.listeners[0].socket
        sock = socket.socket(listener.family)
        sock.settimeout(PATIENCE)
        sock.connect(listener.getsockname())
        if "haproxy" in wrapper:
            sock.sendall(V2)
        if "txsni" in wrapper:
            sock = client_context(authority).wrap_socket(sock, server_hostname="localhost")
        with Client(sock) as client:
            client.send(GET)
            message = server.app.answer(b"hello")
            assert client.read_response().body == b"hello"
    expected = CLIENT if "haproxy" in wrapper else {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}.get(listener.family)
    found = message.get("client")
    assert (found if isinstance(expected, list) or found is None else found[0]) == expected
    assert message["scheme"] == ("https" if "txsni" in wrapper else "http")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_with_tls(authority: Authority, secure_endpoint: str, version: str) -> None:
    with behind_proxy(secure_endpoint) as server, ThreadPoolExecutor() as pool:
        answered = pool.submit(server.app.answer, b"hello")
        output = curl(version, "--cacert", str(authority.file), f"https://localhost:{server.port}/")
        message = answered.result(PATIENCE)
    assert output == b"hello " + version[6:].encode()
    # curl tells the addresses of its own connection.
    assert (message["client"][0], message["server"], message["http_version"]) == ("127.0.0.1", ["127.0.0.1", server.port], version[6:])


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_curl_without_tls(version: str) -> None:
    with behind_proxy(http2_cleartext=True) as server, ThreadPoolExecutor() as pool:
        answered = pool.submit(server.app.answer, b"hello")
        output = curl(version, f"http://127.0.0.1:{server.port}/")
        message = answered.result(PATIENCE)
    assert output.startswith(b"hello ")
    assert message["client"][0] == "127.0.0.1"


def curl(*arguments: str) -> bytes:
    command = ["curl", "-sS", "--ipv4", "--haproxy-protocol", "-w", " %{http_version}", *arguments]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True).stdout


def check_closed(client: Client) -> None:
    """Nothing but the end comes."""
    assert client.at_eof() or not client.buffer


@pytest.mark.parametrize("data", [GET, b"PROXY TCP4 nonsense\r\n" + GET, V2[:15] + b"\x00" + GET])
def test_no_header_no_service(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with behind_proxy() as server:
        for _ in range(3):
            with server.connect() as client:
                client.send(data)
                check_closed(client)
        assert server.app.drain("http.request") == []
    lines = [record.getMessage() for record in caplog.records if "PROXY" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("Connection from 127.0.0.1 closed: it")


def test_peers_that_are_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    with behind_proxy(proxy_allow_from=AddressList("192.0.2.1,10.0.0.0/8")) as server:
        for _ in range(3):
            with server.connect() as client:
                client.send(V1 + GET)
                check_closed(client)
        assert server.app.drain("http.request") == []
    lines = [record.getMessage() for record in caplog.records if "PROXY" in record.getMessage()]
    assert lines == ["Connection from 127.0.0.1 closed: PROXY headers are not taken from it (--proxy-allow-from)"]


def test_port_checks_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with behind_proxy() as server, server.connect() as client:
        client.half_close()
        check_closed(client)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_silent_connections_end(caplog: pytest.LogCaptureFixture) -> None:
    with behind_proxy(timeouts=Timeouts(header=0.1)) as server, server.connect() as client:
        assert client.at_eof()
    assert "Connection from 127.0.0.1 closed: its PROXY header did not arrive within 0.1 seconds" in caplog.text


def test_silent_connections_do_not_hold_up_the_end() -> None:
    with serve(endpoints=["haproxy:tcp:0:interface=127.0.0.1"], timeouts=Timeouts(graceful=PATIENCE * 2)) as server:
        client = server.connect()
        other = server.connect()
        other.send(b"PROXY TC")
    assert client.at_eof()
    assert other.at_eof()
    client.close()
    other.close()


def test_http_client_library() -> None:
    with behind_proxy() as server, ThreadPoolExecutor() as pool:
        answered = pool.submit(server.app.answer, b"x" * 100_000)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.connect()
        connection.sock.sendall(V2)
        connection.request("POST", "/", body=b"y" * 200_000)
        assert connection.getresponse().read() == b"x" * 100_000
        assert answered.result(PATIENCE)["body"] == b"y" * 200_000
        connection.close()
