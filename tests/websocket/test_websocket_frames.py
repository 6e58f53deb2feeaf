"""The frame reader by itself: any segmentation gives the same messages, and every limit holds before memory is taken."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greendaphne.config import Limits
from greendaphne.websocket import CloseCode
from greendaphne.websocket.deflate import Compression, Deflate, Inflater
from greendaphne.websocket.errors import ProtocolViolation, WebSocketClosed, may_be_sent
from greendaphne.websocket.frames import FRAGMENT, MessageReader, decode_close, encode_close, encode_header, encode_text
from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, frame

Event = str | bytes | tuple[int, bytes]

payloads = st.one_of(st.binary(max_size=200), st.integers(60000, 70000).map(lambda size: (bytes(range(256)) * 274)[:size]))
masks = st.binary(min_size=4, max_size=4)


def poll_all(reader: MessageReader) -> list[Event]:
    events: list[Event] = list(iter(reader.poll, None))
    return [event for event in events if event is not FRAGMENT]


def is_empty(reader: MessageReader) -> bool:
    """Whether it holds nothing of the peer's."""
    state = {name: getattr(reader, name) for name in MessageReader.__slots__}
    fresh = MessageReader(Limits())
    changing = ("_buffer", "_position", "_missing", "_inflater", "_content", "_held", "_undecoded", "_size", "_fragments", "_wire_size")
    return all(state[name] == getattr(fresh, name) for name in changing)


def violation(reader: MessageReader) -> ProtocolViolation:
    with pytest.raises(ProtocolViolation) as caught:
        poll_all(reader)
    return caught.value


class Conversation(NamedTuple):
    """A stream of frames and what is in it."""

    data: bytes
    events: list[Event]

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes with {len(self.events)} events, {self.data[:50]!r}..."


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    data, events = b"", list[Event]()

    def control() -> bytes:
        opcode, payload = draw(st.sampled_from((PING, PONG, CLOSE))), draw(st.binary(max_size=125))
        events.append((opcode, payload))
        return frame(opcode, payload, mask=draw(masks))

    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            data += control()
        text = draw(st.booleans())
        content = draw(st.text(max_size=100)).encode() if text else draw(payloads)
        cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=3)))
        parts = [content[start:end] for start, end in itertools.pairwise([0, *cuts, len(content)])]
        for index, part in enumerate(parts):
            opcode = CONTINUATION if index else TEXT if text else BINARY
            data += frame(opcode, part, fin=index == len(parts) - 1, mask=draw(masks))
            if index < len(parts) - 1 and draw(st.booleans()):
                data += control()
        events.append(content.decode() if text else content)
    return Conversation(data, events)


def segments(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """``data`` in segments of ``sizes``, again and again."""
    position = 0
    for size in itertools.cycle(sizes):
        if position >= len(data):
            return
        yield data[position : position + size]
        position += size


@settings(deadline=None)
@given(conversations(), st.lists(st.integers(1, 4000), min_size=1, max_size=20))
def test_any_segmentation_gives_the_same_events(conversation: Conversation, sizes: list[int]) -> None:
    data, expected = conversation
    reader = MessageReader(Limits())
    events: list[Event] = []
    for segment in segments(data, sizes):
        reader.feed(segment)
        events += poll_all(reader)
    assert events == expected
    assert is_empty(reader)


@settings(deadline=None)
@given(conversations(), st.lists(st.integers(1, 4000), min_size=1, max_size=20))
def test_what_is_taken_gives_the_same_events(conversation: Conversation, sizes: list[int]) -> None:
    data, expected = conversation
    reader = MessageReader(Limits())
    events: list[Event] = []
    for segment in segments(data, sizes):
        event = reader.take(segment)
        if event is not None:
            events += [] if event is FRAGMENT else [event]
            events += poll_all(reader)
    assert events == expected
    assert is_empty(reader)


@pytest.mark.parametrize("size", [0, 1, 16, 125, 126, 127, 4000, 0xFFFF, 0x10000])
@pytest.mark.parametrize("text", [True, False])
def test_whole_messages_are_taken(size: int, text: bool) -> None:
    reader = MessageReader(Limits())
    content = b"a" * size
    for _ in range(2):
        assert reader.take(frame(TEXT if text else BINARY, content)) == (content.decode() if text else content)
        assert is_empty(reader)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff"), CloseCode.INVALID_PAYLOAD),
        (frame(TEXT, b"\xff" * 200), CloseCode.INVALID_PAYLOAD),
        (frame(BINARY, b"a" * 1001), CloseCode.MESSAGE_TOO_BIG),
        # Without a mask, and with lengths that are not minimal.
        (b"\x81\x05hello", CloseCode.PROTOCOL_ERROR),
        (b"\x82\x7e\x00\x80" + bytes(128), CloseCode.PROTOCOL_ERROR),
        (b"\x81\xfe\x00\x05\x00\x00\x00\x00hello", CloseCode.PROTOCOL_ERROR),
        (b"\x81\xff" + (5).to_bytes(8, "big") + b"\x00\x00\x00\x00hello", CloseCode.PROTOCOL_ERROR),
        (b"\xc1\x85\x00\x00\x00\x00hello", CloseCode.PROTOCOL_ERROR),
    ],
)
def test_what_is_taken_is_checked(data: bytes, code: int) -> None:
    with pytest.raises(ProtocolViolation) as raised:
        MessageReader(Limits(websocket_message=1000)).take(data)
    assert raised.value.code == code


