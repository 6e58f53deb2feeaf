"""One WebSocket on a stream: messages in and out, the closing handshake, and keepalive.

:class:`WebSocket` takes the place of gevent-websocket's class of that name, whose frame handling it replaces.  Its states are those of RFC
6455: CONNECTING until :meth:`~WebSocket.accept`, OPEN, CLOSING once this side sent a close frame, CLOSED.  One greenlet, the owner, calls
:meth:`~WebSocket.receive`, which also answers pings, keeps the peer alive and completes the closing handshake; any greenlet may
:meth:`~WebSocket.send` and :meth:`~WebSocket.close`.  Whole frames are written under one lock.  Everything that was sent stays deliverable:
the stream is finished, never reset, except where a frame was left unfinished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum
from math import inf
from time import monotonic
from typing import Any, Final, NoReturn, Protocol

from gevent import Timeout, get_hub, getcurrent, spawn
from gevent.lock import Semaphore
from geventwebsocket.websocket import WebSocket as _GeventWebSocket  # type: ignore[import-untyped]

from ..config import KIB, Limits, Timeouts
from ..core import causes
from ..core.message import ClientDisconnected, Headers, Request, ResponseError, Stream, header_values
from ..core.turns import Turn
from . import handshake
from .codes import CloseCode
from .deflate import SMALLEST, Compression, Deflate
from .errors import MAX_REASON, ProtocolViolation, WebSocketClosed, may_be_sent
from .frames import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    READ_SIZE,
    RSV1,
    TEXT,
    Control,
    MessageReader,
    decode_close,
    encode_close,
    encode_header,
    encode_text,
)

# Up to this size, copying a payload behind its header costs less than writing twice.
_JOIN_LIMIT: Final = 64 * KIB
_PING_SIZE: Final = 4
# Pings answered one by one before only the latest is (RFC 6455 section 5.5.3), in bytes of pong frames.
_PONGS_LIMIT: Final = 16 * 127
# When a time limit has passed, what the stream may hold already still counts, for the hub may have been busy; seconds to find out.
_LAST_LOOK: Final = 0.02
#: Seconds between looks whether a peer has come to a ping that waits behind other data.
_DELIVERY_LOOK: Final = 1.0
#: Without context takeover, for all connections.
_COMPRESSION: Final = Compression()

# What a violation stands for, where it is not the protocol's.
_CAUSES: Final[dict[int, str]] = {
    CloseCode.MESSAGE_TOO_BIG: causes.LIMIT,
    CloseCode.POLICY_VIOLATION: causes.CLIENT_SLOW,
    CloseCode.TRY_AGAIN_LATER: causes.NO_ROOM,
}

_TEXT_FRAME: Final = FIN | TEXT
_BINARY_FRAME: Final = FIN | BINARY


class State(Enum):
    """The states of RFC 6455 sections 4.1 and 7.1."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


_CONNECTING, _OPEN, _CLOSING, _CLOSED = State


class _Wake(BaseException):
    """Thrown into the owner where it waits for bytes, because the WebSocket's state has changed."""


class MessageMeter(Protocol):
    """Hooks for what metrics count about WebSocket messages."""

    def received(self, message: str | bytes) -> None:
        """A message came from the client."""

    def sent(self, message: str | bytes) -> None:
        """A message went to the client."""


