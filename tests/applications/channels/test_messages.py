"""The messages that HTTP requests become: keys, types and values, whatever way the bytes arrive."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import Client, RunningServer, serve

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningServer]:
    """One server for many small requests."""
    with serve() as running:
        yield running


def exchange(server: RunningServer, *segments: bytes) -> dict[str, Any]:
    """Send ``segments`` one by one and return the message that they became."""
    with server.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            client.send(segment)
        message = server.app.answer(b"ok")
        assert client.read_response().status == 200
        return message


def test_every_key_and_type(shared: RunningServer) -> None:
    with shared.connect() as client:
        port = client.sock.getsockname()[1]
        client.send(
            b"POST /a%20b/%C3%A9?x=%20y&z HTTP/1.1\r\nHost: Example.com:80\r\n"
            b"X-Two: 1\r\nX-Other: \t v \r\nx-two: 2\r\nContent-Length: 2\r\n\r\nhi"
        )
        message = shared.app.answer()
        assert message == {
            "reply_channel": message["reply_channel"],
            "http_version": "1.1",
            "method": "POST",
            "path": "/a b/é",
            "root_path": "",
            "scheme": "http",
            "query_string": b"x=%20y&z",
            "headers": [(b"host", b"Example.com:80"), (b"x-two", b"1"), (b"x-other", b"v"), (b"x-two", b"2"), (b"content-length", b"2")],
            "body": b"hi",
            "client": ["127.0.0.1", port],
            "server": ["127.0.0.1", shared.port],
        }
        assert {key: type(value) for key, value in message.items()} == {
            "reply_channel": str,
            "http_version": str,
            "method": str,
            "path": str,
            "root_path": str,
            "scheme": str,
            "query_string": bytes,
            "headers": list,
            "body": bytes,
            "client": list,
            "server": list,
        }
        assert all(type(field) is tuple and [type(part) for part in field] == [bytes, bytes] for field in message["headers"])


def test_reply_channels(shared: RunningServer) -> None:
    """The process' part is constant, the client's part is new for each request, keep-alive or not."""
    names = [exchange(shared, GET)["reply_channel"] for _ in range(3)]
    with shared.connect() as client:
        for _ in range(2):
            client.send(GET)
            names.append(shared.app.answer()["reply_channel"])
            client.read_response()
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"daphne\.response\.[A-Za-z]{10}![A-Za-z]{10}", name) for name in names)
    assert len({name.partition("!")[0] for name in names}) == 1


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/a+b", "/a+b", b""),
        (b"//a//b/", "//a//b/", b""),
        (b"/a%2Fb", "/a/b", b""),
        (b"/%ff", "/\ufffd", b""),
        (b"/%zz%", "/%zz%", b""),
        (b"/a%00b%0a", "/a\0b\n", b""),
        (b"/a?b?c", "/a", b"b?c"),
        (b"/a?\xff\x80", "/a", b"\xff\x80"),
        (b"/a?", "/a", b""),
        (b"/a;b=c", "/a;b=c", b""),
        (b"http://other.example:81", "/", b""),
        (b"HTTP://other.example:81?x", "/", b"x"),
        (b"http://other.example:81/a%20b?x?y", "/a b", b"x?y"),
    ],
)
def test_paths(shared: RunningServer, target: bytes, path: str, query: bytes) -> None:
    message = exchange(shared, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (message["path"], message["query_string"]) == (path, query)
    if b"other.example" in target:
        assert message["headers"] == [(b"host", b"other.example:81")]


def test_the_host_of_the_target_without_a_field(shared: RunningServer) -> None:
    message = exchange(shared, b"GET http://other.example/a HTTP/1.0\r\nX: y\r\n\r\n")
    assert (message["path"], message["headers"]) == ("/a", [(b"host", b"other.example"), (b"x", b"y")])


def test_headers_for_the_server_are_taken_out(shared: RunningServer) -> None:
    message = exchange(shared, b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.2.3.4\r\ndaphne-ROOT-path: /a%20b\r\nX-Y: z\r\n\r\n")
    assert message["headers"] == [(b"host", b"a"), (b"x-y", b"z")]
    assert message["root_path"] == "/a b"


def test_root_path_option() -> None:
    with serve(root_path="/x%20y") as server:
        assert exchange(server, GET)["root_path"] == "/x y"
        assert exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nDaphne-Root-Path: /z\r\n\r\n")["root_path"] == "/z"
        message = exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nDaphne-Root-Path: \xff\r\n\r\n")
        assert (message["root_path"], message["headers"]) == ("/x y", [(b"host", b"a")])


def test_hop_by_hop_headers_are_passed_on(shared: RunningServer) -> None:
    message = exchange(
        shared, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nTE: trailers\r\n\r\n"
    )
    assert [name for name, _ in message["headers"]] == [b"host", b"connection", b"upgrade", b"http2-settings", b"te"]


def test_unix_socket_has_no_addresses(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("u") / "s")
    with serve(endpoints=[f"unix:{path}"]) as server:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with Client(sock) as client:
            client.send(GET)
            message = server.app.answer()
            assert client.read_response().status == 200
        assert (message["client"], message["server"]) == (None, None)


def test_ipv6_addresses() -> None:
    with serve(endpoints=[r"tcp:0:interface=\:\:1"]) as server:
        message = exchange(server, GET)
        assert message["client"][0] == "::1"
        assert message["server"] == ["::1", server.port]


def test_several_endpoints(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("u") / "s")
    with serve(endpoints=["tcp:0:interface=127.0.0.1", f"unix:{path}", "tcp:0:interface=127.0.0.1"]) as server:
        assert [listener.result.getHost().port for listener in server.server.listeners][1] is None
        for listener in server.server.listeners:
            address = listener.getHost()
            sock = socket.socket(socket.AF_UNIX if address.port is None else socket.AF_INET)
            sock.connect(path if address.port is None else (address.host, address.port))
            with Client(sock) as client:
                client.send(GET)
                server.app.answer()
                assert client.read_response().status == 200


# ---- what proxies say


@pytest.mark.parametrize(
    ("fields", "client", "scheme"),
    [
        (b"X-Forwarded-For: 1.2.3.4\r\n", ["1.2.3.4", 0], "http"),
        (b"X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-Port: 99\r\nX-Forwarded-Proto: HTTPS\r\n", ["1.2.3.4", 99], "https"),
        (b"X-Forwarded-For: [::1]:55\r\n", ["::1", 55], "http"),
        (b"X-Forwarded-For: <script>\r\n", None, "http"),
        (b"X-Forwarded-For: \xff\xfe\r\n", None, "http"),
        (b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: javascript\r\n", ["1.2.3.4", 0], "http"),
        (b"X_Forwarded_For: 1.2.3.4\r\n", None, "http"),
    ],
)
def test_proxy_headers(fields: bytes, client: list[Any] | None, scheme: str) -> None:
    with serve(
        proxy_forwarded_address_header="X-Forwarded-For",
        proxy_forwarded_port_header="X-Forwarded-Port",
        proxy_forwarded_proto_header="X-Forwarded-Proto",
    ) as server:
        message = exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        assert message["scheme"] == scheme
        if client is None:
            assert message["client"][0] == "127.0.0.1"
        else:
            assert message["client"] == client


def test_proxy_headers_are_not_trusted_unasked(shared: RunningServer) -> None:
    message = exchange(shared, b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\r\n")
    assert message["client"][0] == "127.0.0.1"
    assert message["scheme"] == "http"


# ---- properties

TOKEN = st.text("!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=20)
# Names that have a meaning for framing are what the tables of attacks are about.
NAME = TOKEN.filter(
    lambda name: (
        name.lower()
        not in {
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "expect",
            "upgrade",
            "daphne-root-path",
            "trailer",
            "proxy-connection",
        }
    )
)
VALUE = st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).strip(b" \t"))
METHOD = st.sampled_from(["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "PROPFIND", "get", "X-y"])
PATH = st.text(max_size=30).map(lambda text: "/" + text)
# A fragment is no part of a request target.
QUERY = st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte not in (ord("#"), 127)))
BODY = st.binary(max_size=200)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@SETTINGS
@given(method=METHOD, path=PATH, query=QUERY, headers=st.lists(st.tuples(NAME, VALUE), max_size=8), body=BODY)
def test_round_trip(shared: RunningServer, method: str, path: str, query: bytes, headers: list[tuple[str, bytes]], body: bytes) -> None:
    """What a client says reaches the application unchanged."""
    # Lone surrogates have no UTF-8 form, so no path can contain them.
    path = path.encode("utf-8", "ignore").decode()
    lines = [f"{method} {quote(path)}".encode() + (b"?" + query if query else b"") + b" HTTP/1.1", b"Host: a"]
    lines += [name.encode() + b": " + value for name, value in headers]
    lines.append(b"Content-Length: %d" % len(body))
    with shared.connect() as client:
        client.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        message = shared.app.answer()
        assert client.read_response(method.upper()).status == 200
    assert message["method"] == method.upper()
    assert message["path"] == unquote(quote(path))
    assert message["query_string"] == query
    assert message["headers"][1:-1] == [(name.lower().encode(), value) for name, value in headers]
    assert message["body"] == body


REQUESTS = [
    b"GET /a?b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n",
    b"\r\nPOST http://a/x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc",
]
WHOLE: dict[int, dict[str, Any]] = {}


@SETTINGS
@given(which=st.integers(0, len(REQUESTS) - 1), cuts=st.lists(st.integers(1, 150), max_size=12))
def test_any_segmentation_gives_the_same_message(shared: RunningServer, which: int, cuts: list[int]) -> None:
    request = REQUESTS[which]
    points = [0, *sorted({cut for cut in cuts if cut < len(request)}), len(request)]
    message = exchange(shared, *(request[start:end] for start, end in pairwise(points)))
    for key in ("reply_channel", "client"):
        del message[key]
    if which not in WHOLE:
        WHOLE[which] = exchange(shared, request)
        for key in ("reply_channel", "client"):
            del WHOLE[which][key]
    assert message == WHOLE[which]


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_byte_by_byte(shared: RunningServer, request_bytes: bytes) -> None:
    """Two requests behind each other, one byte a segment."""
    with shared.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(len(request_bytes)):
            client.send(request_bytes[n : n + 1])
        client.send(GET)
        shared.app.answer()
        assert client.read_response().status == 200
        assert shared.app.answer()["path"] == "/"
        assert client.read_response().status == 200
