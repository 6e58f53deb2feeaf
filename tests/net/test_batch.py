"""Small sends that are put off to the end of the hub's round; over TCP, with a peer that reads what has left."""

from __future__ import annotations

import _socket
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greendaphne.core.message import ClientDisconnected
from greendaphne.net import batch
from greendaphne.net.batch import HELD_SIZE, JOINED_SIZE, SendBatch
from greendaphne.net.transport import Transport
from tests.support.tls import PATIENCE

Pair = tuple[Transport, socket.socket]


def tcp_pair() -> tuple[_socket.socket, socket.socket]:
    """The two ends of a TCP connection; the first for a transport."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), PATIENCE)
        sock, _ = listener.accept()
    return _socket.socket(fileno=sock.detach()), peer


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy ends no batch."""
    monkeypatch.setattr(batch, "HOLD", PATIENCE)


@pytest.fixture
def pairs() -> Iterator[Callable[[], Pair]]:
    """Makes transports with a batch, and their peers."""
    made: list[Pair] = []

    def make() -> Pair:
        sock, peer = tcp_pair()
        transport = Transport(sock, PATIENCE)
        transport.batch = batch.current()
        made.append((transport, peer))
        return transport, peer

    yield make
    for transport, peer in made:
        transport.close()
        peer.close()
    gevent.sleep(0)


def has_come(peer: socket.socket) -> bytes:
    """What the peer's system has received and the peer has not read."""
    peer.setblocking(False)
    try:
        return peer.recv(1 << 20)
    except BlockingIOError:
        return b""
    finally:
        peer.settimeout(PATIENCE)