def test_a_message_inside_of_another_is_not_taken() -> None:
    reader = MessageReader(Limits())
    assert reader.take(frame(TEXT, b"a", fin=False)) is FRAGMENT
    with pytest.raises(ProtocolViolation):
        reader.take(frame(TEXT, b"b"))


def test_octet_by_octet() -> None:
    data = frame(TEXT, "Grüße".encode() * 40) + frame(BINARY, b"\x00" * 300) + frame(PING, b"p" * 125) + frame(BINARY)
    reader = MessageReader(Limits())
    events: list[Event] = []
    for octet in data:
        reader.feed(bytes((octet,)))
        events += poll_all(reader)
    assert events == ["Grüße" * 40, b"\x00" * 300, (PING, b"p" * 125), b""]
    assert is_empty(reader)


def test_what_remains_is_all_that_is_kept() -> None:
    reader = MessageReader(Limits())
    reader.feed(frame(BINARY, bytes(60000)) + b"\x82")
    assert poll_all(reader) == [bytes(60000)]
    assert reader._buffer == b"\x82"


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_frame_limit_holds_at_the_header(opcode: int, fin: bool) -> None:
    limits = Limits(websocket_frame=1000, websocket_message=2000)
    reader = MessageReader(limits)
    reader.feed(frame(opcode, b"a" * 1000, fin=fin))
    assert poll_all(reader) == ([b"a" * 1000 if opcode == BINARY else "a" * 1000] if fin else [])
    reader = MessageReader(limits)
    # Not even the mask is there.
    reader.feed(frame(opcode, fin=fin, length=1001)[:4])
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_limit_holds_at_the_header_of_the_frame_that_breaks_it(opcode: int) -> None:
    limits = Limits(websocket_frame=1000, websocket_message=2000)
    reader = MessageReader(limits)
    reader.feed(frame(opcode, b"a" * 1000, fin=False) + frame(CONTINUATION, b"a" * 999, fin=False) + frame(CONTINUATION, b"a"))
    assert len(poll_all(reader)[0]) == 2000
    assert is_empty(reader)
    reader.feed(frame(opcode, b"a" * 1000, fin=False) + frame(CONTINUATION, b"a" * 999, fin=False))
    assert poll_all(reader) == []
    reader.feed(frame(CONTINUATION, length=2)[:2])
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("length", [1 << 20 | 1, 1 << 32, (1 << 63) - 1])
def test_announcing_much_costs_nothing(length: int) -> None:
    reader = MessageReader(Limits())
    reader.feed(frame(BINARY, length=length, form=64)[:10])
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


def test_without_limits_memory_is_taken_as_bytes_come() -> None:
    reader = MessageReader(Limits(websocket_frame=0, websocket_message=0))
    reader.feed(frame(BINARY, length=1 << 60, form=64) + b"abc")
    assert poll_all(reader) == []


@pytest.mark.parametrize(("form", "length"), [(16, 0), (16, 125), (64, 0), (64, 126), (64, 65535), (64, 1 << 63), (64, (1 << 64) - 1)])
@pytest.mark.parametrize("limits", [Limits(), Limits(websocket_frame=0, websocket_message=0)])
def test_lengths_are_minimal(form: int, length: int, limits: Limits) -> None:
    reader = MessageReader(limits)
    reader.feed(frame(BINARY, length=length, form=form))
    assert violation(reader).code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE, CONTINUATION])
