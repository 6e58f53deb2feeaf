"""A greenlet that waits for its connection's bytes, and is woken by something else."""

from __future__ import annotations

import _socket
import socket
import time
from collections import Counter
from typing import Any

import gevent
import pytest
from gevent import get_hub

from greendaphne.core import turns
from greendaphne.core.message import ClientDisconnected
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


def pairs(number: int) -> tuple[list[Transport], list[socket.socket]]:
    both = [socket.socketpair() for _ in range(number)]
    return [Transport(_socket.socket(fileno=near.detach()), PATIENCE) for near, _ in both], [peer for _, peer in both]


@pytest.mark.parametrize("event", ["input", "end", "timeout", "observer"])
def test_events_of_many_connections_do_not_fill_one_iteration(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is served once and in full, in more than one iteration of the loop."""
    # Each iteration continues one connection after its first check of the clock.
    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    number = 40
    transports, peers = pairs(number)
    hub: Any = get_hub()
    passed: list[int] = []
    check = hub.loop.check(priority=hub.loop.MAXPRI)
    check.start(passed.append, 0)
    results: list[tuple[Any, int]] = []

    def read(transport: Transport) -> None:
        try:
            got: Any = transport.recv(10, 0.05 if event == "timeout" else PATIENCE)
        except TimeoutError:
            got = TimeoutError
        results.append((got, len(passed)))

    def observe(transport: Transport) -> None:
        def seen() -> None:
            transport.observe(None)
            results.append((transport.recv(10, 0), len(passed)))

        transport.observe(seen)

    for transport in transports:
        if event == "observer":
            observe(transport)
        else:
            gevent.spawn(read, transport)
    gevent.sleep(0)
    for peer in peers:
        if event == "end":
            peer.close()
        elif event != "timeout":
            peer.sendall(b"hello")
    if event == "timeout":
        # All time limits pass in one iteration.
        time.sleep(0.06)
    with gevent.Timeout(PATIENCE):
        while len(results) < number:
            gevent.sleep(0.001)
    check.stop()
    check.close()
    expected = {"input": b"hello", "observer": b"hello", "end": b"", "timeout": TimeoutError}[event]
    assert [got for got, _ in results] == [expected] * number
    in_one = max(Counter(iteration for _, iteration in results).values())
    assert in_one <= 2 * turns.EVENTS_EVERY, results
    for transport in transports:
        transport.close()
    for peer in peers:
        peer.close()


def test_a_connection_that_is_closed_while_its_event_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "EVENT_SECONDS", 0.0)
    transports, peers = pairs(30)
    outcomes: list[Any] = []

    def read(transport: Transport) -> None:
        try:
            outcomes.append(transport.recv(10, PATIENCE))
        except ClientDisconnected:
            outcomes.append(None)
            return
        # The first one closes all others.
        for other in transports:
            other.close()

    for transport in transports:
        gevent.spawn(read, transport)
    gevent.sleep(0)
    for peer in peers:
        peer.sendall(b"hello")
    with gevent.Timeout(PATIENCE):
        while len(outcomes) < len(transports):
            gevent.sleep(0.001)
    assert outcomes.count(None) >= len(transports) - 2 * turns.EVENTS_EVERY
    for peer in peers:
        peer.close()
