"""Pages of the server's own: what they answer, what they leave to the application, and who hears of it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from gevent import get_hub

from greendaphne.core.message import Request
from greendaphne.serving.localpages import LocalPages, Nothing, Page
from tests.support.bridge import handshake, open_websocket
from tests.support.http2 import Peer
from tests.support.server import PATIENCE, Client, RunningServer, serve


def page(text: bytes, status: int = 200) -> Page:
    return status, [(b"Content-Type", b"text/plain")], text


class Pages:
    """A server with some pages in front of its application, and what its action logger was told."""

    def __init__(self) -> None:
        self.reported: list[tuple[Any, ...]] = []
        self.seen: list[Request] = []

    def log(self, protocol: str, action: str, details: Mapping[str, Any]) -> None:
        self.reported.append((protocol, action, details.get("path"), details.get("status")))

    def echo(self, request: Request) -> Page:
        self.seen.append(request)
        return page(request.path + b" " + request.query_string)

    def some(self, request: Request) -> Page | None:
        return page(b"known") if request.path.endswith(b"/known") else None

    def broken(self, request: Request) -> Page:
        raise RuntimeError("in a page")


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[RunningServer]:
    with serve(health_path="/health", server_name="here", http2_cleartext=True, action_logger=pages.log) as running:
        connections: Any = running.server._connections
        own: LocalPages = connections.exchange._handler
        own.add(b"/echo", pages.echo)
        own.add(b"/quiet", pages.echo, reported=False)
        own.add(b"/broken", pages.broken)
        own.add_prefix(b"/.well-known/acme-challenge/", pages.some)
        own.add_prefix(b"/.well-known/", lambda request: page(b"second") if request.path.endswith(b"/second") else None)
        yield running


def get(client: Client, path: bytes, method: bytes = b"GET") -> Any:
    client.send(method + b" " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    return client.read_response(method.decode())


def test_a_page_is_answered_without_the_layer(client: Client, server: RunningServer, pages: Pages) -> None:
    response = get(client, b"/echo?a=%20b")
    assert (response.status, response.body) == (200, b"/echo a=%20b")
    assert response.header("Server") == "here"
    assert response.header("Content-Length") == "12"
    # The connection goes on, with the application as well.
    assert get(client, b"/quiet").status == 200
    client.send(b"GET /echo/ HTTP/1.1\r\nHost: a\r\n\r\n")
    assert server.app.answer(b"the application's")["path"] == "/echo/"
    assert client.read_response().body == b"the application's"


def test_head_has_no_body(client: Client, server: RunningServer) -> None:
    response = get(client, b"/echo", b"HEAD")
    assert (response.status, response.header("Content-Length")) == (200, "6")
    assert get(client, b"/echo").body == b"/echo "


def test_other_methods_are_refused(client: Client, server: RunningServer, pages: Pages) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    response = client.read_response()
    assert (response.status, response.header("Allow")) == (405, "GET, HEAD")
    assert not pages.seen


def test_a_body_that_nobody_reads_is_not_the_next_request(client: Client, server: RunningServer) -> None:
    request = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n" + request)
    assert client.read_response().status == 200
    # Its rest, and what does come next.
    client.send(bytes(50 - len(request)) + b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    message = server.app.answer(b"next")
    assert message["path"] == "/nothing"
    assert client.read_response().body == b"next"
    assert client.at_eof()


def test_prefixes(client: Client, server: RunningServer) -> None:
    base = b"/.well-known/acme-challenge/"
    assert get(client, base + b"known").body == b"known"
    assert get(client, base + b"second").body == b"second"
    client.send(b"GET " + base + b"unknown HTTP/1.1\r\nHost: a\r\n\r\n")
    server.app.answer(b"not a page", 404)
    assert client.read_response().body == b"not a page"
    # Only reading is the page's business.
    client.send(b"DELETE " + base + b"known HTTP/1.1\r\nHost: a\r\n\r\n")
    assert server.app.answer(b"deleted")["method"] == "DELETE"
    assert client.read_response().body == b"deleted"


def test_who_hears_of_it(client: Client, server: RunningServer, pages: Pages) -> None:
    for path in (b"/echo", b"/quiet", b"/health", b"/.well-known/second"):
        assert get(client, path).status == 200
    assert get(client, b"/quiet", b"PUT").status == 405
    # By the time of the next answer it has been reported.
    assert get(client, b"/quiet").status == 200
    assert pages.reported == [
        ("http", "complete", "/echo", 200),
        ("http", "complete", "/.well-known/second", 200),
        ("http", "complete", "/quiet", 405),
    ]


def test_nobody_hears_of_a_client_that_left(server: RunningServer, pages: Pages) -> None:
    arrived, left = threading.Event(), threading.Event()

    def slow(request: Request) -> Page:
        arrived.set()
        get_hub().threadpool.apply(left.wait, (PATIENCE,))
        return page(b"x" * 10_000_000)

    connections: Any = server.server._connections
    own: LocalPages = connections.exchange._handler
    own.add(b"/slow", slow, reported=False)
    with server.connect() as leaving:
        leaving.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        assert arrived.wait(PATIENCE)
    left.set()
    with server.connect() as client:
        assert get(client, b"/echo").status == 200
        assert get(client, b"/quiet").status == 200
    assert pages.reported == [("http", "complete", "/echo", 200)]


def test_a_websocket_is_the_application_s(client: Client, server: RunningServer) -> None:
    client.send(handshake(b"/echo"))
    message = server.app.receive("websocket.connect")[1]
    assert message["path"] == "/echo"
    server.app.reply(message, accept=True)
    assert client.read_head().status == 101


def test_over_http2(server: RunningServer) -> None:
    with Peer(server) as peer:
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/echo")]
        assert peer.get(fields)[::2] == (200, b"/echo ")
        assert peer.get([(b":method", b"HEAD"), *fields[1:]])[::2] == (200, b"")
        # A request whose body nobody wants.
        assert peer.get([(b":method", b"GET"), *fields[1:]], b"x" * 100)[::2] == (200, b"/echo ")


def test_a_page_that_fails_is_500(client: Client, server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = get(client, b"/broken")
    assert response.status == 500
    assert b"in a page" not in response.body
    assert "in a page" in caplog.text


def test_one_page_for_one_path() -> None:
    own = LocalPages(Nothing())
    assert not own
    own.add(b"/a", lambda request: None)
    assert own
    with pytest.raises(ValueError, match="/a has a page already"):
        own.add(b"/a", lambda request: None)


def test_nothing_behind_the_pages() -> None:
    with serve(metrics="tcp:0:interface=127.0.0.1") as server:
        monitor: Any = server.server._monitor
        endpoint = monitor.endpoint.listener.address
        with Client(socket.create_connection((endpoint.host, endpoint.port), timeout=PATIENCE)) as client:
            assert get(client, b"/").status == 404
            client.send(handshake(b"/metrics"))
            assert client.read_head().status == 404
    with serve() as plain, plain.connect() as client:
        # Without any page there is nothing in between.
        connections: Any = plain.server._connections
        assert not isinstance(connections.exchange._handler, LocalPages)
        open_websocket(plain, client)
