"""Clients of HTTP/1.1 that leave, or only stop sending, while their answer is awaited."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from greendaphne.config import Channels, Config
from greendaphne.layers.memory import MemoryChannelLayer
from tests.support.server import PATIENCE, Client, RunningServer, serve

REQUEST = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


def disconnected(server: RunningServer, timeout: float = PATIENCE) -> str:
    """The path of the next ``http.disconnect``."""
    return str(server.app.receive("http.disconnect", timeout=timeout)[1]["path"])


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
def test_a_client_that_leaves_is_noticed(server: RunningServer, reset: bool) -> None:
    client = server.connect()
    client.send(REQUEST)
    server.app.request()
    if reset:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    # A second, and time for a busy machine.
    assert disconnected(server, 5) == "/a"


def test_a_half_closed_client_has_a_moment_for_its_answer(server: RunningServer, client: Client) -> None:
    client.send(REQUEST)
    client.half_close()
    server.app.answer(b"hello")
    assert client.read_response().body == b"hello"


def test_a_half_closed_client_is_given_up_by_default(server: RunningServer, client: Client) -> None:
    client.send(REQUEST)
    server.app.request()
    client.half_close()
    assert disconnected(server, 5) == "/a"


def test_a_half_closed_client_is_answered_with_the_option() -> None:
    with serve(config=Config(channels=Channels(answer_half_closed=True))) as server, server.connect() as client:
        client.send(REQUEST)
        message = server.app.request()
        client.half_close()
        with pytest.raises(AssertionError, match="nothing came"):
            disconnected(server, 2)
        server.app.reply(message, status=200, content=b"late")
        assert client.read_response().body == b"late"


def test_unix_sockets_tell_who_left(tmp_path: Path) -> None:
    layer = MemoryChannelLayer()
    with serve(layer, [f"unix:{tmp_path / 's'}"]) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(tmp_path / "s"))
            client = Client(sock)
            client.send(REQUEST)
            message = server.app.request()
            client.half_close()
            with pytest.raises(AssertionError, match="nothing came"):
                disconnected(server, 2)
            server.app.reply(message, status=200, content=b"late")
            assert client.read_response().body == b"late"
        assert disconnected(server) == "/a"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "s"))
            sock.sendall(REQUEST)
            server.app.request()
        assert disconnected(server, 5) == "/a"
