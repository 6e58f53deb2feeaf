"""permessage-deflate (RFC 7692): negotiation, and compression and bounded inflation of one message at a time.

By default both directions are negotiated *without context takeover*: every message is compressed on its own, so a WebSocket that is silent
holds neither a window nor a hash table.  RFC 7692 section 7.1.1 lets a server decide both, whatever the client offers.  With context
takeover (:class:`Compression`) zlib keeps up to 100 KiB for receiving and 256 KiB for sending per connection, and saves bytes where many
small, similar messages follow each other.  The contexts of all connections have a common limit, and count as memory for clients: while
either is short, new connections are negotiated without context takeover.

The negotiation itself is that of the ``websockets`` package; its codec is not used, because it ends a message at the first block marked as
final and has no limit left once a message has reached its limit exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension
from websockets.typing import ExtensionHeader

from ..core.accounts import FREE, Account, Allowance
from .codes import CloseCode
from .errors import ProtocolViolation

#: Shorter payloads are sent uncompressed, because deflate does not make them shorter.
SMALLEST = 128
#: zlib's fastest level: it compresses nearly as well as the default in a fraction of the CPU time, which blocks the hub.
LEVEL = 1
# RFC 7692 section 7.2.1: a sync flush ends with an empty stored block that the sender removes and the receiver restores.
_TAIL = b"\x00\x00\xff\xff"
_WINDOW_SIZE = 32768
_MIN_WINDOW_BITS, _MAX_WINDOW_BITS = 9, 15
# RFC 7692 section 7.2.3.5 allows blocks after one that is marked as final; each needs a new zlib object, so their number is limited.
_MAX_FINAL_BLOCKS = 16
# Below this, one call with the tail appended costs less than two calls.
_APPEND_TAIL = 2048

_NAME = "permessage-deflate"
# The memory of zlib's inflate besides its window, and of Python's object.
_INFLATE_STATE = 10 * 1024


class Deflate:
    """Compresses outgoing messages under the parameters agreed on.

    :param window_bits: base-2 logarithm of the largest window that the peer can take, 9 to 15.
    :param keeps: whether messages refer to earlier ones (context takeover); they must be compressed in the order of sending then, and
        each one that is compressed must be sent so.
    :param inflates: base-2 logarithm of the window of a peer whose messages refer to earlier ones; 0 where they do not.
    """

    __slots__ = ("_compressor", "inflater", "keeps", "release", "window_bits")

    def __init__(self, window_bits: int = _MAX_WINDOW_BITS, *, keeps: bool = False, inflates: int = 0) -> None:
        self.window_bits = window_bits
        self.keeps = keeps
        #: Inflates all messages of the peer, if they refer to each other.
        self.inflater = Inflater(keeps=True) if inflates else None
        #: Returns the contexts' share of the limit for all connections.
        self.release: Callable[[], None] = _nothing
        self._compressor: Any = None

    def compress(self, payload: bytes) -> bytes:
        """The compressed message, or, without context takeover, one that is not shorter than ``payload`` where compression is no help."""
        if self.keeps:
            if self._compressor is None:
                self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -self.window_bits, self.window_bits - 7)
            return (self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]  # type: ignore[no-any-return]
        # A larger window than the message, with its hash table, would only cost time to clear it.
        bits = min(self.window_bits, max(_MIN_WINDOW_BITS, len(payload).bit_length()))
        compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -bits, bits - 7)
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def _nothing() -> None:
    """The default of ``release``: there is nothing to return."""


class Inflater:
    """Inflates one message, frame by frame.

    :param keeps: whether it inflates the messages that follow as well, which refer to earlier ones.
    """

    __slots__ = ("_final_blocks", "_history", "_keeps", "_zlib")

    def __init__(self, *, keeps: bool = False) -> None:
        self._keeps = keeps
        # The client may use the largest window unless it was told otherwise.
        self._zlib = zlib.decompressobj(-_MAX_WINDOW_BITS)
        # The last inflated bytes: at least the window, at most twice the window, so that they are not cut after every frame.
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
                self._remember(inflated)
                return inflated
            if len(data) < _APPEND_TAIL:
                inflated = self._run(data + _TAIL, room)
            else:
                inflated = self._run(data, room)
                inflated += self._run(_TAIL, room - len(inflated))
            if self._keeps:
                self._remember(inflated)
                self._final_blocks = 0
            return inflated
        except zlib.error:
            raise ProtocolViolation(CloseCode.INVALID_PAYLOAD, "invalid compressed data") from None

    def _remember(self, inflated: bytes) -> None:
        history = self._history
        history += inflated[-_WINDOW_SIZE:]
        if len(history) > 2 * _WINDOW_SIZE:
            del history[:-_WINDOW_SIZE]

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


class Compression:
    """The compression parameters that a server accepts, for all its connections.

    :param keeps: whether messages may refer to earlier ones (context takeover), in the directions in which the client agrees.
    :param window_bits: base-2 logarithm of the largest window, 9 to 15; a client that does not know the parameter sends with 15.
    :param bound: bytes that the contexts of all connections may take together; further connections have none.
    """

    def __init__(self, *, keeps: bool = False, window_bits: int = _MAX_WINDOW_BITS, bound: int = 0) -> None:
        bits = None if window_bits == _MAX_WINDOW_BITS else window_bits
        self._without = ServerPerMessageDeflateFactory(True, True, bits, bits)
        self._with = ServerPerMessageDeflateFactory(False, False, bits, bits) if keeps else None
        self._bound = bound
        #: The bytes of all present contexts.
        self.held = 0

    def negotiate(self, offers: Sequence[ExtensionHeader], account: Account = FREE) -> tuple[bytes, Deflate] | None:
        """Accept the first acceptable offer of permessage-deflate.

        :param offers: the client's extensions, in its order of preference.
        :param account: that of the connection.  Contexts count in the memory of the process; while that is short there are none.
        :returns: the value for ``Sec-WebSocket-Extensions`` and the compressor, or ``None``.
        """
        for name, parameters in offers:
            if name != _NAME:
                continue
            for factory in (self._with, self._without):
                if factory is None:
                    continue
                try:
                    answer, extension = factory.process_request_params(parameters, [])
                except InvalidHandshake:
                    break  # RFC 7692 section 5.1: decline this offer, look at the next
                bits = extension.local_max_window_bits
                if bits < _MIN_WINDOW_BITS:
                    break  # zlib does not compress with a window of 256 bytes; websockets before 17 accepts it all the same
                keeps = not extension.local_no_context_takeover
                inflates = 0 if extension.remote_no_context_takeover else extension.remote_max_window_bits
                size = context_size(bits if keeps else 0, inflates)
                deflate = Deflate(bits, keeps=keeps, inflates=inflates)
                if size:
                    allowance = account.allowance
                    if self.held + size > self._bound or allowance.left - size < allowance.spill:
                        continue
                    self.held += size
                    allowance.note(size)
                    deflate.release = partial(self._release, size, allowance)
                return build_extension([(name, answer)]).encode("ascii"), deflate
        return None

    def _release(self, size: int, allowance: Allowance) -> None:
        self.held -= size
        allowance.give(size)


def context_size(deflates: int, inflates: int) -> int:
    """Return the bytes that the contexts of one connection take at most.

    :param deflates: base-2 logarithm of the window for sending, 0 for no context; likewise ``inflates`` for receiving.
    """
    # zconf.h: deflate takes (1 << (windowBits + 2)) + (1 << (memLevel + 9)) bytes; the history here is twice the largest window.
    sending = (1 << (deflates + 2)) + (1 << (deflates + 2)) if deflates else 0
    return sending + ((1 << inflates) + 2 * _WINDOW_SIZE + _INFLATE_STATE if inflates else 0)
