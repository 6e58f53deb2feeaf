"""Attacks on what the server believes about its clients, on the wire: fields in every disguise, PROXY headers, pages and drains."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
from hyperframe.frame import GoAwayFrame

from greendaphne.config import Timeouts
from greendaphne.core.addresses import AddressList
from greendaphne.core.message import Request
from greendaphne.http1 import connection as http1_connection
from greendaphne.http2 import PREFACE
from greendaphne.net.endpoints import PROXY_PROTOCOL, ListeningOptions
from greendaphne.net.proxy_protocol import ProxyError, ProxyHeader, crc32c, parse_v2
from greendaphne.serving import connections
from greendaphne.serving.forwarded.hops import UNKNOWN, Hop, forwarded_hops, x_forwarded_hops
from greendaphne.serving.localpages import LocalPages
from tests.support.certificates import Authority
from tests.support.http2 import GET as H2_GET
from tests.support.http2 import Peer, RawPeer
from tests.support.proxy_headers import CLIENT, SERVER, V1, V2, tlv, v2
from tests.support.server import PATIENCE, Client, RunningServer, serve
from tests.support.tls import client_context

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLAIMS = (b"forwarded", b"x-forwarded", b"x_forwarded", b"daphne")


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: localhost", *lines, b"", body])


@pytest.fixture(scope="module")
def trusting() -> Iterator[RunningServer]:
    """Believes its clients here, as it would a proxy."""
    with serve(forwarded_allow_ips="127.0.0.1", http2_cleartext=True) as server:
        yield server


@pytest.fixture(scope="module")
def wary() -> Iterator[RunningServer]:
    with serve(forwarded_allow_ips="192.0.2.1", http2_cleartext=True) as server:
        yield server


# --- Fields ---

REFUSED = [
    request(b"X-Forwarded-For: 9.9.9.9", b" , 127.0.0.1"),
    request(b"X-Forwarded-For:", b"\t9.9.9.9"),
    request(b"X-Forwarded-For : 9.9.9.9"),
    request(b" X-Forwarded-For: 9.9.9.9"),
    request(b"X-Forwarded-For\x00: 9.9.9.9"),
    request(b"X-Forwarded\xadFor: 9.9.9.9"),
    request(b"X-Forwarded-For: 9.9.9.9\x00"),
    request(b"X-Forwarded-For: 9.9.9.9\rDaphne-Root-Path: /evil"),
    request(b"A: b\nX-Forwarded-For: 9.9.9.9"),
    request(b"A: b\x0bX-Forwarded-For: 9.9.9.9"),
    request(b"X-Forwarded-For"),
]


@pytest.mark.parametrize("data", REFUSED)
def test_fields_in_disguise_are_refused(trusting: RunningServer, data: bytes) -> None:
    with trusting.connect() as client:
        client.send(data)
        assert client.read_response().status == 400
        assert client.at_eof()
    assert trusting.app.drain("http.request") == []


NOT_HEARD = [
    request(b"X_Forwarded_For: 9.9.9.9", b"X-Forwarded_For: 9.9.9.9", b"X_Forwarded_Proto: https", b"Daphne_Root_Path: /evil"),
    request(
        b"Transfer-Encoding: chunked",
        line=b"POST / HTTP/1.1",
        body=b"0\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nDaphne-Root-Path: /evil\r\n\r\n",
    ),
    request(b"A: b\x85X-Forwarded-For: 9.9.9.9"),
    request(line=b"GET http://localhost/?X-Forwarded-For:%209.9.9.9 HTTP/1.1"),
    request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
]


@pytest.mark.parametrize("server", ["trusting", "wary"])
@pytest.mark.parametrize("data", NOT_HEARD)
def test_what_only_resembles_a_field_changes_nothing(server: str, data: bytes, request: pytest.FixtureRequest) -> None:
    running: RunningServer = request.getfixturevalue(server)
    with running.connect() as client:
        client.send(data)
        message = running.app.answer()
        assert client.read_response().status == 200
        assert (message["client"], message["scheme"]) == (list(client.sock.getsockname()), "http")
        assert message["root_path"] == ""
        assert not [name for name, _ in message["headers"] if name.startswith(CLAIMS)]
        # An offer of h2c is no more than that: the connection goes on as it was.
        client.send(GET)
        running.app.answer()
        assert client.read_response().version == "HTTP/1.1"


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"X-Forwarded-For", b"x-FORWARDED-for"])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET http://localhost/ HTTP/1.1", b"OPTIONS * HTTP/1.1"])
def test_every_form_of_request_is_judged_alike(trusting: RunningServer, wary: RunningServer, line: bytes, name: bytes) -> None:
    data = request(name + b": 6.6.6.6", name + b": 6.6.6.6, 9.9.9.9", b"Daphne-Root-Path: /a", b"daphne-root-path: /b", line=line)
    for running in (trusting, wary):
        with running.connect() as client:
            client.send(data)
            message = running.app.answer()
            client.read_response()
            own = list(client.sock.getsockname())
        expected = (["9.9.9.9", 0], "/b") if running is trusting else (own, "")
        assert (message["client"], message["root_path"]) == expected


def test_a_connection_field_hides_nobody(trusting: RunningServer) -> None:
    """It names fields for proxies to take out, which have none to take out behind them."""
    with trusting.connect() as client:
        client.send(request(b"Connection: X-Forwarded-For, keep-alive", b"X-Forwarded-For: 9.9.9.9"))
        assert trusting.app.answer()["client"] == ["9.9.9.9", 0]
        assert client.read_response().status == 200


@pytest.mark.parametrize(
    "field",
    [
        (b":x-forwarded-for", b"9.9.9.9"),
        (b"X-Forwarded-For", b"9.9.9.9"),
        (b"x-forwarded-for", b"9.9.9.9\r\ndaphne-root-path: /evil"),
        (b"x-forwarded-for", b" 9.9.9.9"),
        (b"x-forwarded-for:", b"9.9.9.9"),
        (b"x-forwarded-for ", b"9.9.9.9"),
        (b"", b"9.9.9.9"),
    ],
)
def test_fields_in_disguise_over_http2(trusting: RunningServer, field: tuple[bytes, bytes]) -> None:
    with RawPeer(trusting) as peer:
        peer.send(peer.headers(1, [*H2_GET, field]))
        peer.reset(1)
        peer.alive()
    assert trusting.app.drain("http.request") == []


def test_trailers_over_http2_claim_nothing(trusting: RunningServer) -> None:
    with RawPeer(trusting) as peer:
        peer.send(peer.headers(1, flags=("END_HEADERS",)))
        peer.send(peer.headers(1, [(b"x-forwarded-for", b"9.9.9.9"), (b"daphne-root-path", b"/x")]))
        message = trusting.app.answer()
        assert peer.status(1) == 200
        assert (message["client"], message["root_path"]) == (list(peer.sock.getsockname()), "")


def test_a_websocket_over_http2_is_judged_like_a_request(wary: RunningServer) -> None:
    connect = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *H2_GET[1:], (b"sec-websocket-version", b"13")]
    with Peer(wary) as peer:
        peer.request([*connect, (b"x-forwarded-for", b"9.9.9.9"), (b"forwarded", b"for=9.9.9.9"), (b"daphne-root-path", b"/x")], end=False)
        message = wary.app.receive("websocket.connect")[1]
        wary.app.reply(message, close=True)
        assert (message["client"], message["root_path"]) == (list(peer.sock.getsockname()), "")
        assert not [name for name, _ in message["headers"] if name.startswith(CLAIMS)]
    wary.app.receive("websocket.disconnect")


def test_an_ipv4_peer_on_a_socket_for_both_families() -> None:
    for trusted, expected in (("127.0.0.1", ["9.9.9.9", 0]), ("::ffff:127.0.0.0/104", ["9.9.9.9", 0]), ("::1,192.0.2.1", None)):
        with serve(endpoints=[r"tcp6:0:interface=\:\:"], forwarded_allow_ips=trusted) as server, ExitStack() as stack:
            client = stack.enter_context(Client(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)))
            client.send(request(b"X-Forwarded-For: 9.9.9.9"))
            message = server.app.answer()
            client.read_response()
            host, port = client.sock.getsockname()
            assert message["client"] == (expected or [f"::ffff:{host}", port])


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::%1/64", "1.2.3.4%eth0"])
def test_a_zone_in_a_list_is_refused(text: str) -> None:
    """Trusting the address on every link would be more than was asked for."""
    with pytest.raises(ValueError, match="is none of these"):
        AddressList(text)
    assert "fe80::1%eth0" in AddressList("fe80::1")


class Counted(bytes):
    """A field value that counts how often it is searched."""

    searches = 0

    def rfind(self, *arguments: Any) -> int:
        Counted.searches += 1
        return super().rfind(*arguments)


@pytest.mark.parametrize("filling", [b",", b" ,", b"\t,", b", , "])
def test_empty_elements_cost_nothing_each(filling: bytes) -> None:
    """RFC 9110 section 5.6.1.2: a reasonable number has to be ignored, and any number must not be an attack."""
    for hops, element in ((x_forwarded_hops, b"1.2.3.4"), (forwarded_hops, b"for=1.2.3.4")):
        Counted.searches = 0
        value = Counted(filling * 5000 + element + filling * 5000 + element + filling * 5000)
        assert list(hops(value)) == [Hop(True, "1.2.3.4")] * 2
        assert list(hops(Counted(filling * 5000))) == []
        assert Counted.searches < 20
    assert list(x_forwarded_hops(b"\x0b,\x0c,x")) == [UNKNOWN]


# --- PROXY headers ---


@pytest.mark.parametrize("second", [V1, V2, b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize("first", [V1, V2])
@pytest.mark.parametrize("cleartext", [False, True])
def test_a_second_header_is_no_request(first: bytes, second: bytes, cleartext: bool) -> None:
    with serve(endpoints=["haproxy:tcp:0:interface=127.0.0.1"], http2_cleartext=cleartext) as server, server.connect() as client:
        client.send(first + second + GET)
        assert client.read_response().status == 400
        assert client.at_eof()
        assert server.app.drain("http.request") == []


@pytest.mark.parametrize("second", [V1, V2])
def test_a_header_between_requests_changes_nobody(second: bytes) -> None:
    with serve(endpoints=["haproxy:tcp:0:interface=127.0.0.1"]) as server, server.connect() as client:
        client.send(V1 + GET)
        assert server.app.answer()["client"] == CLIENT
        client.read_response()
        client.send(second.replace(b"192.0.2.7", b"127.0.0.1") + GET)
        assert client.read_response().status == 400
        assert server.app.drain("http.request") == []


@pytest.mark.parametrize("header", [V1, V2])
def test_a_header_where_none_is_asked_for_is_no_request(header: bytes) -> None:
    with serve(http2_cleartext=True) as server, server.connect() as client:
        client.send(header + GET)
        assert client.read_response().status == 400
        assert server.app.drain("http.request") == []


def test_a_header_within_tls_is_no_request(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate = authority.server("localhost").write(tmp_path / "site.pem")
    with serve(endpoints=[f"haproxy:ssl:0:{certificate}:interface=127.0.0.1"]) as server:
        sock = socket.create_connection(server.address, timeout=PATIENCE)
        sock.sendall(V1)
        with Client(client_context(authority).wrap_socket(sock, server_hostname="localhost")) as client:
            client.send(V2 + GET)
            assert client.read_response().status == 400
        # The client's own, behind the handshake that it should have preceded.
        sock = socket.create_connection(server.address, timeout=PATIENCE)
        with Client(sock), pytest.raises((ssl.SSLError, ConnectionError)):
            client_context(authority).wrap_socket(sock, server_hostname="localhost")
        assert server.app.drain("http.request") == []


def test_a_peer_that_is_not_trusted_is_not_read() -> None:
    """It is sent away before it has said anything, so it cannot hold a place by saying it slowly."""
    with serve(endpoints=["haproxy:tcp:0:interface=127.0.0.1"], proxy_allow_from="192.0.2.1") as server, server.connect() as client:
        assert client.at_eof()


def test_what_a_header_says_is_itself_believed_only_from_the_list() -> None:
    """The PROXY header names the client; the fields are its own words unless it is a proxy, too."""
    listening = ListeningOptions(proxy_protocol=PROXY_PROTOCOL["auto"])
    trusted = "127.0.0.1,10.0.0.0/8,fe80::1"
    with serve(listening=listening, forwarded_allow_ips=trusted) as server:
        for host, expected in (
            ("10.0.0.1", "9.9.9.9"),
            ("::ffff:10.0.0.1", "9.9.9.9"),
            ("fe80::1", "9.9.9.9"),
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
            ("::10.0.0.1", "::10.0.0.1"),
            ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
        ):
            with server.connect() as client:
                client.send(v2([host, 5], ["10.0.0.9" if "." in host and ":" not in host else "::9", 80]))
                client.send(request(b"X-Forwarded-For: 9.9.9.9"))
                assert server.app.answer()["client"][0] == expected
                client.read_response()


def test_only_one_checksum_is_computed() -> None:
    """Each takes milliseconds of a long header, which has room for thousands."""
    before = v2(CLIENT, SERVER, tlvs=tlv(3, bytes(4)))
    once = before[:-4] + struct.pack("!I", crc32c(before))
    assert parse_v2(once) == ProxyHeader(CLIENT, SERVER)
    # A second one over the first, with both of them right, is not even looked at.
    with pytest.raises(ProxyError, match="checksum"):
        parse_v2(v2(CLIENT, SERVER, tlvs=tlv(3, bytes(4)) * 2000))
    first, second = forged_checksums()
    with pytest.raises(ProxyError, match="checksum"):
        parse_v2(v2(CLIENT, SERVER, tlvs=tlv(3, first) + tlv(3, second)))


def forged_checksums() -> tuple[bytes, bytes]:
    """Two checksums in one header that are both right: the CRC is linear, so the equations for the 32 bits of one can be solved."""
    place = len(V2) + 3

    def error(first: int) -> int:
        """How wrong ``first`` is where the second checksum is right for it."""
        data = v2(CLIENT, SERVER, tlvs=tlv(3, struct.pack("!I", first)) + tlv(3, bytes(4)))
        data = data[:-4] + struct.pack("!I", crc32c(data))
        return first ^ crc32c(data[:place] + bytes(4) + data[place + 4 :])

    constant = error(0)
    # Gaussian elimination: by its highest bit, what can be made of single bits, and of which.
    rows: dict[int, tuple[int, int]] = {}
    for bit in range(32):
        value, made_of = error(1 << bit) ^ constant, 1 << bit
        while value and (row := rows.get(value.bit_length())):
            value, made_of = value ^ row[0], made_of ^ row[1]
        if value:
            rows[value.bit_length()] = value, made_of
    value, first = constant, 0
    while value:
        row = rows[value.bit_length()]
        value, first = value ^ row[0], first ^ row[1]
    data = v2(CLIENT, SERVER, tlvs=tlv(3, struct.pack("!I", first)) + tlv(3, bytes(4)))
    return struct.pack("!I", first), struct.pack("!I", crc32c(data))


# --- Pages ---


@pytest.fixture
def pages() -> Iterator[tuple[RunningServer, LocalPages]]:
    with serve(health_path="/health", metrics_path="/metrics", http2_cleartext=True) as server:
        own: Any = server.server._connections
        yield server, own.exchange._handler


@pytest.mark.parametrize(
    "path",
    [
        b"/health/", b"//health", b"/./health", b"/x/../health", b"/health/../health", b"/%68ealth", b"/health%00", b"/health;a",
        b"/HEALTH", b"/health%3Fa", b"/%2Fhealth", b"/metrics/",
    ],
)  # fmt: skip
def test_whatever_is_not_the_very_path_is_the_application_s(pages: tuple[RunningServer, LocalPages], path: bytes) -> None:
    server, _ = pages
    with server.connect() as client:
        client.send(request(line=b"GET " + path + b" HTTP/1.1"))
        server.app.answer(b"the application's")
        assert client.read_response().body == b"the application's"


@pytest.mark.parametrize("line", [b"GET http://evil.example/health?x HTTP/1.1", b"GET /health?/../x HTTP/1.1", b"HEAD /health HTTP/1.0"])
def test_every_form_of_the_very_path_is_the_page(pages: tuple[RunningServer, LocalPages], line: bytes) -> None:
    server, _ = pages
    with server.connect() as client:
        client.send(request(line=line))
        assert client.read_response(line[:4].decode().strip()).status == 200


@pytest.mark.parametrize(
    ("line", "status"), [(b"CONNECT /health HTTP/1.1", 501), (b"CONNECT health:80 HTTP/1.1", 501), (b"GET health HTTP/1.1", 400)]
)
def test_other_forms_are_refused(pages: tuple[RunningServer, LocalPages], line: bytes, status: int) -> None:
    server, _ = pages
    with server.connect() as client:
        client.send(request(line=line))
        assert client.read_response().status == status
        assert client.at_eof()


def test_the_whole_server_is_no_page(pages: tuple[RunningServer, LocalPages]) -> None:
    server, _ = pages
    with server.connect() as client:
        client.send(request(line=b"OPTIONS * HTTP/1.1"))
        assert server.app.answer()["path"] == "*"
        assert client.read_response().status == 200


@pytest.mark.parametrize(
    ("fields", "connection"),
    [
        # Short enough to be skipped behind the response.
        ([b"Content-Length: 1000"], None),
        ([b"Content-Length: 1000000"], "close"),
        ([b"Transfer-Encoding: chunked"], "close"),
        ([b"Content-Length: 1000", b"Expect: 100-continue"], "close"),
    ],
)
def test_a_body_for_a_page_is_neither_asked_for_nor_waited_for(
    pages: tuple[RunningServer, LocalPages], fields: list[bytes], connection: str | None
) -> None:
    server, _ = pages
    with server.connect() as client:
        client.send(request(*fields, line=b"GET /health HTTP/1.1") + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (200, connection)
        client.half_close()
        assert client.at_eof()
    assert server.app.drain("http.request") == []


@pytest.mark.parametrize("line", [b"GET /page HTTP/1.1", b"POST /page HTTP/1.1", b"GET /\xe9 HTTP/1.1"])
def test_requests_sent_ahead_leave_others_their_turn(pages: tuple[RunningServer, LocalPages], line: bytes) -> None:
    """A page waits for nothing, so nothing else makes the greenlet of its connection give way."""
    server, own = pages
    answered, seen = 0, []

    def page(_: Request) -> Any:
        nonlocal answered
        answered += 1
        return 200, [], b""

    own.add(b"/page", page)
    own.add(b"/first", lambda _: (gevent.spawn(lambda: seen.append(answered)), (200, [], b""))[1])
    own.add(b"/last", lambda _: (200, [], b"%d" % len(seen)))
    with server.connect() as client:
        # In one segment, which is read at once.
        client.send(request(line=b"GET /first HTTP/1.1") + request(line=line) * 20 + request(line=b"GET /last HTTP/1.1"))
        for _ in range(21):
            client.read_response()
        assert client.read_response().body == b"1"
    assert seen == [0]


def test_strangers_learn_nothing_about_others_from_a_page(pages: tuple[RunningServer, LocalPages]) -> None:
    server, _ = pages
    secrets = (b"/s3cret-path", b"s3cret-field", b"S3CRET", b"203.0.113.77")
    with server.connect() as client:
        client.send(request(b"A: s3cret-field", b"X-Forwarded-For: 203.0.113.77", line=b"S3CRET /s3cret-path?s3cret-field HTTP/1.1"))
        server.app.answer()
        client.read_response()
        for path in (b"/metrics", b"/health"):
            client.send(request(line=b"GET " + path + b" HTTP/1.1"))
            response = client.read_response()
            assert response.status == 200
            for secret in (*secrets, client.sock.getsockname()[0].encode()):
                assert secret not in response.head + response.body


def test_a_preface_that_drips_is_not_waited_for() -> None:
    """The time limit of a head is for all of it, also before it is known which protocol it belongs to."""
    with serve(http2_cleartext=True, timeouts=Timeouts(header=0.2, graceful=2)) as server, server.connect() as client:
        client.sock.settimeout(0.05)
        ended = False
        for byte in PREFACE[:-1]:
            try:
                client.send(bytes([byte]))
                ended = client.sock.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
            break
        assert ended


# --- The end ---


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, str]:
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority.make(directory)
    return authority, f"ssl:0:{authority.server('localhost').write(directory / 'site.pem')}:interface=127.0.0.1"


def client_hello(authority: Authority) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client_context(authority).wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def until_undecided(server: RunningServer, number: int) -> None:
    """Wait until so many connections are read from that have not said what they speak."""
    own: Any = server.server._connections
    asked = threading.Event()

    def look() -> None:
        if len(own._undecided) >= number:
            asked.set()
        else:
            gevent.spawn_later(0.005, look)

    inside: Any = server.server
    inside._hub.loop.run_callback_threadsafe(lambda: gevent.spawn(look))
    assert asked.wait(PATIENCE)


def test_handshakes_that_do_not_end_do_not_hold_up_the_end(secure: tuple[Authority, str], caplog: pytest.LogCaptureFixture) -> None:
    """Neither before nor within TLS, a PROXY header, or HTTP/2's preface; each would have its whole time limit otherwise."""
    authority, endpoint = secure
    hello = client_hello(authority)
    endpoints = [endpoint, f"haproxy:{endpoint}", "tcp:0:interface=127.0.0.1"]
    begun = {0: [b"", hello[:1], hello[:40], hello], 1: [b"", b"PROXY ", V2[:13], V1, V1 + hello[:40]], 2: [b"", b"PRI * HTTP"]}
    long = Timeouts(graceful=PATIENCE * 2, header=PATIENCE * 2, tls_handshake=PATIENCE * 2, keep_alive=PATIENCE * 2)
    with ExitStack() as stack:
        with serve(endpoints=endpoints, timeouts=long, http2_cleartext=True) as server:
            clients = []
            for number, beginnings in begun.items():
                for data in beginnings:
                    address = server.server.listeners[number].socket.getsockname()
                    clients.append(stack.enter_context(Client(socket.create_connection(address, timeout=PATIENCE))))
                    clients[-1].send(data)
            until_undecided(server, len(clients))
        for client in clients:
            client.sock.settimeout(0)
            try:
                client.read_to_eof()
            except EOFError:
                pass  # reset, as it had sent what nobody read
    assert "cut short" not in caplog.text


