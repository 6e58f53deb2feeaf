"""One HTTP request through the channel layer: ``http.request`` out, the response's messages back, ``http.disconnect`` at the end.

The request's greenlet waits on its own reply queue.  Only a body that travels through ``body_channel`` has a second greenlet, because an
application may begin to answer while the body still comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

import gevent

from ...config import KIB, Limits, Timeouts
from ...core import causes
from ...core.detached import Detachable
from ...core.message import ClientDisconnected, HTTPError, Request, ResponseError, Stream
from ...layers.tally import Tally
from ...serving.spool import REPLIES, NoRoom, Spooled
from .bodies import Bodies, Body
from .detached import AttendedReplies, DetachedRequest
from .layer_client import LayerClient, LayerDown
from .looks import Looks
from .notifier import Notifier
from .reply_queue import ANSWERED, Overflow, ReplyQueue
from .requests import RequestMessages
from .router import ReplyRouter

logger = logging.getLogger("daphne.http_protocol")
_server_logger = logging.getLogger("daphne.server")

#: Seconds between attempts to put a piece of a body into a full channel: the first, and the most it grows to.
_FIRST_PAUSE, _LAST_PAUSE = 0.002, 0.05
#: Seconds for which a worker is told again that a body's client went away.
_CLOSED_PATIENCE = 5.0
#: Content of this many bytes is sent whole, whatever the allowances say; larger content in pieces of this size where it is on disk.
_PIECE: Final = 64 * KIB
#: Seconds between looks whether the client of a slow request is still there.  On TCP a client that only stopped sending looks like one that
#: left, so it has so long for its answer at least, and is given up at the second look: within a second.
_LOOK = 0.45

_RETRY_SOON = [(b"Retry-After", b"1")]


class MalformedReply(Exception):
    """A reply that says nothing usable; logged and dropped, and the request goes on."""


class _NotSent(Exception):
    """No worker learns of the request; ``error`` is what the client gets."""

    def __init__(self, error: HTTPError) -> None:
        super().__init__()
        self.error = error


def _header_list(headers: Any) -> list[tuple[bytes, bytes]]:
    """The reply's headers as bytes; text is taken as Latin-1, as daphne did.

    :raises ResponseError: for anything but a list of pairs; it names types, not values.
    """
    if not isinstance(headers, (list, tuple)):
        raise ResponseError(f"its headers are {type(headers).__name__}, not a list")
    result = []
    try:
        for field in headers:
            name, value = field
            if type(name) is bytes and type(value) is bytes and type(field) is tuple:
                result.append(field)
                continue
            if not isinstance(field, (list, tuple)):
                raise TypeError
            if isinstance(name, str):
                name = name.encode("latin-1")
            if isinstance(value, str):
                value = value.encode("latin-1")
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise ResponseError(f"a header is {type(name).__name__} and {type(value).__name__}, not a pair of byte strings")
            result.append((name, value))
    except UnicodeEncodeError:
        raise ResponseError("a header has text beyond Latin-1") from None
    except (TypeError, ValueError):
        raise ResponseError("its headers are not a list of pairs of byte strings") from None
    return result


class HTTPBridge:
    """Answers HTTP requests from the channel layer.

    :param tally: counts replies that cannot be used; by default one of its own.
    :param answer_half_closed: whether a client that may have left, since it stopped sending, is waited for.
    """

    def __init__(
        self,
        layer_client: LayerClient,
        router: ReplyRouter,
        notifier: Notifier,
        messages: RequestMessages,
        bodies: Bodies,
        limits: Limits,
        timeouts: Timeouts,
        tally: Tally | None = None,
        *,
        answer_half_closed: bool = False,
    ) -> None:
        self._layer_client = layer_client
        self._give_up_half_closed = not answer_half_closed
        self._router = router
        self._notifier = notifier
        # A layer that can sends it along with other messages.  One inside of this process is given all of one turn of the hub together.
        self._notify: Callable[[str, dict[str, Any]], object] = layer_client.post if layer_client.can_post else notifier.add
        if layer_client.can_post_all:
            self._notify = self._notify_soon
        self._notices: list[dict[str, Any]] = []
        self._messages = messages
        self._bodies = bodies
        self._timeouts = timeouts
        self._limits = limits
        self._tally = Tally() if tally is None else tally
        self._spool = bodies.spool
        # One timer for all requests that wait for a reply.
        self._looks = Looks(_LOOK)
        # Whether a request may wait without a greenlet: sending it does not wait, and its reply is handed over in the sender's greenlet.
        self._detaches = router.hands_over and layer_client.can_offer and layer_client.can_post_all and timeouts.http >= _LOOK

    def serve(self, request: Request, stream: Stream) -> None:
        """Answer ``request``; errors as :class:`greendaphne.serving.exchange.Exchange` translates them."""
        body = None
        if request.content_length != 0:
            body = self._bodies.collect(stream)
        elif self._detaches and getattr(stream, "detachable", False) and not logger.isEnabledFor(logging.DEBUG):
            self._serve_detached(request, stream)  # type: ignore[arg-type]
            return
        debug = logger.isEnabledFor(logging.DEBUG)
        account = request.connection.account
        if self._detaches and not debug and hasattr(stream, "respond"):
            reply_queue: ReplyQueue = AttendedReplies(stream, self._limits.reply_queue, self._spool, account)
        else:
            reply_queue = ReplyQueue(self._limits.reply_queue, self._spool, account)
        stream.watch(reply_queue.abandon)
        channel = self._router.register(reply_queue)
        try:
            if debug:
                logger.debug("HTTP %r request for %s", request.method.encode(), channel)
            message = self._messages.http(request, channel, b"" if body is None else body.first)
            path = message["path"]
            rest_channel = None
            if body is not None and body.rest is not None:
                rest_channel = message["body_channel"] = self._make_body_channel()
            self._send_request(message, reply_queue if body is None else None)
            # The answer may take minutes, for which neither has to be held.
            del message
            if body is not None:
                body.first = b""
                if body.rest is None:
                    body.close()
            sender = None
            sent = True
            try:
                if body is not None and rest_channel is not None:
                    sender = gevent.spawn(self._send_rest, body, rest_channel, reply_queue)
                self._respond(stream, reply_queue, channel, debug)
            except ClientDisconnected:
                logger.debug("HTTP disconnect for %s", channel)
                raise
            except _NotSent as failure:
                sent = False
                raise failure.error from None
            finally:
                if sender is not None:
                    sender.kill()
                if debug:
                    logger.debug("HTTP close for %s", channel)
                if sent:
                    self._notify("http.disconnect", {"reply_channel": channel, "path": path})
        finally:
            self._router.unregister(channel)
            if body is not None:
                body.close()

    def _serve_detached(self, request: Request, stream: Detachable) -> None:
        """Send ``request``, whose reply is sent by the greenlet that has it."""
        channel = self._router.channels.new()
        detached = DetachedRequest(self, stream, channel, monotonic() + self._timeouts.http)
        message = self._messages.http(request, channel, b"")
        detached.path = message["path"]
        clients = self._router.clients
        clients[channel] = detached
        try:
            self._send_request(message, offered=True)
        except BaseException:
            clients.pop(channel, None)
            detached.stream = None
            raise
        stream.detached = detached
        if not detached.done:
            self._looks.enter(detached, detached.look)

    # For requests that wait without a greenlet; see detached.Owner.

    check_headers = staticmethod(_header_list)

    def take_up(self, request: DetachedRequest) -> ReplyQueue:
        """Register a reply queue in place of ``request``."""
        self._looks.leave(request)
        stream = request.stream
        assert stream is not None
        reply_queue = ReplyQueue(self._limits.reply_queue, self._spool, stream.request.connection.account)
        self._router.clients[request.channel] = reply_queue
        return reply_queue

    def respond_attended(self, request: DetachedRequest, reply_queue: ReplyQueue) -> None:
        """Answer from ``reply_queue``, in a greenlet, to the end."""
        stream = request.stream
        assert stream is not None
        try:
            stream.watch(reply_queue.abandon)
            self._respond(stream, reply_queue, request.channel, logger.isEnabledFor(logging.DEBUG), request.deadline)
        except ClientDisconnected:
            logger.debug("HTTP disconnect for %s", request.channel)
            raise
        finally:
            self._notify("http.disconnect", {"reply_channel": request.channel, "path": request.path})
            self._router.unregister(request.channel)

    def end(self, request: DetachedRequest) -> None:
        """Unregister ``request``, and tell the application in the hub, since the layer's lock may be held."""
        self._looks.leave(request)
        self._router.clients.pop(request.channel, None)
        notices = self._notices
        notices.append({"reply_channel": request.channel, "path": request.path})
        if len(notices) == 1:
            gevent.get_hub().loop.run_callback(self.send_notices)

    def _make_body_channel(self) -> str:
        try:
            return self._layer_client.new_channel("http.request.body?")
        except LayerDown as error:
            raise _out_of_reach() from error

    def _send_request(self, message: dict[str, Any], reply_queue: ReplyQueue | None = None, *, offered: bool = False) -> None:
        """Send ``message``, perhaps without a wait for the layer; ``reply_queue``, if any, then has :class:`_NotSent` where that fails."""
        layer_client = self._layer_client
        try:
            if offered:
                if not layer_client.offer("http.request", message):
                    raise _queue_full()
            elif reply_queue is None or not layer_client.send_along("http.request", message, partial(self._not_sent, reply_queue)):
                layer_client.send("http.request", message)
        except layer_client.channel_full:
            raise _queue_full() from None
        except layer_client.message_too_large:
            raise HTTPError(413, "The request is larger than the channel layer accepts.", close=True) from None
        except LayerDown as error:
            raise _out_of_reach() from error

    def _not_sent(self, reply_queue: ReplyQueue, error: Exception) -> None:
        reply_queue.fail(_NotSent(_queue_full() if isinstance(error, self._layer_client.channel_full) else _out_of_reach()))

    def _notify_soon(self, channel: str, message: dict[str, Any]) -> None:
        notices = self._notices
        if not notices and len(self._router.clients) == 1:
            # There is no other client whose request may end in this turn.
            self._layer_client.post(channel, message)
            return
        notices.append(message)
        if len(notices) == 1:
            gevent.get_hub().loop.run_callback(self.send_notices)

    def send_notices(self) -> None:
        """Send the disconnect messages of this turn of the hub."""
        if self._notices:
            notices, self._notices = self._notices, []
            self._layer_client.post_all("http.disconnect", notices)

    # ---- the response

    def _respond(self, stream: Stream, reply_queue: ReplyQueue, channel: str, debug: bool, deadline: float | None = None) -> None:
        timeout = self._timeouts.http
        if deadline is None:
            deadline = monotonic() + timeout
        else:
            timeout = max(deadline - monotonic(), 0)
        silent = False
        looks = self._looks
        while True:
            try:
                message = reply_queue.get(min(timeout, _LOOK), looks)
            except TimeoutError:
                timeout = deadline - monotonic()
                if timeout > 0:
                    if stream.gone(half_closed=silent):
                        raise ClientDisconnected from None
                    silent = self._give_up_half_closed and stream.gone(half_closed=True)
                    continue
                if stream.status:
                    text = f"no further part of it came within {self._timeouts.http:g} seconds"
                    raise ResponseError(text, cause=causes.WORKER_TIMEOUT) from None
                raise _worker_timeout() from None
            except Overflow:
                text = f"the client reads too slowly, more than {self._limits.reply_queue} bytes wait for it and there is no room on disk"
                raise ResponseError(text, cause=causes.CLIENT_SLOW) from None
            if message is ANSWERED:
                stream.flush()
                return
            try:
                complete = self._reply(stream, message, channel, debug)
            except MalformedReply as error:
                # Such a message is as if it had never come, so the time that is left is that of the request.
                text = str(error)
                self._tally.bad_message(channel, text, text=f"HTTP/WS send decode error: {text}")
                timeout = max(deadline - monotonic(), 0)
                continue
            if debug:
                logger.debug("HTTP response complete for %s" if complete else "HTTP response chunk for %s", channel)
            if complete:
                return
            timeout = self._timeouts.http
            deadline = monotonic() + timeout

    def _reply(self, stream: Stream, message: dict[str, Any], channel: str, debug: bool) -> bool:
        """Send what one reply says; whether the response is complete."""
        if "request" in message and message.get("status") is None:
            # A server push, which a peer that cannot take it must never notice.
            return False
        if not stream.status:
            status = message.get("status")
            if status is None:
                raise MalformedReply("Specifying a status code is required for a Response message.")
            if not isinstance(status, int) or status is True or status is False:
                raise ResponseError(f"its status is {type(status).__name__}, not int")
            content = message.get("content")
            if type(content) is not bytes:
                content = _content(content)
            headers = _header_list(message.get("headers") or ())
            # An enumeration's member is a number too, and may be written otherwise.
            stream.start(int(status), headers)
            if debug:
                logger.debug("HTTP %s response started for %s", status, channel)
        elif message.get("status") is not None:
            if message.get("abort") is True:
                raise ResponseError("its worker failed within it")
            raise MalformedReply(f"Got multiple Response messages for {channel}!")
        else:
            content = _content(message.get("content"))
        more = bool(message.get("more_content"))
        if len(content) > _PIECE and self._belongs_on_disk(stream, len(content)):
            del content
            self._send_from_disk(stream, message)
            return not more
        if more:
            stream.write(content)
            return False
        stream.finish(content)
        return True

    def _belongs_on_disk(self, stream: Stream, size: int) -> bool:
        """Whether large content waits on disk for its client: memory is short, or more waits for the client already than it may hold.

        Otherwise it is handed to the stream whole, for most clients take it at once.
        """
        account = stream.request.connection.account
        return not account.roomy(size, self._limits.reply_queue) and (account.memory >= _PIECE or account.short)

    def _send_from_disk(self, stream: Stream, message: dict[str, Any]) -> None:
        """Store the content of ``message``, and send it piece by piece as the client takes it."""
        content: bytes = message.pop("content")
        account = stream.request.connection.account
        item: Spooled = self._spool.item(REPLIES, account)
        try:
            try:
                size = len(content)
                storing = _Storing()
                # Until it is there it is in memory; the disk may be slower than the workers.
                if not account.ask(size):
                    raise NoRoom
                account.enter(storing)
                try:
                    item.append(content)
                finally:
                    del content
                    account.give(size)
                    storing.end()
                    account.leave(storing)
                left = item.size
                for piece in item.pieces(_PIECE):
                    left -= len(piece)
                    if left or message.get("more_content"):
                        stream.write(piece)
                    else:
                        stream.finish(piece)
            except (NoRoom, OSError):
                raise _no_room_for_reply() from None
        finally:
            item.close()

    # ---- the rest of a large body

    def _send_rest(self, body: Body, channel: str, reply_queue: ReplyQueue) -> None:
        """Pass the body on, piece by piece, at the worker's speed; runs in its own greenlet, which ends with the response."""
        assert body.rest is not None
        whole = False
        try:
            for content, more in body.rest:
                self._send_piece(channel, {"content": content, "more_content": more})
            whole = True
        except (ClientDisconnected, HTTPError) as error:
            reply_queue.fail(error)
        except LayerDown:
            reply_queue.fail(_out_of_reach())
        except TimeoutError:
            reply_queue.fail(_worker_timeout(close=True))
        except OSError as error:
            _server_logger.error("Cannot read a request body back from disk: %s", error)
            reply_queue.fail(HTTPError(503, "The server cannot read the request body back.", _RETRY_SOON, close=True, cause=causes.NO_ROOM))
        finally:
            if not whole:
                # The worker must not take what it has for the whole body, nor wait for the rest.
                self._notifier.add(channel, {"content": b"", "more_content": False, "closed": True}, _CLOSED_PATIENCE)

    def _send_piece(self, channel: str, message: dict[str, Any]) -> None:
        """Send one piece, waiting while the channel is full.

        :raises TimeoutError: when no worker took anything for as long as one may take to answer.
        """
        layer_client = self._layer_client
        pause = _FIRST_PAUSE
        deadline = monotonic() + self._timeouts.http
        while True:
            try:
                layer_client.send(channel, message)
                return
            except layer_client.channel_full:
                if monotonic() > deadline:
                    raise TimeoutError from None
            except layer_client.message_too_large:
                raise HTTPError(413, "The request is larger than the channel layer accepts.", close=True) from None
            gevent.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)