class WebSocket(_GeventWebSocket):  # type: ignore[misc]
    """A server's end of a WebSocket.

    :param stream: the request and the way to answer it; after the handshake, the tunnel.
    :param limits: ``websocket_message`` and ``websocket_frame`` are used.
    :param timeouts: ``ping_interval``, ``ping_timeout``, ``websocket_message`` and ``websocket_close`` are used.
    :param protocols: the subprotocols that the server speaks; the client's order decides.
    :param compression: whether permessage-deflate is accepted where the client offers it; what of it, where it is no ``bool``.
    :param server_name: the ``Server`` field of the accepting answer; ``None`` for none.
    :param meter: counts messages; ``None`` for a server without metrics.
    """

    __slots__ = (
        "_accepted",
        "_alarm",
        "_compression",
        "_deadline",
        "_deflate",
        "_delivery",
        "_limits",
        "_lock",
        "_message_ends",
        "_meter",
        "_pinged",
        "_pongs",
        "_protocols",
        "_reader",
        "_rooms",
        "_server_name",
        "_timeouts",
        "_timer",
        "_turn",
        "_waiting",
        "cause",
        "code",
        "state",
        "subprotocol",
    )

    def __init__(
        self,
        stream: Stream,
        limits: Limits,
        timeouts: Timeouts,
        *,
        protocols: Sequence[str] = (),
        compression: bool | Compression = False,
        server_name: bytes | None = b"Daphne",
        meter: MessageMeter | None = None,
    ) -> None:
        # The superclass's constructor would only make the parts that this class does without.
        self.stream: Stream = stream  # type: ignore[misc]
        self.environ = None  # type: ignore[misc]
        self.closed: bool = False  # type: ignore[misc]
        self.state = _CONNECTING
        #: The close code once it is over, as :class:`WebSocketClosed` has it.
        self.code: int = CloseCode.ABNORMAL_CLOSURE
        #: Why the server ended it, one of :mod:`greendaphne.core.causes`; empty where the client or the application did in good order.
        self.cause: str = causes.NONE
        #: The subprotocol in use, ``None`` for none; set by :meth:`accept`.
        self.subprotocol: str | None = None
        self._accepted = False
        self._limits = limits
        self._timeouts = timeouts
        self._protocols = protocols
        self._compression = _COMPRESSION if compression is True else compression or None
        self._server_name = server_name
        self._meter = meter
        self._deflate: Deflate | None = None
        self._reader: MessageReader | None = None
        self._lock = Semaphore(1)
        # Pong frames that wait for the lock or for the end of the input at hand.
        self._pongs = b""
        # What is called when offer() would take a message again.
        self._rooms: Sequence[Callable[[], None]] = ()
        # The greenlet inside of stream.read(), and when something else is to be done if nothing comes in.
        self._waiting: Any = None
        self._deadline = inf
        # Whether a ping was sent and nothing has come in since.
        self._pinged = False
        # Where the ping may wait in the system's buffer: the byte of the connection at its end, the bytes that the peer has taken of it,
        # and when it last took some.
        self._delivery: tuple[int, int, float] | None = None
        # When the message that has begun must have ended, and ``inf`` where none has.
        self._message_ends = inf
        # Counts the frames of either kind.
        self._turn: Turn | None = None
        # Wakes the owner.  It is not set anew with every read but rings for nothing where the limit has moved on: setting it is what costs.
        self._timer: Any = None
        self._alarm = inf

    def __del__(self) -> None:
        """Do nothing; the superclass would write to the stream from wherever the garbage collector runs."""

    @property
    def request(self) -> Request:
        """The request of the opening handshake."""
        return self.stream.request

    @property
    def connecting(self) -> bool:
        """Whether it is neither accepted nor over."""
        return self.state is _CONNECTING

    @property
    def was_open(self) -> bool:
        """Whether it is or was accepted."""
        return self._accepted

    @property
    def closing(self) -> bool:
        """Whether this side has sent a close frame and the peer's is still to come."""
        return self.state is _CLOSING

    @property
    def compresses(self) -> bool:
        """Whether permessage-deflate is in use."""
        return self._deflate is not None

    # -- the names of gevent-websocket that describe the request

    @property
    def origin(self) -> str | None:
        """The ``Origin`` field."""
        values = header_values(self.request.headers, b"origin")
        return values[0].decode("latin-1") if values else None

    @property
    def protocol(self) -> str | None:
        """The subprotocol in use."""
        return self.subprotocol

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol."""
        return "13"

    @property
    def path(self) -> str:
        """The request's raw path."""
        return self.request.path.decode("latin-1")

    # -- opening handshake

    def check(self) -> None:
        """Check the opening handshake.

        :raises HTTPError: 400, 405 or 426, to be answered instead of :meth:`accept`.
        """
        handshake.check(self.request)

    def accept(self, subprotocol: str | None = None, headers: Headers = ()) -> None:
        """Open the WebSocket: 101 on HTTP/1.1, 200 on HTTP/2.  The request has passed :meth:`check`.

        :param subprotocol: the application's choice; by default the first of the client's that the server speaks.
        :param headers: further fields of the answer.
        :raises ResponseError: for a subprotocol that the client did not offer, or a field that cannot be sent; nothing was sent then.
        :raises ClientDisconnected: when the client has left.
        """
        if self.state is not _CONNECTING:
            raise RuntimeError("the opening handshake is over")
        request = self.request
        offered = handshake.offered_subprotocols(request.headers)
        if subprotocol is None:
            subprotocol = next((protocol for protocol in offered if protocol in self._protocols), None)
        elif subprotocol not in offered:
            raise ResponseError(f"the subprotocol {subprotocol!r} was not offered by the client")
        compression = self._compression
        account = request.connection.account
        agreed = compression.negotiate(handshake.extensions(request.headers), account) if compression is not None else None
        extension, self._deflate = agreed or (None, None)
        self.stream.switch(handshake.response_headers(request, self._server_name, subprotocol, extension, headers))
        self.subprotocol = subprotocol
        inflater = None if self._deflate is None else self._deflate.inflater
        self._reader = MessageReader(self._limits, self._deflate is not None, inflater, account)
        account.enter(self)
        self._turn = Turn()
        self._heard()
        self.state = _OPEN
        self._accepted = True

    def abandon(self) -> None:
        """Give up an opening handshake whose client has left; nothing is sent."""
        if self.state is _CONNECTING:
            self._end(CloseCode.ABNORMAL_CLOSURE)

    def hand_over(self, headers: Headers) -> None:
        """Leave the stream to an application that speaks the protocol itself; this WebSocket is over, and sends nothing more.

        :param headers: the application's answer to the opening handshake; without meaning where :meth:`accept` has answered it.
        :raises WebSocketClosed: where it is over already.
        """
        if self.state is _CONNECTING:
            self.stream.switch(headers)
            self._accepted = True
        elif self.state is not _OPEN:
            self._refuse()
        self._end(CloseCode.ABNORMAL_CLOSURE)

    def reject(self, status: int = 403, reason: str = "Access denied") -> None:
        """Answer the opening handshake with an error and no body, after which an HTTP/1.1 connection ends.

        :param reason: the reason phrase, which HTTP/2 does not have.
        """
        if self.state is not _CONNECTING:
            raise RuntimeError("the opening handshake is over")
        self._end(CloseCode.ABNORMAL_CLOSURE)
        stream = self.stream
        fields = [(b"content-length", b"0")]
        if not stream.request.by_extended_connect:
            fields.append((b"connection", b"close"))
        stream.start(status, fields, reason)
        stream.finish()

    # -- receiving

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message; text as ``str``, binary as ``bytes``.

        Only the owner calls it.  In CLOSING, messages are discarded until the peer's close frame.

        :param timeout: seconds to wait at most; ``None``: as long as it takes.
        :raises TimeoutError: when they have passed; nothing is lost.
        :raises WebSocketClosed: when the WebSocket is over.
        """
        reader = self._reader
        turn = self._turn
        if reader is None or turn is None or self.state is _CLOSED:
            self._refuse()
        until = inf if timeout is None else monotonic() + timeout
        stream = self.stream
        # Whether what the stream held when a time limit had passed has been looked at.
        looked = False
        while True:
            try:
                event = reader.poll()
            except ProtocolViolation as violation:
                self._fail(violation.code, violation.reason)
            if event is not None:
                turn.left -= 1
                if turn.left <= 0:
                    turn.look()
                if event.__class__ is tuple:
                    self._control(event)
                    if not reader.fragmented:
                        self._message_ends = inf
                elif self.state is _OPEN:
                    if self._pongs:
                        self._send_pongs()
                    self._message_ends = inf
                    if self._meter is not None:
                        self._meter.received(event)  # type: ignore[arg-type]
                    return event  # type: ignore[return-value]
                continue
            if self._pongs:
                self._send_pongs()
            now = monotonic()
            deadline = self._deadline
            if reader.midway and self.state is _OPEN:
                if self._message_ends == inf and self._timeouts.websocket_message > 0:
                    self._message_ends = now + self._timeouts.websocket_message
                elif self._message_ends <= now:
                    self._fail(CloseCode.POLICY_VIOLATION, "message took too long")
                deadline = min(deadline, self._message_ends)
            if self.state is not _OPEN and (self.state is _CLOSED or now >= deadline):
                self._finish(CloseCode.ABNORMAL_CLOSURE)
                self._refuse()
            limit = min(deadline, until)
            if now < limit:
                if limit < self._alarm:
                    self._set_alarm(limit, now)
            elif not looked and now < until + _LAST_LOOK:
                looked = True
                self._set_alarm(now + _LAST_LOOK, now)
            elif until <= now:
                raise TimeoutError
            else:
                looked = False
                self._silence()
                continue
            # What is called here stays on the stack, and in memory, as long as the peer is silent; so it is the stream's method itself.
            self._waiting = getcurrent()
            try:
                data = stream.read(READ_SIZE)
            except _Wake:
                continue
            except ClientDisconnected as error:
                self._because(error.cause)
                data = b""
            finally:
                self._waiting = None
            if not data:
                self._because(causes.CLIENT_GONE)
                self._finish(CloseCode.ABNORMAL_CLOSURE)
                self._refuse()
            turn.received(len(data))
            reader.feed(data)
            looked = False
            self._heard()

    def read_message(self) -> str | bytes:
        """gevent-websocket's name for :meth:`receive`."""
        return self.receive()

    def _heard(self) -> None:
        """Something came in: the next ping is due when nothing more does."""
        if self.state is _CLOSING:
            return
        interval = self._timeouts.ping_interval
        self._deadline = monotonic() + interval if interval > 0 else inf
        self._pinged = False
        self._delivery = None

    def _silence(self) -> None:
        """The deadline has passed without a byte: ping, or give up."""
        timeouts = self._timeouts
        if self._pinged and timeouts.ping_timeout > 0:
            if self._delivery is not None and self._is_taking(self._delivery):
                return
            reason = "ping timeout"
            self._because(causes.PING_TIMEOUT)
            self._send_close(encode_close(CloseCode.INTERNAL_ERROR, reason.encode()))
            self._finish(CloseCode.ABNORMAL_CLOSURE)
            raise WebSocketClosed(CloseCode.ABNORMAL_CLOSURE, reason)
        self._pinged = True
        before = self.stream.delivery()
        self._send_control(PING, os.urandom(_PING_SIZE))
        # From here on, since it may have waited for a frame that the peer takes slowly.
        now = monotonic()
        self._deadline = now + (timeouts.ping_timeout if timeouts.ping_timeout > 0 else timeouts.ping_interval)
        if before is not None and before[1] and timeouts.ping_timeout > 0 and (after := self.stream.delivery()) is not None:
            # The peer sees the ping after what stands before it.
            self._delivery = sum(after), after[0], now
            self._deadline = now + min(timeouts.ping_timeout, _DELIVERY_LOOK)

    def _is_taking(self, delivery: tuple[int, int, float]) -> bool:
        """Whether the peer, which has not seen the ping yet, takes what was sent before it, or has just come to it: it has more time."""
        end, taken, at = delivery
        state = self.stream.delivery()
        if state is None:
            return False
        now = monotonic()
        patience = self._timeouts.ping_timeout
        if state[0] >= end:
            self._delivery = None
            self._deadline = now + patience
            return True
        if state[0] > taken:
            self._delivery = end, state[0], now
        elif now - at >= patience:
            return False
        self._deadline = now + min(patience, _DELIVERY_LOOK)
        return True

    def _control(self, frame: Control) -> None:
        opcode, payload = frame
        if opcode == PING:
            if self.state is _OPEN:
                pong = encode_header(FIN | PONG, len(payload)) + payload
                # A peer that pings without end gets the latest answered; who pings as usual, every one.
                self._pongs = self._pongs + pong if len(self._pongs) < _PONGS_LIMIT else pong
        elif opcode == CLOSE:
            try:
                code, reason = decode_close(payload)
            except ProtocolViolation as violation:
                self._fail(violation.code, violation.reason)
            if self.state is _OPEN:
                self._send_close(payload[:2])
            self._finish(code)
            # Whether it got the answer does not change what it said.
            self.code = code
            raise WebSocketClosed(code, reason)

    # -- sending

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """Send one message: ``str`` as text, ``bytes`` as binary.

        :param binary: gevent-websocket's way to choose the opcode.
        :raises WebSocketClosed: when the WebSocket is over or closing.
        :raises ResponseError: for text that UTF-8 cannot represent.
        """
        if isinstance(message, str):
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
        with self._lock:
            if self.state is not _OPEN:
                self._refuse()
            compressed = deflate.compress(payload)
            self._put(encode_header(first | RSV1, len(compressed)) + compressed)
            while self._pongs and self.state is _OPEN:
                pongs, self._pongs = self._pongs, b""
                self._put(pongs)
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
        if self._lock.locked() or (deflate is not None and not self.stream.has_room()):
            return False
        if isinstance(message, str):
            first = _TEXT_FRAME
            try:
                payload = b"".join(encode_text(message))
            except UnicodeEncodeError:
                raise ResponseError("the text of a WebSocket message has surrogates") from None
        else:
            first = _BINARY_FRAME
            payload = message
        if deflate is not None and len(payload) >= SMALLEST:
            first, payload = self._compressed(deflate, first, payload)
        try:
            if not self.stream.offer(encode_header(first, len(payload)) + payload):
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
        if self._lock.locked():
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
        if self.state is _OPEN and not self._lock.locked():
            pongs, self._pongs = self._pongs, b""
            self._write(pongs)

    def _write(self, data: bytes, payload: bytes = b"") -> None:
        """Write one frame while OPEN, and the pongs that have come to wait meanwhile."""
        with self._lock:
            # Who waited for the lock may find a close frame sent, after which nothing may follow (RFC 6455 section 5.5.1).
            if self.state is not _OPEN:
                self._refuse()
            self._put(data)
            if payload:
                self._put(payload)
            while self._pongs and self.state is _OPEN:
                pongs, self._pongs = self._pongs, b""
                self._put(pongs)
        if self._rooms:
            self._tell_of_room()

    def _put(self, data: bytes) -> None:
        """Give ``data`` to the stream, under the lock."""
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

    # -- closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "", *, cause: str = causes.NONE) -> None:
        """Start the closing handshake; :meth:`receive` completes it, within ``timeouts.websocket_close`` seconds.

        Does nothing where it has started already.

        :param reason: at most 123 bytes in UTF-8.
        :param cause: where the server closes it, and not the application: one of :mod:`greendaphne.core.causes`.
        :raises ValueError: for a code that must not be sent or a reason that is too long; nothing was sent then.
        """
        if not may_be_sent(code):
            raise ValueError(f"the close code {code!r} must not be sent")
        encoded = reason.encode()
        if len(encoded) > MAX_REASON:
            raise ValueError("the reason of a close frame is longer than 123 bytes")
        if self.state is _CONNECTING:
            raise RuntimeError("the WebSocket is not open")
        if self.state is _OPEN:
            self._because(cause)
            self._send_close(encode_close(code, encoded))
            self._wake()

    def evict(self) -> None:
        """Close with 1013 and end, soon: others need the memory that it holds; does not wait."""
        spawn(self._let_go)

    def _let_go(self) -> None:
        if self.state is _OPEN:
            self._because(causes.NO_ROOM)
            self._send_close(encode_close(CloseCode.TRY_AGAIN_LATER, b"out of memory"))
            # The message that the client was at must not be held until its close frame comes.
            self._finish(CloseCode.TRY_AGAIN_LATER)

    def _send_close(self, payload: bytes) -> None:
        """Enter CLOSING and send a close frame, both within the time for the closing handshake."""
        seconds = self._timeouts.websocket_close
        self.state = _CLOSING
        self._deadline = monotonic() + seconds
        sent = False
        with Timeout(seconds, False), self._lock:  # type: ignore[arg-type]
            try:
                # Pings that came before are answered before, for nothing may follow.
                self._put(self._pongs + encode_header(FIN | CLOSE, len(payload)) + payload)
            except WebSocketClosed:
                pass  # the peer has left
            sent = True
        if not sent:
            # The peer takes nothing: what is before the close frame, or half of it, is stuck.
            self.cause = self.cause or causes.CLIENT_SLOW
            self._end(CloseCode.ABNORMAL_CLOSURE)
            self.stream.reset()

    def _fail(self, code: int, reason: str) -> NoReturn:
        """Fail the connection after a violation of the protocol or of a limit (RFC 6455 section 7.1.7)."""
        if self.state is _OPEN:
            self._because(_CAUSES.get(code, causes.PROTOCOL_ERROR))
            self._send_close(encode_close(code, reason.encode()))
        else:
            code = CloseCode.ABNORMAL_CLOSURE
        self._finish(code)
        raise WebSocketClosed(self.code, reason)

    def _because(self, cause: str) -> None:
        """Remember why it ends; the first cause counts, and behind a close frame none does."""
        if not self.cause and self.state is _OPEN:
            self.cause = cause

    def _finish(self, code: int) -> None:
        """End it and let the stream deliver what was sent."""
        if self.state is not _CLOSED:
            self._end(code)
            try:
                self.stream.finish()
            except ClientDisconnected:
                pass

    def _end(self, code: int) -> None:
        """Enter CLOSED, the first time; the greenlet that waits to receive is told."""
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        self._pongs = b""
        self._stop_alarm()
        self.closed = True  # type: ignore[misc]
        self.code = code
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.release()
            self.request.connection.account.leave(self)
        if self._deflate is not None:
            self._deflate.release()
            self._deflate = None
        self._wake()
        if self._rooms:
            self._tell_of_room()

    def _refuse(self) -> NoReturn:
        """Answer a call that comes too early or too late."""
        if self.state is _CONNECTING:
            raise RuntimeError("the WebSocket is not open")
        raise WebSocketClosed(self.code if self.state is _CLOSED else CloseCode.ABNORMAL_CLOSURE)

    # -- waking the owner

    def _set_alarm(self, at: float, now: float) -> None:
        self._stop_alarm()
        self._alarm = at
        self._timer = get_hub().loop.timer(at - now)
        self._timer.start(self._ring)

    def _stop_alarm(self) -> None:
        timer, self._timer = self._timer, None
        self._alarm = inf
        if timer is not None:
            timer.stop()
            timer.close()

    def _ring(self) -> None:
        # Runs in the hub, like the next method.
        self._stop_alarm()
        self._throw()

    def _throw(self) -> None:
        # The owner may have stopped waiting meanwhile, and must not be disturbed anywhere else.
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.throw(_Wake)

    def _wake(self) -> None:
        """Have the owner look at the state again, if it waits."""
        if self._waiting is not None:
            get_hub().loop.run_callback(self._throw)
