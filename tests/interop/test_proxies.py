"""nginx and HAProxy in front: the configuration files in ``examples``, with the real programs, from the client to the application."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import websocket as websocket_support
from tests.support.certificates import Authority
from tests.support.http2 import Peer
from tests.support.proxies import CLIENT, EXAMPLES, PATIENCE, Front, eventually, haproxy, nginx, program, workplace
from tests.support.server import Client, RunningServer, serve
from tests.support.websocket import ACCEPT, BINARY, CLOSE, KEY, TEXT, Frame, close_payload, frame

GET = b"GET /page?a=b HTTP/1.1\r\nHost: localhost\r\n"
#: Header fields by which a client could forge its address.
CLAIMS = (
    b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 127.0.0.1, 10.0.0.1\r\nX-Forwarded-Port: 666\r\nX-Forwarded-Proto: wss\r\n"
    b"X-Forwarded-Host: evil.example\r\nForwarded: for=6.6.6.6;proto=https\r\nDaphne-Root-Path: /evil\r\n"
)
UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://localhost\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)
UPLOAD = 20 * 1024 * 1024


class Site(NamedTuple):
    """A proxy and the server behind it."""

    front: Front
    server: RunningServer


def behind(stack: ExitStack, **options: Any) -> tuple[RunningServer, str]:
    """A server on a TCP port and a UNIX socket, and the path of that."""
    path = str(stack.enter_context(workplace()) / "web.sock")
    endpoints = ["tcp:0:interface=127.0.0.1", f"unix:{path}"]
    options = {"forwarded_allow_ips": "127.0.0.1,unix", "health_path": "/health", **options}
    return stack.enter_context(serve(endpoints=endpoints, **options)), path


@pytest.fixture(scope="module", params=["nginx-unix", "nginx-tcp", "haproxy-unix", "haproxy-tcp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    name, _, way = request.param.partition("-")
    with ExitStack() as stack:
        server, path = behind(stack)
        if name == "nginx":
            front = nginx("mysite.conf", f"unix:{path}" if way == "unix" else f"127.0.0.1:{server.port}")
        else:
            # Without health checks, whose connections would be counted too.
            changes = {
                "127.0.0.1:8000": f"unix@{path}" if way == "unix" else f"127.0.0.1:{server.port}",
                "default-server check": "default-server",
            }
            front = haproxy("http.cfg", changes)
        yield Site(stack.enter_context(front), server)


def address(client: Client) -> list[Any]:
    """The client's own, as an application should see it."""
    return list(client.sock.getsockname()[:2])


def served(server: RunningServer, client: Client, head: bytes = GET) -> dict[str, Any]:
    """The message for one request."""
    client.send(head + b"\r\n")
    message = server.app.answer(b"hello")
    response = client.read_response()
    assert (response.status, response.body) == (200, b"hello")
    return message


@pytest.mark.parametrize(("tls", "scheme"), [(False, "http"), (True, "https")])
def test_client_and_scheme(site: Site, tls: bool, scheme: str) -> None:
    with site.front.connect(tls=tls) as client:
        for claims in (b"", CLAIMS, b""):
            message = served(site.server, client, GET + claims)
            assert (message["client"], message["scheme"], message["root_path"]) == (address(client), scheme, "")
            assert (message["path"], message["query_string"], message["http_version"]) == ("/page", b"a=b", "1.1")
            assert (b"host", b"localhost") in message["headers"]
            text = repr(message["headers"])
            assert not any(claim in text for claim in ("6.6.6.6", "evil", "666", "wss"))
            # Another address than the proxy's.
            assert message["client"][0] == CLIENT


def test_connections_to_the_server_are_kept(site: Site) -> None:
    with site.front.connect() as client:
        served(site.server, client)
        before = site.server.server.connections
        assert before
        for _ in range(5):
            assert not any(name == b"connection" and value == b"close" for name, value in served(site.server, client)["headers"])
            assert site.server.server.connections <= before


@pytest.mark.parametrize(("tls", "scheme"), [(False, "ws"), (True, "wss")])
def test_websocket(site: Site, tls: bool, scheme: str) -> None:
    app = site.server.app
    with site.front.connect(tls=tls) as client:
        client.send(UPGRADE + CLAIMS + b"\r\n")
        message = app.receive("websocket.connect")[1]
        assert (message["client"], message["scheme"], message["root_path"]) == (address(client), scheme, "")
        app.reply(message, accept=True)
        head = client.read_head()
        assert (head.status, head.header("Sec-WebSocket-Accept")) == (101, ACCEPT.decode())
        websocket = websocket_support.Client(client.sock)
        for opcode, payload in ((TEXT, "grüße".encode()), (BINARY, bytes(range(256)) * 1000), (TEXT, b"")):
            websocket.send(frame(opcode, payload))
            received = app.receive("websocket.receive")[1]
            content = {"text": received["text"]} if opcode == TEXT else {"bytes": received["bytes"]}
            app.reply(message, **content)
            assert websocket.receive() == Frame(opcode, payload)
        websocket.send(frame(CLOSE, close_payload(1000)))
        assert app.receive("websocket.disconnect")[1]["code"] == 1000
        assert websocket.receive() == Frame(CLOSE, close_payload(1000))
        websocket.close()