def test_frames_are_masked(opcode: int) -> None:
    reader = MessageReader(Limits())
    reader.feed(frame(opcode, b"", mask=None))
    assert violation(reader).code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("form", [16, 64])
def test_control_frames_are_short(opcode: int, form: int) -> None:
    reader = MessageReader(Limits())
    reader.feed(frame(opcode, length=126, form=form)[:2])
    assert violation(reader).code == CloseCode.PROTOCOL_ERROR


def expected_violation(first: int, inside: bool, deflate: bool) -> str | None:
    """The RFC's words about the first byte of a frame; ``None`` for one that is legal."""
    fin, rsv, opcode = first >> 7, first >> 4 & 7, first & 15
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        return "unknown opcode"
    if opcode >= 8 and not fin:
        return "control frame is fragmented"
    if inside and opcode in (TEXT, BINARY):
        return "new message inside of a fragmented one"
    if not inside and opcode == CONTINUATION:
        return "continuation of no message"
    if rsv and not (rsv == 4 and deflate and opcode in (TEXT, BINARY)):
        return "reserved bits are set"
    return None


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_first_byte(inside: bool, deflate: bool) -> None:
    """All 256 first bytes, between messages and inside of one."""
    for first in range(256):
        reader = MessageReader(Limits(), deflate)
        if inside:
            reader.feed(frame(BINARY, fin=False))
        reader.feed(bytes((first, 0x80)) + b"mask")
        reason = expected_violation(first, inside, deflate)
        if reason is None:
            poll_all(reader)
        else:
            found = violation(reader)
            assert (first, found.code, found.reason) == (first, CloseCode.PROTOCOL_ERROR, reason)


def test_number_of_fragments_follows_from_the_message_limit() -> None:
    """A million fragments of one byte are an attack; none of the usual sizes comes near the bound."""
    reader = MessageReader(Limits())
    reader.feed(frame(BINARY, b"a", fin=False))
    one = frame(CONTINUATION, b"a", fin=False)
    for _ in range(65):
        reader.feed(one * 1000)
        assert poll_all(reader) == []
    reader.feed(one * 1000)
    failure = violation(reader)
    assert (failure.code, failure.reason) == (CloseCode.MESSAGE_TOO_BIG, "too many fragments")


@pytest.mark.parametrize("limits", [Limits(websocket_message=100), Limits(websocket_message=0)])
def test_a_small_message_may_come_in_single_bytes(limits: Limits) -> None:
    reader = MessageReader(limits)
    reader.feed(frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * 98 + frame(CONTINUATION, b"a"))
    assert poll_all(reader) == [b"a" * 100]


def test_without_a_message_limit_fragments_are_not_counted() -> None:
    reader = MessageReader(Limits(websocket_message=0))
    reader.feed(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 200000 + frame(CONTINUATION, b"a"))
    assert poll_all(reader) == ["a"]


# -- compression


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@settings(deadline=None)
@given(st.binary(max_size=5000), st.lists(st.integers(0, 6000), max_size=5))
def test_compressed_messages_in_any_pieces(payload: bytes, cuts: list[int]) -> None:
    data = deflated(payload * 5)
    cuts = sorted(min(cut, len(data)) for cut in cuts)
    parts = [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]
    reader = MessageReader(Limits(), deflate=True)
    first, *others = parts
    frames = [frame(BINARY, first, fin=not others, rsv=4)]
    frames += [frame(CONTINUATION, part, fin=False) for part in others[:-1]]
    frames += [frame(CONTINUATION, part) for part in others[-1:]]
    stream = b"".join(frames)
    events: list[Event] = []
    for start in range(0, len(stream), 700):
        reader.feed(stream[start : start + 700])
        events += poll_all(reader)
    assert events == [payload * 5]
    assert is_empty(reader)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(9, 15))
def test_compressing(payload: bytes, bits: int) -> None:
    data = Deflate(bits).compress(payload * 20)
    assert zlib.decompressobj(-bits).decompress(data + b"\x00\x00\xff\xff") == payload * 20
    assert Inflater().inflate(data, True, len(payload) * 20) == payload * 20


