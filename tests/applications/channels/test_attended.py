"""Requests over HTTP/1 whose reply is sent before their greenlet goes on: what such a reply may be, and what takes the longer way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greendaphne.applications.channels.detached import AttendedReplies
from greendaphne.core import causes
from greendaphne.core.message import Stream
from greendaphne.core.observer import Observer
from greendaphne.layers.memory import MemoryChannelLayer
from greendaphne.worker import Message
from tests.support.http2 import eventually
from tests.support.server import serve

FIELDS = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each reply was sent at once."""
    found: list[bool] = []
    accept = AttendedReplies.accept

    def note(self: AttendedReplies, message: dict[str, Any]) -> bool:
        taken = accept(self, message)
        found.append(taken)
        return taken

    monkeypatch.setattr(AttendedReplies, "accept", note)
    return found


def layer_of(consumer: Callable[[Message], object]) -> MemoryChannelLayer:
    layer = MemoryChannelLayer(capacity=1000)
    layer.routes = {"http.request": consumer}
    return layer


def hello(message: Message) -> None:
    # The application may change its list as soon as send() has returned.
    headers = FIELDS[:]
    message.reply({"status": 200, "headers": headers, "content": b"Hello"})
    headers.clear()


@pytest.mark.parametrize("name", ["", "site"])
def test_plain_replies_of_one_connection(name: str, accepted: list[bool]) -> None:
    with serve(layer_of(hello), inline_workers=1, server_name=name) as server, server.connect() as client:
        for _ in range(20):
            client.send(GET)
            response = client.read_response()
            assert (response.status, response.body) == (200, b"Hello")
            assert response.header("Server") == (name or None)
        # Pipelined.
        client.send(GET * 20)
        assert [client.read_response().body for _ in range(20)] == [b"Hello"] * 20
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        response = client.read_response()
        assert response.header("Connection") == "close"
        assert client.at_eof()
    # All but the first within each second and for each form of the head.
    assert sum(accepted) >= 30


def test_the_log_has_the_fields_that_were_sent(accepted: list[bool]) -> None:
    """Also where the application empties its list as soon as the reply is sent, which is before the log is written."""
    logged: list[list[tuple[bytes, bytes]]] = []

    class Log(Observer):
        def completed(self, stream: Stream, seconds: float, cause: str) -> None:
            logged.append(list(stream.response_headers))

    with serve(layer_of(hello), inline_workers=1, server_name="", observers=[Log()]) as server, server.connect() as client:
        for _ in range(10):
            client.send(GET)
            assert client.read_response().body == b"Hello"
    assert logged == [FIELDS] * 10
    assert any(accepted)


def test_a_request_with_a_body_and_one_without_content_in_the_response(accepted: list[bool]) -> None:
    with serve(layer_of(hello), inline_workers=1) as server, server.connect() as client:
        for _ in range(3):
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            assert client.read_response().body == b"Hello"
            client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = client.read_response("HEAD")
            assert head.status == 200
            assert head.header("Content-Length") == "5"
        client.send(GET)
        assert client.read_response().body == b"Hello"
    assert any(accepted)
    assert not all(accepted)


def test_a_second_reply_is_dropped(accepted: list[bool]) -> None:
    def twice(message: Message) -> None:
        hello(message)
        hello(message)

    with serve(layer_of(twice), inline_workers=1) as server, server.connect() as client:
        for _ in range(10):
            client.send(GET)
            assert client.read_response().body == b"Hello"
        client.send(GET)
        assert client.read_response().body == b"Hello"
        eventually(lambda: not server.channels.router.clients, "that no client is left")
    assert any(accepted)


def test_a_reply_while_the_client_leaves(accepted: list[bool]) -> None:
    ends: list[str] = []

    class Log(Observer):
        def completed(self, stream: Stream, seconds: float, cause: str) -> None:
            ends.append(cause)

    layer = MemoryChannelLayer()
    with serve(layer, observers=[Log()]) as server:
        with server.connect() as client:
            client.send(GET)
            message = server.app.request()
        eventually(lambda: bool(ends), "the end of the request")
        server.app.reply(message, status=200, headers=FIELDS, content=b"Hello")
    assert ends == [causes.CLIENT_GONE]
