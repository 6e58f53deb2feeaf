"""RFC 9113 case by case, on the wire: what the server answers to frames that are right, wrong, late or in the wrong place.

The order is the RFC's (and h2spec's).  Every connection error is checked to end the connection, every stream error to leave it alive.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from greendaphne.http2 import PREFACE, Http2Stream
from tests.support.http2 import GET, PATIENCE, POST, Fields, Http2Server, RawPeer, forever, serve_http2

PROTOCOL_ERROR = ErrorCodes.PROTOCOL_ERROR
FRAME_SIZE_ERROR = ErrorCodes.FRAME_SIZE_ERROR
FLOW_CONTROL_ERROR = ErrorCodes.FLOW_CONTROL_ERROR
STREAM_CLOSED = ErrorCodes.STREAM_CLOSED
COMPRESSION_ERROR = ErrorCodes.COMPRESSION_ERROR

INITIAL_WINDOW_SIZE = SettingsFrame.INITIAL_WINDOW_SIZE


def application(stream: Http2Stream) -> None:
    """Reads the body to its end and answers with its length; ``/big`` has a long body, ``/late`` is answered after the body."""
    total = 0
    while data := stream.read(65536):
        total += len(data)
    stream.start(200, [(b"x-length", b"%d" % total)])
    stream.finish(b"x" * 100_000 if stream.request.path == b"/big" else b"done")


@pytest.fixture(scope="module")
def server() -> Iterator[Http2Server]:
    with serve_http2(application, client_resets=100_000, server_resets=100_000) as running:
        yield running


@pytest.fixture
def peer(server: Http2Server) -> Iterator[RawPeer]:
    with RawPeer(server) as connected:
        yield connected


def raw(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame as bytes, however wrong."""
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def connection_error(peer: RawPeer, code: int, *data: Frame | bytes) -> None:
    """Send ``data``; the server must end the connection with ``code``."""
    peer.sock.sendall(b"".join(item if isinstance(item, bytes) else item.serialize() for item in data))
    assert peer.goaway().error_code == code


def stream_error(peer: RawPeer, stream_id: int, code: int, *data: Frame | bytes) -> None:
    """Send ``data``; the server must reset the stream with ``code`` and serve the connection on."""
    peer.sock.sendall(b"".join(item if isinstance(item, bytes) else item.serialize() for item in data))
    assert peer.reset(stream_id) == code
    peer.alive()


def answered(peer: RawPeer, stream_id: int) -> bytes:
    """The body of a complete response with status 200."""
    assert peer.status(stream_id) == 200
    body = b""
    while True:
        frame = peer.wait(DataFrame, lambda frame: frame.stream_id == stream_id)
        body += frame.data
        if "END_STREAM" in frame.flags:
            return body


# --- 3.4 preface


