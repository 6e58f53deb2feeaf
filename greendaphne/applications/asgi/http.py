"""One HTTP request of an ASGI application.

:class:`HTTPConversation` has ``receive`` and ``send`` for the application's task, and ``serve`` for the greenlet of the connection.  What
the task sends goes to the socket at once, where the socket takes it, so a response that needs no wait costs no switch of greenlets.  The
greenlet reads the body where it is not there yet, and does errands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import get_hub, getcurrent

from ...aio.loop import HubLoop
from ...core.causes import APP_TIMEOUT
from ...core.message import ClientDisconnected, Headers, HTTPError, ResponseError, Stream
from . import extensions
from .callables import Message
from .conversation import Conversation
from .errors import ClientGone
from .values import as_bytes, as_headers, as_status

#: Bytes of a body that one event has at most, and that are read ahead of the application.
PIECE: Final = 65536
#: Seconds for which the pieces of one body are read in a row.  All uploads have this time in each round of asyncio's loop, and the hub may
#: look at its sockets after eight rounds only (:mod:`greendaphne.aio.selector`).
TURN_SECONDS: Final = 0.00025

#: daphne's text.
_TOO_LATE: Final = "Application failed to respond within time limit."
_DISCONNECT: Final = "http.disconnect"
# The response: nothing yet, its start, its last body event where trailers follow, its end.
_IDLE, _STARTED, _TRAILERS, _COMPLETE = range(4)
# The request's body: there is none, and the application was not told; more may come; all was told.
_EMPTY, _OPEN, _TOLD = range(3)


class _Wake(BaseException):
    """Thrown into the greenlet where it waits for the body."""


class HTTPConversation(Conversation):
    """See the module.

    :param stream: the request, and the way to answer it.
    """

    __slots__ = (
        "_body",
        "_event",
        "_phase",
        "_reading",
        "_stream",
        "_trailers",
        "_turn_ends",
        "_wanted",
        "_watching",
        "complete",
        "error",
        "on_done",
        "task",
    )

    #: The task, while :meth:`serve` waits and the task has its callback ``on_done``; without that the caller of :meth:`serve` settles it.
    task: asyncio.Task[None] | None
    on_done: Callable[[asyncio.Task[Any]], object]

    def __init__(self, loop: HubLoop, stream: Stream) -> None:
        Conversation.__init__(self, loop)
        #: Whether the response has been handed over to its end.
        self.complete = False
        #: What ended the conversation: the client left, its body cannot be taken, or a file was sent in part only.
        self.error: ClientDisconnected | HTTPError | ResponseError | None = None
        self._stream = stream
        self._phase = _IDLE
        self._body = _EMPTY if stream.request.content_length == 0 else _OPEN
        # An event that receive() will return; whether the greenlet is to read one, and the greenlet while it does.
        self._event: dict[str, Any] | None = None
        self._wanted = False
        # Until when what has come already is taken without giving way; 0 where the task has given way since.
        self._turn_ends = 0.0
        self._reading: Any = None
        self._watching = False
        # Whether trailers follow; and those that have come.
        self._trailers: list[tuple[bytes, bytes]] | None = None

    @property
    def started(self) -> bool:
        """Whether the application has begun its response."""
        return self._phase != _IDLE

    # ---- for the application

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        while True:
            event = self._event
            if event is not None:
                self._event = None
                return event
            if self._body == _EMPTY:
                self._body = _TOLD
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.gone or self.complete:
                return {"type": _DISCONNECT}
            if self._body == _OPEN:
                if not self._wanted:
                    now = monotonic()
                    if now >= self._turn_ends:
                        if self._turn_ends:
                            # A client that sends as fast as this reads would keep the event loop from all other tasks.
                            self._turn_ends = 0.0
                            await asyncio.sleep(0)
                            continue
                        self._turn_ends = now + TURN_SECONDS
                    if self._read_ahead():
                        continue
                    self._turn_ends = 0.0
                    self._wanted = True
                    self._call()
            elif not self._watching:
                self._watching = True
                self._stream.watch(self._on_gone, half_closed=True)
                if self._was_gone():
                    continue
            await self._signal()

    async def send(self, message: Message) -> None:
        """ASGI's ``send``.

        :raises ClientGone: when the client has left.
        """
        # All that most responses need is in this method, because each of them comes through here twice.
        kind = message["type"]
        if self.complete:
            return
        if self.gone:
            raise ClientGone
        if kind == "http.response.body":
            if self._phase != _STARTED:
                raise RuntimeError(f"{kind} is sent {'before' if self._phase == _IDLE else 'after the last body event of'} the response")
            data = message.get("body", b"")
            if data.__class__ is not bytes:
                data = as_bytes(data)
            last = not message.get("more_body", False)
            if self._trailers is None and not self._queued:
                try:
                    taken = self._stream.offer(data, last=last)
                except ClientDisconnected as error:
                    self._fail(error)
                    raise ClientGone from None
                if taken:
                    if last:
                        self.complete = True
                        self._phase = _COMPLETE
                        if self._receivers is not None:
                            self._wake_receivers()
                        if (waiter := self._waiter) is not None:
                            self._waiter = None
                            self._loop.call_in_hub(waiter.switch, None)
                            if (task := self.task) is not None and task.remove_done_callback(self.on_done):
                                # It is about to end, in nearly all applications, and the greenlet sees that itself.
                                self.task = None
                        elif self._reading is not None:
                            self._call()
                    return
            if last and self._trailers is not None:
                self._phase = _TRAILERS
                last = False
            await self._give(data, last=last)
        elif kind == "http.response.start":
            if self._phase != _IDLE:
                raise RuntimeError("http.response.start is sent a second time")
            status = message["status"]
            if status.__class__ is not int:
                status = as_status(status, kind)
            self._stream.start(status, as_headers(message.get("headers") or ()))
            self._phase = _STARTED
            if message.get("trailers"):
                self._trailers = []
        else:
            await extensions.send(self, self._stream, kind, message)

    async def _give(self, data: bytes, *, last: bool, trailers: Headers = ()) -> None:
        stream = self._stream
        try:
            if self._queued or not stream.offer(data, last=last, trailers=trailers):
                await self._in_turn(lambda: self._offer(data, last, trailers), stream.has_room)
        except ClientDisconnected as error:
            self._fail(error)
            raise ClientGone from None
        if last:
            self._end()

    def _offer(self, data: bytes, last: bool, trailers: Headers) -> bool:
        if self.gone:
            raise ClientDisconnected
        return self._stream.offer(data, last=last, trailers=trailers)

    def _end(self) -> None:
        """The response is complete."""
        self.complete = True
        self._phase = _COMPLETE
        self._wake_receivers()
        self._call()

    # ---- for extensions

    @property
    def in_body(self) -> bool:
        """Whether the response has been started, and its last body event not been sent."""
        return self._phase == _STARTED

    @property
    def has_trailers(self) -> bool:
        """Whether the start said that trailers follow the body."""
        return self._trailers is not None

    async def whole_body(self, send: Any) -> None:
        """Have the greenlet send the whole body by ``send``, which may wait."""
        await self._sent_by_errand(send)
        if self._trailers is not None:
            self._phase = _TRAILERS
        else:
            await self._give(b"", last=True)

    async def part_of_body(self, send: Any, *, last: bool) -> None:
        """Have the greenlet send a part of the body by ``send``, which may wait."""
        await self._sent_by_errand(send)
        if last and self._trailers is not None:
            self._phase = _TRAILERS
        elif last:
            await self._give(b"", last=True)

    async def interim(self, send: Any) -> None:
        """Have the greenlet send something before the response by ``send``, which may wait."""
        await self._sent_by_errand(send)

    async def _sent_by_errand(self, send: Any) -> None:
        sending = False

        def errand() -> None:
            nonlocal sending
            sending = True
            send()
            sending = False

        try:
            await self._errand(errand)
        except ClientDisconnected as error:
            self._fail(error)
            raise ClientGone from None
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            if sending and (cancelled or self._stream.begun):
                # A part was sent, or the greenlet still sends, so nothing else may follow.
                self._stream.reset()
                self._fail(ResponseError(f"a file was sent in part only: {'the application was cancelled' if cancelled else error}"))
            raise

    async def trailers(self, headers: list[tuple[bytes, bytes]], *, more: bool) -> None:
        """Take the trailers of one event; the last ends the response."""
        if self._phase != _TRAILERS or self._trailers is None:
            raise RuntimeError("http.response.trailers is sent before the end of the body, or without trailers in http.response.start")
        self._trailers += headers
        if not more:
            await self._give(b"", last=True, trailers=self._trailers)

    # ---- the end

    def _fail(self, error: ClientDisconnected | HTTPError | ResponseError) -> None:
        if self.error is None:
            # Without the frames that it came through, which have this conversation.
            self.error = error.with_traceback(None)
            error.__context__ = None
        self.gone = True
        self._wake_receivers()
        self._call()

    def expire(self) -> None:
        """The response is not complete within its time limit."""
        if not (self.gone or self.complete):
            self._fail(HTTPError(503, _TOO_LATE, cause=APP_TIMEOUT, close=True))

    def _on_gone(self) -> None:
        # Runs in the hub, or in receive().
        if not (self.gone or self.complete):
            self._fail(ClientDisconnected())

    def _was_gone(self) -> bool:
        return self.gone

    def on_task_end(self, task: asyncio.Task[None]) -> None:
        """The application has returned or raised."""
        if self._waiter is not None or self._reading is not None:
            self._call()

    # ---- for the greenlet

    def serve(self, task: asyncio.Task[None]) -> None:
        """Read and do errands until the response is complete, the task has ended, or the client has left."""
        self.task = task
        while not (self.complete or self.gone):
            if self._errands:
                self._run_errand()
            elif task.done():
                break
            elif self._wanted:
                self._read()
            else:
                self._wait()

    def leave(self) -> None:
        """The greenlet leaves: the stream is not used any more."""
        if not self.complete:
            self.gone = True
        if self._watching:
            self._stream.watch(None)
        self._wanted = False
        self.left = True
        if self._errands:
            self._refuse_errands()
        if self._receivers is not None:
            self._wake_receivers()

    def _read(self) -> None:
        self._reading = getcurrent()
        try:
            data = self._stream.read(PIECE)
        except _Wake:
            return
        except (ClientDisconnected, HTTPError) as error:
            self._fail(error)
            return
        finally:
            self._reading = None
        self._wanted = False
        self._got(data)
        self._wake_receivers()

    def _read_ahead(self) -> bool:
        """Take what has come already, without waiting; whether there is something to tell."""
        try:
            data = self._stream.read(PIECE, 0)
        except TimeoutError:
            return False
        except (ClientDisconnected, HTTPError) as error:
            self._fail(error)
        else:
            self._got(data)
        return True

    def _got(self, data: bytes) -> None:
        more = bool(data) and not self._stream.body_complete
        if not more:
            self._body = _TOLD
        self._event = {"type": "http.request", "body": data, "more_body": more}

    def _call(self) -> None:
        if self._reading is not None:
            get_hub().loop.run_callback(self._interrupt)
        else:
            Conversation._call(self)

    def _interrupt(self) -> None:
        # Runs in the hub.
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.throw(_Wake)
