"""Frames of RFC 6455 section 5: a reader from bytes to messages and control frames, and the encoder for what a server sends.

:class:`MessageReader` does no input: its owner feeds received bytes and polls for complete messages.  Bytes may be split at any place.  The
reader holds the bytes of an incomplete message, and none between messages.  It checks sizes when it has a frame's header, before the
payload arrives, and takes memory only for bytes that have arrived.  It unmasks, inflates and checks payloads piece by piece as they arrive,
so it finds invalid UTF-8 at its first wrong byte (RFC 6455 section 8.1), and the pieces stay in the processor's cache and in the
allocator's free lists.  It decodes text when the message is complete.  A payload of 1 MiB costs a third of the time of receiving it into
one buffer of its size.  A violation of the protocol raises :class:`ProtocolViolation`; the reader must not be used after that.
"""

from __future__ import annotations

import codecs
from io import BytesIO
from struct import Struct
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a build without the extension
    from websockets.utils import apply_mask

from ..config import KIB, Limits
from ..core.accounts import FREE, Account
from ..core.turns import Turn
from .codes import CloseCode
from .deflate import Inflater
from .errors import ProtocolViolation, may_be_sent

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40
_RSV: Final = 0x70
_CONTROL: Final = 0x08
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_LENGTH_16: Final = 126
_MAX_CONTROL: Final = 125
_MASK_SIZE: Final = 4
# The shortest frame of a client: two octets and the mask.
_SHORTEST: Final = 2 + _MASK_SIZE

#: The number of bytes to request in one read: one message of 64 KiB with its header.
READ_SIZE: Final = 64 * KIB + 14
# Characters encoded in one step, and in each of several.
_ENCODE_AT_ONCE: Final = 64 * KIB
_ENCODE_STEP: Final = 16 * KIB
# Bytes of text checked in one step.
_CHECK_STEP: Final = 64 * KIB
# The memory of zlib and the window while a compressed message arrives.
_INFLATER: Final = 104 * KIB
# The value for "no limit": more than any peer sends, and still valid for zlib.
_UNLIMITED: Final = 1 << 62

# A message may have one fragment for this number of bytes of the message limit, and at least a useful number.  Each fragment has a fixed
# cost, so a large message cut into single bytes is an attack; ordinary senders use fragments of a kibibyte or more.
_BYTES_PER_FRAGMENT: Final = 16
_MIN_FRAGMENTS: Final = 1024

# A compressed message may exceed its content by the headers of some stored blocks (RFC 1951 section 3.2.4).
_DEFLATE_SLACK_SHIFT: Final = 4
_DEFLATE_SLACK: Final = 1 * KIB
# As shifts, the bytes that are one unit of :meth:`.core.turns.Turn.spend`: 4 KiB to check and decode, and 128 bytes to inflate, because a
# block with two code tables and no content takes 35 bytes (RFC 1951 section 3.2.7).
_WORK_SHIFT: Final = 12
_INFLATE_SHIFT: Final = 7
# The bytes of payload processed in one step with permessage-deflate, which are about 1 ms of such blocks.
_INFLATE_STEP: Final = 16 * KIB

# RFC 6455 sections 5.2, 5.4, 5.5: the first bytes of frames that are legal ...
_CONTROL_FRAMES = frozenset((FIN | CLOSE, FIN | PING, FIN | PONG))
# ... where a message may begin, without and with permessage-deflate (RFC 7692 section 6), and inside of a message.
_BEGIN = _CONTROL_FRAMES | {TEXT, BINARY, FIN | TEXT, FIN | BINARY}
_BEGIN_DEFLATE = _BEGIN | {RSV1 | TEXT, RSV1 | BINARY, FIN | RSV1 | TEXT, FIN | RSV1 | BINARY}
_CONTINUE = _CONTROL_FRAMES | {CONTINUATION, FIN | CONTINUATION}

_WHOLE_TEXT: Final = FIN | TEXT
_WHOLE_BINARY: Final = FIN | BINARY
_WHOLE = frozenset((_WHOLE_TEXT, _WHOLE_BINARY))

_head_7 = Struct("!BB").pack
_head_16 = Struct("!BBH").pack
_head_64 = Struct("!BBQ").pack
_utf_8_decode = codecs.utf_8_decode

#: A control frame: its opcode and its payload.
Control = tuple[int, bytes]
#: Returned for a data frame that completes no message, so that the reader's owner can count every frame.
FRAGMENT: Final[Control] = (CONTINUATION, b"")