def test_a_wrong_preface_ends_the_connection(server: Http2Server) -> None:
    with RawPeer(server, preface=False) as peer:
        connection_error(peer, PROTOCOL_ERROR, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_the_preface_may_come_in_pieces(server: Http2Server) -> None:
    with RawPeer(server, preface=False) as peer:
        for octet in PREFACE + SettingsFrame().serialize() + peer.headers(1).serialize():
            peer.sock.sendall(bytes((octet,)))
        assert answered(peer, 1) == b"done"


def test_the_first_frame_of_the_server_is_settings(server: Http2Server) -> None:
    with RawPeer(server, preface=False) as peer:
        first = peer.recv()
        assert isinstance(first, SettingsFrame)
        assert first.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 100
        assert first.settings[SettingsFrame.ENABLE_CONNECT_PROTOCOL] == 1
        assert first.settings[0x9] == 1


@pytest.mark.parametrize(
    "frame",
    [PingFrame(opaque_data=b"12345678"), WindowUpdateFrame(0, 1), SettingsFrame(flags=["ACK"]), PriorityFrame(1), ExtensionFrame(0x20, 0)],
    ids=lambda frame: type(frame).__name__,
)
def test_the_first_frame_of_the_client_must_be_settings(server: Http2Server, frame: Frame) -> None:
    with RawPeer(server, preface=False) as peer:
        if isinstance(frame, ExtensionFrame):
            frame.body = b""
        data = raw(0x20, 0, 0, b"") if isinstance(frame, ExtensionFrame) else frame.serialize()
        connection_error(peer, PROTOCOL_ERROR, PREFACE, data)


def test_headers_before_settings_are_an_error(server: Http2Server) -> None:
    with RawPeer(server, preface=False) as peer:
        connection_error(peer, PROTOCOL_ERROR, PREFACE, peer.headers(1))


# --- 4.1, 4.2 frames


def test_unknown_frames_are_ignored(peer: RawPeer) -> None:
    peer.sock.sendall(raw(0x16, 0xFF, 0, b"12345678") + raw(0x17, 0xFF, 1, b""))
    peer.alive()


def test_undefined_flags_and_the_reserved_bit_are_ignored(peer: RawPeer) -> None:
    peer.sock.sendall(raw(0x6, 0xFE, 0x80000000, b"12345678"))
    assert peer.wait(PingFrame).opaque_data == b"12345678"
    headers = peer.headers(1)
    peer.sock.sendall(raw(0x1, 0x5 | 0x40, 0x80000001, headers.data))
    assert answered(peer, 1) == b"done"


def test_a_data_frame_of_the_largest_size_is_taken(peer: RawPeer) -> None:
    peer.send(peer.headers(1, POST, flags=("END_HEADERS",)), DataFrame(1, b"x" * 16384, flags=["END_STREAM"]))
    assert (b"x-length", b"16384") in peer.fields(1)


@pytest.mark.parametrize("kind", range(0xC))
def test_a_frame_over_the_largest_size_is_refused_by_its_header(peer: RawPeer, kind: int) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, struct.pack(">HBBBL", 16385 >> 8, 16385 & 0xFF, kind, 0, 1))


# --- 4.3, 6.10 header sections


def test_a_malformed_header_block_is_a_compression_error(peer: RawPeer) -> None:
    connection_error(peer, COMPRESSION_ERROR, raw(0x1, 0x5, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"))


def test_a_header_section_may_span_frames(peer: RawPeer) -> None:
    block = peer.headers(1).data
    peer.send(
        HeadersFrame(1, block[:5], flags=["END_STREAM"]),
        ContinuationFrame(1, block[5:9]),
        ContinuationFrame(1, b""),
        ContinuationFrame(1, block[9:], flags=["END_HEADERS"]),
    )
    assert answered(peer, 1) == b"done"


@pytest.mark.parametrize(
    "intruder",
    [
        PriorityFrame(1),
        PingFrame(opaque_data=b"12345678"),
        DataFrame(1, b"x"),
        SettingsFrame(),
        WindowUpdateFrame(0, 1),
        ContinuationFrame(3, b""),
        RstStreamFrame(1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_nothing_may_interrupt_a_header_section(peer: RawPeer, intruder: Frame) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(1, flags=()), intruder)


def test_a_second_header_section_may_not_interrupt_the_first(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(1, flags=()), peer.headers(3))


def test_an_unknown_frame_may_not_interrupt_a_header_section(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(1, flags=()), raw(0x16, 0, 0, b""))


@pytest.mark.parametrize("stream_id", [0, 1])
def test_continuation_needs_a_header_section_before_it(peer: RawPeer, stream_id: int) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x9, 0x4, stream_id, b""))


def test_continuation_after_a_complete_section_is_an_error(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(1), ContinuationFrame(1, b"", flags=["END_HEADERS"]))


# --- 5.1 stream states


@pytest.mark.parametrize(
    "frame",
    [DataFrame(1, b"x"), RstStreamFrame(1), WindowUpdateFrame(1, 1), ContinuationFrame(1, b"x", flags=["END_HEADERS"])],
    ids=lambda frame: type(frame).__name__,
)
def test_on_an_idle_stream_only_headers_and_priority_are_allowed(peer: RawPeer, frame: Frame) -> None:
    connection_error(peer, PROTOCOL_ERROR, frame)


@pytest.mark.parametrize("frame", [DataFrame(2, b"x"), RstStreamFrame(2), WindowUpdateFrame(2, 1)], ids=lambda frame: type(frame).__name__)
def test_the_servers_streams_are_always_idle(peer: RawPeer, frame: Frame) -> None:
    peer.send(peer.headers(3))
    connection_error(peer, PROTOCOL_ERROR, frame)


def test_priority_is_allowed_on_any_stream(peer: RawPeer) -> None:
    peer.send(PriorityFrame(1, depends_on=0, stream_weight=3), peer.headers(1))
    assert answered(peer, 1) == b"done"
    peer.send(PriorityFrame(1), PriorityFrame(2), PriorityFrame(9))
    peer.alive()


@pytest.mark.parametrize("frame", [DataFrame(1, b"x"), DataFrame(1, b"", flags=["END_STREAM"])], ids=["data", "end"])
def test_data_on_a_half_closed_stream(frame: DataFrame) -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        stream_error(peer, 1, STREAM_CLOSED, frame)


def test_headers_on_a_half_closed_stream() -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1))
        stream_error(peer, 1, STREAM_CLOSED, peer.headers(1))


