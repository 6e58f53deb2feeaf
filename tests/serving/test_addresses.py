"""The bound on connections of one client address, for clients behind proxies that send PROXY headers."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from greendaphne.config import Limits
from tests.support.certificates import Authority
from tests.support.monitoring import wait_until
from tests.support.proxy_headers import SERVER, v2
from tests.support.server import PATIENCE, Client, RunningServer, serve
from tests.support.tls import client_context

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: Plain and with TLS, over TCP and UNIX sockets.
ENDPOINTS = [
    "haproxy:tcp:0:interface=127.0.0.1",
    "haproxy:unix:{0}/socket",
    "haproxy:ssl:0:{0}/DEFAULT.pem:interface=127.0.0.1",
    "txsni:{0}:haproxy:unix:{0}/socket",
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


class Proxy:
    """Opens connections for clients, with TLS where the endpoint has it."""

    def __init__(self, server: RunningServer, stack: ExitStack, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._stack = stack
        self._context = context

    def announce(self, client: str) -> socket.socket:
        """A connection that has sent the header for ``client`` and nothing more."""
        if self._server.port:
            sock = socket.create_connection(self._server.address, timeout=PATIENCE)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(self._server.host)
        sock.sendall(v2([client, 4711], SERVER))
        return self._stack.enter_context(sock)

    def connect(self, client: str) -> Client:
        """A connection of ``client`` that serves."""
        sock = self.announce(client)
        if self._context is not None:
            sock = self._stack.enter_context(self._context.wrap_socket(sock, server_hostname="localhost"))
        connection = Client(sock)
        connection.send(GET)
        message = self._server.app.answer(b"hello")
        assert message["client"] == [client, 4711]
        assert connection.read_response().body == b"hello"
        return connection


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_clients_count_and_not_their_proxy(authority: Authority, tmp_path: Path, endpoint: str) -> None:
    authority.server("localhost", "127.0.0.1").write(tmp_path / "DEFAULT.pem")
    context = client_context(authority) if "DEFAULT" in endpoint or "txsni" in endpoint else None
    with serve(endpoints=[endpoint.format(tmp_path)], limits=Limits(connections_per_address=2)) as server, ExitStack() as stack:
        proxy = Proxy(server, stack, context)
        first, _ = proxy.connect("192.0.2.7"), proxy.connect("192.0.2.7")
        # Before the handshake of TLS.
        assert proxy.announce("192.0.2.7").recv(1) == b""
        # Other clients of the same proxy are served, though it has more connections than that.
        for _ in range(2):
            proxy.connect("192.0.2.8")
            proxy.connect("192.0.2.9")
        addresses = server.server._connections.addresses
        assert addresses is not None
        assert (len(addresses), addresses.refused) == (3, 1)
        first.close()
        wait_until(lambda: addresses._counts["192.0.2.7"] == 1)
        proxy.connect("192.0.2.7")


def test_connections_with_tls_count_before_their_handshake(authority: Authority, tmp_path: Path) -> None:
    authority.server("localhost", "127.0.0.1").write(tmp_path / "DEFAULT.pem")
    endpoint = f"ssl:0:{tmp_path}/DEFAULT.pem:interface=127.0.0.1"
    with serve(endpoints=[endpoint], limits=Limits(connections_per_address=1)) as server:
        addresses = server.server._connections.addresses
        assert addresses is not None
        with socket.create_connection(server.address, timeout=PATIENCE) as silent:
            wait_until(lambda: len(addresses) == 1)
            with socket.create_connection(server.address, timeout=PATIENCE) as second:
                assert second.recv(1) == b""
            silent.shutdown(socket.SHUT_WR)
            wait_until(lambda: len(addresses) == 0)
        with client_context(authority).wrap_socket(socket.create_connection(server.address, PATIENCE), server_hostname="localhost") as sock:
            client = Client(sock)
            client.send(GET)
            server.app.answer(b"hello")
            assert client.read_response().body == b"hello"
