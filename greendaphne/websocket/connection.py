"""One WebSocket on a stream: messages in and out, the closing handshake, and keepalive.

:class:`WebSocket` takes the place of gevent-websocket's class of that name, whose frame handling it replaces.  Its states are those of RFC
6455: CONNECTING until :meth:`~WebSocket.accept`, OPEN, CLOSING once this side sent a close frame, CLOSED.  One greenlet, the owner, calls
:meth:`~WebSocket.receive`, which also answers pings, keeps the peer alive and completes the closing handshake; any greenlet may
:meth:`~WebSocket.send` and :meth:`~WebSocket.close`.  Frames are written whole, one greenlet after the other.  Everything that was sent
stays deliverable: the stream is finished, never reset, except where a frame was left unfinished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Final, NoReturn

from gevent import Timeout, getcurrent, spawn

from ..config import Limits, Timeouts
from ..core import causes
from ..core.message import ClientDisconnected, Headers, ResponseError, Stream
from ..core.turns import LOOK_EVERY, SHORT_READ, Turn
from . import handshake
from .alarm import Woken
from .codes import CloseCode
from .deflate import Compression
from .errors import MAX_REASON, ProtocolViolation, WebSocketClosed, may_be_sent
from .frames import (
    CLOSE,
    FIN,
    PING,
    PONG,
    READ_SIZE,
    Control,
    MessageReader,
    decode_close,
    encode_close,
    encode_header,
)
from .keepalive import Keepalive
from .sending import MessageMeter, SendingWebSocket
from .state import State

__all__ = ["MessageMeter", "State", "WebSocket"]

_PING_SIZE: Final = 4
# Pings answered one by one before only the latest is (RFC 6455 section 5.5.3), in bytes of pong frames.
_PONGS_LIMIT: Final = 16 * 127
# When a time limit has passed, what the stream may hold already still counts, for the hub may have been busy; seconds to find out.
_LAST_LOOK: Final = 0.02
#: Without context takeover, for all connections.
_COMPRESSION: Final = Compression()

# What a violation stands for, where it is not the protocol's.
_CAUSES: Final[dict[int, str]] = {
    CloseCode.MESSAGE_TOO_BIG: causes.LIMIT,
    CloseCode.POLICY_VIOLATION: causes.CLIENT_SLOW,
    CloseCode.TRY_AGAIN_LATER: causes.NO_ROOM,
}

_CONNECTING, _OPEN, _CLOSING, _CLOSED = State


class WebSocket(SendingWebSocket):
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
        "_compression",
        "_keepalive",
        "_limits",
        "_message_ends",
        "_protocols",
        "_server_name",
        "_timeouts",
        "_turn",
        "before_end",
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
        super().__init__(stream, meter)
        self._accepted = False
        self._limits = limits
        self._timeouts = timeouts
        self._protocols = protocols
        self._compression = _COMPRESSION if compression is True else compression or None
        self._server_name = server_name
        # Says when something is to be done if nothing comes in.
        self._keepalive = Keepalive(timeouts)
        # When the message that has begun must have ended, and ``inf`` where none has.
        self._message_ends = inf
        # Counts the frames of either kind, and by the reader what large messages cost.
        self._turn: Turn | None = None
        #: Called in the owner's greenlet when the peer's close frame or an invalid frame ends an open WebSocket, before this side's close
        #: frame; may wait.  For an owner that passes messages on, so that answers to earlier messages of the same read can be sent.
        self.before_end: Callable[[], None] | None = None

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
        self._turn = Turn()
        self._reader = MessageReader(self._limits, self._deflate is not None, inflater, account, self._turn)
        account.enter(self)
        self._keepalive.heard(monotonic())
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
        return self.receive_until(inf if timeout is None else monotonic() + timeout)

    def receive_until(self, until: float) -> str | bytes:
        """The same as :meth:`receive`, up to a time on the monotonic clock; ``inf``: as long as it takes."""
        reader = self._reader
        turn = self._turn
        if reader is None or turn is None or self.state is _CLOSED:
            self._refuse()
        stream = self.stream
        keepalive = self._keepalive
        alarm = self._alarm
        # Whether what the stream held when a time limit had passed has been looked at.
        looked = False
        # What was received and not given to the reader yet.
        data = b""
        while True:
            if turn.left <= 0:
                # Not with a message in hand, which counts for no client as long as this waits.
                event = None
                if data:
                    # An exception may end the wait, after which another call goes on.
                    reader.feed(data)
                    data = b""
                turn.look()
            try:
                if data:
                    event = reader.take(data)
                    data = b""
                else:
                    # An empty buffer needs no call.
                    event = reader.poll() if reader._buffer else None
            except ProtocolViolation as violation:
                self._let_answer()
                self._fail(violation.code, violation.reason)
            if event is not None:
                turn.left -= 1
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
            if keepalive.fresh and self.state is not _CLOSING:
                # As Keepalive.heard(), without the call.
                keepalive.fresh = False
                keepalive.deadline = now + keepalive.interval
                if keepalive.pinged:
                    keepalive.heard(now)
            deadline = keepalive.deadline
            if (reader._buffer or reader._opcode) and self.state is _OPEN:
                if self._message_ends == inf and self._timeouts.websocket_message > 0:
                    self._message_ends = now + self._timeouts.websocket_message
                elif self._message_ends <= now:
                    self._fail(CloseCode.POLICY_VIOLATION, "message took too long")
                if self._message_ends < deadline:
                    deadline = self._message_ends
            if self.state is not _OPEN and (self.state is _CLOSED or now >= deadline):
                self._finish(CloseCode.ABNORMAL_CLOSURE)
                self._refuse()
            limit = deadline
            if until < limit:
                limit = until
            if now < limit:
                if limit < alarm.at:
                    alarm.set(limit, now)
            elif not looked and now < until + _LAST_LOOK:
                looked = True
                alarm.set(now + _LAST_LOOK, now)
            elif until <= now:
                raise TimeoutError
            else:
                looked = False
                self._silence()
                continue
            # What is called here stays on the stack, and in memory, as long as the peer is silent; so it is the stream's method itself.
            alarm.waiting = getcurrent()
            try:
                data = stream.read(READ_SIZE)
            except Woken:
                continue
            except ClientDisconnected as error:
                self._because(error.cause)
                data = b""
            finally:
                alarm.waiting = None
            if not data:
                self._because(causes.CLIENT_GONE)
                self._finish(CloseCode.ABNORMAL_CLOSURE)
                self._refuse()
            if len(data) < SHORT_READ:
                turn.left = LOOK_EVERY
            looked = False
            keepalive.fresh = True

    def read_message(self) -> str | bytes:
        """gevent-websocket's name for :meth:`receive`."""
        return self.receive()

    def _silence(self) -> None:
        """The deadline has passed without a byte: ping, or give up."""
        keepalive = self._keepalive
        stream = self.stream
        if keepalive.pinged and self._timeouts.ping_timeout > 0:
            if keepalive.is_taking(stream):
                return
            reason = "ping timeout"
            self._because(causes.PING_TIMEOUT)
            self._send_close(encode_close(CloseCode.INTERNAL_ERROR, reason.encode()))
            self._finish(CloseCode.ABNORMAL_CLOSURE)
            raise WebSocketClosed(CloseCode.ABNORMAL_CLOSURE, reason)
        keepalive.pinged = True
        before = stream.delivery()
        self._send_control(PING, os.urandom(_PING_SIZE))
        keepalive.sent(stream, before)

    def _control(self, frame: Control) -> None:
        opcode, payload = frame
        if opcode == PING:
            if self.state is _OPEN:
                pong = encode_header(FIN | PONG, len(payload)) + payload
                # A peer that pings without end gets only the latest ping answered; any other peer, every one.
                self._pongs = self._pongs + pong if len(self._pongs) < _PONGS_LIMIT else pong
        elif opcode == CLOSE:
            self._let_answer()
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

    def _let_answer(self) -> None:
        """Let the owner's :attr:`before_end` wait for answers to earlier messages; earlier pings are answered first."""
        if self.before_end is not None and self.state is _OPEN:
            if self._pongs:
                self._send_pongs()
            self.before_end()

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
            self._alarm.wake()

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
        self._keepalive.deadline = monotonic() + seconds
        sent = False
        with Timeout(seconds, False):  # type: ignore[arg-type]
            self._begin()
            try:
                # Pings that came before are answered before, for nothing may follow.
                self._put(self._pongs + encode_header(FIN | CLOSE, len(payload)) + payload)
            except WebSocketClosed:
                pass  # the peer has left
            finally:
                self._finished()
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

    def _finish(self, code: int) -> None:
        """End it and let the stream deliver what was sent."""
        if self.state is not _CLOSED:
            self._end(code)
            try:
                self.stream.finish()
            except ClientDisconnected:
                pass
