"""One WebSocket of an ASGI application.

The greenlet of the connection, the session's owner, receives messages into an inbox that the application's task takes them from; an inbox
that is full keeps it from reading.  The task sends by ``offer``, so one client that reads slowly keeps no other task waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

import gevent

from ...aio.loop import HubLoop
from ...config import KIB
from ...core import causes
from ...core.accounts import Account, memory_of
from ...core.message import ClientDisconnected, HTTPError, ResponseError
from ...serving.session import Session
from ...websocket import CloseCode, WebSocketClosed
from ...websocket.errors import MAX_REASON, may_be_sent
from .callables import Message
from .conversation import Conversation
from .errors import ClientGone, is_quiet
from .values import as_bytes, as_headers, as_status

logger = logging.getLogger("daphne.ws_protocol")

#: What the inbox holds at most: messages, and bytes beside the latest message.
INBOX_MESSAGES: Final = 32
INBOX_BYTES: Final = 256 * KIB
#: Bytes in the inbox that the account of the connection is not told of.
_UNCOUNTED: Final = 16 * KIB
#: Seconds for the application to take and answer the messages before the client's close frame, or before an invalid frame.
LAST_ANSWERS: Final = 0.25

#: The number of keys of a message that has a type and a text, and nothing else.
_TYPE_AND_TEXT: Final = 2
# asyncio's class for futures; a loop's create_future() calls it.
_Future: Final = asyncio.Future

# Before an answer; the answer is on its way, and what it is: accepted, rejected, or an ordinary response that has begun or ended; over.
_CONNECTING, _OPEN, _DENYING, _OVER = range(4)


class WebSocketConversation(Conversation):
    """See the module.

    :param session: the WebSocket, which is not accepted yet.
    """

    __slots__ = (
        "_account",
        "_connected",
        "_counted",
        "_denial",
        "_denied",
        "_disconnect",
        "_inbox",
        "_leaving",
        "_phase",
        "_session",
        "_size",
    )

    def __init__(self, loop: HubLoop, session: Session) -> None:
        Conversation.__init__(self, loop)
        self._session = session
        self._phase = _CONNECTING
        # Whether the application was told of the opening handshake.
        self._connected = False
        # Messages for the application, and their bytes of memory.
        self._inbox: deque[str | bytes] = deque()
        self._size = 0
        # The account of the connection, as long as that is open, and the bytes of the inbox that it was told of.
        self._account: Account = session.request.connection.account
        self._counted = 0
        # The last event, once it is over.
        self._disconnect: dict[str, Any] | None = None
        # Whether the server ends it because of a drain.
        self._leaving = False
        # The start of a response in the place of the handshake's, and whether that has been sent.
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._denied = False

    # ---- for the application

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            if self._disconnect is not None:
                return self._disconnect.copy()
            if self._waiter is not None:
                self._call()
            if self._receivers is None:
                # As _signal() where no other call waits, without a coroutine of its own: each message comes through here.
                future: asyncio.Future[None] = _Future(loop=self._loop)
                self._receivers = [future]
                try:
                    await future
                finally:
                    if self._receivers is not None:
                        self._forget(future)
            else:
                await self._signal()
        message = self._inbox.popleft()
        text = message.__class__ is str
        self._size -= len(message) if not text or message.isascii() else memory_of(message)
        if self._counted:
            self._recount()
        if self._waiter is not None:
            self._call()
        if text:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    def _count(self) -> bool:
        """Tell the account of the last message; where it is refused, drop it and close the WebSocket."""
        account = self._account
        size = self._size
        if account.ask(size - self._counted):
            if not self._counted:
                account.enter(self)
            self._counted = size
            return True
        self._size -= memory_of(self._inbox.pop())
        self._session.close(CloseCode.TRY_AGAIN_LATER, "out of memory", cause=causes.NO_ROOM)
        return False

    def _recount(self) -> None:
        """Tell the account that the inbox has become smaller."""
        size = self._size if self._size > _UNCOUNTED else 0
        self._account.give(self._counted - size)
        self._counted = size
        if not size:
            self._account.leave(self)

    def evict(self) -> None:
        """Drop the messages that wait: others need the memory.  The WebSocket itself, which is another holder, closes with 1013."""
        self._inbox.clear()
        self._size = 0
        self._recount()
        self._call()

    async def send(self, message: Message) -> None:
        """ASGI's ``send``.

        :raises ClientGone: when the WebSocket is over.
        """
        kind = message["type"]
        if self._phase == _OVER:
            raise ClientGone
        if kind == "websocket.send":
            if self._phase != _OPEN:
                raise RuntimeError("websocket.send is sent before websocket.accept")
            text = message.get("text")
            # Most messages have one of the two keys.
            data = text if text.__class__ is str and len(message) == _TYPE_AND_TEXT else _payload(message)
            try:
                if self._queued or not self._session.websocket.offer(data):
                    await self._in_turn(lambda: self._session.offer_message(data), self._session.has_room)
            except (WebSocketClosed, ClientDisconnected):
                raise ClientGone from None
        elif kind == "websocket.close":
            await self._close(message)
        elif self._phase == _OPEN:
            raise RuntimeError(f"{kind} is sent after websocket.accept")
        elif kind == "websocket.accept":
            if self._denial is not None:
                raise RuntimeError("websocket.accept is sent after websocket.http.response.start")
            await self._accept(message)
        elif kind == "websocket.http.response.start":
            self._start_denial(message)
        elif kind == "websocket.http.response.body":
            await self._deny(message)
        else:
            raise ValueError(f"the message type {kind!r} is not known")

    async def _accept(self, message: Message) -> None:
        subprotocol = message.get("subprotocol")
        headers = as_headers(message.get("headers") or ())
        if any(name.lower() == b"sec-websocket-protocol" for name, _ in headers):
            raise ValueError("the subprotocol of websocket.accept belongs into its key subprotocol, not into its headers")
        await self._answer(lambda: self._session.accept(subprotocol, headers), _OPEN)

    async def _close(self, message: Message) -> None:
        code = message.get("code", CloseCode.NORMAL_CLOSURE)
        code = int(CloseCode.NORMAL_CLOSURE if code is None else code)
        if self._phase == _CONNECTING and self._denial is None:
            await self._answer(self._session.reject, _OVER)
            return
        if self._phase != _OPEN:
            raise RuntimeError("websocket.close is sent after websocket.http.response.start")
        if not may_be_sent(code):
            raise ValueError(f"the close code {code} must not be sent")
        reason = (message.get("reason") or "").encode()[:MAX_REASON].decode("utf-8", "ignore")
        self._phase = _OVER
        if self._waiter is not None:
            self._call()
        await self._in_greenlet(lambda: self._session.close(code, reason))

    def _start_denial(self, message: Message) -> None:
        if self._denial is not None:
            raise RuntimeError("websocket.http.response.start is sent a second time")
        status = as_status(message["status"], "websocket.http.response.start")
        headers = as_headers(message.get("headers") or ())
        if not self._session.request.by_extended_connect:
            # What the client sends after its handshake may be frames.
            headers = [*(field for field in headers if field[0].lower() != b"connection"), (b"connection", b"close")]
        try:
            # Checks the head, so that the application hears of an error here; nothing leaves before the first body event.
            self._session.stream.start(int(status), headers)
        except ClientDisconnected:
            raise ClientGone from None
        self._denial = (int(status), headers)

    async def _deny(self, message: Message) -> None:
        if self._denial is None:
            raise RuntimeError("websocket.http.response.body is sent before websocket.http.response.start")
        data = as_bytes(message.get("body", b""))
        last = not message.get("more_body", False)
        status, headers = self._denial
        session = self._session
        stream = session.stream
        if not self._denied:
            await self._answer(lambda: session.deny(lambda: stream.start(status, headers)), _DENYING)
            self._denied = True
        try:
            await self._errand(lambda: stream.finish(data) if last else stream.write(data))
        except ClientDisconnected:
            raise ClientGone from None
        if last:
            self._phase = _OVER
            self._call()

    async def _answer(self, answer: Callable[[], None], phase: int) -> None:
        """Have the greenlet answer the opening handshake by ``answer``."""

        def answered() -> None:
            answer()
            # Before the greenlet looks what to do next.
            self._phase = phase

        try:
            await self._errand(answered)
        except (WebSocketClosed, ClientDisconnected):
            raise ClientGone from None

    async def _in_greenlet(self, function: Callable[[], None]) -> None:
        """Call ``function``, which may wait, in a greenlet of its own, since the owner waits for the client."""
        future: asyncio.Future[None] = self._loop.create_future()

        def run() -> None:
            try:
                function()
            except (WebSocketClosed, ClientDisconnected):
                pass
            finally:
                if not future.done():
                    future.set_result(None)

        gevent.spawn(run)
        await future

    # ---- the end

    def _over(self, code: int, reason: str = "") -> None:
        """Tell the application that it is over."""
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self._phase = _OVER
        self.gone = True
        self._wake_receivers()

    def on_end(self) -> None:
        # The session has ended before it was accepted; runs in the hub or in another greenlet.
        self._over(CloseCode.ABNORMAL_CLOSURE)
        self._call()

    def on_leave(self, cause: str) -> None:
        self._leaving = True
        gevent.spawn(self._leave, cause)

    def _leave(self, cause: str) -> None:
        session = self._session
        try:
            if session.connecting:
                session.reject(503, "Service Unavailable", cause=cause)
                self.on_end()
            else:
                session.close(CloseCode.SERVICE_RESTART, cause=cause)
        except (WebSocketClosed, ClientDisconnected):
            pass

    def _outlive(self) -> None:
        """The connection ends, and the application has messages to take: they count for the process from here on."""
        account = Account(self._account.allowance)
        account.take(self._counted)
        self._account.leave(self)
        self._account.give(self._counted)
        self._account = account

    def on_task_end(self, task: asyncio.Task[None]) -> None:
        """The application has returned or raised."""
        if self._counted:
            self._inbox.clear()
            self._size = 0
            self._recount()
        if self._session.websocket.was_open and not self._session.closed:
            failed = not task.cancelled() and task.exception() is not None and not is_quiet(task.exception())
            if failed:
                gevent.spawn(self._close_by_itself, CloseCode.INTERNAL_ERROR, causes.ERROR)
            elif task.cancelled():
                draining = self._session.draining
                code, cause = (CloseCode.SERVICE_RESTART, causes.DRAINING) if draining else (CloseCode.INTERNAL_ERROR, causes.ERROR)
                gevent.spawn(self._close_by_itself, code, cause)
            else:
                gevent.spawn(self._close_by_itself, CloseCode.NORMAL_CLOSURE, causes.NONE)
        self._call()

    def _close_by_itself(self, code: int, cause: str) -> None:
        try:
            self._session.close(code, cause=cause)
        except (WebSocketClosed, ClientDisconnected):
            pass

    # ---- for the greenlet

    def serve(self, task: asyncio.Task[None]) -> BaseException | None:
        """Serve the session to its end; the task may go on.  Returns the exception of an application that has not accepted it."""
        session = self._session
        session.owner = self
        task.add_done_callback(self.on_task_end)
        try:
            error = self._open(task)
            if self._phase == _OPEN:
                self._receive(task)
            return error
        finally:
            self.left = True
            if self._counted:
                self._outlive()
            self._refuse_errands()
            if self._disconnect is None:
                self._over(CloseCode.ABNORMAL_CLOSURE if not session.websocket.was_open else session.code)

    def _open(self, task: asyncio.Task[None]) -> BaseException | None:
        """Do errands until the handshake is answered; returns the error where the application does not answer it."""
        while self._phase in (_CONNECTING, _DENYING):
            if self._errands:
                self._run_errand()
            elif task.done():
                return self._unanswered(task)
            else:
                self._wait()
        return None

    def _unanswered(self, task: asyncio.Task[None]) -> BaseException | None:
        error = None if task.cancelled() else task.exception()
        session = self._session
        if self._denied:
            session.stream.reset()
        elif task.cancelled():
            if session.draining:
                return HTTPError(503, "The server is about to end.", cause=causes.DRAINING)
            return ResponseError("the application was cancelled before it answered the opening handshake")
        if error is not None:
            return None if self.gone and is_quiet(error) else error
        if self._denied:
            return ResponseError("the application returned before its response was complete")
        session.reject()
        return None

    def _receive(self, task: asyncio.Task[None]) -> None:
        """Receive messages until it is over."""
        session = self._session
        inbox = self._inbox
        session.websocket.before_end = partial(self._catch_up, task)
        try:
            while True:
                # Without a name: this frame would keep a message as long as no other comes.
                inbox.append(session.receive())
                if task.done():
                    inbox.pop()
                    continue
                self._size += memory_of(inbox[-1])
                if self._size > _UNCOUNTED and not self._count():
                    continue
                if self._receivers is not None:
                    self._wake_receivers()
                while (len(inbox) >= INBOX_MESSAGES or self._size > INBOX_BYTES) and not task.done() and not session.closed:
                    self._wait()
        except WebSocketClosed as closed:
            self._over(CloseCode.SERVICE_RESTART if self._leaving else int(closed.code), closed.reason)
            if task.done() and not task.cancelled():
                error = task.exception()
                if error is not None and not is_quiet(error):
                    logger.error("Error in the application of WebSocket %s", session.name, exc_info=error)
        finally:
            session.websocket.before_end = None

    def _catch_up(self, task: asyncio.Task[None]) -> None:
        """Wait until the application has taken all messages and waits for the next one, for at most :data:`LAST_ANSWERS` seconds.

        It can answer them until then: after the close frame of this side nothing can be sent.
        """
        timer: Any = None
        ends = monotonic() + LAST_ANSWERS
        try:
            while (self._inbox or not self._receivers) and not task.done() and self._phase == _OPEN and not self._session.closed:
                left = ends - monotonic()
                if left <= 0:
                    break
                if timer is None:
                    timer = gevent.get_hub().loop.timer(left)
                    # The loop's clock stands still while greenlets run.
                    timer.start(self._call, update=True)
                self._wait()
        finally:
            if timer is not None:
                timer.stop()
                timer.close()


def _payload(message: Message) -> str | bytes:
    """The text or the bytes of a ``websocket.send``.

    :raises ValueError: unless it has one of them.
    :raises TypeError: for another type.
    """
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise ValueError("websocket.send needs either text or bytes")
    if text is None:
        return as_bytes(data)
    if not isinstance(text, str):
        raise TypeError(f"the text of websocket.send is {type(text).__name__}, not str")
    return text
