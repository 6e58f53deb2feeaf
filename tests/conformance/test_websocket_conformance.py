"""The cases of the Autobahn test suite, sections 1 to 7, 9, 10, 12 and 13, under its own numbers, against a server that echoes.

Every case is a list of what the client sends and what it must get.  The client's last word is a close frame with code 1000 unless the case
brings one itself or ends in a failure.  A case is sent in one piece, or chopped as the suite does it: frame by frame, or octet by octet.
"""

from __future__ import annotations

import zlib

import pytest

from greendaphne.config import Limits
from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_payload, collect, frame, websocket
from tests.support.websocket_cases import (
    KOSME,
    SMALL_CASES,
    Case,
    limits,
    play,
)

UNLIMITED = Limits(websocket_message=0, websocket_frame=0)


def run(case: Case, limits: Limits) -> None:
    with websocket(limits=limits) as (client, server):
        play(client, case)
        assert server.closed.code == case.code


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.number)
def test_case(case: Case) -> None:
    run(case, UNLIMITED)


BAD = frame(TEXT, KOSME + b"\xf4\x90\x80\x80edited")
SURROGATE = frame(TEXT, KOSME + b"\xed\xa0\x80edited")
#: Up to the end of KOSME in these frames.
GOOD = 6 + len(KOSME)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([frame(TEXT, KOSME, fin=False), frame(CONTINUATION, b"\xf4\x90\x80\x80", fin=False)], id="6.4.1"),
        pytest.param([frame(TEXT, KOSME + b"\xf4", fin=False), frame(CONTINUATION, b"\x90", fin=False)], id="6.4.2"),
        pytest.param([BAD[:GOOD], BAD[GOOD : GOOD + 4]], id="6.4.3"),
        pytest.param([BAD[: GOOD + 1], BAD[GOOD + 1 : GOOD + 2]], id="6.4.4"),
        pytest.param([SURROGATE[: GOOD + 2]], id="surrogate"),
    ],
)
def test_invalid_text_fails_at_its_first_wrong_octet(parts: list[bytes]) -> None:
    with websocket() as (client, server):
        for part in parts:
            client.send(part)
        failure = client.receive()
        assert failure is not None
        assert failure.payload[:2] == close_payload(1007)
        assert server.closed.code == 1007


@pytest.mark.parametrize("case", limits(), ids=lambda case: case.number)
def test_large_message(case: Case) -> None:
    run(case, UNLIMITED)


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_many_messages(opcode: int, size: int) -> None:
    """Sections 9.7 and 9.8: a thousand messages, each answered before the next."""
    payload = b"*" * size
    with websocket() as (client, _):
        data = frame(opcode, payload)
        for _ in range(1000):
            client.send(data)
            assert client.receive() == Frame(opcode, payload)


def deflated(payload: bytes, bits: int = 15, *, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(answer: Frame | None, bits: int = 15) -> bytes:
    assert answer is not None
    if answer.rsv:
        assert answer.rsv == 4
        return zlib.decompressobj(-bits).decompress(answer.payload + b"\x00\x00\xff\xff")
    return answer.payload


# Sections 12 and 13: what the client offers, and the answer; sizes of 12.1 and 12.2, a hundred messages each.
OFFERS = {
    "13.1": ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover", 15),
    "13.2": (
        "permessage-deflate; client_no_context_takeover",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        15,
    ),
    "13.3": (
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9",
        9,
    ),
    "13.4": (
        "permessage-deflate; client_max_window_bits; server_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
        15,
    ),
    "13.5": (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        9,
    ),
    "13.6": (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
        15,
    ),
    "13.7": (
        "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9, permessage-deflate",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        9,
    ),
}


@pytest.mark.parametrize("number", OFFERS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_compression_parameters(number: str, opcode: int) -> None:
    offer, answer, bits = OFFERS[number]
    with websocket(compression=True, headers=[(b"sec-websocket-extensions", offer.encode())]) as (client, server):
        assert dict(server.stream.head)[b"sec-websocket-extensions"] == answer.encode()
        for size in (0, 16, 64, 127, 128, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072):
            payload = ("%x " * (size // 2 + 1) % tuple(range(size // 2 + 1))).encode()[:size]
            client.send(frame(opcode, deflated(payload, bits), rsv=4))
            echoed = client.receive()
            assert inflated(echoed, bits) == payload
            assert echoed is not None
            assert (echoed.rsv == 4) == (size >= 128)
            # A message need not be compressed.
            client.send(frame(opcode, payload))
            assert inflated(client.receive(), bits) == payload


@pytest.mark.parametrize("size", [16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072])
def test_compressed_messages_in_fragments(size: int) -> None:
    """Sections 12.3 to 12.5 fragment the compressed message; the first frame alone has RSV1."""
    payload = bytes(range(256)) * (size // 256) + b"*" * (size % 256)
    data = deflated(payload)
    with websocket(compression=True, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]) as (client, _):
        for cut in {1, len(data) // 2, len(data) - 1} - {0}:
            client.send(
                frame(BINARY, data[:cut], fin=False, rsv=4),
                frame(PING, b"between"),
                frame(CONTINUATION, b"", fin=False),
                frame(CONTINUATION, data[cut:]),
            )
            assert client.receive() == Frame(PONG, b"between")
            assert inflated(client.receive()) == payload


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CONTINUATION, b"", rsv=4), 1002),
        (frame(TEXT, deflated(b"a"), rsv=4, fin=False) + frame(CONTINUATION, b"", rsv=4), 1002),
        (frame(PING, b"", rsv=4), 1002),
        (frame(TEXT, b"", rsv=2), 1002),
        (frame(TEXT, b"\xff\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
    ],
)
def test_compression_violations(data: bytes, code: int) -> None:
    with websocket(compression=True, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]) as (client, server):
        client.send(data)
        (failure,) = client.frames()
        assert failure.payload[:2] == close_payload(code)
        assert server.closed.code == code


def test_examples_of_the_compression_rfc() -> None:
    """RFC 7692 section 7.2.3: fragments, an empty message, no compression, a final block, two blocks."""
    with websocket(collect, compression=True, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]) as (client, server):
        client.send(
            frame(TEXT, bytes.fromhex("f248cdc9c90700"), rsv=4),
            frame(TEXT, bytes.fromhex("f248cd"), rsv=4, fin=False),
            frame(CONTINUATION, bytes.fromhex("c9c90700")),
            frame(TEXT, bytes.fromhex("000500faff48656c6c6f00"), rsv=4),
            frame(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=4),
            frame(TEXT, bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", "")), rsv=4),
            frame(TEXT, b"\x00", rsv=4),
            frame(CLOSE),
        )
        assert client.frames() == [Frame(CLOSE)]
        assert server.closed.code == 1005
        assert server.received == ["Hello"] * 5 + [""]