def test_frames_after_the_clients_reset_are_a_stream_error(peer: RawPeer) -> None:
    peer.send(peer.headers(1, POST, flags=("END_HEADERS",)), RstStreamFrame(1, error_code=ErrorCodes.CANCEL))
    stream_error(peer, 1, STREAM_CLOSED, DataFrame(1, b"x"))
    stream_error(peer, 1, STREAM_CLOSED, peer.headers(1))
    peer.send(WindowUpdateFrame(1, 1), RstStreamFrame(1), PriorityFrame(1))
    peer.alive()


def test_data_after_the_streams_end_ends_the_connection(peer: RawPeer) -> None:
    peer.send(peer.headers(1))
    answered(peer, 1)
    connection_error(peer, STREAM_CLOSED, DataFrame(1, b"x"))


def test_headers_after_the_streams_end_end_the_connection(peer: RawPeer) -> None:
    peer.send(peer.headers(1))
    answered(peer, 1)
    connection_error(peer, STREAM_CLOSED, peer.headers(1))


def test_late_window_updates_and_resets_are_ignored(peer: RawPeer) -> None:
    peer.send(peer.headers(1))
    answered(peer, 1)
    peer.send(WindowUpdateFrame(1, 1000), RstStreamFrame(1))
    peer.alive()


def test_frames_after_the_servers_reset_are_ignored(peer: RawPeer) -> None:
    peer.send(peer.headers(1, [*POST, (b"connection", b"close")], flags=("END_HEADERS",)))
    assert peer.reset(1) == PROTOCOL_ERROR
    peer.send(DataFrame(1, b"x" * 100), peer.headers(1, [(b"x-trailer", b"1")]), DataFrame(1, b""), WindowUpdateFrame(1, 5))
    peer.alive()
    assert not [frame for frame in peer.frames if isinstance(frame, RstStreamFrame)]


# --- 5.1.1 identifiers, 5.1.2 concurrency


def test_a_client_may_not_use_even_identifiers(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(2))


def test_identifiers_only_grow(peer: RawPeer) -> None:
    peer.send(peer.headers(5))
    answered(peer, 5)
    connection_error(peer, PROTOCOL_ERROR, peer.headers(3))


def test_streams_over_the_limit_are_refused_one_by_one() -> None:
    with serve_http2(forever, max_concurrent_streams=3) as server, RawPeer(server) as peer:
        peer.send(*[peer.headers(stream_id) for stream_id in (1, 3, 5, 7)])
        assert peer.reset(7) == ErrorCodes.REFUSED_STREAM
        # What the refused request left in the compression tables is still there.
        peer.send(peer.headers(9, [*GET, (b"x-new", b"value")]))
        assert peer.reset(9) == ErrorCodes.REFUSED_STREAM
        peer.alive()


# --- 6.1 DATA, 6.2 HEADERS


