"""permessage-deflate (RFC 7692): negotiation, and compression and bounded inflation of one message at a time.

Both directions are negotiated *without context takeover*: every message is compressed on its own, so a WebSocket that is silent holds
neither a window nor a hash table.  With it, zlib would keep about 40 KiB for receiving and up to 256 KiB for sending per connection, to
save some bytes where many small, similar messages follow each other.  RFC 7692 section 7.1.1 lets a server decide both, whatever the client
offers.  The negotiation itself is that of the ``websockets`` package; its codec is not used, because it ends a message at the first block
marked as final and has no limit left once a message has reached its limit exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension
from websockets.typing import ExtensionHeader

from .codes import CloseCode
from .errors import ProtocolViolation

#: Shorter payloads leave as they are: deflate saves nothing on them.
SMALLEST = 128
#: zlib's fastest level: a fraction of the default's CPU time for nearly all of its gain, and it runs inside the hub's thread.
LEVEL = 1
# RFC 7692 section 7.2.1: a sync flush ends with an empty stored block that the sender removes and the receiver restores.
_TAIL = b"\x00\x00\xff\xff"
_WINDOW_SIZE = 32768
_MIN_WINDOW_BITS, _MAX_WINDOW_BITS = 9, 15
# RFC 7692 section 7.2.3.5 allows blocks behind one that is marked as final; each needs a new zlib object, so their number is bounded.
_MAX_FINAL_BLOCKS = 16
# Below this, one call with the tail appended costs less than two calls.
_APPEND_TAIL = 2048

_FACTORY = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Deflate:
    """Compresses outgoing messages under the parameters agreed on.

    :param window_bits: base-2 logarithm of the largest window that the peer can take, 9 to 15.
    """

    __slots__ = ("window_bits",)

    def __init__(self, window_bits: int = _MAX_WINDOW_BITS) -> None:
        self.window_bits = window_bits

    def compress(self, payload: bytes) -> bytes:
        """The compressed message, or one that is not shorter than ``payload`` where compression does not help."""
        # A window beyond the message, and a hash table to match, would only be memory to clear.
        bits = min(self.window_bits, max(_MIN_WINDOW_BITS, len(payload).bit_length()))
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -bits, bits - 7)
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


class Inflater:
    """Inflates one message, frame by frame."""

    __slots__ = ("_final_blocks", "_history", "_zlib")

    def __init__(self) -> None:
        # The client may use the largest window unless it was told otherwise.
        self._zlib = zlib.decompressobj(-_MAX_WINDOW_BITS)
        # What was inflated last: at least the window, at most twice as much, so that it is cut once in a while and not with every frame.
        self._history = bytearray()
        self._final_blocks = 0

    def inflate(self, data: bytes, final: bool, room: int) -> bytes:
        """Inflate a frame's payload.

        :param final: whether it is the message's last frame.
        :param room: bytes that it may yield.
        :raises ProtocolViolation: 1009 when it yields more, having inflated no more than one byte too many; 1007 for data that is not
            deflate's.
        """
        try:
            if not final:
                inflated = self._run(data, room)
                history = self._history
                history += inflated[-_WINDOW_SIZE:]
                if len(history) > 2 * _WINDOW_SIZE:
                    del history[:-_WINDOW_SIZE]
                return inflated
            if len(data) < _APPEND_TAIL:
                return self._run(data + _TAIL, room)
            inflated = self._run(data, room)
            return inflated + self._run(_TAIL, room - len(inflated))
        except zlib.error:
            raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "invalid compressed data") from None

    def _run(self, data: bytes, room: int) -> bytes:
        result = b""
        while True:
            # One byte more than allowed tells "exactly full" from "too much"; zlib takes 0 for no limit at all.
            piece = self._zlib.decompress(data, room + 1)
            room -= len(piece)
            if room < 0:
                raise ProtocolViolation(CloseCode.MESSAGE_TOO_BIG, "message too big")
            result = result + piece if result else piece
            if not self._zlib.eof:
                return result
            data = self._zlib.unused_data
            self._final_blocks += 1
            if self._final_blocks > _MAX_FINAL_BLOCKS:
                raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "too many final blocks in compressed data")
            self._zlib = zlib.decompressobj(-_MAX_WINDOW_BITS, zdict=bytes((self._history + result[-_WINDOW_SIZE:])[-_WINDOW_SIZE:]))
            if not data or data == _TAIL:
                # Senders should append an empty block to a final one (RFC 7692 section 7.2.3.5); not all do.
                return result


def negotiate(offers: Sequence[ExtensionHeader]) -> tuple[bytes, Deflate] | None:
    """Accept the first acceptable offer of permessage-deflate.

    :param offers: the client's extensions, in its order of preference.
    :returns: the value for ``Sec-WebSocket-Extensions`` and the compressor, or ``None``.
    """
    for name, parameters in offers:
        if name != _FACTORY.name:
            continue
        try:
            answer, extension = _FACTORY.process_request_params(parameters, [])
        except InvalidHandshake:
            continue  # RFC 7692 section 5.1: decline this offer, look at the next
        if extension.local_max_window_bits < _MIN_WINDOW_BITS:
            continue  # zlib does not compress with a window of 256 bytes; websockets before 17 accepts it all the same
        return build_extension([(name, answer)]).encode("ascii"), Deflate(extension.local_max_window_bits)
    return None
