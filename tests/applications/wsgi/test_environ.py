"""The environ of WSGI applications: PEP 3333, and what frameworks and other servers have made of it."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greendaphne.applications.wsgi.environ import EnvironFactory, script_name
from greendaphne.config import ApplicationOptions, Config
from greendaphne.core.message import ConnectionInfo, Request
from tests.support.certificates import issue
from tests.support.http2 import Peer
from tests.support.server import Client, LiveServer
from tests.support.wsgi import serve_wsgi

seen: list[dict[str, Any]] = []


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Keeps the environ for the test, and changes it as middleware does."""
    seen.append(dict(environ))
    environ["wsgi.url_scheme"] = environ["SERVER_SOFTWARE"] = environ["SCRIPT_NAME"] = "changed"
    start_response("204 No Content", [])
    return []


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serve_wsgi(application, validate=False, http2_cleartext=True) as running:
        yield running


def environ_of(server: LiveServer, target: bytes = b"/", *fields: bytes, version: bytes = b"1.1") -> dict[str, Any]:
    with server.connect() as client:
        client.send(b"GET %b HTTP/%b\r\nHost: example.com\r\n%b\r\n" % (target, version, b"".join(field + b"\r\n" for field in fields)))
        assert client.read_response().status == 204
    return seen.pop()


def http2_environ(server: LiveServer, *fields: tuple[bytes, bytes]) -> dict[str, Any]:
    head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"example.com"), *fields]
    with Peer(server) as peer:
        assert peer.get(head)[0] == 204
    return seen.pop()


def test_what_every_environ_has(server: LiveServer) -> None:
    environ = environ_of(server)
    assert type(environ) is dict
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert int(environ["REMOTE_PORT"]) > 0
    assert environ["HTTP_HOST"] == "example.com"
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True
    assert environ["SERVER_SOFTWARE"].startswith("greendaphne/")
    assert "HTTPS" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert "CONTENT_TYPE" not in environ


def test_each_request_has_its_own(server: LiveServer) -> None:
    with server.connect() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 204
            environ = seen.pop()
            assert environ["wsgi.url_scheme"] == "http"
            assert environ["SCRIPT_NAME"] == ""


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/caf%C3%A9", "/cafÃ©", ""),
        (b"/a%2Fb%00c", "/a/b\0c", ""),
        (b"/a?", "/a", ""),
        (b"/a?b=%C3%A9&c=?", "/a", "b=%C3%A9&c=?"),
        (b"//double", "//double", ""),
        (b"http://example.com/absolute?q", "/absolute", "q"),
    ],
)
def test_target(server: LiveServer, target: bytes, path: str, query: str) -> None:
    environ = environ_of(server, target)
    assert environ["PATH_INFO"] == path
    assert environ["QUERY_STRING"] == query
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == target.decode()


def test_values_are_latin_1(server: LiveServer) -> None:
    environ = environ_of(server, b"/", b"X-Name: \xc3\xa9\xff")
    assert environ["HTTP_X_NAME"] == "Ã©ÿ"
    assert all(max(value, default="") <= "\xff" for value in environ.values() if isinstance(value, str))


def test_fields(server: LiveServer) -> None:
    environ = environ_of(
        server,
        b"/",
        *(b"Content-Type: text/plain", b"Content-Length: 0"),
        *(b"Accept: a", b"Accept: b", b"Cookie: c=1", b"Cookie: d=2"),
        *(b"X_Forwarded_For: 6.6.6.6", b"Proxy: evil", b"TE: trailers", b"Connection: keep-alive", b"Upgrade: h2c", b"Keep-Alive: 5"),
    )
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["CONTENT_LENGTH"] == "0"
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "c=1; d=2"
    dropped = ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_X_FORWARDED_FOR", "HTTP_PROXY", "HTTP_TE", "HTTP_CONNECTION")
    assert not environ.keys() & {*dropped, "HTTP_UPGRADE", "HTTP_KEEP_ALIVE", "HTTP_TRANSFER_ENCODING"}


def test_a_chunked_body_has_no_length(server: LiveServer) -> None:
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert client.read_response().status == 204
    assert "CONTENT_LENGTH" not in seen.pop()


def test_http_1_0(server: LiveServer) -> None:
    environ = environ_of(server, version=b"1.0")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "wsgi.early_hints" not in environ


