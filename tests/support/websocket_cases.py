"""The cases of the Autobahn test suite, for every implementation of a WebSocket."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Client, Frame, close_payload, frame

HELLO = b"Hello, world!"


UTF8 = "Hello-µ@ßöäüàá-UTF-8!!".encode()


KOSME = "κόσμε".encode()


NORMAL = Frame(CLOSE, close_payload(1000))


WHOLE, FRAMES, OCTETS = "whole", "frames", "octets"


@dataclass
class Case:
    """One case: ``fails`` is the close code that it must end with, 0 where it ends well."""

    number: str
    send: list[bytes]
    expect: list[Frame] = field(default_factory=list)
    fails: int = 0
    chop: str | int = WHOLE
    #: The close code that the server must have seen.
    code: int = 1000

    def __post_init__(self) -> None:
        if self.fails:
            self.code = self.fails
        elif not any(frame[0] & 15 == CLOSE for frame in self.send):
            self.send = [*self.send, frame(CLOSE, close_payload(1000))]
            self.expect = [*self.expect, NORMAL]


def chopped(case: Case) -> list[bytes]:
    if case.chop == FRAMES:
        return case.send
    data = b"".join(case.send)
    size = 1 if case.chop == OCTETS else case.chop if isinstance(case.chop, int) else len(data)
    return [data[start : start + size] for start in range(0, len(data), size)]


def play(client: Client, case: Case) -> None:
    """Send the case over an open WebSocket, and compare what comes back up to the end of the stream."""
    try:
        for piece in chopped(case):
            client.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        assert case.fails  # it did not wait for the rest
    got = client.frames()
    if case.fails:
        *got, last = got
        assert last.opcode == CLOSE
        assert int.from_bytes(last.payload[:2], "big") == case.fails
    assert got == case.expect


def texts(*contents: bytes) -> list[Frame]:
    return [Frame(TEXT, content) for content in contents]


def fragments(opcode: int, *parts: bytes) -> list[bytes]:
    """A message in fragments."""
    last = len(parts) - 1
    return [frame(opcode if index == 0 else CONTINUATION, part, fin=index == last) for index, part in enumerate(parts)]


def octets(data: bytes) -> list[bytes]:
    return [bytes((octet,)) for octet in data]


def framing() -> list[Case]:
    sizes = (0, 125, 126, 127, 128, 65535, 65536)
    cases = []
    for section, opcode, octet in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for index, size in enumerate(sizes, 1):
            cases.append(Case(f"1.{section}.{index}", [frame(opcode, octet * size)], [Frame(opcode, octet * size)]))
        cases.append(Case(f"1.{section}.8", [frame(opcode, octet * 65536)], [Frame(opcode, octet * 65536)], chop=997))
    return cases


def pings() -> list[Case]:
    binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
    ten = [b"payload-%d" % number for number in range(10)]
    return [
        Case("2.1", [frame(PING)], [Frame(PONG)]),
        Case("2.2", [frame(PING, HELLO)], [Frame(PONG, HELLO)]),
        Case("2.3", [frame(PING, binary)], [Frame(PONG, binary)]),
        Case("2.4", [frame(PING, b"\xfe" * 125)], [Frame(PONG, b"\xfe" * 125)]),
        Case("2.5", [frame(PING, b"\xfe" * 126)], fails=1002),
        Case("2.6", [frame(PING, b"\xfe" * 125)], [Frame(PONG, b"\xfe" * 125)], chop=OCTETS),
        Case("2.7", [frame(PONG)]),
        Case("2.8", [frame(PONG, b"unsolicited pong payload")]),
        Case("2.9", [frame(PONG, b"unsolicited"), frame(PING, b"ping payload")], [Frame(PONG, b"ping payload")]),
        Case("2.10", [frame(PING, payload) for payload in ten], [Frame(PONG, payload) for payload in ten]),
        Case("2.11", [frame(PING, payload) for payload in ten], [Frame(PONG, payload) for payload in ten], chop=OCTETS),
    ]


def reserved_bits() -> list[Case]:
    hello, ping = frame(TEXT, HELLO), frame(PING)
    return [
        Case("3.1", [frame(TEXT, HELLO, rsv=1)], fails=1002),
        Case("3.2", [hello, frame(TEXT, HELLO, rsv=2), ping], texts(HELLO), fails=1002),
        Case("3.3", [hello, frame(TEXT, HELLO, rsv=3), ping], texts(HELLO), fails=1002, chop=FRAMES),
        Case("3.4", [hello, frame(TEXT, HELLO, rsv=4), ping], texts(HELLO), fails=1002, chop=OCTETS),
        Case("3.5", [frame(BINARY, b"\xff" * 8, rsv=5)], fails=1002),
        Case("3.6", [frame(PING, HELLO, rsv=6)], fails=1002),
        Case("3.7", [frame(CLOSE, rsv=7)], fails=1002),
    ]


def opcodes() -> list[Case]:
    hello, ping = frame(TEXT, HELLO), frame(PING)
    cases = []
    for section, first in ((1, 3), (2, 11)):
        cases += [
            Case(f"4.{section}.1", [frame(first)], fails=1002),
            Case(f"4.{section}.2", [frame(first + 1, HELLO)], fails=1002),
            Case(f"4.{section}.3", [hello, frame(first + 2), ping], texts(HELLO), fails=1002, chop=FRAMES),
            Case(f"4.{section}.4", [hello, frame(first + 3, HELLO), ping], texts(HELLO), fails=1002, chop=FRAMES),
            Case(f"4.{section}.5", [hello, frame(first + 4, HELLO), ping], texts(HELLO), fails=1002, chop=OCTETS),
        ]
    return cases


def fragmentation() -> list[Case]:
    hello, ping, pong = frame(TEXT, HELLO), frame(PING, b"ping payload"), Frame(PONG, b"ping payload")
    two = fragments(TEXT, b"fragment1", b"fragment2")
    joined = texts(b"fragment1fragment2")
    cases = [
        Case("5.1", [frame(PING, b"fragment1", fin=False), frame(CONTINUATION, b"fragment2")], fails=1002),
        Case("5.2", [frame(PONG, b"fragment1", fin=False), frame(CONTINUATION, b"fragment2")], fails=1002),
    ]
    chops: tuple[str, ...] = (WHOLE, FRAMES, OCTETS)
    for index, chop in enumerate(chops):
        cases += [
            Case(f"5.{3 + index}", two, joined, chop=chop),
            Case(f"5.{6 + index}", [two[0], ping, two[1]], [pong, *joined], chop=chop),
            Case(f"5.{9 + index}", [frame(CONTINUATION, b"non-continuation payload"), hello], fails=1002, chop=chop),
            Case(f"5.{12 + index}", [frame(CONTINUATION, b"non-continuation payload", fin=False), hello], fails=1002, chop=chop),
        ]
    again = [frame(CONTINUATION, b"non-continuation payload", fin=False), hello] * 2
    five = fragments(TEXT, *(b"fragment%d" % number for number in range(1, 6)))
    first, second = frame(PING, b"pongme 1!"), frame(PING, b"pongme 2!")
    mixed = [*five[:2], first, *five[2:4], second, five[4]]
    pongs = [Frame(PONG, b"pongme 1!"), Frame(PONG, b"pongme 2!")]
    return [
        *cases,
        Case("5.15", [*two, frame(CONTINUATION, b"fragment3", fin=False), hello], joined, fails=1002),
        Case("5.16", again, fails=1002),
        Case("5.17", [frame(CONTINUATION, b"non-continuation payload"), hello] * 2, fails=1002),
        Case("5.18", [frame(TEXT, b"fragment1", fin=False), frame(TEXT, b"fragment2")], fails=1002),
        *(
            Case(number, mixed, [*pongs, *texts(b"fragment1fragment2fragment3fragment4fragment5")], chop=chop)
            for number, chop in (("5.19", FRAMES), ("5.20", OCTETS))
        ),
    ]


INVALID_UTF8 = {
    "6.8": ["f888808080", "fc8480808080"],
    "6.10": ["f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"],
    "6.11.": ["f4908080"],
    "6.12": ["80", "bf", "80bf", "80bf80", "80bf80bf", "80bf80bf80", "80bf80bf80bf", bytes(range(0x80, 0xC0)).hex()],
    "6.13": [
        b" ".join(octets(bytes(range(*ends)))).hex() for ends in ((0xC0, 0xE0), (0xE0, 0xF0), (0xF0, 0xF8), (0xF8, 0xFC), (0xFC, 0xFE))
    ],
    "6.14": ["c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf"],
    "6.15": ["c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf"],
    "6.16": ["fe", "ff", "fefeffff"],
    "6.17": ["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"],
    "6.18": ["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"],
    "6.19": ["c080", "e08080", "f0808080", "f880808080", "fc8080808080"],
    "6.20": ["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"],
    "6.21": [high + low for high in ("eda080", "edadbf", "edae80", "edafbf") for low in ("edb080", "edbfbf")],
}


VALID_UTF8 = {
    "6.5": [
        "68656c6c6f24776f726c64",
        "68656c6c6fc2a2776f726c64",
        "68656c6c6fe282ac776f726c64",
        "68656c6c6ff0a4ada2776f726c64",
        KOSME.hex(),
    ],
    "6.7": ["00", "c280", "e0a080", "f0908080"],
    "6.9": ["7f", "dfbf", "efbfbf", "f48fbfbf"],
    "6.11": ["ed9fbf", "ee8080", "efbfbd", "f48fbfbf"],
    "6.22": [chr(plane << 16 | last).encode().hex() for plane in range(17) for last in (0xFFFE, 0xFFFF)],
    "6.23": [chr(point).encode().hex() for point in range(0xFFF9, 0x10000)],
}


def utf8() -> list[Case]:
    bad = KOSME + b"\xed\xa0\x80edited"
    cases = [
        Case("6.1.1", [frame(TEXT)], texts(b"")),
        Case("6.1.2", fragments(TEXT, b"", b"", b""), texts(b"")),
        Case("6.1.3", fragments(TEXT, b"", b"middle frame payload", b""), texts(b"middle frame payload")),
        Case("6.2.1", [frame(TEXT, UTF8)], texts(UTF8)),
        Case("6.2.2", fragments(TEXT, UTF8[:12], UTF8[12:]), texts(UTF8)),
        Case("6.2.3", fragments(TEXT, *octets(UTF8)), texts(UTF8)),
        Case("6.2.4", fragments(TEXT, *octets(KOSME)), texts(KOSME)),
        Case("6.3.1", [frame(TEXT, bad)], fails=1007),
        Case("6.3.2", fragments(TEXT, *octets(bad)), fails=1007),
    ]
    # Every prefix of a text is a message; it is valid exactly where it ends with a character.
    for end in range(1, len(KOSME) + 1):
        try:
            KOSME[:end].decode()
        except UnicodeDecodeError:
            cases.append(Case(f"6.6.{end}", [frame(TEXT, KOSME[:end])], fails=1007))
        else:
            cases.append(Case(f"6.6.{end}", [frame(TEXT, KOSME[:end])], texts(KOSME[:end])))
    for section, values in VALID_UTF8.items():
        for index, value in enumerate(values, 1):
            payload = bytes.fromhex(value)
            cases.append(Case(f"{section}.{index}", [frame(TEXT, payload)], texts(payload)))
            cases.append(Case(f"{section}.{index} in octets", fragments(TEXT, *octets(payload)), texts(payload)))
    for section, values in INVALID_UTF8.items():
        for index, value in enumerate(values, 1):
            payload = bytes.fromhex(value)
            cases.append(Case(f"{section}.{index}", [frame(TEXT, payload)], fails=1007))
            cases.append(Case(f"{section}.{index} in octets", fragments(TEXT, *octets(payload)), fails=1007))
    return cases


def close_handling() -> list[Case]:
    close = frame(CLOSE, close_payload(1000))
    large = b"BAsd7&jh23" * 26214
    cases = [
        Case("7.1.1", [frame(TEXT, HELLO), close], [*texts(HELLO), NORMAL]),
        Case("7.1.2", [close, close], [NORMAL]),
        Case("7.1.3", [close, frame(PING, b"ping")], [NORMAL]),
        Case("7.1.4", [close, frame(TEXT, HELLO)], [NORMAL]),
        Case("7.1.5", [frame(TEXT, b"fragment1", fin=False), close, frame(CONTINUATION, b"fragment2")], [NORMAL]),
        Case("7.1.6", [frame(TEXT, large), frame(TEXT, HELLO), close, frame(PING)], [*texts(large, HELLO), NORMAL]),
        Case("7.3.1", [frame(CLOSE)], [Frame(CLOSE)], code=1005),
        Case("7.3.2", [frame(CLOSE, b"a")], fails=1002),
        Case("7.3.3", [close], [NORMAL]),
        Case("7.3.4", [frame(CLOSE, close_payload(1000, HELLO))], [NORMAL]),
        Case("7.3.5", [frame(CLOSE, close_payload(1000, b"*" * 123))], [NORMAL]),
        Case("7.3.6", [frame(CLOSE, close_payload(1000, b"*" * 124))], fails=1002),
        Case("7.5.1", [frame(CLOSE, close_payload(1000, KOSME + b"\xed\xa0\x80edited"))], fails=1007),
    ]
    # 1012 to 1014 have been registered since the suite was written.
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    for index, code in enumerate(valid, 1):
        cases.append(Case(f"7.7.{index}", [frame(CLOSE, close_payload(code))], [Frame(CLOSE, close_payload(code))], code=code))
    for index, code in enumerate((0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535), 1):
        cases.append(Case(f"7.9.{index}", [frame(CLOSE, close_payload(code))], fails=1002))
    return cases


SMALL_CASES = [*framing(), *pings(), *reserved_bits(), *opcodes(), *fragmentation(), *utf8(), *close_handling()]


MIB = 1 << 20


@functools.cache
def limits() -> tuple[Case, ...]:
    cases = []
    for index, size in enumerate((MIB // 16, MIB // 4, MIB, 4 * MIB, 8 * MIB, 16 * MIB), 1):
        cases.append(Case(f"9.1.{index}", [frame(TEXT, b"*" * size)], texts(b"*" * size)))
        cases.append(Case(f"9.2.{index}", [frame(BINARY, b"\xfe" * size)], [Frame(BINARY, b"\xfe" * size)]))
    whole = 4 * MIB
    for index, size in enumerate((64, 256, 1024, 4096, 16384, 65536, MIB // 4, MIB, 4 * MIB), 1):
        for section, opcode, octet in ((3, TEXT, b"*"), (4, BINARY, b"\xfe")):
            parts = fragments(opcode, *([octet * size] * (whole // size)))
            cases.append(Case(f"9.{section}.{index}", parts, [Frame(opcode, octet * whole)]))
    for index, chop in enumerate((64, 128, 256, 512, 1024, 2048), 1):
        cases.append(Case(f"9.5.{index}", [frame(TEXT, b"*" * MIB)], texts(b"*" * MIB), chop=chop))
        cases.append(Case(f"9.6.{index}", [frame(BINARY, b"\xfe" * MIB)], [Frame(BINARY, b"\xfe" * MIB)], chop=chop))
    large = b"*" * 65536
    cases.append(Case("10.1.1", fragments(TEXT, *(large[start : start + 1300] for start in range(0, len(large), 1300))), texts(large)))
    return (*cases,)