def test_data_on_stream_0(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x0, 0, 0, b"x"))


def test_padding_is_no_body(peer: RawPeer) -> None:
    peer.send(peer.headers(1, POST, flags=("END_HEADERS",)), DataFrame(1, b"12345", pad_length=200, flags=["PADDED", "END_STREAM"]))
    assert (b"x-length", b"5") in peer.fields(1)


def test_padding_longer_than_the_data_frame(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), raw(0x0, 0x9, 1, b"\x05test"))


def test_a_padded_data_frame_without_a_length(peer: RawPeer) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), raw(0x0, 0x9, 1, b""))


def test_headers_on_stream_0(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x1, 0x5, 0, peer.headers(1).data))


def test_padded_headers_with_priority(peer: RawPeer) -> None:
    frame = HeadersFrame(1, peer.headers(1).data, pad_length=7, depends_on=3, stream_weight=9)
    frame.flags.add("PADDED")
    for flag in ("PRIORITY", "END_HEADERS", "END_STREAM"):
        frame.flags.add(flag)
    peer.send(frame)
    assert answered(peer, 1) == b"done"


def test_padding_longer_than_the_headers_frame(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x1, 0xD, 1, b"\xff" + peer.headers(1).data))


def test_padding_that_is_one_longer_than_the_rest_of_a_headers_frame(peer: RawPeer) -> None:
    """Neither the length of the padding nor the priority counts for the rest."""
    section = peer.headers(1).data
    padded = bytes((len(section) + 1,)) + b"\0\0\0\x03\x10" + section
    connection_error(peer, PROTOCOL_ERROR, raw(0x1, 0x2D, 1, padded))


@pytest.mark.parametrize(("flags", "payload"), [(0xD, b""), (0x25, b"\0\0\0"), (0x2D, b"\0\0\0\0\0")])
def test_headers_too_short_for_their_flags(peer: RawPeer, flags: int, payload: bytes) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x1, flags, 1, payload))


def test_a_stream_may_not_depend_on_itself(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x1, 0x25, 1, b"\0\0\0\x01\x10" + peer.headers(1).data))


# --- 6.3 PRIORITY to 6.9 WINDOW_UPDATE


def test_priority_on_stream_0(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x2, 0, 0, b"\0\0\0\0\0"))


@pytest.mark.parametrize("size", [0, 4, 6])
def test_priority_of_the_wrong_size(peer: RawPeer, size: int) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x2, 0, 1, bytes(size)))


def test_rst_stream_on_stream_0(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x3, 0, 0, b"\0\0\0\0"))


@pytest.mark.parametrize("size", [0, 3, 5])
def test_rst_stream_of_the_wrong_size(peer: RawPeer, size: int) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), raw(0x3, 0, 1, bytes(size)))


def test_settings_are_acknowledged(peer: RawPeer) -> None:
    peer.send(SettingsFrame(settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 7, 0x99: 12345}))
    assert "ACK" in peer.wait(SettingsFrame, lambda frame: "ACK" in frame.flags).flags


def test_settings_with_ack_and_payload(peer: RawPeer) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x4, 0x1, 0, b"\0\0\0\0\0\0"))


def test_settings_on_a_stream(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x4, 0, 1, b"\0\x03\0\0\0\x64"))


def test_settings_of_the_wrong_size(peer: RawPeer) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x4, 0, 0, b"\0\x03\0\0\0"))


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (SettingsFrame.ENABLE_PUSH, 2, PROTOCOL_ERROR),
        (SettingsFrame.INITIAL_WINDOW_SIZE, 2**31, FLOW_CONTROL_ERROR),
        (SettingsFrame.MAX_FRAME_SIZE, 16383, PROTOCOL_ERROR),
        (SettingsFrame.MAX_FRAME_SIZE, 2**24, PROTOCOL_ERROR),
        (SettingsFrame.ENABLE_CONNECT_PROTOCOL, 2, PROTOCOL_ERROR),
    ],
)
def test_settings_with_impossible_values(peer: RawPeer, setting: int, value: int, code: int) -> None:
    connection_error(peer, code, SettingsFrame(settings={setting: value}))


