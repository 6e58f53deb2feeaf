"""What HTTP/2 lets a hostile client try, each on the wire: the connection ends, everything is released, and others are served at once."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent import sleep
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from greendaphne.config import Limits, Timeouts
from greendaphne.http2 import PREFACE, Http2Connection, Http2Stream
from greendaphne.http2.engine import Engine
from tests.support.http2 import (
    GET,
    PATIENCE,
    POST,
    Census,
    Fields,
    Http2Server,
    Peer,
    RawPeer,
    echo,
    eventually,
    forever,
    hello,
    serve_http2,
)

ENHANCE_YOUR_CALM = ErrorCodes.ENHANCE_YOUR_CALM
OPEN = ("END_HEADERS",)


def check_released(server: Http2Server, census: Census) -> None:
    """Nothing is left of the attack, and a new connection is answered."""
    with Peer(server) as peer:
        server.application = hello
        assert peer.get()[2] == b"hello"
    eventually(lambda: not server.connections, "the end of all connections")
    eventually(lambda: census.new(Http2Stream) == 0, "the release of all streams")
    eventually(lambda: census.new(Http2Connection) == 0, "the release of all connections")


@contextmanager
def attacked(application: Any = hello, **options: Any) -> Iterator[Http2Server]:
    census = Census(Http2Stream, Http2Connection)
    with serve_http2(application, **options) as server:
        yield server
        check_released(server, census)


def calmed(peer: RawPeer) -> None:
    """The server has ended the connection with ENHANCE_YOUR_CALM."""
    frame = peer.goaway()
    assert frame.error_code == ENHANCE_YOUR_CALM, frame


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


# --- streams


def test_rapid_reset() -> None:
    with attacked(forever) as server:
        with RawPeer(server) as peer:
            for stream_id in range(1, 3000, 2):
                if not peer.try_send(peer.headers(stream_id), RstStreamFrame(stream_id, error_code=ErrorCodes.CANCEL)):
                    break
            calmed(peer)
        # No more work was begun than the budget allows, and all of it was told to stop.
        assert server.served <= 201
        eventually(lambda: server.disconnected == server.served)


def test_rapid_reset_in_one_segment() -> None:
    with attacked(forever) as server, RawPeer(server) as peer:
        frames: list[Frame] = []
        for stream_id in range(1, 1000, 2):
            frames += [peer.headers(stream_id), RstStreamFrame(stream_id)]
        peer.send(*frames)
        calmed(peer)
        # Such requests are gone before their greenlets begin.
        assert server.served <= 100


MADE_RESETS: dict[str, tuple[Fields, tuple[str, ...], Callable[[int], bytes]]] = {
    "WINDOW_UPDATE of zero": (POST, OPEN, lambda stream_id: raw(0x8, 0, stream_id, bytes(4))),
    "WINDOW_UPDATE too large": (POST, OPEN, lambda stream_id: WindowUpdateFrame(stream_id, 2**31 - 1).serialize()),
    "DATA on a half-closed stream": (GET, ("END_HEADERS", "END_STREAM"), lambda stream_id: DataFrame(stream_id, b"x").serialize()),
    "HEADERS on a half-closed stream": (GET, ("END_HEADERS", "END_STREAM"), lambda stream_id: raw(0x1, 0x5, stream_id, b"\x82\x86\x84")),
    "more body than announced": ([*POST, (b"content-length", b"1")], OPEN, lambda stream_id: DataFrame(stream_id, b"xy").serialize()),
    "trailers without an end": (POST, OPEN, lambda stream_id: raw(0x1, 0x4, stream_id, b"\x00\x01a\x01b")),
}


@pytest.mark.parametrize("case", MADE_RESETS)
def test_made_you_reset(case: str) -> None:
    fields, flags, trigger = MADE_RESETS[case]
    with attacked(forever) as server:
        with RawPeer(server) as peer:
            for stream_id in range(1, 1000, 2):
                try:
                    peer.sock.sendall(peer.headers(stream_id, fields, flags).serialize() + trigger(stream_id))
                except (BrokenPipeError, ConnectionResetError):
                    break
            calmed(peer)
        assert server.served <= 201
        eventually(lambda: server.disconnected == server.served)


@pytest.mark.parametrize("payload", [b"\0\0\0\0", b"\0\0\0\x01\0"], ids=["wrong size", "depends on itself"])
def test_made_you_reset_with_priority_ends_the_connection(payload: bytes) -> None:
    with attacked(forever) as server, RawPeer(server) as peer:
        peer.sock.sendall(peer.headers(1).serialize() + raw(0x2, 0, 1, payload))
        assert peer.goaway().error_code in (ErrorCodes.PROTOCOL_ERROR, ErrorCodes.FRAME_SIZE_ERROR)


def test_malformed_requests_are_counted() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(*[peer.headers(stream_id, [*GET, (b"connection", b"close")]) for stream_id in range(1, 500, 2)])
        calmed(peer)
        assert server.served == 0


def test_a_reset_stream_counts_until_its_work_has_ended() -> None:
    release = threading.Event()

    def stubborn(stream: Http2Stream) -> None:
        while not release.is_set():
            sleep(0.01)
        hello(stream)

    with attacked(stubborn, max_concurrent_streams=5) as server, RawPeer(server) as peer:
        for stream_id in (1, 3, 5, 7, 9):
            peer.send(peer.headers(stream_id))
        eventually(lambda: server.served == 5)
        for stream_id in (1, 3, 5, 7, 9):
            peer.send(RstStreamFrame(stream_id))
        peer.send(peer.headers(11))
        assert peer.reset(11) == ErrorCodes.REFUSED_STREAM
        release.set()
        eventually(lambda: server.connections[0].idle)
        peer.send(peer.headers(13))
        assert peer.status(13) == 200


def test_refused_streams_are_counted() -> None:
    with attacked(forever, max_concurrent_streams=5) as server, RawPeer(server) as peer:
        peer.send(*[peer.headers(stream_id) for stream_id in range(1, 1000, 2)])
        calmed(peer)
        assert server.served <= 5


def test_many_closed_streams_leave_nothing_behind() -> None:
    with attacked() as server, Peer(server) as peer:
        for _ in range(600):
            assert peer.get()[0] == 200
        engine = server.connections[0].engine
        assert len(engine.streams) == 0
        assert len(engine.closed_streams._how) <= 512
        del engine


# --- control frames

FLOODS: dict[str, list[bytes]] = {
    "PING": [PingFrame(opaque_data=b"12345678").serialize()],
    "PING answers": [PingFrame(opaque_data=b"12345678", flags=["ACK"]).serialize()],
    "SETTINGS": [SettingsFrame().serialize()],
    "SETTINGS that move all windows": [SettingsFrame(settings={4: size}).serialize() for size in (0, 65535)],
    "SETTINGS answers": [SettingsFrame(flags=["ACK"]).serialize()],
    "PRIORITY": [PriorityFrame(1, stream_weight=7).serialize(), PriorityFrame(99, depends_on=1).serialize()],
    "PRIORITY_UPDATE": [raw(0x10, 0, 0, struct.pack(">L", stream_id) + b"u=1") for stream_id in range(1, 999, 2)],
    "SETTINGS of many values": [raw(0x4, 0, 0, struct.pack(">HL", 1, size) * 64) for size in (0, 4096)],
    "PRIORITY on streams that were never opened": [raw(0x2, 0, stream_id, b"\0\0\0\0\x01") for stream_id in range(3, 999, 2)],
    "unknown frames": [raw(0x99, 0, 0, b"x" * 100)],
    "large unknown frames on a stream": [raw(0x99, 0, 1, b"x" * 16384)],
    "WINDOW_UPDATE on the connection": [WindowUpdateFrame(0, 1).serialize()],
    "WINDOW_UPDATE on a stream": [WindowUpdateFrame(1, 1).serialize()],
    "GOAWAY": [GoAwayFrame(0).serialize()],
    "empty DATA": [DataFrame(1, b"").serialize()],
    "DATA of padding": [DataFrame(1, b"", pad_length=3, flags=["PADDED"]).serialize()],
}


@pytest.mark.parametrize("case", FLOODS)
def test_floods_of_control_frames(case: str) -> None:
    frames = FLOODS[case]
    with attacked(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        data = b"".join(frames) * (1001 // len(frames) + 1)
        try:
            peer.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        calmed(peer)


LATE_FLOODS: dict[str, bytes] = {
    "PING": PingFrame(opaque_data=b"12345678").serialize(),
    "RST_STREAM": RstStreamFrame(1).serialize(),
    "WINDOW_UPDATE": WindowUpdateFrame(1, 1).serialize(),
    "WINDOW_UPDATE of zero": raw(0x8, 0, 1, bytes(4)),
    "PRIORITY": PriorityFrame(1, stream_weight=7).serialize(),
    "unknown frames": raw(0x99, 0, 1, b"x" * 100),
}


@pytest.mark.parametrize("case", LATE_FLOODS)
def test_floods_after_the_end_of_a_stream(case: str) -> None:
    with attacked(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN), RstStreamFrame(1))
        peer.alive()
        try:
            peer.sock.sendall(LATE_FLOODS[case] * 1100)
        except (BrokenPipeError, ConnectionResetError):
            pass
        calmed(peer)


def test_a_byte_of_window_on_each_of_many_streams() -> None:
    """Nothing waits for these windows; they count all the same."""
    with attacked(forever) as server, RawPeer(server) as peer:
        streams = range(1, 161, 2)
        peer.send(*[peer.headers(stream_id, POST, OPEN) for stream_id in streams])
        peer.alive()
        try:
            peer.sock.sendall(b"".join(WindowUpdateFrame(stream_id, 1).serialize() for stream_id in streams) * 14)
        except (BrokenPipeError, ConnectionResetError):
            pass
        calmed(peer)


def test_padding_counts_for_the_windows() -> None:
    """DATA of one byte with 255 bytes of padding: read by the application, and the windows are given back whole."""
    with attacked(echo) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        for _ in range(10):
            peer.send(*[DataFrame(1, b"a", pad_length=255, flags=["PADDED"])] * 100)
            peer.alive()
        peer.send(DataFrame(1, b"b", flags=["END_STREAM"]))
        received = b""
        while not received.endswith(b"b"):
            received += peer.wait(DataFrame).data
        assert received == b"a" * 1000 + b"b"


@pytest.mark.parametrize("late", [False, True])
def test_two_window_updates_for_each_data_frame_are_no_flood(late: bool) -> None:
    """Immediately, or all together at the end: what the server's DATA frames explain is never held against the client."""

    def long(stream: Http2Stream) -> None:
        stream.start(200, [])
        for _ in range(3000):
            stream.write(b"x" * 100)
        stream.finish()

    with attacked(long, control_frames=50) as server, RawPeer(server, settings={4: 2**30}) as peer:
        peer.send(WindowUpdateFrame(0, 2**30))
        for stream_id in (1, 3):
            peer.send(peer.headers(stream_id))
            updates: list[WindowUpdateFrame] = []
            while "END_STREAM" not in peer.wait(DataFrame).flags:
                updates += (WindowUpdateFrame(0, 1), WindowUpdateFrame(stream_id, 1))
                if not late:
                    peer.send(*updates)
                    updates.clear()
            peer.send(*updates)
            peer.alive()
        # More than that is one.
        peer.send(*[WindowUpdateFrame(0, 1)] * 1000)
        calmed(peer)


