"""HTTP over TLS through the whole server: scheme, bodies, the end of a connection, certificates for plain endpoints, reloading."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.net.tls import TLSOptions
from tests.support.certificates import Authority
from tests.support.server import Client, RunningServer, serve
from tests.support.tls import MIB, PATIENCE, client_context, common_name


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pem(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority.server("localhost", "127.0.0.1").write(tmp_path_factory.mktemp("server") / "server.pem")


def connect(server: RunningServer, context: ssl.SSLContext) -> Client:
    plain = socket.create_connection(server.address, timeout=PATIENCE)
    return Client(context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False))


def test_requests_are_https(authority: Authority, pem: Path) -> None:
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"]) as server, ThreadPoolExecutor() as pool:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE, context=client_context(authority))
        for number in range(3):
            answered = pool.submit(server.app.answer, b"answer %d" % number)
            connection.request("GET", f"/{number}")
            assert connection.getresponse().read() == b"answer %d" % number
            message = answered.result(PATIENCE)
            assert (message["scheme"], message["path"]) == ("https", f"/{number}")
            assert message["client"][0] == "127.0.0.1"
            assert message["server"] == ["127.0.0.1", server.port]
        connection.close()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_up_and_down(authority: Authority, pem: Path, tmp_path: Path, version: str) -> None:
    body = os.urandom(MIB)
    (tmp_path / "body").write_bytes(body)
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"]) as server, ThreadPoolExecutor() as pool:
        answered = pool.submit(server.app.answer, body[::-1])
        arguments = [
            "--cacert",
            str(authority.file),
            "--data-binary",
            f"@{tmp_path}/body",
            "-o",
            f"{tmp_path}/answer",
            "-w",
            "%{http_version}",
        ]
        result = subprocess.run(
            ["curl", "-sS", version, "--ipv4", *arguments, f"https://localhost:{server.port}/"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        message = answered.result(PATIENCE)
    assert (result.stdout, result.stderr) == (version[6:].encode(), b"")
    assert (message["http_version"], message["scheme"]) == (version[6:], "https")
    assert message["body"] == body
    assert (tmp_path / "answer").read_bytes() == body[::-1]


def test_an_answer_that_the_close_ends(authority: Authority, pem: Path) -> None:
    """HTTP/1.0 has no other end of a streamed answer: without close_notify it would look cut off."""
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"]) as server, connect(server, client_context(authority)) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        message = server.app.request()
        server.app.reply(message, status=200, content=b"first ", more_content=True)
        server.app.reply(message, content=b"x" * MIB, more_content=False)
        assert client.read_response().body == b"first " + b"x" * MIB


def test_plain_http_on_the_port(pem: Path) -> None:
    with serve(endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"]) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = client.read_response()
        assert response.status == 400
        assert b"https" in response.body
        assert client.at_eof()


def test_certfile_and_keyfile(authority: Authority, tmp_path: Path) -> None:
    issued = authority.server("localhost")
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    (tmp_path / "crt.pem").write_bytes(issued.pem + issued.chain_pem)
    options = TLSOptions(alpn=("http/1.1",))
    with (
        serve(certfile=str(tmp_path / "crt.pem"), keyfile=str(tmp_path / "key.pem"), tls_options=options) as server,
        connect(server, client_context(authority, alpn=("h2", "http/1.1"))) as client,
    ):
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.app.answer(b"hello")
        assert client.read_response().body == b"hello"


def test_an_open_connection_outlives_a_reload(authority: Authority, tmp_path: Path) -> None:
    path = authority.server("localhost").write(tmp_path / "server.pem")
    context = client_context(authority)
    context.check_hostname = False
    with serve(endpoints=[f"ssl:0:{path}:interface=127.0.0.1"]) as server, connect(server, context) as before:
        authority.server("renewed.example").write(path)
        server.server._hub.loop.run_callback_threadsafe(server.server._endpoints[0].tls.reload)
        # The callback runs before the server looks at a connection made after it.
        with connect(server, context) as after:
            assert isinstance(after.sock, ssl.SSLSocket)
            assert common_name(after.sock) == "renewed.example"
        before.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.app.answer(b"still here")
        assert before.read_response().body == b"still here"


@pytest.mark.parametrize("wanted", [False, True])
def test_messages_say_how_they_are_encrypted_where_the_layer_asks(authority: Authority, pem: Path, wanted: bool) -> None:
    """They have daphne's keys alone otherwise."""
    layer = MemoryChannelLayer()
    layer.tls_info = wanted
    with serve(layer, endpoints=[f"ssl:0:{pem}:interface=127.0.0.1"]) as server, connect(server, client_context(authority)) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        message = server.app.answer()
        client.read_response()
        assert isinstance(client.sock, ssl.SSLSocket)
        cipher = client.sock.cipher()
        assert cipher is not None
        expected = {"version": client.sock.version(), "cipher": cipher[0]}
    assert message.get("tls") == (expected if wanted else None)