@pytest.mark.parametrize("size", [0, 1, 2000, 2044, 100000])
@pytest.mark.parametrize("limit", [1000, 100000])
def test_inflation_is_bounded(size: int, limit: int) -> None:
    limits = Limits(websocket_message=limit, websocket_frame=0)
    reader = MessageReader(limits, deflate=True)
    for payload in (b"a" * size, os.urandom(size)):
        reader = MessageReader(limits, deflate=True)
        reader.feed(frame(BINARY, deflated(payload), rsv=4))
        if size <= limit:
            assert poll_all(reader) == [payload]
        else:
            assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


def test_a_message_that_is_full_takes_not_one_byte_more() -> None:
    """zlib takes a limit of 0 for none."""
    reader = MessageReader(Limits(websocket_message=1000), deflate=True)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = bomb.compress(b"a" * 1000) + bomb.flush(zlib.Z_SYNC_FLUSH)
    rest = bomb.compress(b"a" * 50_000_000) + bomb.flush(zlib.Z_SYNC_FLUSH)
    reader.feed(frame(BINARY, first, fin=False, rsv=4))
    assert poll_all(reader) == []
    reader.feed(frame(CONTINUATION, rest[:900], fin=False))
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


def test_bomb() -> None:
    reader = MessageReader(Limits(), deflate=True)
    reader.feed(frame(BINARY, deflated(bytes(200_000_000)), rsv=4))
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


def test_compressed_input_that_yields_nothing_is_bounded() -> None:
    """Empty stored blocks, five bytes each, inflate to nothing at all."""
    limits = Limits(websocket_message=100_000, websocket_frame=0)
    reader = MessageReader(limits, deflate=True)
    blocks = b"\x00\x00\x00\xff\xff" * 10_000
    reader.feed(frame(BINARY, blocks, fin=False, rsv=4) + frame(CONTINUATION, blocks, fin=False))
    assert poll_all(reader) == []
    reader.feed(frame(CONTINUATION, length=50_000)[:4])
    assert violation(reader).code == CloseCode.MESSAGE_TOO_BIG


def test_final_blocks_are_bounded() -> None:
    """RFC 7692 allows blocks behind a final one; each makes a new inflater."""
    assert Inflater().inflate(b"\x03\x00" * 10 + b"\x00", True, 100) == b""
    with pytest.raises(ProtocolViolation) as caught:
        Inflater().inflate(b"\x03\x00" * 100_000, True, 100)
    assert caught.value.code == CloseCode.INVALID_PAYLOAD


def test_history_goes_on_behind_a_final_block() -> None:
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = first.compress(b"abcdefgh" * 10) + first.flush(zlib.Z_FINISH)
    second = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=b"abcdefgh" * 10)
    tail = (second.compress(b"abcdefgh" * 10) + second.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert Inflater().inflate(head + tail, True, 1000) == b"abcdefgh" * 20
    inflater = Inflater()
    assert inflater.inflate(head, False, 1000) + inflater.inflate(tail, True, 1000) == b"abcdefgh" * 20


def test_nothing_is_negotiated_without_an_offer() -> None:
    assert Compression().negotiate([]) is None


# -- encoding


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536, 1 << 32])
def test_headers(length: int) -> None:
    header = encode_header(0x82, length)
    masked = frame(BINARY, length=length)
    assert header == bytes((masked[0], masked[1] & 0x7F)) + masked[2:-4]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(1, 2000))
def test_long_text(text: str, times: int) -> None:
    assert b"".join(encode_text(text * times)) == (text * times).encode()


def test_text_with_surrogates() -> None:
    for text in ("\ud800", "ä" * 100_000 + "\ud800"):
        with pytest.raises(UnicodeEncodeError):
            encode_text(text)


@settings(deadline=None)
@given(st.integers(0, 65535), st.text(max_size=20))
def test_close_payloads(code: int, reason: str) -> None:
    payload = close_payload(code, reason.encode())
    if may_be_sent(code):
        assert decode_close(payload) == (code, reason)
        assert encode_close(code, reason.encode()) == payload
    else:
        with pytest.raises(ProtocolViolation):
            decode_close(payload)


def test_no_close_code() -> None:
    assert decode_close(b"") == (1005, "")
    assert encode_close(1005) == b""


def test_closed_says_why() -> None:
    assert str(WebSocketClosed(1001, "away")) == "1001 away"
    assert str(WebSocketClosed(1006)) == "1006"