def test_the_window_of_open_streams_follows_the_settings(peer: RawPeer) -> None:
    peer.send(SettingsFrame(settings={INITIAL_WINDOW_SIZE: 0}), peer.headers(1))
    assert peer.status(1) == 200
    peer.send(SettingsFrame(settings={INITIAL_WINDOW_SIZE: 1}))
    assert peer.wait(DataFrame).data == b"d"
    # Smaller again: the window is negative now, and what comes first only fills it up (section 6.9.2).
    peer.send(SettingsFrame(settings={INITIAL_WINDOW_SIZE: 0}), WindowUpdateFrame(1, 1))
    peer.alive()
    assert not [frame for frame in peer.frames if isinstance(frame, DataFrame)]
    peer.send(WindowUpdateFrame(1, 100))
    last = peer.wait(DataFrame)
    assert last.data == b"one"
    assert "END_STREAM" in last.flags


def test_push_promise_from_a_client(peer: RawPeer) -> None:
    head = peer.headers(1, POST, flags=("END_HEADERS",))
    connection_error(peer, PROTOCOL_ERROR, head, PushPromiseFrame(1, promised_stream_id=2, data=head.data, flags=["END_HEADERS"]))


def test_ping_is_answered_and_its_answer_is_not(peer: RawPeer) -> None:
    peer.send(PingFrame(opaque_data=b"unasked!", flags=["ACK"]), PingFrame(opaque_data=b"question"))
    assert peer.wait(PingFrame).opaque_data == b"question"


def test_ping_on_a_stream(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x6, 0, 1, b"12345678"))


@pytest.mark.parametrize("size", [0, 7, 9])
def test_ping_of_the_wrong_size(peer: RawPeer, size: int) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x6, 0, 0, bytes(size)))


def test_goaway_on_a_stream(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x7, 0, 1, bytes(8)))


def test_goaway_too_short(peer: RawPeer) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x7, 0, 0, bytes(7)))


def test_open_requests_are_answered_after_the_clients_goaway(peer: RawPeer) -> None:
    peer.send(peer.headers(1, POST, flags=("END_HEADERS",)), GoAwayFrame(0, last_stream_id=0))
    peer.send(DataFrame(1, b"abc", flags=["END_STREAM"]))
    assert (b"x-length", b"3") in peer.fields(1)
    while peer.recv() is not None:
        pass


def test_window_update_of_zero_on_the_connection(peer: RawPeer) -> None:
    connection_error(peer, PROTOCOL_ERROR, raw(0x8, 0, 0, bytes(4)))


def test_window_update_of_zero_on_a_stream(peer: RawPeer) -> None:
    stream_error(peer, 1, PROTOCOL_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), raw(0x8, 0, 1, bytes(4)))


@pytest.mark.parametrize("size", [3, 5])
def test_window_update_of_the_wrong_size(peer: RawPeer, size: int) -> None:
    connection_error(peer, FRAME_SIZE_ERROR, raw(0x8, 0, 0, bytes(size)))


def test_a_connection_window_too_large(peer: RawPeer) -> None:
    connection_error(peer, FLOW_CONTROL_ERROR, WindowUpdateFrame(0, 2**31 - 1))


def test_a_streams_window_too_large(peer: RawPeer) -> None:
    stream_error(peer, 1, FLOW_CONTROL_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), WindowUpdateFrame(1, 2**31 - 1))


def test_settings_that_make_a_window_too_large(peer: RawPeer) -> None:
    update = WindowUpdateFrame(1, 2**31 - 1 - 65535)
    settings = SettingsFrame(settings={INITIAL_WINDOW_SIZE: 65536})
    connection_error(peer, FLOW_CONTROL_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), update, settings)