def test_window_updates_over_many_echoes() -> None:
    def echoes(stream: Http2Stream) -> None:
        stream.start(200, [])
        while data := stream.read(65536):
            stream.write(data)
        stream.finish()

    with attacked(echoes, control_frames=50) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        for number in range(2000):
            peer.send(DataFrame(1, b"echo %d" % number))
            frame = peer.wait(DataFrame)
            assert frame.data == b"echo %d" % number
            peer.send(WindowUpdateFrame(0, len(frame.data)), WindowUpdateFrame(1, len(frame.data)))
        peer.alive()


def test_header_sections_on_a_refused_stream_are_counted() -> None:
    """26 bytes refer to 61 KiB of fields, on a stream that the server has reset; the table has a field that is not valid."""
    with attacked() as server, RawPeer(server) as peer:
        entry = b"\x40\x01a\x7f" + bytes((0x80 | (3600 - 127) & 0x7F, (3600 - 127) >> 7)) + b"x" * 3600
        block = b"\x82\x86\x84\x01\x09localhost" + b"\x00\x03BAD\x01a" + entry
        peer.send(HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
        assert peer.reset(1) == ErrorCodes.PROTOCOL_ERROR
        late = HeadersFrame(1, b"\xbe" * 17, flags=["END_HEADERS", "END_STREAM"])
        peer.send(*[late] * 200)
        peer.alive()
        peer.try_send(*[late] * 100)
        calmed(peer)
        assert server.served == 0


def test_data_on_a_refused_stream_is_counted() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*POST, (b"BAD", b"a")], OPEN))
        assert peer.reset(1) == ErrorCodes.PROTOCOL_ERROR
        # What may be on its way after a reset is a whole window.
        peer.send(*[DataFrame(1, b"a")] * 4000)
        peer.alive()
        peer.try_send(*[DataFrame(1, b"a")] * 200)
        calmed(peer)


