"""HTTP/1: a connection ends since it holds what others need."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from tests.support.server import PATIENCE, Client, RunningServer


def test_a_connection_that_lets_go_is_reset(server: RunningServer, client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    server.app.request()
    connections: Any = server.server._connections
    (connection,) = connections._open
    (greenlet,) = connections.pool
    done = Event()

    def end() -> None:
        connection.evict()
        done.set()

    greenlet.parent.loop.run_callback_threadsafe(end)
    assert done.wait(PATIENCE)
    # At once, and without an answer, although the request is under way.
    with pytest.raises((ConnectionResetError, EOFError)):
        client.read_response()
