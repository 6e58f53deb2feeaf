"""Random conversations against a model of RFC 6455, and bytes that mean nothing.

The fuzz test runs for ``WEBSOCKET_FUZZ_SECONDS`` seconds: by default 60 where ``CI`` is set, else 5.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greendaphne.config import Limits, Timeouts
from greendaphne.websocket import State
from greendaphne.websocket.errors import ProtocolViolation
from greendaphne.websocket.frames import MessageReader
from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Server, close_payload, frame, websocket

SECONDS = float(os.environ.get("WEBSOCKET_FUZZ_SECONDS", "60" if os.environ.get("CI") else "5"))

LIMITS = Limits(websocket_message=300, websocket_frame=200)
TIMEOUTS = Timeouts(ping_interval=0, websocket_close=30)
#: Makes the server close with 4000.
CLOSE_PLEASE = "close, please"


def serve(server: Server) -> None:
    """Echo, and close when asked to."""
    while True:
        message = server.websocket.receive()
        if message == CLOSE_PLEASE:
            server.websocket.close(4000)
        elif server.websocket.state is State.OPEN:
            server.websocket.send(message)


@dataclass
class Sent:
    """A frame that the client sends."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    masked: bool = True

    def encode(self) -> bytes:
        return frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv, **({} if self.masked else {"mask": None}))


@dataclass
class Model:
    """What a server does with frames, told once more and simply: frames sent, and the close code at the end."""

    out: list[Frame] = field(default_factory=list)
    closing: bool = False
    code: int | None = None
    opcode: int | None = None
    message: bytes = b""

    def fail(self, code: int) -> None:
        if not self.closing:
            self.out.append(Frame(CLOSE, close_payload(code)))
        self.code = 1006 if self.closing else code

    def receive(self, sent: Sent) -> None:
        known = sent.opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
        control = sent.opcode >= 8
        if (
            not known
            or sent.rsv
            or not sent.masked
            or (control and (not sent.fin or len(sent.payload) > 125))
            or (not control and (sent.opcode == CONTINUATION) != (self.opcode is not None))
        ):
            self.fail(1002)
        elif sent.opcode == PING:
            if not self.closing:
                self.out.append(Frame(PONG, sent.payload))
        elif sent.opcode == CLOSE:
            self._close(sent.payload)
        elif not control:
            self._data(sent)

    def _close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        if payload and (len(payload) < 2 or code not in (1000, 1001, 3000, 4999)):
            self.fail(1002)
        elif not is_text(payload[2:]):
            self.fail(1007)
        else:
            if not self.closing:
                self.out.append(Frame(CLOSE, payload[:2]))
            self.code = code

    def _data(self, sent: Sent) -> None:
        if len(sent.payload) > 200 or len(self.message) + len(sent.payload) > 300:
            self.fail(1009)
            return
        self.opcode = self.opcode or sent.opcode
        self.message += sent.payload
        if self.opcode == TEXT and not is_text(self.message, sent.fin):
            self.fail(1007)
        elif sent.fin:
            if not self.closing:
                if self.opcode == TEXT and self.message.decode() == CLOSE_PLEASE:
                    self.out.append(Frame(CLOSE, close_payload(4000)))
                    self.closing = True
                else:
                    self.out.append(Frame(self.opcode, self.message))
            self.opcode, self.message = None, b""


def is_text(data: bytes, final: bool = True) -> bool:
    """Whether ``data`` is UTF-8, or may become so."""
    if final:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True
    # The last character may be missing up to three bytes: some ending makes it whole.
    endings = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\x9f\xbf", b"\xbf\xbf", b"\x80\x80\x80", b"\xbf\xbf\xbf", b"\x8f\xbf\xbf"]
    return any(is_text(data + ending) for ending in endings)