def test_the_server_keeps_to_the_windows(peer: RawPeer) -> None:
    peer.send(peer.headers(1, [*GET[:2], (b":path", b"/big"), GET[3]]))
    received = 0
    while received < 65535:
        received += len(peer.wait(DataFrame).data)
    assert received == 65535
    peer.alive()
    assert not [frame for frame in peer.frames if isinstance(frame, DataFrame)]
    # The stream's window alone does not help, nor does the connection's.
    peer.send(WindowUpdateFrame(1, 100_000))
    peer.alive()
    assert not [frame for frame in peer.frames if isinstance(frame, DataFrame)]
    peer.send(WindowUpdateFrame(0, 10))
    assert len(peer.wait(DataFrame).data) == 10
    peer.send(WindowUpdateFrame(0, 100_000))
    while received < 100_000 - 10:
        received += len(peer.wait(DataFrame).data)
    assert received == 100_000 - 10


def test_more_than_a_streams_window_is_a_flow_control_error() -> None:
    with serve_http2(forever) as server, RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, flags=("END_HEADERS",)))
        connection_error(peer, FLOW_CONTROL_ERROR, *[DataFrame(1, b"x" * 16384)] * 4)


# --- 8.1 messages


def test_trailers_end_the_request_and_are_dropped(peer: RawPeer) -> None:
    trailers = peer.headers(1, [(b"x-checksum", b"1234")])
    peer.send(peer.headers(1, [*POST, (b"te", b"trailers")], flags=("END_HEADERS",)), DataFrame(1, b"abc"))
    peer.send(HeadersFrame(1, trailers.data, flags=["END_STREAM", "END_HEADERS"]))
    assert (b"x-length", b"3") in peer.fields(1)


def test_trailers_without_end_stream(peer: RawPeer) -> None:
    first = peer.headers(1, POST, flags=("END_HEADERS",))
    stream_error(peer, 1, PROTOCOL_ERROR, first, peer.headers(1, [(b"x-a", b"1")], flags=("END_HEADERS",)))


@pytest.mark.parametrize(
    "field", [(b":method", b"GET"), (b":status", b"200"), (b"connection", b"close"), (b"X-Upper", b"1"), (b"content-length", b"3")]
)
def test_malformed_trailers(peer: RawPeer, field: tuple[bytes, bytes]) -> None:
    stream_error(peer, 1, PROTOCOL_ERROR, peer.headers(1, POST, flags=("END_HEADERS",)), peer.headers(1, [field]))


def test_the_body_must_match_content_length(peer: RawPeer) -> None:
    fields = [*POST, (b"content-length", b"5")]
    peer.send(peer.headers(1, fields, flags=("END_HEADERS",)), DataFrame(1, b"12"), DataFrame(1, b"345", flags=["END_STREAM"]))
    assert answered(peer, 1) == b"done"
    stream_error(peer, 3, PROTOCOL_ERROR, peer.headers(3, fields))
    head = peer.headers(5, fields, flags=("END_HEADERS",))
    stream_error(peer, 5, PROTOCOL_ERROR, head, DataFrame(5, b"1234", flags=["END_STREAM"]))
    head = peer.headers(7, fields, flags=("END_HEADERS",))
    stream_error(peer, 7, PROTOCOL_ERROR, head, DataFrame(7, b"123"), DataFrame(7, b"456"))
    head = peer.headers(9, fields, flags=("END_HEADERS",))
    stream_error(peer, 9, PROTOCOL_ERROR, head, DataFrame(9, b"1234"), peer.headers(9, [(b"x-a", b"1")]))


def replaced(**changes: bytes | None) -> Fields:
    """GET with pseudo-fields replaced, or left out."""
    result = []
    for name, value in GET:
        value = changes.get(name[1:].decode(), value)  # type: ignore[assignment]
        if value is not None:
            result.append((name, value))
    return result


def with_field(name: bytes, value: bytes) -> Fields:
    return [*GET, (name, value)]


