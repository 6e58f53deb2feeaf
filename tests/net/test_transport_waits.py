"""A greenlet that waits for its connection's bytes, and is woken by something else."""

from __future__ import annotations

import _socket
import socket
from typing import Any

import gevent
import pytest
from gevent import get_hub

from greendaphne.net.transport import Transport

PATIENCE = 20.0


@pytest.mark.parametrize("timeout", [None, PATIENCE])
@pytest.mark.parametrize("value", [None, False, True])
def test_a_late_switch_is_no_timeout_and_no_data(timeout: float | None, value: Any) -> None:
    near, peer = socket.socketpair()
    transport = Transport(_socket.socket(fileno=near.detach()), PATIENCE)
    reader = gevent.spawn(transport.recv, 10, timeout)
    gevent.sleep(0)
    for _ in range(3):
        get_hub().loop.run_callback(reader.switch, value)
        gevent.sleep(0)
    assert not reader.ready()
    peer.sendall(b"hello")
    assert reader.get(timeout=PATIENCE) == b"hello"
    transport.close()
    peer.close()


def test_the_timeout_counts_all_the_same() -> None:
    near, peer = socket.socketpair()
    transport = Transport(_socket.socket(fileno=near.detach()), PATIENCE)
    reader = gevent.spawn(transport.recv, 10, 0.01)
    with pytest.raises(TimeoutError):
        reader.get(timeout=PATIENCE)
    transport.close()
    peer.close()