class _Storing:
    """A reply on its way to disk: it is in memory until it is there, and ends where others need that."""

    __slots__ = ("_greenlet",)

    def __init__(self) -> None:
        self._greenlet: Any = gevent.getcurrent()

    def evict(self) -> None:
        """See :class:`greendaphne.core.accounts.Holder`."""
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        greenlet = self._greenlet
        if greenlet is not None:
            self._greenlet = None
            greenlet.throw(_no_room_for_reply())

    def end(self) -> None:
        """It is there."""
        self._greenlet = None


def _no_room_for_reply() -> ResponseError:
    return ResponseError("the client reads too slowly, and there is no room for what waits for it", cause=causes.NO_ROOM)


def _queue_full() -> HTTPError:
    return HTTPError(503, "Request queue full.", _RETRY_SOON, close=True, cause=causes.LAYER_FULL)


def _out_of_reach() -> HTTPError:
    return HTTPError(503, "The channel layer is out of reach.", _RETRY_SOON, cause=causes.LAYER_DOWN)


def _worker_timeout(*, close: bool = False) -> HTTPError:
    return HTTPError(503, "Worker server failed to respond within time limit.", _RETRY_SOON, close=close, cause=causes.WORKER_TIMEOUT)


def _content(content: Any) -> bytes:
    if content is None:
        return b""
    if not isinstance(content, bytes):
        raise ResponseError(f"its content is {type(content).__name__}, not bytes")
    return content
