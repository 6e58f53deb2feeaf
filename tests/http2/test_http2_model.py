"""Interleavings of streams, windows and resets against a model: whatever a client does, every stream that it lets live echoes exactly
what was sent on it, both sides agree about the windows at the end, and nothing is left over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import h2.events
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greendaphne.http2 import Http2Stream
from tests.support.http2 import POST, Census, Http2Server, Peer, eventually, serve_http2

#: Streams that a script may have open at a time, and in all.
AT_A_TIME, IN_ALL = 5, 15

actions = st.lists(
    st.tuples(st.sampled_from(["open", "data", "data", "data", "end", "reset", "grant", "ping", "read", "priority"]), st.integers(0, 99)),
    max_size=60,
)


def application(stream: Http2Stream) -> None:
    """Echoes piece by piece; ends early, or answers only at the end, or reads nothing, as the path says."""
    path = stream.request.path
    if path == b"/whole":
        body = bytearray()
        while data := stream.read(1000):
            body += data
        stream.start(200, [])
        stream.finish(bytes(body))
        return
    stream.start(200, [])
    if path == b"/early":
        stream.finish(b"early")
        return
    while data := stream.read(3000):
        stream.write(data)
    stream.finish()


@pytest.fixture(scope="module")
def server() -> Iterator[Http2Server]:
    census = Census(Http2Stream)
    with serve_http2(application, client_resets=10**6, control_frames=10**6, max_concurrent_streams=20) as running:
        yield running
        eventually(lambda: census.new(Http2Stream) == 0)


class Script:
    """One client with its model: what was sent on each stream and what came back."""

    def __init__(self, server: Http2Server, window: int) -> None:
        self.peer = Peer(server, initial_window_size=window)
        self.peer.acknowledge = False
        self.sending: list[int] = []
        self.sent: dict[int, bytes] = {}
        self.early: set[int] = set()
        self.received: dict[int, bytes] = {}
        self.owed: dict[int, int] = {}
        self.complete: set[int] = set()
        self.abandoned: set[int] = set()
        self.unexpected: list[h2.events.Event] = []

    def act(self, action: str, number: int) -> None:
        """One step of a script; ``number`` chooses a stream or an amount."""
        machine = self.peer.h2
        if action == "open":
            if len(self.sending) < AT_A_TIME and len(self.sent) < IN_ALL:
                path = (b"/echo", b"/whole", b"/early")[number % 3]
                stream_id = self.peer.request([*POST[:2], (b":path", path), POST[3], (b"priority", b"u=%d, i" % (number % 8))], end=False)
                self.sending.append(stream_id)
                self.sent[stream_id] = self.received[stream_id] = b""
                self.owed[stream_id] = 0
                if path == b"/early":
                    self.early.add(stream_id)
        elif action == "read":
            self.read()
        elif action == "ping":
            machine.ping(b"%08d" % number)
        elif action == "priority":
            body = (2 * (number % IN_ALL) + 1).to_bytes(4, "big") + b"u=%d" % (number % 8)
            self.peer.flush()
            self.peer.sock.sendall(len(body).to_bytes(3, "big") + b"\x10\0\0\0\0\0" + body)
        elif action == "grant":
            self.grant()
        elif self.sending:
            stream_id = self.sending[number % len(self.sending)]
            if action == "data":
                size = min(number * 331, machine.local_flow_control_window(stream_id), 16384)
                data = bytes((number,)) * size
                machine.send_data(stream_id, data)
                self.sent[stream_id] += data
            elif action == "end":
                machine.end_stream(stream_id)
                self.sending.remove(stream_id)
            else:
                machine.reset_stream(stream_id)
                self.sending.remove(stream_id)
                self.abandoned.add(stream_id)
        self.peer.flush()

    def grant(self) -> None:
        """Give back all windows."""
        for stream_id, size in self.owed.items():
            if size:
                self.peer.h2.acknowledge_received_data(size, stream_id)
                self.owed[stream_id] = 0

    def read(self, *, wait: bool = False) -> None:
        """Take what has arrived."""
        self.peer.sock.settimeout(20 if wait else 0.001)
        try:
            self.peer.receive()
        except TimeoutError:
            assert not wait
        self.peer.sock.settimeout(20)
        for event in self.peer.events:
            stream_id = getattr(event, "stream_id", 0)
            if isinstance(event, h2.events.DataReceived):
                self.received[stream_id] += event.data
                self.owed[stream_id] += event.flow_controlled_length or 0
            elif isinstance(event, h2.events.StreamEnded):
                self.complete.add(stream_id)
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                self.unexpected.append(event)
        self.peer.events.clear()

    def finish(self) -> None:
        """End what is open, take every response to its end."""
        for stream_id in self.sending:
            self.peer.h2.end_stream(stream_id)
        self.sending.clear()
        self.peer.flush()
        while len(self.complete - self.abandoned) < len(self.sent.keys() - self.abandoned):
            self.grant()
            self.peer.flush()
            self.read(wait=True)
        self.grant()
        self.peer.flush()


def check_agreement(server: Http2Server, peer: Peer) -> None:
    """Both sides agree on what may still be sent, and the server holds nothing."""
    synchronize(peer)
    (connection,) = server.connections
    eventually(lambda: connection.idle and not connection.engine.pending)
    synchronize(peer)
    engine = connection.engine
    assert peer.h2.outbound_flow_control_window == engine.receive_window
    assert engine.receive_window + engine._unacknowledged == server.http2_limits.connection_window
    assert not connection.writer._blocked
    assert len(connection.writer._scheduler) == 0
    assert connection._upload_windows == server.http2_limits.upload_windows


numbers = count()


def synchronize(peer: Peer) -> None:
    """Let the server process all that was sent, and take all that it has sent."""
    payload = b"sync%04d" % next(numbers)
    peer.h2.ping(payload)
    peer.flush()
    # Not the answer to a ping of the script or of the synchronization before.
    while peer.wait(h2.events.PingAckReceived).ping_data != payload:
        pass


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(script=actions, window=st.sampled_from([0, 1, 100, 65535, 1_000_000]))
def test_scripts(server: Http2Server, script: list[tuple[str, int]], window: int) -> None:
    client = Script(server, window or 1)
    with client.peer as peer:
        for action, number in script:
            client.act(action, number)
        client.finish()
        assert client.unexpected == []
        for stream_id in client.sent.keys() - client.abandoned:
            expected = b"early" if stream_id in client.early else client.sent[stream_id]
            assert client.received[stream_id] == expected
        for stream_id in client.abandoned - client.early:
            assert client.sent[stream_id].startswith(client.received[stream_id])
        check_agreement(server, peer)
    eventually(lambda: not server.connections)
