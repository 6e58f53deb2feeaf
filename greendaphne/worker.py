"""Serves plain consumer functions from a channel layer, like a worker process of Channels, but without Django.

::

    def hello(message: Message) -> None:
        message.reply({"status": 200, "content": b"Hello"})

    Worker(layer, {"http.request": hello}).run()

A consumer is called with one :class:`Message` and may block cooperatively.  Its exceptions are logged and never end the worker: an
unanswered request is answered (500, or the status of an ``HTTPError``), a response that has begun is cut off,
an unanswered handshake is rejected.
Consumers must answer every request, including requests that they do not know.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from .config import MIB
from .core.message import ClientDisconnected, Headers, HTTPError
from .core.turns import events
from .layers.reader import IDLE_LIMIT, Reader
from .layers.tally import tally_of
from .layers.unreadable import LIMIT, describe, is_unreadable
from .layers.wake import Wake

logger = logging.getLogger("greendaphne.worker")

#: Seconds for which :meth:`Message.reply` offers a message to a full channel: enough for a server under load, and much longer than it
#: usually takes.
REPLY_TIMEOUT = 10.0
#: Seconds between these attempts: the first pause, doubled each time up to the last.
REPLY_FIRST_PAUSE = 0.002
REPLY_LAST_PAUSE = 0.05
#: Seconds without a piece of a request body; equal to the server's limit for the client, see :class:`greendaphne.config.Timeouts`.
BODY_TIMEOUT = 60.0
#: Pieces of a body read ahead of the consumer, each at most :attr:`greendaphne.config.Limits.body_chunk`.
BODY_PIECES = 8
#: The default limit of :meth:`Message.read_body`, in bytes.  A larger body is better read piece by piece.
BODY_LIMIT = 64 * MIB

Consumer = Callable[["Message"], object]


class Message:
    """One message for a consumer.

    ``channel`` is its full name, ``content`` the dict that was sent, ``layer`` the channel layer, for groups and other messages.
    """

    __slots__ = ("_reply_timeout", "channel", "content", "layer", "replied")

    def __init__(self, channel: str, content: dict[str, Any], layer: Any, reply_timeout: float = REPLY_TIMEOUT) -> None:
        self.channel = channel
        self.content = content
        self.layer = layer
        #: Whether :meth:`reply` has sent anything.
        self.replied = False
        self._reply_timeout = reply_timeout

    def __repr__(self) -> str:
        return f"<Message on {self.channel} from {self.content.get('reply_channel')}>"

    def reply(self, content: Mapping[str, Any]) -> None:
        """Send ``content`` to the message's ``reply_channel``; while that is full, wait cooperatively and try again.

        :raises ChannelFull: the layer's exception, after the channel was full for :data:`REPLY_TIMEOUT` seconds.
        :raises LookupError: for a message without ``reply_channel``.
        """
        channel = self.content.get("reply_channel")
        if not channel:
            raise LookupError(f"a message on {self.channel} has no reply_channel")
        layer = self.layer
        try:
            layer.send(channel, content)
        except layer.ChannelFull:
            self._reply_later(channel, content)
        self.replied = True

    def _reply_later(self, channel: str, content: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + self._reply_timeout
        pause = REPLY_FIRST_PAUSE
        while True:
            gevent.sleep(pause)
            pause = min(pause * 2, REPLY_LAST_PAUSE)
            try:
                return self.layer.send(channel, content)  # type: ignore[no-any-return]
            except self.layer.ChannelFull:
                if time.monotonic() >= deadline:
                    raise

    def body(self, timeout: float = BODY_TIMEOUT) -> Iterator[bytes]:
        """Iterate over the pieces of the request body, including those on ``body_channel``; only once.

        :param timeout: seconds to wait for each piece.
        :raises ClientDisconnected: the client disconnected before the end.
        :raises HTTPError: 408, a piece did not arrive in time.
        """
        first = self.content.get("body")
        if first:
            yield first
        channel = self.content.get("body_channel")
        if not channel:
            return
        reader = Reader(self.layer, [channel], limit=BODY_PIECES)
        try:
            deadline = time.monotonic() + timeout
            while True:
                for _, piece in _receive(reader, deadline):
                    if piece.get("closed"):
                        raise ClientDisconnected("the client went away within its request")
                    content = piece.get("content")
                    if content:
                        yield content
                    if not piece.get("more_content"):
                        return
                    # The time in which the consumer processes a piece does not count.
                    deadline = time.monotonic() + timeout
        finally:
            reader.close()

    def read_body(self, limit: int = BODY_LIMIT, timeout: float = BODY_TIMEOUT) -> bytes:
        """The whole request body.

        :param limit: in bytes, :data:`BODY_LIMIT` by default.
        :raises HTTPError: 413 for a body above ``limit``; also the exceptions of :meth:`body`.
        """
        pieces = []
        size = 0
        for piece in self.body(timeout):
            size += len(piece)
            if size > limit:
                raise HTTPError(413, "The request body is too large.")
            pieces.append(piece)
        return b"".join(pieces)


def _receive(reader: Reader, deadline: float) -> list[tuple[str, dict[str, Any]]]:
    batch: list[tuple[str, dict[str, Any]]] = []
    late = HTTPError(408, "The request body did not arrive in time.")
    with gevent.Timeout(max(deadline - time.monotonic(), 0.001), late):
        while not batch:
            batch = reader.receive()
    return batch


#: Tells the server that a consumer failed: a client without a response gets this one, a response that has begun is cut off.  Other
#: servers ignore it within a response.
FAILED: dict[str, Any] = {
    "status": 500,
    "headers": [(b"content-type", b"text/plain; charset=utf-8")],
    "content": b"Internal Server Error",
    "abort": True,
}


def fault(item: Any) -> str | None:
    """The error in ``item``, received from a layer, if it is not a pair of a channel name and a message; otherwise ``None``."""
    if type(item) is not tuple or len(item) != 2:
        return "it is not a pair of a channel name and a message"
    if type(item[0]) is not str:
        return f"its channel name is {type(item[0]).__name__}, not a str"
    return None if isinstance(item[1], dict) else f"it is {type(item[1]).__name__}, not a dict"


class Worker:
    """Calls consumers for the messages of their channels.

    :param layer: any ASGI channel layer.
    :param routes: consumers by channel name; a process-specific name ends in ``!`` and stands for all channels below it.
    :param concurrency: how many messages are processed at the same time, each in one of as many greenlets, which live as long as the run.
        With the default of 1 a slow consumer delays later messages unless there are other workers; with more,
        messages of one client may overlap.
    :param force_sync: poll the layer instead of waiting in it.
    :param reply_timeout: seconds, :data:`REPLY_TIMEOUT` by default; see :meth:`Message.reply`.
    :raises ValueError: without routes, or for a ``concurrency`` below 1.
    """

    def __init__(
        self,
        layer: Any,
        routes: Mapping[str, Consumer],
        *,
        concurrency: int = 1,
        force_sync: bool = False,
        reply_timeout: float = REPLY_TIMEOUT,
    ) -> None:
        if not routes:
            raise ValueError("a worker needs at least one route")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.layer = layer
        self.routes = dict(routes)
        self.concurrency = concurrency
        #: Whether :meth:`run` logs the channels; of several workers for the same channels one is enough.
        self.announced = True
        self._tally = tally_of(layer)
        self._force_sync = force_sync
        self._reply_timeout = reply_timeout
        # Guards _stopping and _wake, which stop() uses from any thread or signal handler.  Everything else belongs to the thread of
        # run().
        self._lock = threading.RLock()
        self._stopping = False
        self._wake: Callable[[], object] | None = None
        self._failure: Exception | None = None
        self._killed = False

    def run(self) -> None:
        """Work until :meth:`stop`; then finish the current messages and return.

        An exception of the layer ends the run in the same way and is raised.  When this greenlet is killed or times out meanwhile,
        the consumers are killed.
        """
        hub = get_hub()
        stop = Event()
        wake = Wake()

        def end() -> None:
            wake.set()
            hub.loop.run_callback_threadsafe(stop.set)

        with self._lock:
            if self._wake is not None:
                raise RuntimeError("this worker is already running")
            self._wake = end
            if self._stopping:
                end()
        self._failure = None
        self._killed = False
        if self.announced:
            logger.info("Listening on channels %s", ", ".join(sorted(self.routes)))
        greenlets = [gevent.spawn(self._serve, wake, end) for _ in range(self.concurrency)]

        def ended(greenlet: object) -> None:
            if not wake.is_set:
                self._failure = RuntimeError("a greenlet of the worker was killed")
                end()

        for greenlet in greenlets:
            greenlet.rawlink(ended)
        try:
            stop.wait()
            gevent.joinall(greenlets)
        except BaseException:
            self._killed = True
            gevent.killall(greenlets)
            raise
        finally:
            with self._lock:
                self._wake = None
                self._stopping = False
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Make :meth:`run`, or the next one, return after the current messages are finished; from any thread or greenlet.

        A wait for messages ends at once where the layer can interrupt it, and messages received by then are processed.  Otherwise the
        wait may last some seconds more.
        """
        with self._lock:
            self._stopping = True
            if self._wake is not None:
                self._wake()

    def _serve(self, wake: Wake, end: Callable[[], object]) -> None:
        reader = Reader(self.layer, self.routes, self._force_sync, limit=1)
        acknowledges = reader.capabilities.acknowledges
        unreadable = 0
        limit = events()
        receiver: Any = None
        try:
            while not wake.is_set:
                try:
                    if receiver is None:
                        batch = reader.receive(None, wake)
                        receiver = reader.receiver
                    else:
                        batch = receiver.receive(1, IDLE_LIMIT, wake)
                except Exception as error:  # noqa: BLE001 - raised by run()
                    if is_unreadable(error) and unreadable < LIMIT:
                        # One message is lost, but the layer works.
                        unreadable += 1
                        self._tally.bad_message(next(iter(self.routes)), describe(error))
                        gevent.sleep(0)
                        continue
                    self._failure = error
                    end()
                    return
                unreadable = 0
                item: Any
                for item in batch:
                    # The usual types need no call.
                    if type(item) is tuple and len(item) == 2 and type(item[0]) is str and type(item[1]) is dict:
                        self._handle(item[0], item[1])
                    elif (reason := fault(item)) is not None:
                        self._tally.bad_message(next(iter(self.routes)), reason)
                    else:
                        self._handle(*item)
                # The next wait must not keep the message, whose body may be large.
                item = None
                del batch
                if acknowledges:
                    # The next receive passes this on to Redis.
                    self.layer.acknowledge()
                # A receive does not wait while messages are there, and a consumer may not wait either.
                limit.left -= 1
                if limit.left <= 0 and limit.late():
                    limit.give_way()
        finally:
            if acknowledges:
                # The message of a killed consumer is not processed, so it is not acknowledged.
                self.layer.release()
                self.layer.settle()
            reader.close()

    def _handle(self, channel: str, content: dict[str, Any]) -> None:
        consumer = self.routes.get(channel)
        if consumer is None:
            consumer = self.routes.get(channel[: channel.find("!") + 1])
        if consumer is None:
            logger.error("No consumer for a message on %s", channel)
            return
        message = Message(channel, content, self.layer, self._reply_timeout)
        try:
            consumer(message)
        except HTTPError as error:
            self._fail(message, error.status, error.detail, error.headers)
        except ClientDisconnected:
            logger.debug("The client of %r disconnected", message)
        except BaseException as error:  # a consumer's failure is never the worker's
            if isinstance(error, KeyboardInterrupt) or (self._killed and isinstance(error, gevent.GreenletExit)):
                raise
            logger.exception("Error processing message with consumer %s:", getattr(consumer, "__qualname__", consumer))
            self._fail(message)

    def _fail(self, message: Message, status: int = 500, detail: str = "Internal Server Error", headers: Headers = ()) -> None:
        """Answer a request whose consumer failed, or make the server cut off its response.

        The server ignores messages after a complete response.  Other servers ignore the answer within a response, too.
        """
        channel = message.content.get("reply_channel")
        if not channel or not isinstance(channel, str):
            return
        try:
            if message.channel == "http.request":
                fields = [(b"content-type", b"text/plain; charset=utf-8"), *headers]
                answer = {"status": status, "headers": fields, "content": detail.encode()}
                message.reply({**answer, "abort": True} if message.replied else answer)
            elif message.channel == "websocket.connect" and not message.replied:
                message.reply({"accept": False})
        except Exception:
            logger.exception("No answer could be sent for %r:", message)