def test_data_of_a_few_bytes_is_counted() -> None:
    with attacked(forever, small_data_frames=500) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        peer.send(*[DataFrame(1, b"a")] * 500, *[DataFrame(1, b"12345678")] * 500)
        peer.alive()
        peer.try_send(DataFrame(1, b"1234567"))
        calmed(peer)


def test_settings_that_are_not_defined_are_not_kept() -> None:
    with attacked() as server, RawPeer(server) as peer:
        for first in range(100, 1000, 50):
            peer.sock.sendall(raw(4, 0, 0, b"".join(struct.pack(">HL", setting, 1) for setting in range(first, first + 50))))
        peer.alive()
        # Wherever the engine would keep them.
        held = [value for value in vars(server.connections[0].engine).values() if isinstance(value, (dict, set, list))]
        assert held
        assert not [setting for value in held for setting in value if isinstance(setting, int) and 100 <= setting < 1000]
        peer.sock.sendall(raw(4, 0, 0, struct.pack(">HL", 100, 1) * 65))
        calmed(peer)


def test_many_window_sizes_in_one_frame_change_the_windows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 settings for a hundred streams were 6400 changes; only the last one is seen by anything."""
    changes: list[int] = []
    change = Engine._change_windows

    def counted(engine: Engine, difference: int) -> None:
        changes.append(difference)
        change(engine, difference)

    monkeypatch.setattr(Engine, "_change_windows", counted)

    def big(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(b"x" * 20)

    with attacked(big) as server, RawPeer(server, settings={4: 0}) as peer:
        peer.send(peer.headers(1), peer.headers(3))
        assert [peer.status(1), peer.status(3)] == [200, 200]
        changes.clear()
        values = [n % 7 for n in range(63)] + [10]
        peer.sock.sendall(raw(4, 0, 0, b"".join(struct.pack(">HL", 4, value) for value in values)))
        bodies: dict[int, int] = {}
        while sum(bodies.values()) < 20:
            frame = peer.recv()
            assert frame is not None
            if isinstance(frame, DataFrame):
                bodies[frame.stream_id] = bodies.get(frame.stream_id, 0) + len(frame.data)
        assert bodies == {1: 10, 3: 10}
        assert changes == [10]
        peer.sock.sendall(raw(4, 0, 0, struct.pack(">HLHL", 4, 30, 4, 2**31 - 1)) + raw(8, 0, 1, struct.pack(">L", 11)))
        assert peer.reset(1) == ErrorCodes.FLOW_CONTROL_ERROR


def test_a_busy_peer_leaves_other_connections_their_turn() -> None:
    """Thousands of frames come in one read; another connection's request is answered before all of them are looked at."""
    with attacked(echo) as server, RawPeer(server) as busy, RawPeer(server) as other:
        busy.send(busy.headers(1, POST, OPEN))
        stop = threading.Event()

        def send() -> None:
            pings = b"".join(PriorityFrame(1, stream_weight=7).serialize() for _ in range(5000))
            while not stop.is_set():
                try:
                    busy.sock.sendall(pings)
                except OSError:
                    return

        server.connections[0].engine._control._limit = 10**9
        thread = threading.Thread(target=send)
        thread.start()
        try:
            for stream_id in range(1, 41, 2):
                other.send(other.headers(stream_id))
                assert other.status(stream_id) == 200
        finally:
            stop.set()
            busy.sock.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("value", [2, 2**32 - 1])