MALFORMED = {
    # 8.2.1
    "upper-case name": with_field(b"X-Test", b"1"),
    "empty name": with_field(b"", b"1"),
    "blank in a name": with_field(b"x test", b"1"),
    "colon in a name": with_field(b"x:test", b"1"),
    "parenthesis in a name": with_field(b"x(test)", b"1"),
    "NUL in a name": with_field(b"x\0test", b"1"),
    "DEL in a name": with_field(b"x\x7ftest", b"1"),
    "high octet in a name": with_field(b"x\xe9test", b"1"),
    "NUL in a value": with_field(b"x-test", b"a\0b"),
    "CR in a value": with_field(b"x-test", b"a\rb"),
    "LF in a value": with_field(b"x-test", b"a\nb"),
    "vertical tab in a value": with_field(b"x-test", b"a\x0bb"),
    "form feed in a value": with_field(b"x-test", b"a\x0cb"),
    "separator in a value": with_field(b"x-test", b"a\x1cb"),
    "DEL in a value": with_field(b"x-test", b"a\x7fb"),
    "blank before a value": with_field(b"x-test", b" a"),
    "blank behind a value": with_field(b"x-test", b"a "),
    "tab before a value": with_field(b"x-test", b"\ta"),
    "tab behind a value": with_field(b"x-test", b"a\t"),
    # 8.2.2
    "connection": with_field(b"connection", b"keep-alive"),
    "keep-alive": with_field(b"keep-alive", b"timeout=5"),
    "proxy-connection": with_field(b"proxy-connection", b"close"),
    "transfer-encoding": with_field(b"transfer-encoding", b"chunked"),
    "upgrade": with_field(b"upgrade", b"websocket"),
    "te other than trailers": with_field(b"te", b"gzip"),
    "te with more than trailers": with_field(b"te", b"trailers, deflate;q=0.5"),
    # 8.3
    "unknown pseudo-field": [(b":test", b"1"), *GET],
    "response's pseudo-field": [(b":status", b"200"), *GET],
    "pseudo-field behind a field": [*GET[:3], (b"x-test", b"1"), GET[3]],
    "pseudo-field behind host": [(b"host", b"localhost"), *GET],
    "pseudo-field behind cookie": [(b"cookie", b"a=1"), *GET],
    "bare colon": [(b":", b"1"), *GET],
    "no :method": replaced(method=None),
    "no :scheme": replaced(scheme=None),
    "no :path": replaced(path=None),
    "two :method": [GET[0], *GET],
    "two :scheme": [GET[1], *GET],
    "two :path": [GET[2], *GET],
    "two :authority": [GET[3], *GET],
    "no authority at all": replaced(authority=None),
    "empty :authority": replaced(authority=b""),
    "user information": replaced(authority=b"user@localhost"),
    "blank in :authority": replaced(authority=b"local host"),
    "slash in :authority": replaced(authority=b"localhost/x"),
    "empty :path": replaced(path=b""),
    "relative :path": replaced(path=b"index.html"),
    "absolute :path": replaced(path=b"http://localhost/"),
    "blank in :path": replaced(path=b"/a b"),
    "fragment in :path": replaced(path=b"/a#b"),
    "LF in :path": replaced(path=b"/a\nb"),
    "* with GET": replaced(path=b"*"),
    "empty :method": replaced(method=b""),
    "blank in :method": replaced(method=b"GE T"),
    "at sign in :method": replaced(method=b"B@D"),
    "empty :scheme": replaced(scheme=b""),
    "ftp :scheme": replaced(scheme=b"ftp"),
    "host differs": with_field(b"host", b"other"),
    "host with another port": with_field(b"host", b"localhost:81"),
    "host with the other scheme's port": with_field(b"host", b"localhost:443"),
    "two hosts": [*GET, (b"host", b"localhost"), (b"host", b"localhost")],
    "bad host": [*replaced(authority=None), (b"host", b"a b")],
    "content-length with a sign": with_field(b"content-length", b"+0"),
    "content-length with an underscore": with_field(b"content-length", b"1_0"),
    "content-length of letters": with_field(b"content-length", b"0x0"),
    "content-length of a million digits": with_field(b"content-length", b"0" * 30),
    "empty content-length": with_field(b"content-length", b""),
    "two content-length": [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
    "content-length without body": with_field(b"content-length", b"1"),
    ":protocol without CONNECT": [(b":protocol", b"websocket"), *GET],
    "CONNECT with :path": replaced(method=b"CONNECT", scheme=None),
    "CONNECT with :scheme": replaced(method=b"CONNECT", path=None),
    "CONNECT without :authority": [(b":method", b"CONNECT")],
    "extended CONNECT without :path": [(b":protocol", b"websocket"), *replaced(method=b"CONNECT", path=None)],
    "extended CONNECT without :scheme": [(b":protocol", b"websocket"), *replaced(method=b"CONNECT", scheme=None)],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_a_stream_error(peer: RawPeer, server: Http2Server, case: str) -> None:
    served = server.served
    stream_error(peer, 1, PROTOCOL_ERROR, peer.headers(1, MALFORMED[case]))
    # The same once more, with every field in the dynamic table now; then something good.
    stream_error(peer, 3, PROTOCOL_ERROR, peer.headers(3, MALFORMED[case]))
    assert server.served == served
    peer.send(peer.headers(5))
    assert answered(peer, 5) == b"done"


def test_an_empty_header_section_is_malformed(peer: RawPeer) -> None:
    stream_error(peer, 1, PROTOCOL_ERROR, raw(0x1, 0x5, 1, b""))


# --- RFC 7541 (hpack)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="index behind the tables"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff\xff\xff\x0f", id="endless integer"),
        pytest.param(b"\xff", id="integer cut short"),
        pytest.param(b"\x7f\x80\x01\x01a", id="literal with an index behind the tables"),
        pytest.param(b"\x40\x05ab", id="name cut short"),
        pytest.param(b"\x40\x01a\x05b", id="value cut short"),
        pytest.param(b"\x40", id="nothing behind a literal"),
        pytest.param(b"\x3f\xe2\x1f", id="table size over the limit"),
        pytest.param(b"\x82\x20", id="table size update behind a field"),
        pytest.param(b"\x40\x01a\x84\xff\xff\xff\xff", id="Huffman-coded EOS"),
        pytest.param(b"\x40\x01a\x82\x1f\xff", id="Huffman padding of more than 7 bits"),
        pytest.param(b"\x40\x01a\x81\x18", id="Huffman padding that is not ones"),
    ],
)
def test_compression_errors(peer: RawPeer, block: bytes) -> None:
    connection_error(peer, COMPRESSION_ERROR, raw(0x1, 0x5, 1, block))


