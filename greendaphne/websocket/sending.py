"""The sending half of a WebSocket: whole frames under one lock, compression, and the end that a broken connection brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol

from gevent.lock import Semaphore

from ..config import KIB
from ..core import causes
from ..core.message import ClientDisconnected, ResponseError, Stream
from .alarm import Alarm
from .codes import CloseCode
from .compat import CompatibleWebSocket
from .deflate import SMALLEST, Deflate
from .errors import WebSocketClosed
from .frames import BINARY, FIN, RSV1, TEXT, MessageReader, encode_header, encode_text
from .state import State

_CONNECTING, _OPEN, _CLOSING, _CLOSED = State

# Up to this size, copying a payload behind its header costs less than writing twice.
_JOIN_LIMIT: Final = 64 * KIB

_TEXT_FRAME: Final = FIN | TEXT
_BINARY_FRAME: Final = FIN | BINARY
# The headers of the frames of short messages, by the length of the payload.
_TEXT_HEADERS: Final = tuple([encode_header(_TEXT_FRAME, length) for length in range(126)])
_BINARY_HEADERS: Final = tuple([encode_header(_BINARY_FRAME, length) for length in range(126)])
_SHORT: Final = len(_TEXT_HEADERS)


class MessageMeter(Protocol):
    """Hooks for what metrics count about WebSocket messages."""

    def received(self, message: str | bytes) -> None:
        """A message came from the client."""

    def sent(self, message: str | bytes) -> None:
        """A message went to the client."""


class SendingWebSocket(CompatibleWebSocket):
    """What any greenlet may do with a WebSocket that is open, and the state that this depends on.

    :param stream: see :class:`greendaphne.websocket.connection.WebSocket`, as for ``meter``.
    """

    __slots__ = ("_alarm", "_busy", "_deflate", "_meter", "_pongs", "_reader", "_rooms", "_turns", "cause", "code", "state")

    def __init__(self, stream: Stream, meter: MessageMeter | None) -> None:
        super().__init__(stream)
        self.state = _CONNECTING
        #: The close code once it is over, as :class:`WebSocketClosed` has it.
        self.code: int = CloseCode.ABNORMAL_CLOSURE
        #: Why the server ended it, one of :mod:`greendaphne.core.causes`; empty where the client or the application did in good order.
        self.cause: str = causes.NONE
        self._meter = meter
        self._deflate: Deflate | None = None
        # What makes messages of the bytes that come, while it is open or closing.
        self._reader: MessageReader | None = None
        # Whether a frame is being written, and what other writers wait for; ``None`` until one has to.
        self._busy = False
        self._turns: Semaphore | None = None
        # Pong frames that wait for their turn to be written or for the end of the input at hand.
        self._pongs = b""
        # What is called when offer() would take a message again.
        self._rooms: Sequence[Callable[[], None]] = ()
        # Wakes the owner.
        self._alarm = Alarm()

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """Send one message: ``str`` as text, ``bytes`` as binary.

        :param binary: gevent-websocket's way to choose the opcode.
        :raises WebSocketClosed: when the WebSocket is over or closing.
        :raises ResponseError: for text that UTF-8 cannot represent.
        """
        if isinstance(message, str):
            if len(message) < _SHORT and message.isascii() and not binary and self._deflate is None:
                # Most messages.
                self._write(_TEXT_HEADERS[len(message)] + message.encode())
                if self._meter is not None:
                    self._meter.sent(message)
                return
            first = _BINARY_FRAME if binary else _TEXT_FRAME
            try:
                parts = encode_text(message)
            except UnicodeEncodeError:
                raise ResponseError("the text of a WebSocket message has surrogates") from None
            if len(parts) > 1 and self._deflate is None:
                # They have to be copied together in any case, so the header can be among them.
                parts.insert(0, encode_header(first, sum(map(len, parts))))
                self._write(b"".join(parts))
                if self._meter is not None:
                    self._meter.sent(message)
                return
            payload = b"".join(parts)
        else:
            first = _TEXT_FRAME if binary is False else _BINARY_FRAME
            payload = bytes(message)
        self._send_frame(first, payload)
        if self._meter is not None:
            self._meter.sent(message)

    def send_frame(self, message: str | bytes, opcode: int) -> None:
        """gevent-websocket's way to send one unfragmented frame, text, binary, a ping or a pong; :meth:`close` sends close frames."""
        payload = message.encode() if isinstance(message, str) else bytes(message)
        if opcode & 8:
            # Control frames are never compressed (RFC 7692 section 6).
            if self.state is not _OPEN:
                self._refuse()
            self._send_control(opcode, payload)
        else:
            self._send_frame(FIN | opcode, payload)

    def _send_frame(self, first: int, payload: bytes) -> None:
        if self.state is not _OPEN:
            self._refuse()
        deflate = self._deflate
        if deflate is not None and len(payload) >= SMALLEST:
            if deflate.keeps:
                self._write_compressed(deflate, first, payload)
                return
            first, payload = self._compressed(deflate, first, payload)
        header = encode_header(first, len(payload))
        if len(payload) > _JOIN_LIMIT:
            self._write(header, payload)
        else:
            self._write(header + payload)

    def _write_compressed(self, deflate: Deflate, first: int, payload: bytes) -> None:
        """Write a message that refers to earlier ones: it is compressed in its turn to be sent."""
        self._begin()
        try:
            if self.state is not _OPEN:
                self._refuse()
            compressed = deflate.compress(payload)
            self._put(encode_header(first | RSV1, len(compressed)) + compressed)
            while self._pongs and self.state is _OPEN:
                pongs, self._pongs = self._pongs, b""
                self._put(pongs)
        finally:
            self._finished()
        if self._rooms:
            self._tell_of_room()

    @staticmethod
    def _compressed(deflate: Deflate, first: int, payload: bytes) -> tuple[int, bytes]:
        """The first octet and the payload of a frame, compressed where that makes it shorter, or later messages refer to it."""
        compressed = deflate.compress(payload)
        return (first | RSV1, compressed) if len(compressed) < len(payload) or deflate.keeps else (first, payload)

    def offer(self, message: str | bytes) -> bool:
        """Send one message as :meth:`send` does, without ever waiting.

        Takes the message whole, or returns false and has done nothing: earlier data waits for the client then, and :meth:`has_room` tells
        when that changes.  What the client does not take at once is held and sent by the server, within ``timeouts.send``.

        :raises WebSocketClosed: when the WebSocket is over or closing.
        :raises ResponseError: for text that UTF-8 cannot represent.
        """
        if self.state is not _OPEN:
            self._refuse()
        deflate = self._deflate
        # Compression may change what later messages refer to.
        if self._busy or (deflate is not None and not self.stream.has_room()):
            return False
        if isinstance(message, str):
            first = _TEXT_FRAME
            headers = _TEXT_HEADERS
            try:
                payload = message.encode() if len(message) <= _JOIN_LIMIT else b"".join(encode_text(message))
            except UnicodeEncodeError:
                raise ResponseError("the text of a WebSocket message has surrogates") from None
        else:
            first = _BINARY_FRAME
            headers = _BINARY_HEADERS
            payload = message
        if deflate is not None and len(payload) >= SMALLEST:
            first, payload = self._compressed(deflate, first, payload)
            header = encode_header(first, len(payload))
        else:
            size = len(payload)
            header = headers[size] if size < _SHORT else encode_header(first, size)
        try:
            if not self.stream.offer(header + payload):
                return False
        except ClientDisconnected as error:
            self._because(error.cause)
            self._end(CloseCode.ABNORMAL_CLOSURE)
            self._refuse()
        if self._meter is not None:
            self._meter.sent(message)
        return True

    def has_room(self, callback: Callable[[], None]) -> bool:
        """Whether :meth:`offer` would take a message now, or report the end; if not, ``callback`` is called once when it would."""
        if self.state is not _OPEN:
            return True
        if self._busy:
            self._rooms = [*self._rooms, callback]
            return False
        return self.stream.has_room(callback)

    def _tell_of_room(self) -> None:
        rooms, self._rooms = self._rooms, ()
        for callback in rooms:
            callback()

    def _send_control(self, opcode: int, payload: bytes) -> None:
        self._write(encode_header(FIN | opcode, len(payload)) + payload)

    def _send_pongs(self) -> None:
        """Send the pongs that wait, unless a frame is being written: they follow it then."""
        if self.state is _OPEN and not self._busy:
            pongs, self._pongs = self._pongs, b""
            self._write(pongs)

    def _write(self, data: bytes, payload: bytes = b"") -> None:
        """Write one frame while OPEN, and the pongs that have come to wait meanwhile."""
        if self._busy:
            self._begin()
        self._busy = True
        try:
            # A writer that waited may find a close frame sent, after which nothing may follow (RFC 6455 section 5.5.1).
            if self.state is not _OPEN:
                self._refuse()
            self._put(data)
            if payload:
                self._put(payload)
            while self._pongs and self.state is _OPEN:
                pongs, self._pongs = self._pongs, b""
                self._put(pongs)
        finally:
            self._busy = False
            if self._turns is not None:
                self._finished()
        if self._rooms:
            self._tell_of_room()

    def _begin(self) -> None:
        """Wait for the end of the frame that another greenlet writes, and begin to write; :meth:`_finished` is called at the end."""
        while self._busy:
            if self._turns is None:
                self._turns = Semaphore(0)
            self._turns.acquire()
        self._busy = True

    def _finished(self) -> None:
        """Have the next greenlet write, if one waits."""
        self._busy = False
        turns = self._turns
        # At most one may go on at a time; it passes the word on.
        if turns is not None and not turns.counter:
            turns.release()

    def _put(self, data: bytes) -> None:
        """Give ``data`` to the stream, in a writer's turn."""
        try:
            self.stream.write(data)
        except ClientDisconnected as error:
            self._because(error.cause)
            self._end(CloseCode.ABNORMAL_CLOSURE)
            self._refuse()
        except BaseException:
            # Killed or timed out by its caller in the middle of a frame: nothing that follows could be understood.
            self._end(CloseCode.ABNORMAL_CLOSURE)
            self.stream.reset()
            raise

    # -- the end

    def _because(self, cause: str) -> None:
        """Remember why it ends; the first cause counts, and behind a close frame none does."""
        if not self.cause and self.state is _OPEN:
            self.cause = cause

    def _end(self, code: int) -> None:
        """Enter CLOSED, the first time; the greenlet that waits to receive is told."""
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        self._pongs = b""
        self._alarm.stop()
        self.closed = True  # type: ignore[misc]
        self.code = code
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.release()
            self.request.connection.account.leave(self)
        if self._deflate is not None:
            self._deflate.release()
            self._deflate = None
        self._alarm.wake()
        if self._rooms:
            self._tell_of_room()

    def _refuse(self) -> NoReturn:
        """Answer a call that comes too early or too late."""
        if self.state is _CONNECTING:
            raise RuntimeError("the WebSocket is not open")
        raise WebSocketClosed(self.code if self.state is _CLOSED else CloseCode.ABNORMAL_CLOSURE)
