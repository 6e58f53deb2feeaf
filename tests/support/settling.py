"""Waits until a server has nothing left to do."""

from __future__ import annotations

import time

from greendaphne.server import Server
from tests.support.server import PATIENCE


def settle(server: Server) -> None:
    """Wait until all connections are gone."""
    deadline = time.monotonic() + PATIENCE
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.connections == 0