def test_the_dynamic_table_may_shrink_and_grow(peer: RawPeer) -> None:
    first = peer.headers(1, [*GET, (b"x-one", b"1")]).data
    peer.sock.sendall(raw(0x1, 0x5, 1, first))
    assert answered(peer, 1) == b"done"
    # Emptied and restored: the old entries are gone.
    peer.sock.sendall(raw(0x1, 0x5, 3, b"\x20\x3f\xe1\x1f\x82\x86\x84\x41\x09localhost"))
    assert answered(peer, 3) == b"done"
    connection_error(peer, COMPRESSION_ERROR, raw(0x1, 0x5, 5, b"\x82\x86\x84\xbf"))


def test_the_server_follows_the_clients_table_size(server: Http2Server) -> None:
    with RawPeer(server, settings={SettingsFrame.HEADER_TABLE_SIZE: 0}) as peer:
        for stream_id in (1, 3, 5):
            peer.send(peer.headers(stream_id))
            assert peer.status(stream_id) == 200
        assert peer.decoder.header_table_size == 0
        peer.decoder.max_allowed_table_size = 100
        peer.send(SettingsFrame(settings={SettingsFrame.HEADER_TABLE_SIZE: 100}))
        for stream_id in (7, 9):
            peer.send(peer.headers(stream_id))
            assert peer.status(stream_id) == 200
        assert peer.decoder.header_table_size == 100


# --- ends


def test_a_client_that_just_leaves(server: Http2Server) -> None:
    with RawPeer(server) as peer:
        peer.send(peer.headers(1, POST, flags=("END_HEADERS",)))
        peer.sock.shutdown(socket.SHUT_WR)
        peer.sock.settimeout(PATIENCE)
        while peer.recv() is not None:
            pass