def test_no_rfc7540_priorities_is_0_or_1(value: int) -> None:
    """RFC 9218 section 2.1."""
    with attacked() as server, RawPeer(server) as peer:
        peer.sock.sendall(raw(4, 0, 0, struct.pack(">HLHL", 9, value, 9, 1)))
        assert peer.goaway().error_code == ErrorCodes.PROTOCOL_ERROR


def test_cookie_crumbs_count_together() -> None:
    with attacked(limits=Limits(request_field_size=1000)) as server, RawPeer(server) as peer:
        crumbs = [(b"cookie", b"a=" + b"x" * 98)] * 9
        peer.send(peer.headers(1, [*GET, *crumbs]))
        assert peer.status(1) == 200
        peer.send(peer.headers(3, [*GET, *crumbs, (b"cookie", b"b=" + b"x" * 100)]))
        assert peer.status(3) == 431


@pytest.mark.parametrize("authority", [b"", b":80", b"a,b", b"a%00b", b"a:99999", b"[:::]", b"user@a"])
def test_an_authority_that_is_none(authority: bytes) -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*GET[:3], (b":authority", authority)]))
        assert peer.reset(1) == ErrorCodes.PROTOCOL_ERROR


def test_a_busy_download_may_send_many_window_updates() -> None:
    def long(stream: Http2Stream) -> None:
        stream.start(200, [])
        for _ in range(3000):
            stream.write(b"x" * 1000)
        stream.finish()

    with attacked(long) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        received = 0
        while received < 3_000_000:
            frame = peer.wait(DataFrame)
            received += len(frame.data)
            if frame.data:
                peer.send(WindowUpdateFrame(0, len(frame.data)), WindowUpdateFrame(1, len(frame.data)))
        peer.alive()


