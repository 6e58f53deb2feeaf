"""Waits until a server has nothing left to do."""

from __future__ import annotations

import time

import gevent

from greendaphne.applications.channels.reply_queue import ReplyQueue
from greendaphne.server import Server
from tests.support.server import PATIENCE


def settle(server: Server) -> None:
    """Wait until all connections are gone."""
    deadline = time.monotonic() + PATIENCE
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.connections == 0


def settle_reply_queue(box: ReplyQueue) -> None:
    """Wait, in the hub of ``box``, until nothing of it is on its way to disk."""
    while box._backlog is not None:
        gevent.sleep(0.001)