contents = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.just(CLOSE_PLEASE.encode()),
    st.sampled_from([b"\xf0\x9f\x98", b"\x80", b"\xed\xa0", b"\xed\x9f", b"\xf4\x90", b"\xc3", b"\xa4", "ä😀".encode()]),
    st.integers(0, 310).map(lambda size: b"a" * size),
)
closes = st.one_of(
    st.just(b""),
    st.sampled_from([b"\x03", close_payload(1000), close_payload(4999, b"why"), close_payload(1005), close_payload(3000, b"\xff")]),
)
good_frames = st.one_of(
    st.builds(Sent, st.sampled_from([TEXT, BINARY]), contents),
    st.builds(Sent, st.sampled_from([TEXT, BINARY, CONTINUATION]), contents, st.booleans()),
    st.builds(Sent, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
)
frames = st.one_of(
    *[good_frames] * 6,
    st.builds(Sent, st.just(CLOSE), closes),
    st.builds(Sent, st.integers(0, 15), st.binary(max_size=126), st.booleans(), st.integers(0, 7), st.booleans()),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Sent]:
    """Frames that mostly continue what they should, so that the model is led deeper than the first violation."""
    sent: list[Sent] = []
    inside = False
    for one in draw(st.lists(frames, max_size=12)):
        if one.opcode in (CONTINUATION, TEXT, BINARY) and draw(st.integers(0, 9)):
            one.opcode = CONTINUATION if inside else one.opcode or TEXT
            inside = not one.fin
        sent.append(one)
    return sent


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(conversations(), st.integers(1, 100))
def test_against_the_model(conversation: list[Sent], cut: int) -> None:
    model = Model()
    for sent in conversation:
        if model.code is None:
            model.receive(sent)
    data = b"".join(sent.encode() for sent in conversation)
    with websocket(serve, LIMITS, TIMEOUTS) as (client, server):
        try:
            for start in range(0, len(data), cut):
                client.send(data[start : start + cut])
            client.end()
        except (BrokenPipeError, ConnectionResetError):
            assert model.code is not None
        received = client.frames()
        assert [close_code_only(one) for one in received] == model.out
        assert server.closed.code == (1006 if model.code is None else model.code)


def close_code_only(one: Frame) -> Frame:
    return Frame(CLOSE, one.payload[:2]) if one.opcode == CLOSE else one


# -- bytes that mean nothing


def noise(chooser: random.Random) -> bytes:
    """Frames with some of their bytes changed, lost or doubled, and plain noise."""
    data = bytearray()
    for _ in range(chooser.randint(1, 8)):
        opcode = chooser.choice((0, 0, 1, 1, 2, 2, 8, 9, 10, chooser.randint(0, 15)))
        payload = chooser.choice(
            (b"", b"abc", "ä€😀".encode() * 9, chooser.randbytes(chooser.randint(0, 400)), b"\xf3H\xcd\xc9\xc9\x07\x00")
        )
        data += frame(opcode, payload, fin=chooser.random() < 0.6, rsv=chooser.choice((0, 0, 0, 4)), mask=chooser.randbytes(4))
    for _ in range(chooser.choice((0, 0, 1, 2, 8))):
        position = chooser.randrange(len(data))
        change = chooser.randrange(4)
        if change == 0:
            data[position] ^= 1 << chooser.randrange(8)
        elif change == 1:
            del data[position : position + chooser.randint(1, 4)]
        elif change == 2:
            data[position:position] = data[position : position + chooser.randint(1, 20)]
        else:
            data[position : position + 4] = chooser.randbytes(4)
        if not data:
            break
    return bytes(data)


def outcome(data: bytes, sizes: list[int], limits: Limits, deflate: bool) -> list[object]:
    """Everything that the reader makes of ``data``, and the code that it fails with."""
    reader = MessageReader(limits, deflate)
    events: list[object] = []
    position, index = 0, 0
    try:
        while position < len(data):
            size = sizes[index % len(sizes)]
            reader.feed(data[position : position + size])
            position += size
            index += 1
            while (event := reader.poll()) is not None:
                events.append(event)
                assert len(event if isinstance(event, bytes) else event[1] if isinstance(event, tuple) else event.encode()) <= 1000
    except ProtocolViolation as violation:
        events.append(violation.code)
    return events


def test_fuzz_the_reader() -> None:
    """It never fails in any other way than it should, and never depends on how the bytes were cut."""
    seed = random.SystemRandom().getrandbits(64)
    chooser = random.Random(seed)
    limits = Limits(websocket_message=1000, websocket_frame=600)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in range(100):
            data = noise(chooser)
            deflate = chooser.random() < 0.5
            whole = outcome(data, [len(data) or 1], limits, deflate)
            cut = outcome(data, [chooser.randint(1, 30) for _ in range(5)], limits, deflate)
            assert whole == cut, (seed, data, deflate)