def test_resets_below_the_budget_cost_nobody_anything() -> None:
    with attacked(forever) as server, RawPeer(server) as peer:
        for stream_id in range(1, 2 * 199, 2):
            peer.send(peer.headers(stream_id), RstStreamFrame(stream_id))
        peer.alive()


def test_budgets_are_for_a_period() -> None:
    with attacked(period=0, client_resets=10, control_frames=10) as server, RawPeer(server) as peer:
        for stream_id in range(1, 101, 2):
            peer.send(peer.headers(stream_id), RstStreamFrame(stream_id))
            peer.alive()


def test_answers_that_nobody_reads() -> None:
    with attacked(control_frames=10**9, control_buffer=64 * 1024) as server:
        with RawPeer(server) as peer:
            # The answers fill the sockets' buffers before they pile up in the server.
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            transport: Any = server.connections[0]._transport
            transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            del transport
            pings = PingFrame(opaque_data=b"12345678").serialize() * 1000
            # The kernel drops a reset beyond its closed window, and asks the server's at growing intervals only.
            peer.sock.settimeout(0.2)
            sent = 0
            while server.connections:
                try:
                    sent += peer.sock.send(pings[sent % len(pings) :])
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    break
            assert sent > 64 * 1024
        eventually(lambda: not server.connections)


# --- header sections


def test_endless_continuation_frames() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, GET, flags=()), *[ContinuationFrame(1, b"")] * 17)
        calmed(peer)


def test_endless_continuation_frames_without_content() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.sock.sendall(raw(0x1, 0x1, 1, b"\x82\x86\x84"))
        try:
            peer.sock.sendall(raw(0x9, 0, 1, b"") * 5000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        calmed(peer)
        assert server.served == 0


def test_large_continuation_frames() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, GET, flags=()))
        peer.send(*[ContinuationFrame(1, b"\x00\x01a\x7f\x00" + b"b" * 16000)] * 17)
        calmed(peer)


def bomb(peer: RawPeer, stream_id: int, references: int) -> HeadersFrame:
    """A header section of a few bytes for each of ``references`` fields of 4 KB."""
    entry = b"\x40\x01a\x7f" + bytes((0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7)) + b"x" * 3900
    block = b"\x82\x86\x84\x01\x09localhost" + entry + b"\xbe" * references
    return HeadersFrame(stream_id, block, flags=["END_HEADERS", "END_STREAM"])


def test_hpack_bomb() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(bomb(peer, 1, 10_000))
        calmed(peer)
        assert server.served == 0