def encode_header(first: int, length: int) -> bytes:
    """The header of an unmasked frame (RFC 6455 section 5.2).

    :param first: FIN, RSV bits and opcode.
    :param length: of the payload, in bytes.
    """
    if length < _LENGTH_16:
        return _head_7(first, length)
    if length < 1 << 16:
        return _head_16(first, _LENGTH_16, length)
    return _head_64(first, _LENGTH_16 + 1, length)


def encode_text(text: str) -> list[bytes]:
    """``text`` in UTF-8, as one part or, where it is long, several.

    The codec reserves room for the longest result that a text could have.  For a long text those are megabytes that the kernel would
    allocate and free each time, so it is encoded in steps.

    :raises UnicodeEncodeError: for surrogates.
    """
    if len(text) <= _ENCODE_AT_ONCE or text.isascii():
        return [text.encode()]
    return [text[start : start + _ENCODE_STEP].encode() for start in range(0, len(text), _ENCODE_STEP)]


def encode_close(code: int, reason: bytes = b"") -> bytes:
    """A close frame's payload; empty for 1005 (RFC 6455 sections 5.5.1, 7.1.5)."""
    return b"" if code == CloseCode.NO_STATUS_RECEIVED else code.to_bytes(2, "big") + reason


def decode_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload; 1005 for an empty one (RFC 6455 section 7.1.5).

    :raises ProtocolViolation: 1002 for half a code or one that must not be sent, 1007 for a reason that is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS_RECEIVED, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not may_be_sent(code):
        raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise _invalid_text() from None


def _invalid_text() -> ProtocolViolation:
    return ProtocolViolation(CloseCode.INVALID_PAYLOAD, "text is not UTF-8")