def wait_for(peer: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes while other greenlets run."""
    data = b""
    with gevent.Timeout(PATIENCE):
        while len(data) < size:
            more = has_come(peer)
            data += more
            if not more:
                gevent.sleep(0.001)
    return data


def busy() -> None:
    """Give the hub a callback to call, as where several requests are ready."""
    get_hub().loop.run_callback(lambda: None)


def test_a_connection_that_is_alone_sends_at_once(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    transport.sendall(b"one")
    assert transport._held == b""
    assert transport.offer(b"two")
    assert transport._held == b""
    assert wait_for(peer, 6) == b"onetwo"


@pytest.mark.parametrize("send", ["sendall", "offer"])
def test_sends_of_one_round_leave_together(pairs: Callable[[], Pair], send: str) -> None:
    first, second = pairs(), pairs()
    busy()
    getattr(first[0], send)(b"one")
    getattr(second[0], send)(b"two")
    getattr(first[0], send)(bytearray(b", and more"))
    assert (has_come(first[1]), has_come(second[1])) == (b"", b"")
    assert (wait_for(first[1], 13), wait_for(second[1], 3)) == (b"one, and more", b"two")


def test_without_a_batch_nothing_is_put_off(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    transport.batch = None
    busy()
    transport.sendall(b"now")
    assert transport._held == b""
    assert wait_for(peer, 3) == b"now"


def test_a_large_send_is_not_put_off(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    busy()
    transport.sendall(b"small")
    transport.sendall(b"x" * (HELD_SIZE + 1))
    assert wait_for(peer, HELD_SIZE + 6) == b"small" + b"x" * (HELD_SIZE + 1)


@pytest.mark.parametrize("send", ["sendall", "offer"])
def test_what_is_too_much_to_be_held_leaves_with_what_is_held(pairs: Callable[[], Pair], send: str) -> None:
    transport, peer = pairs()
    busy()
    getattr(transport, send)(b"small")
    getattr(transport, send)(b"x" * HELD_SIZE)
    assert transport._held == b""
    # It waits for no turn of the hub.
    assert has_come(peer) == b"small" + b"x" * HELD_SIZE


def test_an_offer_is_taken_together_with_what_is_held(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    size = fill(transport)
    busy()
    assert transport.offer(b"h" * HELD_SIZE)
    assert transport.offer(b"behind")
    assert not transport.offer(b"refused")
    assert wait_for(peer, size + HELD_SIZE + 6).endswith(b"h" * HELD_SIZE + b"behind")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["sendall", "offer", "busy", "turn", "flush"]), st.integers(0, 2 * HELD_SIZE)), max_size=30))
def test_the_order_of_bytes_never_changes(steps: list[tuple[str, int]]) -> None:
    sock, peer = tcp_pair()
    transport = Transport(sock, PATIENCE)
    transport.batch = batch.current()
    sent = bytearray()
    received = bytearray()
    for number, (what, size) in enumerate(steps):
        data = bytes([number]) * size
        if what == "sendall":
            transport.sendall(data)
            sent += data
        elif what == "offer":
            if transport.offer(data):
                sent += data
        elif what == "busy":
            busy()
        elif what == "turn":
            gevent.sleep(0)
        else:
            transport.flush()
        received += has_come(peer)
    transport.flush()
    transport.close()
    gevent.sleep(0)
    while more := peer.recv(1 << 20):
        received += more
    assert received == sent
    peer.close()


@pytest.mark.parametrize("end", ["close", "shutdown_write", "flush"])
def test_an_end_sends_what_is_held(pairs: Callable[[], Pair], end: str) -> None:
    transport, peer = pairs()
    busy()
    transport.sendall(b"last words")
    getattr(transport, end)()
    assert transport._held == b""
    assert wait_for(peer, 10) == b"last words"


def test_what_is_held_comes_before_a_reset(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    busy()
    transport.sendall(b"a part")
    transport.abort()
    gevent.sleep(0)
    assert peer.recv(100) == b"a part"
    with pytest.raises(ConnectionResetError):
        peer.recv(100)


def test_a_file_follows_what_is_held(pairs: Callable[[], Pair], tmp_path: Path) -> None:
    transport, peer = pairs()
    (tmp_path / "file").write_bytes(b"the file")
    busy()
    transport.sendall(b"head, ")
    with (tmp_path / "file").open("rb") as file:
        transport.sendfile(file.fileno(), 0, 8)
    assert wait_for(peer, 14) == b"head, the file"


def test_the_delivery_counts_what_is_held(pairs: Callable[[], Pair]) -> None:
    transport, _ = pairs()
    busy()
    transport.sendall(b"12345")
    delivery = transport.delivery()
    assert delivery is not None
    assert sum(delivery) == 5


def fill(transport: Transport) -> int:
    """Fill the buffers of both systems; returns the number of bytes."""
    transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    size = 0
    # The peer's system takes more for a moment after the first refusal.
    while select.select([], [transport], [], 0.1)[1]:
        try:
            size += transport._sock.send(b"f" * 65536)
        except BlockingIOError:
            continue
    return size


def test_what_the_socket_does_not_take_follows_later(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    size = fill(transport)
    busy()
    assert transport.offer(b"held")
    gevent.sleep(0)
    # The flusher has it.
    assert not transport.offer(b"refused")
    room = Event()
    assert not transport.has_room(room.set)
    assert wait_for(peer, size + 4)[-4:] == b"held"
    assert room.wait(PATIENCE)
    transport.sendall(b"after")
    assert wait_for(peer, 5) == b"after"


def test_an_offer_behind_what_cannot_leave_is_refused(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    size = fill(transport)
    busy()
    assert transport.offer(b"h" * HELD_SIZE)
    assert not transport.offer(b"r" * JOINED_SIZE)
    assert wait_for(peer, size + HELD_SIZE).endswith(b"h" * HELD_SIZE)


def test_a_flush_ends_with_its_time_limit(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    size = fill(transport)
    busy()
    transport.sendall(b"held")
    assert not transport.flush(0.01)
    assert wait_for(peer, size + 4)[-4:] == b"held"
    assert transport.flush(PATIENCE)


def test_a_failure_is_raised_by_the_next_call(pairs: Callable[[], Pair]) -> None:
    transport, peer = pairs()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    busy()
    transport.sendall(b"lost")
    gevent.sleep(0)
    busy()
    with pytest.raises(ClientDisconnected):
        transport.sendall(b"told")
    with pytest.raises(ClientDisconnected):
        transport.offer(b"told")


def test_a_closed_transport_raises(pairs: Callable[[], Pair]) -> None:
    transport, _ = pairs()
    transport.close()
    gevent.sleep(0)
    busy()
    with pytest.raises(ClientDisconnected):
        transport.sendall(b"late")


class Holder:
    """Counts."""

    sent = 0

    def send_held(self) -> None:
        self.sent += 1


class Loop:
    """The two facts that a batch asks of gevent's loop, and the call that it makes."""

    def __init__(self, pending: int = 0, callbacks: Any = ()) -> None:
        self.pendingcnt = pending
        self._callbacks = callbacks
        self.called: list[Callable[[], None]] = []

    def run_callback(self, function: Callable[[], None]) -> None:
        self.called.append(function)


@pytest.mark.parametrize(("pending", "callbacks", "held"), [(0, (), False), (1, (), True), (0, (1,), True)])
def test_it_holds_where_the_hub_has_more_to_do(pending: int, callbacks: Any, held: bool) -> None:
    loop = Loop(pending, callbacks)
    assert SendBatch(loop).add(Holder()) is held
    assert len(loop.called) == held


def test_a_batch_that_is_old_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sends, first, second = SendBatch(Loop(1)), Holder(), Holder()
    assert sends.add(first)
    monkeypatch.setattr(batch, "HOLD", 0.0)
    assert not sends.add(second)
    assert (first.sent, second.sent) == (1, 0)


def test_where_a_round_takes_long_nothing_is_put_off_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "LATE", 0.0)
    sends, holder = SendBatch(Loop(1)), Holder()
    assert sends.add(holder)
    sum(range(1000))
    sends.flush()
    assert holder.sent == 1
    assert not sends.add(holder)
    monkeypatch.setattr(sends, "_rest_ends", 0.0)
    assert sends.add(holder)


def test_a_loop_of_another_kind_holds_nothing() -> None:
    assert not SendBatch(object()).add(Holder())


def test_each_hub_has_one_batch() -> None:
    assert batch.current() is batch.current()
    assert gevent.get_hub().threadpool.apply(batch.current) is not batch.current()