def test_a_header_list_a_little_too_large_is_answered() -> None:
    with attacked() as server, RawPeer(server) as peer:
        peer.send(bomb(peer, 1, 30))
        assert peer.status(1) == 431
        # The tables are still in step.
        peer.send(HeadersFrame(3, b"\x82\x86\x84\x01\x09localhost\xbe", flags=["END_HEADERS", "END_STREAM"]))
        assert peer.status(3) == 200


def test_too_many_fields() -> None:
    with attacked(limits=Limits(request_fields=50)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*GET, *[(b"x-%d" % n, b"1") for n in range(50)]]))
        assert peer.status(1) == 431


def test_a_field_too_long() -> None:
    with attacked(limits=Limits(request_field_size=1000)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, [*GET, (b"x-long", b"x" * 993)]), peer.headers(3, [*GET, (b"x-long", b"x" * 992)]))
        assert (peer.status(1), peer.status(3)) == (431, 200)


def test_made_up_field_names_are_not_collected() -> None:
    from greendaphne.http2 import compression, fields

    with attacked() as server, RawPeer(server) as peer:
        for stream_id in range(1, 41, 2):
            names = [(b"x-%d-%d" % (stream_id, n), b"1") for n in range(150)]
            peer.send(HeadersFrame(stream_id, peer.encoder.encode([*GET, *names]), flags=["END_HEADERS", "END_STREAM"]))
            assert peer.status(stream_id) == 200
    assert len(fields._names) <= 1024
    assert compression._remembered_huffman.cache_info().currsize <= 4096


# --- flow control