@pytest.fixture
def long_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """For clients that do come; a busy machine may take longer than the moment that silent ones have."""
    for module in (connections, http1_connection):
        monkeypatch.setattr(module, "DRAIN_MOMENT", PATIENCE)


@pytest.mark.usefixtures("long_moment")
def test_a_handshake_that_comes_with_the_drain_is_finished_and_its_request_answered(secure: tuple[Authority, str]) -> None:
    authority, endpoint = secure
    with serve(endpoints=[f"haproxy:{endpoint}"], timeouts=Timeouts(graceful=PATIENCE)) as server, ExitStack() as clients:
        begun = [clients.enter_context(server.connect()) for _ in range(3)]
        begun[1].send(V2[:20])
        begun[2].send(V2)
        until_undecided(server, 3)
        server.server.stop()
        for client, rest in zip(begun, (V2, V2[20:], b""), strict=True):
            client.send(rest)
            client.sock = client_context(authority).wrap_socket(client.sock, server_hostname="localhost")
            client.send(GET)
        for _ in begun:
            assert server.app.answer(b"ok")["client"] == CLIENT
        for client in begun:
            response = client.read_response()
            assert (response.body, response.header("Connection")) == (b"ok", "close")


@pytest.mark.usefixtures("long_moment")
def test_http2_that_begins_with_the_drain_is_answered_and_told() -> None:
    """SETTINGS have not been exchanged yet; the request that comes with the preface is answered all the same."""
    with serve(http2_cleartext=True, timeouts=Timeouts(graceful=PATIENCE)) as server:
        peer = RawPeer(server, preface=False)
        peer.sock.sendall(b"PRI * HTTP/2")
        until_undecided(server, 1)
        server.server.stop()
        peer.sock.sendall(b".0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + peer.headers(1).serialize())
        server.app.answer(b"ok")
        assert peer.wait(GoAwayFrame).last_stream_id == 2**31 - 1
        assert peer.status(1) == 200
        peer.sock.close()