def test_http2(server: LiveServer) -> None:
    environ = http2_environ(server, (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers"))
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    assert environ["HTTP_HOST"] == "example.com"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert not [name for name in environ if ":" in name]
    assert "HTTP_TE" not in environ


@pytest.mark.parametrize(
    ("root_path", "target", "script", "path"),
    [
        ("/app", b"/app", "/app", ""),
        ("/app", b"/app/x", "/app", "/x"),
        ("/app/", b"/app/x", "/app", "/x"),
        ("app", b"/app/x", "/app", "/x"),
        ("/app", b"/apple", "/app", "/apple"),
        ("/app", b"/x", "/app", "/x"),
        ("/", b"/x", "", "/x"),
        ("/caf%C3%A9", b"/caf%C3%A9/x", "/cafÃ©", "/x"),
    ],
)
def test_root_path(root_path: str, target: bytes, script: str, path: str) -> None:
    with serve_wsgi(application, validate=False, root_path=root_path) as server:
        environ = environ_of(server, target)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, path)


def test_root_path_of_a_proxy(server: LiveServer) -> None:
    environ = environ_of(server, b"/app/x", b"Daphne-Root-Path: /app")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/x")
    assert "HTTP_DAPHNE_ROOT_PATH" not in environ


def test_script_name_of_odd_root_paths() -> None:
    assert script_name("") == ""
    assert script_name("//") == ""
    assert script_name("/a b") == "/a b"


@pytest.mark.parametrize(
    ("host", "name", "port"), [(b"example.com", "example.com", "80"), (b"example.com:81", "example.com", "81"), (b"[::1]", "[::1]", "80")]
)
def test_unix_socket(tmp_path: Path, host: bytes, name: str, port: str) -> None:
    path = tmp_path / "s"
    with serve_wsgi(application, validate=False, endpoints=[f"unix:{path}"]), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        client = Client(sock)
        client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert client.read_response().status == 204
    environ = seen.pop()
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)
    assert environ["REMOTE_ADDR"] == ""


def test_without_any_address() -> None:
    factory = EnvironFactory(multiprocess=True, extra={}, software="s")
    request = Request("GET", b"/", b"/", b"", "1.0", [], 0, b"", ConnectionInfo("https", None, None))
    environ = factory.make(request)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "443")
    assert environ["HTTPS"] == "on"
    assert environ["wsgi.multiprocess"] is True


def test_invented_field_names_fill_no_memory() -> None:
    factory = EnvironFactory(multiprocess=False, extra={}, software="s")
    for number in range(3000):
        request = Request("GET", b"/", b"/", b"", "1.1", [(b"x-%d" % number, b"v")], 0, b"", ConnectionInfo("http", None, None))
        assert factory.make(request)[f"HTTP_X_{number}"] == "v"
    assert len(factory._names) <= 1100


def test_forwarded(server: LiveServer) -> None:
    with serve_wsgi(application, validate=False, forwarded_allow_ips="127.0.0.1") as behind:
        environ = environ_of(behind, b"/", b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: https")
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"


def test_strings_of_the_deployer() -> None:
    options = ApplicationOptions(interface="wsgi", environ=(("SITE", "a"), ("HTTP_X_ROLE", "none")))
    with serve_wsgi(application, validate=False, options=options) as server:
        environ = environ_of(server, b"/", b"X-Role: admin")
    assert environ["SITE"] == "a"
    assert environ["HTTP_X_ROLE"] == "none"


def test_several_processes() -> None:
    with serve_wsgi(application, validate=False, config=Config().changed({"processes.workers": 2})) as server:
        assert environ_of(server)["wsgi.multiprocess"] is True


def test_tls(tmp_path: Path) -> None:
    import ssl

    with serve_wsgi(application, validate=False, tls_dev=True) as server:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().status == 204
        connection.close()
    environ = seen.pop()
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SSL_PROTOCOL"].startswith("TLSv1.")
    assert environ["SSL_CIPHER"]
    assert environ["SSL_CLIENT_VERIFY"] == "NONE"


def test_client_certificate(tmp_path: Path) -> None:
    import ssl

    authority = issue("authority", authority=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certfile = issue("localhost", authority, names=["localhost"]).write(tmp_path / "server.pem")
    visitor = issue("visitor", authority, client=True)
    config = Config().changed({"tls.certfile": str(certfile), "tls.client_ca": str(tmp_path / "ca.pem"), "tls.verify": "optional"})
    with serve_wsgi(application, validate=False, config=config) as server:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(visitor.write(tmp_path / "client.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
        for _ in range(2):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 204
            answer.read()
        connection.close()
    environ = seen.pop()
    seen.clear()
    assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert environ["SSL_CLIENT_S_DN"] == visitor.certificate.subject.rfc4514_string()
    assert environ["SSL_CLIENT_I_DN"] == authority.certificate.subject.rfc4514_string()
    assert environ["SSL_CLIENT_M_SERIAL"] == f"{visitor.certificate.serial_number:X}"
    assert environ["SSL_CLIENT_V_END"].endswith(" GMT")
    assert environ["SSL_CLIENT_CERT"].encode() == visitor.pem