def test_zero_window_stall() -> None:
    def big(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(b"x" * 10_000_000)

    with attacked(big, timeouts=Timeouts(send=0.2)) as server, RawPeer(server, settings={4: 0}) as peer:
        peer.send(*[peer.headers(stream_id) for stream_id in range(1, 21, 2)])
        for stream_id in range(1, 21, 2):
            assert peer.reset(stream_id) == ErrorCodes.CANCEL
        eventually(lambda: server.connections[0].idle)
        assert server.disconnected == 10
        peer.alive()


def test_a_window_that_opens_by_single_bytes() -> None:
    def big(stream: Http2Stream) -> None:
        stream.start(200, [])
        stream.finish(b"x" * 100_000)

    with attacked(big, timeouts=Timeouts(send=0.2), control_frames=10**9) as server, RawPeer(server, settings={4: 0}) as peer:
        peer.send(peer.headers(1))
        eventually(lambda: server.served == 1)
        received = 0
        while True:
            peer.send(WindowUpdateFrame(1, 1))
            frame = peer.wait(Frame, lambda frame: isinstance(frame, (DataFrame, RstStreamFrame)))
            if isinstance(frame, RstStreamFrame):
                break
            received += len(frame.data)  # type: ignore[attr-defined]
            sleep_a_little()
        assert frame.error_code == ErrorCodes.CANCEL
        assert received < 100_000


def sleep_a_little() -> None:
    threading.Event().wait(0.02)


def test_a_client_that_reads_nothing() -> None:
    def endless(stream: Http2Stream) -> None:
        stream.start(200, [])
        while True:
            stream.write(b"x" * 65536)

    with attacked(endless, timeouts=Timeouts(send=0.3)) as server:
        with RawPeer(server, settings={4: 2**31 - 1}) as peer:
            peer.send(WindowUpdateFrame(0, 2**30))
            peer.send(*[peer.headers(stream_id) for stream_id in range(1, 21, 2)])
            eventually(lambda: server.served == 10)
            # What waits for it is bounded while it lasts, and all of it goes when the time is over.
            connection = server.connections[0]
            assert connection.engine.pending < 200_000
            eventually(lambda: server.disconnected == 10)
        del connection


def test_bodies_that_nobody_reads_hold_up_no_other_stream() -> None:
    def application(stream: Http2Stream) -> None:
        if stream.request.path == b"/read":
            echo(stream)
        else:
            forever(stream)

    with attacked(application) as server, Peer(server) as peer:
        for _ in range(99):
            stream_id = peer.request(POST, end=False)
            peer.send(stream_id, b"x" * 65535)
        status, _, body = peer.get([POST[0], POST[1], (b":path", b"/read"), POST[3]], b"y" * 300_000)
        assert (status, len(body)) == (200, 300_000)


def test_what_resets_throw_away_is_given_back_to_the_connection() -> None:
    with attacked(forever) as server, Peer(server) as peer:
        window = server.http2_limits.connection_window
        for _ in range(2 * window // 65535 // 2):
            stream_id = peer.request(POST, end=False)
            peer.send(stream_id, b"x" * 65535)
            peer.h2.reset_stream(stream_id)
        server.application = echo
        for _ in range(5):
            assert len(peer.get(POST, b"y" * 2_000_000)[2]) == 2_000_000


def test_single_bytes_of_body_are_held_without_overhead() -> None:
    def slow(stream: Http2Stream) -> None:
        if stream.request.path == b"/":
            forever(stream)
        else:
            hello(stream)

    with attacked(slow) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        peer.sock.sendall(DataFrame(1, b"x").serialize() * 20_000)
        peer.alive()
        (stream,) = server.connections[0]._streams.values()
        assert stream._inbox is not None
        assert len(stream._inbox) == 20_000
        del stream


# --- time


def test_no_preface() -> None:
    with attacked(timeouts=Timeouts(header=0.2)) as server, RawPeer(server, preface=False) as peer:
        peer.sock.sendall(PREFACE[:5])
        peer.goaway()


def test_no_settings() -> None:
    with attacked(timeouts=Timeouts(header=0.2)) as server, RawPeer(server, preface=False) as peer:
        peer.sock.sendall(PREFACE)
        peer.goaway()


@pytest.mark.parametrize("part", [b"\0\0\x20\x01\x05\0\0\0\x01", b"\0\0\x20\x01\x05\0\0\0\x01\x82", raw(0x1, 0x1, 1, b"\x82")])
def test_a_header_section_that_never_ends(part: bytes) -> None:
    with attacked(timeouts=Timeouts(header=0.2)) as server, RawPeer(server) as peer:
        peer.sock.sendall(part)
        peer.goaway()


def test_an_idle_connection_is_ended() -> None:
    with attacked(timeouts=Timeouts(keep_alive=0.2)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        assert peer.status(1) == 200
        frame = peer.goaway()
        assert (frame.error_code, frame.last_stream_id) == (ErrorCodes.NO_ERROR, 1)


def test_pings_do_not_keep_an_idle_connection() -> None:
    with attacked(timeouts=Timeouts(keep_alive=0.3)) as server, RawPeer(server) as peer:
        while peer.try_send(PingFrame(opaque_data=b"12345678")):
            frame = peer.recv()
            if frame is None or isinstance(frame, GoAwayFrame):
                break
            sleep_a_little()
        peer.sock.shutdown(socket.SHUT_WR)


def test_a_connection_with_work_is_not_idle() -> None:
    def slow(stream: Http2Stream) -> None:
        sleep(0.5)
        hello(stream)

    with attacked(slow, timeouts=Timeouts(keep_alive=0.1)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        assert peer.status(1) == 200


@pytest.mark.parametrize("data", [b"", b"some"])
def test_a_body_that_stops(data: bytes) -> None:
    with attacked(echo_after, timeouts=Timeouts(body=0.2, linger=0.1)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN), DataFrame(1, data or b"x"))
        assert peer.status(1) == 408
        assert peer.reset(1) == ErrorCodes.NO_ERROR
        peer.alive()


def test_a_body_that_drips() -> None:
    with attacked(echo_after, timeouts=Timeouts(body=0.3, body_rate=10_000)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN))
        peer.sock.settimeout(0.05)
        while True:
            peer.send(DataFrame(1, b"x"))
            try:
                assert peer.status(1) == 408
                break
            except TimeoutError:
                continue


def test_what_came_fast_buys_no_time_for_a_drip() -> None:
    """The rate holds over a sliding window."""
    with attacked(echo_after, timeouts=Timeouts(body=0.3, body_rate=10_000)) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, OPEN), *[DataFrame(1, b"x" * 16_000)] * 4)
        peer.sock.settimeout(0.05)
        for _ in range(100):
            peer.send(DataFrame(1, b"x"))
            try:
                assert peer.status(1) == 408
                return
            except TimeoutError:
                continue
        pytest.fail("the drip was not ended")


def echo_after(stream: Http2Stream) -> None:
    """Reads the whole body first."""
    body = b""
    while data := stream.read(1000):
        body += data
    stream.start(200, [])
    stream.finish(body)