def test_websocket_that_the_application_ends(site: Site) -> None:
    app = site.server.app
    with site.front.connect() as client:
        client.send(UPGRADE + b"\r\n")
        message = app.receive("websocket.connect")[1]
        app.reply(message, accept=True, text="bye", close=4001)
        assert client.read_head().status == 101
        client.read_exactly(len("bye") + 2)
        assert client.read_exactly(4) == bytes((0x88, 2)) + close_payload(4001)
        client.send(frame(CLOSE, close_payload(4001)))
        app.receive("websocket.disconnect")


def test_websocket_that_is_refused(site: Site) -> None:
    with site.front.connect() as client:
        client.send(UPGRADE + b"\r\n")
        message = site.server.app.receive("websocket.connect")[1]
        site.server.app.reply(message, close=True)
        assert client.read_response().status == 403
        site.server.app.receive("websocket.disconnect")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload(site: Site, chunked: bool) -> None:
    app = site.server.app
    content = hashlib.sha256(b"seed").digest() * (UPLOAD // 32)
    with site.front.connect() as client:

        def send() -> None:
            head = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            if chunked:
                client.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
                half = UPLOAD // 2
                for piece in (content[:half], content[half:]):
                    client.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
                client.send(b"0\r\n\r\n")
            else:
                client.send(head + b"Content-Length: %d\r\n\r\n" % len(content) + content)

        sender = threading.Thread(target=send)
        sender.start()
        message = app.request()
        digest, size = hashlib.sha256(message["body"]), len(message["body"])
        more = "body_channel" in message
        while more:
            piece = app.receive(message["body_channel"])[1]
            assert not piece.get("closed")
            digest.update(piece["content"])
            size += len(piece["content"])
            more = piece["more_content"]
        sender.join(PATIENCE)
        assert (size, digest.digest()) == (UPLOAD, hashlib.sha256(content).digest())
        app.reply(message, status=201, headers=[], content=b"stored")
        response = client.read_response()
        assert (response.status, response.body) == (201, b"stored")


def test_a_large_download(site: Site) -> None:
    piece = bytes(256) * 1024
    with site.front.connect() as client:
        client.send(GET + b"\r\n")
        message = site.server.app.request()
        site.server.app.reply(message, status=200, headers=[(b"Content-Length", b"%d" % (40 * len(piece)))], content=b"", more_content=True)
        for number in range(40):
            site.server.app.reply(message, content=piece, more_content=number < 39)
        response = client.read_response()
        assert (response.status, len(response.body)) == (200, 40 * len(piece))


def test_a_response_that_is_seen_while_it_comes(site: Site) -> None:
    app = site.server.app
    with site.front.connect() as client:
        client.send(GET + b"\r\n")
        message = app.request()
        app.reply(message, status=200, headers=[(b"X-Accel-Buffering", b"no")], content=b"one", more_content=True)
        assert client.read_head().header("Transfer-Encoding") == "chunked"
        assert client.read_chunk() == b"one"
        app.reply(message, content=b"two", more_content=True)
        assert client.read_chunk() == b"two"
        app.reply(message, content=b"", more_content=False)
        assert client.read_chunk() == b""


def test_a_client_that_leaves_is_noticed(site: Site) -> None:
    app = site.server.app
    with site.front.connect() as client:
        client.send(UPGRADE + b"\r\n")
        message = app.receive("websocket.connect")[1]
        app.reply(message, accept=True)
        client.read_head()
    assert app.receive("websocket.disconnect")[1]["reply_channel"] == message["reply_channel"]


# --- nginx ---


def test_nginx_with_forwarded() -> None:
    with ExitStack() as stack:
        server, path = behind(stack, proxy_forwarded_address_header="Forwarded")
        front = stack.enter_context(nginx("forwarded.conf", f"unix:{path}"))
        with front.connect() as client:
            for claims in (b"", CLAIMS, b'Forwarded: for="\r\n'):
                message = served(server, client, GET + claims)
                assert (message["client"], message["scheme"], message["root_path"]) == (address(client), "http", "")
        # The server itself believes it only from a peer on its list.
        with server.connect() as direct:
            assert served(server, direct, GET + b"Forwarded: for=1.2.3.4;proto=https\r\n")["client"] == ["1.2.3.4", 0]


@pytest.mark.parametrize("example", ["mysite.conf", "forwarded.conf"])
def test_nginx_for_a_client_with_ipv6(example: str) -> None:
    with ExitStack() as stack:
        name = "X-Forwarded-For" if example == "mysite.conf" else "Forwarded"
        server, path = behind(stack, proxy_forwarded_address_header=name, proxy_forwarded_port_header="X-Forwarded-Port")
        front = stack.enter_context(nginx(example, f"unix:{path}", host="::1"))
        with front.connect() as client:
            assert served(server, client, GET + CLAIMS)["client"] == address(client)
            assert address(client)[0] == "::1"


def test_nginx_behind_nginx() -> None:
    """The inner one appends to what the outer one says; the client is the rightmost that is no proxy."""
    with ExitStack() as stack:
        server, path = behind(stack)
        appending = {"X-Forwarded-For $remote_addr": "X-Forwarded-For $proxy_add_x_forwarded_for", "$scheme": "$http_x_forwarded_proto"}
        inner = stack.enter_context(nginx("mysite.conf", f"unix:{path}", appending))
        outer = stack.enter_context(nginx("mysite.conf", f"127.0.0.1:{inner.plain}"))
        for tls, scheme in ((False, "http"), (True, "https")):
            with outer.connect(tls=tls) as client:
                message = served(server, client, GET + CLAIMS)
                assert (message["client"], message["scheme"]) == ([CLIENT, 0], scheme)
                assert dict(message["headers"])[b"x-forwarded-for"] == b"%s, 127.0.0.1" % CLIENT.encode()
        # A client of the inner one is not believed about the hops before it.
        with inner.connect() as client:
            message = served(server, client, GET + b"X-Forwarded-For: 6.6.6.6, 127.0.0.1\r\n")
            assert message["client"] == address(client)


# --- HAProxy ---


def status(front: Front) -> dict[str, str]:
    """What HAProxy knows of the server."""
    lines = front.command("show stat").removeprefix("# ").splitlines()
    return next(row for row in csv.DictReader(lines) if row["svname"] == "web1")


QUICK = {"check inter 2s fall 2 rise 1": "check inter 50ms fall 2 rise 1"}


def test_haproxy_asks_for_the_health() -> None:
    with ExitStack() as stack:
        inner = ExitStack()
        server = behind(inner)[0]
        try:
            front = stack.enter_context(haproxy("http.cfg", {"127.0.0.1:8000": f"127.0.0.1:{server.port}", **QUICK}))
            eventually(lambda: status(front)["check_status"] == "L7OK")
            assert (status(front)["status"], status(front)["check_code"]) == ("UP", "200")
            with front.connect() as client:
                served(server, client)
        finally:
            inner.close()
        eventually(lambda: status(front)["status"] == "DOWN")
        with front.connect() as client:
            client.send(GET + b"\r\n")
            assert client.read_response().status == 503


def test_haproxy_takes_a_server_out_of_service_whose_health_is_bad() -> None:
    with ExitStack() as stack:
        # Whatever is not 200: here it is the application, which knows no such page.
        server = behind(stack, health_path=None)[0]
        front = stack.enter_context(haproxy("http.cfg", {"127.0.0.1:8000": f"127.0.0.1:{server.port}", **QUICK}))

        def down() -> bool:
            server.app.answer(status=503)
            seen = status(front)
            # On a busy machine a check may also have timed out before.
            return (seen["status"], seen["check_code"]) == ("DOWN", "503")

        eventually(down)
        # Every check that is under way gets its answer.
        front.command("disable health mysite/web1")
        for message in server.app.drain("http.request"):
            server.app.reply(message, status=503, content=b"")


def test_haproxy_speaks_http2_to_clients_and_server() -> None:
    with ExitStack() as stack:
        server = behind(stack, http2_cleartext=True)[0]
        upstream = {"127.0.0.1:8000": f"127.0.0.1:{server.port} proto h2"}
        front = stack.enter_context(haproxy("http.cfg", upstream))
        message = curl(front, server, "/page")
        assert (message["client"][0], message["scheme"], message["http_version"]) == (CLIENT, "https", "2")
        with front.connect() as client:
            message = served(server, client, GET + CLAIMS)
            assert (message["client"], message["scheme"], message["http_version"]) == (address(client), "http", "2")
        with front.connect() as client:
            client.send(UPGRADE + CLAIMS + b"\r\n")
            message = server.app.receive("websocket.connect")[1]
            assert (message["client"], message["scheme"], message["root_path"]) == (address(client), "ws", "")
            server.app.reply(message, accept=True, text="hello")
            assert client.read_head().status == 101
            assert client.read_exactly(7) == bytes((0x81, 5)) + b"hello"


def curl(front: Front, server: RunningServer, path: str) -> dict[str, Any]:
    """The message for a request over TLS and HTTP/2."""
    assert front.authority is not None
    command = [program("curl", "curl"), "--silent", "--show-error", "--fail", "--http2", "--noproxy", "*", "--interface", CLIENT]
    command += ["--cacert", str(front.authority.file), "--write-out", "\n%{http_version}", "--max-time", str(PATIENCE)]
    command += ["--header", "X-Forwarded-For: 6.6.6.6", "--header", "X-Forwarded-Proto: http"]
    command += ["--connect-to", f"localhost:443:127.0.0.1:{front.secure}", f"https://localhost{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            message = server.app.answer(b"hello")
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "hello\n2"), errors
    return message


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Authority, Path]:
    authority = Authority.make(tmp_path)
    return authority, authority.server("localhost").write(tmp_path / "server.pem")


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_haproxy_passes_bytes_on(version: str, way: str, certificate: tuple[Authority, Path]) -> None:
    authority, file = certificate
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        tls = f"privateKey={file}:certKey={file}"
        endpoints = ["tcp:0:interface=127.0.0.1", f"haproxy:unix:{directory}/plain.sock", f"haproxy:ssl:0:{tls}:interface=127.0.0.1"]
        if way == "tcp":
            endpoints[1] = "haproxy:tcp:0:interface=127.0.0.1"
        server = stack.enter_context(serve(endpoints=endpoints, forwarded_allow_ips="127.0.0.1,unix", http2_cleartext=True))
        plain, secure = (listener.getHost() for listener in server.server.listeners[1:])
        changes = {
            "127.0.0.1:8000": f"unix@{directory}/plain.sock" if way == "unix" else f"127.0.0.1:{plain.port}",
            "127.0.0.1:8443": f"127.0.0.1:{secure.port}",
            "send-proxy-v2": version,
        }
        front = stack.enter_context(haproxy("tcp.cfg", changes))
        front = Front(front.plain, front.secure, authority)
        with front.connect() as client:
            for claims in (b"", CLAIMS):
                # HAProxy is on the list, but these are the client's own words.
                message = served(server, client, GET + claims)
                assert (message["client"], message["scheme"], message["root_path"]) == (address(client), "http", "")
                assert message["server"] == ["127.0.0.1", front.plain]
        with front.connect(tls=True) as client:
            message = served(server, client, GET + CLAIMS)
            assert (message["client"], message["scheme"], message["server"]) == (address(client), "https", ["127.0.0.1", front.secure])
        with front.connect() as client:
            client.send(UPGRADE + CLAIMS + b"\r\n")
            message = server.app.receive("websocket.connect")[1]
            assert (message["client"], message["scheme"]) == (address(client), "ws")
            server.app.reply(message, accept=True, text="hello")
            assert client.read_head().status == 101
            assert client.read_exactly(7) == bytes((0x81, 5)) + b"hello"
        # HTTP/2 from end to end, by ALPN and by prior knowledge.
        message = curl(front, server, "/page")
        assert (message["client"][0], message["scheme"], message["http_version"]) == (CLIENT, "https", "2")
        with Peer(front) as peer:
            stream_id = peer.request()
            message = server.app.answer()
            assert (message["client"], message["http_version"]) == (list(peer.sock.getsockname()), "2")
            assert peer.response(stream_id)[0] == 200


def test_haproxy_tells_of_tls_in_its_proxy_header() -> None:
    with ExitStack() as stack:
        endpoints = ["haproxy:tcp:0:interface=127.0.0.1"]
        server = stack.enter_context(serve(endpoints=endpoints, health_path="/health"))
        changes = {"127.0.0.1:8000": f"127.0.0.1:{server.port} send-proxy-v2-ssl"}
        front = stack.enter_context(haproxy("http.cfg", changes))
        for tls, scheme in ((True, "https"), (False, "http")):
            with front.connect(tls=tls) as client:
                message = served(server, client, GET + CLAIMS)
                assert (message["client"], message["scheme"]) == (address(client), scheme)


# --- The page ---


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("proxies.rst", "nginx/mysite.conf"),
        ("proxies.rst", "haproxy/http.cfg"),
        ("proxies.rst", "haproxy/tcp.cfg"),
        ("http3.rst", "caddy/Caddyfile"),
    ],
)
def test_the_documentation_shows_the_files_as_they_are(page: str, example: str) -> None:
    text = (EXAMPLES.parent / "docs" / page).read_text()
    assert textwrap.indent((EXAMPLES / example).read_text().replace("\t", "    "), "    ") in text