class MessageReader:
    """Turns received bytes into messages and control frames.

    Call :meth:`poll` until it returns ``None``, then :meth:`feed` further received bytes, and poll again; or :meth:`take` them.  One call
    handles at most one frame, so that the owner can count the frames of a peer.

    :param limits: ``websocket_message`` and ``websocket_frame`` are used.
    :param deflate: whether permessage-deflate was negotiated.
    :param inflater: inflates all messages, if they refer to each other.
    :param account: counts the bytes of an incomplete message, and may refuse them.
    :param turn: counts the work on payloads that are inflated or come in pieces; the owner counts frames.
    """

    __slots__ = (
        "_account",
        "_begin",
        "_buffer",
        "_content",
        "_deflate",
        "_first",
        "_fragments",
        "_frame_limit",
        "_held",
        "_inflater",
        "_kept",
        "_largest",
        "_legal",
        "_mask",
        "_message_limit",
        "_missing",
        "_opcode",
        "_position",
        "_size",
        "_turn",
        "_undecoded",
        "_wire_size",
    )

    def __init__(
        self,
        limits: Limits,
        deflate: bool = False,
        inflater: Inflater | None = None,
        account: Account = FREE,
        turn: Turn | None = None,
    ) -> None:
        self._kept = inflater
        self._account = account
        self._turn = turn
        self._held = 0
        self._frame_limit = limits.websocket_frame or _UNLIMITED
        self._message_limit = limits.websocket_message or _UNLIMITED
        self._deflate = deflate
        self._begin = _BEGIN_DEFLATE if deflate else _BEGIN
        # Received bytes; those after the position are not parsed yet.
        self._buffer = b""
        self._position = 0
        # The data frame whose payload is arriving: its first byte, the mask for the next byte, and the missing bytes; 0 for no such frame.
        self._first = 0
        self._mask = b""
        self._missing = 0
        self._next_message()

    def _next_message(self) -> None:
        # The first bytes that are legal next, and the largest payload that they may announce.
        self._legal = self._begin
        self._largest = min(self._frame_limit, self._message_limit)
        # The message whose fragments are arriving; its bytes so far and their number on the wire.
        self._opcode = 0
        self._fragments = 0
        self._size = 0
        self._wire_size = 0
        self._inflater: Inflater | None = None
        self._content: BytesIO | None = None
        if self._held:
            self.release()
        # The start of a character that the next bytes complete.
        self._undecoded = b""

    # -- input

    def feed(self, data: bytes) -> None:
        """Take ``data``, received from the peer."""
        self._buffer = self._buffer + data if self._buffer else data

    def take(self, data: bytes) -> str | bytes | Control | None:
        """As :meth:`feed` with ``data`` and then :meth:`poll`, at less cost for ``data`` that is one whole message, as most reads are."""
        size = len(data)
        if not self._buffer and size > _SHORTEST and self._legal is self._begin:
            first = data[0]
            if first in _WHOLE:
                # The length with the mask bit, which RFC 6455 section 5.1 requires.
                length = data[1]
                body = 0
                if length == size - _SHORTEST + _MASKED and length <= _MASKED + _MAX_CONTROL:
                    body = _SHORTEST
                elif length == _MASKED + _LENGTH_16 and (data[2] << 8) + data[3] == size - _SHORTEST - 2 > _MAX_CONTROL:
                    body = _SHORTEST + 2
                if body and size - body <= self._largest:
                    payload = apply_mask(data[body:], data[body - _MASK_SIZE : body])
                    if first == _WHOLE_BINARY:
                        return payload
                    try:
                        return payload.decode()
                    except UnicodeDecodeError:
                        raise _invalid_text() from None
        self.feed(data)
        return self.poll()

    @property
    def midway(self) -> bool:
        """Whether a message, or a frame, has begun and not ended; after :meth:`poll` returned ``None``."""
        return bool(self._opcode or self._buffer)

    @property
    def fragmented(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._opcode)

    # -- output

    def poll(self) -> str | bytes | Control | None:
        """Return the next message or control frame, :data:`FRAGMENT` after another frame, ``None`` when more bytes are needed.

        :raises ProtocolViolation: with the close code to fail the connection with.
        """
        while True:
            buffer = self._buffer
            start = self._position
            if self._missing:
                if start == len(buffer):
                    return None
                message = self._resume()
                if message is not None:
                    return message
                if not self._missing or self._buffer:
                    return FRAGMENT
                return None
            available = len(buffer) - start
            if available < 2:
                break
            first = buffer[start]
            length = buffer[start + 1] - _MASKED
            if first not in self._legal:
                raise self._illegal(first)
            if length < 0:
                # RFC 6455 section 5.1.
                raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "frame is not masked")
            body = start + 2 + _MASK_SIZE
            if length > _MAX_CONTROL:
                if first & _CONTROL:
                    raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "control frame is too long")
                size = 2 if length == _LENGTH_16 else 8
                body += size
                if available < 2 + size:
                    break
                length = int.from_bytes(buffer[start + 2 : start + 2 + size], "big")
                if length <= (_MAX_CONTROL if size == 2 else 0xFFFF) or length >> 63:
                    # RFC 6455 section 5.2: the minimal number of bytes, and the most significant bit is 0.
                    raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, "payload length is not minimal")
            if length > self._largest and not first & _CONTROL:
                self._judge_size(first, length)
            if len(buffer) < body:
                break
            end = body + length
            if end <= len(buffer) and (length <= _INFLATE_STEP or not self._deflate):
                payload = apply_mask(buffer[body:end], buffer[body - _MASK_SIZE : body])
                self._take_up_to(end)
                if first == _WHOLE_TEXT:
                    try:
                        return payload.decode()
                    except UnicodeDecodeError:
                        raise _invalid_text() from None
                if first == _WHOLE_BINARY:
                    return payload
                if first & _CONTROL:
                    return first & _OPCODE, payload
                self._begin_frame(first, length)
                message = self._end_frame(first, payload)
                return FRAGMENT if message is None else message
            if first & _CONTROL:
                break
            self._begin_frame(first, length)
            self._first = first
            self._mask = buffer[body - _MASK_SIZE : body]
            self._missing = length
            self._take_up_to(body)
        # Only the start of a header, or a part of a control frame, is left: drop all earlier bytes.
        if start:
            self._buffer = buffer[start:]
            self._position = 0
        return None

    def _take_up_to(self, position: int) -> None:
        """Drop the bytes before ``position``, which have been processed."""
        if position == len(self._buffer):
            self._buffer = b""
            position = 0
        self._position = position

    def _resume(self) -> str | bytes | None:
        """Continue with a data frame's payload; return the message that it completes."""
        start = self._position
        mask = self._mask
        chunk = self._buffer[start : start + (min(self._missing, _INFLATE_STEP) if self._deflate else self._missing)]
        size = len(chunk)
        self._take_up_to(start + size)
        self._missing -= size
        turn = size % _MASK_SIZE
        if turn:
            self._mask = mask[turn:] + mask[:turn]
        data = apply_mask(chunk, mask)
        if self._missing:
            self._add(data, False)
            return None
        return self._end_frame(self._first, data)

    # -- frames and messages

    def _illegal(self, first: int) -> ProtocolViolation:
        """The error in a frame's first byte."""
        opcode = first & _OPCODE
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            reason = "unknown opcode"
        elif opcode & _CONTROL and not first & FIN:
            reason = "control frame is fragmented"
        elif self._opcode and opcode in (TEXT, BINARY):
            reason = "new message inside of a fragmented one"
        elif not self._opcode and opcode == CONTINUATION:
            reason = "continuation of no message"
        else:
            reason = "reserved bits are set"
        return ProtocolViolation(CloseCode.PROTOCOL_ERROR, reason)

    def _judge_size(self, first: int, length: int) -> None:
        """Refuse a data frame that announces a payload above the limit; only the first frame of a compressed message may still be valid."""
        if length > self._frame_limit:
            raise ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, "frame too big")
        if not first & RSV1 or length > self._wire_limit():
            raise ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, "message too big")

    def _wire_limit(self) -> int:
        """The maximum size of a compressed message on the wire; its inflated size has a separate limit."""
        limit = self._message_limit
        return limit + (limit >> _DEFLATE_SLACK_SHIFT) + _DEFLATE_SLACK

    def _begin_frame(self, first: int, length: int) -> None:
        """Count a data frame that is a fragment."""
        opcode = first & _OPCODE
        if opcode:
            self._opcode = opcode
            self._legal = _CONTINUE
            if first & RSV1:
                self._inflater = self._kept or Inflater()
                if self._kept is None and not first & FIN:
                    self._hold(_INFLATER)
        self._wire_size += length
        self._fragments += 1
        if self._fragments > max(self._message_limit // _BYTES_PER_FRAGMENT, _MIN_FRAGMENTS):
            raise ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def _end_frame(self, first: int, data: bytes) -> str | bytes | None:
        """Take the unmasked payload of a data frame, or its last part; return the message that it completes."""
        final = first >= FIN
        message = self._add(data, final)
        if final:
            self._next_message()
        elif self._inflater is None:
            self._largest = min(self._frame_limit, self._message_limit - self._size)
        else:
            self._largest = min(self._frame_limit, self._wire_limit() - self._wire_size)
        return message

    def _add(self, data: bytes, final: bool) -> str | bytes | None:
        """Add unmasked ``data`` to the message; return it when that is its last part."""
        inflater = self._inflater
        if inflater is not None:
            if self._turn is not None:
                self._turn.left -= len(data) >> _INFLATE_SHIFT
            data = inflater.inflate(data, final, self._message_limit - self._size)
        self._size += len(data)
        if self._turn is not None:
            self._turn.left -= len(data) >> _WORK_SHIFT
        text = self._opcode == TEXT
        content = self._content
        if text:
            if final and content is None:
                try:
                    return data.decode()
                except UnicodeDecodeError:
                    raise _invalid_text() from None
            self._check_text(data, final)
        elif final and content is None:
            return data
        if content is None:
            content = self._content = BytesIO()
        self._hold(len(data))
        content.write(data)
        if not final:
            return None
        # Text is kept as bytes, because one character beyond U+FFFF makes a str take up to four times as much.
        return content.getvalue().decode() if text else content.getvalue()

    def _hold(self, n: int) -> None:
        """Count ``n`` more bytes until the message is complete.

        :raises ProtocolViolation: 1013 if the server has no memory for them.
        """
        if not self._account.ask(n):
            raise ProtocolViolation(CloseCode.TRY_AGAIN_LATER, "out of memory")
        self._held += n

    def release(self) -> None:
        """Release the bytes of an incomplete message; nothing may be fed after that."""
        held, self._held = self._held, 0
        self._account.give(held)

    def _check_text(self, data: bytes, final: bool) -> None:
        """Check that ``data`` continues with valid UTF-8, and, if it is ``final``, that its last character is complete.

        :raises ProtocolViolation: 1007 at the first byte that cannot be (RFC 6455 section 8.1).
        """
        undecoded = self._undecoded
        start = 0
        while True:
            # In steps, because the decoder's result, which is dropped, takes up to four times as much memory.
            piece = data[start : start + _CHECK_STEP]
            start += _CHECK_STEP
            last = start >= len(data)
            if undecoded:
                piece = undecoded + piece
            elif piece.isascii():
                if last:
                    break
                continue
            try:
                used = _utf_8_decode(piece, "strict", final and last)[1]
            except UnicodeDecodeError:
                raise _invalid_text() from None
            undecoded = piece[used:]
            if undecoded[:1] == b"\xed" and undecoded[1:2] >= b"\xa0":
                # The codec waits for the third byte of a surrogate, which cannot be valid with any third byte.
                raise _invalid_text()
            if last:
                break
        self._undecoded = undecoded
