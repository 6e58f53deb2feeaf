"""What an application is told of a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greendaphne.config import Config
from tests.support.asgi import HANDSHAKE, Recorder, answer, serve_asgi
from tests.support.http2 import GET, Peer
from tests.support.server import Client


def scopes(seen: Recorder) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen(scope)
        if scope["type"] == "http":
            await answer(send)
        else:
            await send({"type": "websocket.close"})

    return application


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


def test_http(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server, server.connect() as client:
        client.send(b"GET /a%20b/%E2%82%AC?q=%20&r HTTP/1.1\r\nHost: b:1\r\nX-Two: 1\r\nx-two: 2\r\n\r\n")
        client.read_response()
        scope = seen.next()
        assert scope.pop("client") == client.sock.getsockname()
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a b/€",
            "raw_path": b"/a%20b/%E2%82%AC",
            "query_string": b"q=%20&r",
            "root_path": "",
            "headers": [(b"host", b"b:1"), (b"x-two", b"1"), (b"x-two", b"2")],
            "server": server.address,
            "extensions": {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.early_hint": {}},
        }


def test_every_request_has_a_scope_of_its_own(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server, server.connect() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read_response()
        first, second = seen.next(), seen.next()
        for key in ("asgi", "headers", "extensions"):
            assert first[key] is not second[key]


def test_http_1_0_has_no_extension_that_its_clients_do_not_know(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nTE: trailers\r\n\r\n")
        client.read_response()
    scope = seen.next()
    assert scope["http_version"] == "1.0"
    assert set(scope["extensions"]) == {"http.response.pathsend", "http.response.zerocopysend"}


def test_trailers_are_offered_to_clients_that_take_them(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server:
        server.get(headers="TE: gzip, Trailers\r\n")
    assert "http.response.trailers" in seen.next()["extensions"]


def test_http2(seen: Recorder) -> None:
    with serve_asgi(scopes(seen), http2_cleartext=True) as server, Peer(server) as peer:
        peer.get([*GET, (b"te", b"trailers"), (b"cookie", b"a=1"), (b"cookie", b"b=2")])
    scope = seen.next()
    assert scope["http_version"] == "2"
    assert scope["headers"][0] == (b"host", b"localhost")
    assert (b"cookie", b"a=1; b=2") in scope["headers"]
    assert "http.response.trailers" in scope["extensions"]


@pytest.mark.parametrize(
    ("target", "path", "raw"),
    [
        ("/x", "/mounted here/x", b"/mounted%20here/x"),
        ("/mounted%20here/x", "/mounted here/x", b"/mounted%20here/x"),
        ("/mounted%20here", "/mounted here", b"/mounted%20here"),
        ("/mounted%20heretic", "/mounted here/mounted heretic", b"/mounted%20here/mounted%20heretic"),
    ],
)
def test_path_includes_the_mount_point(seen: Recorder, target: str, path: str, raw: bytes) -> None:
    with serve_asgi(scopes(seen), root_path="/mounted%20here") as server:
        server.get(target)
    scope = seen.next()
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/mounted here", path, raw)


def test_bad_utf_8_in_a_path(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server:
        server.get("/%ff%e2%82%ac")
    scope = seen.next()
    assert (scope["path"], scope["raw_path"]) == ("/�€", b"/%ff%e2%82%ac")


def test_websocket(seen: Recorder) -> None:
    with serve_asgi(scopes(seen)) as server, server.connect() as client:
        client.send(HANDSHAKE % (b"/chat?x", b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n"))
        assert client.read_response().status == 403
    scope = seen.next()
    assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == ("websocket", "ws", "/chat", b"x")
    assert scope["subprotocols"] == ["a", "b", "c"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


def test_scheme_of_a_proxy(seen: Recorder) -> None:
    with serve_asgi(scopes(seen), config=Config().changed({"proxies.headers": True})) as server:
        server.get(headers="X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1\r\n")
        scope = seen.next()
        assert (scope["scheme"], scope["client"][0]) == ("https", "192.0.2.1")
        with server.connect() as client:
            client.send(HANDSHAKE % (b"/", b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1\r\n"))
            client.read_response()
        assert seen.next()["scheme"] == "wss"


def test_unix_socket(seen: Recorder, tmp_path: Path) -> None:
    import socket

    path = str(tmp_path / "socket")
    with serve_asgi(scopes(seen), endpoints=["tcp:0:interface=127.0.0.1", f"unix:{path}"]):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with Client(sock) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read_response()
    scope = seen.next()
    assert scope["client"] is None
    assert scope["server"] == (path, None)


def test_tls(seen: Recorder, tmp_path: Path) -> None:
    import socket
    import ssl

    from tests.support.certificates import Authority

    authority = Authority.make(tmp_path)
    certificate = authority.server("localhost").write(tmp_path / "server.pem")
    ca = str(authority.file)
    mine = authority.client("alice").write(tmp_path / "client.pem")
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    config = Config().changed({"tls.client_ca": ca, "tls.verify": "optional"})
    with serve_asgi(scopes(seen), endpoints=[endpoint], config=config) as server:
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(mine)
        for _ in range(2):
            plain = socket.create_connection(server.address)
            with Client(context.wrap_socket(plain, server_hostname="localhost")) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                client.read_response()
            scope = seen.next()
            assert scope["scheme"] == "https"
            tls = scope["extensions"]["tls"]
            assert tls["tls_version"] == 0x0304
            assert tls["cipher_suite"] in (0x1301, 0x1302, 0x1303)
            assert tls["server_cert"].startswith("-----BEGIN CERTIFICATE-----")
            assert "alice" in tls["client_cert_name"]
            assert tls["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE-----")
            assert tls["client_cert_error"] is None
            json.dumps(tls)
