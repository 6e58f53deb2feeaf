"""One WebSocket through the channel layer: ``websocket.connect``, ``.receive`` and ``.disconnect`` out, frames and closes back.

The connection's greenlet reads frames.  A short reply is written by the greenlet that brings it where the socket takes it at once, any
other one by a greenlet that exists only while there are any, so a silent WebSocket costs one.  ``websocket.disconnect`` is sent exactly
once for every ``websocket.connect`` that was delivered, on every way out.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

import gevent

from ... import websocket as protocol
from ...config import Limits, Timeouts
from ...core import causes
from ...core.accounts import Account, memory_of
from ...core.message import ClientDisconnected, HTTPError, Request, ResponseError
from ...layers.tally import Tally
from ...serving.failure_log import FailureLog
from ...serving.session import Session, leave
from ...websocket import CloseCode
from .layer_client import LayerClient, LayerDown
from .notifier import Notifier
from .reply_queue import Message, Overflow, ReplyQueue
from .requests import RequestMessages, decode_path
from .router import ReplyRouter
from .supervisor import Supervisor
from .watch import OnLayerLoss
from .writers import HALF_IN_A_ROW, Writers

logger = logging.getLogger("daphne.ws_protocol")
_http_logger = logging.getLogger("daphne.http_protocol")

#: Seconds for which a frame that finds the channel full is offered again while the connection is not read, and between attempts.
RECEIVE_PATIENCE = 2.0
_FIRST_PAUSE, _LAST_PAUSE = 0.002, 0.05
_RETRY_SOON = [(b"Retry-After", b"1")]
#: Seconds for which ``websocket.disconnect`` is offered again to a full channel.
DISCONNECT_PATIENCE = 10.0

#: What a reply may contain; ``subprotocol`` is an extension: the application's choice in an accepting message.
_KEYS = frozenset(("accept", "text", "bytes", "close", "subprotocol"))

#: Bytes or characters of a reply that is written without a greenlet of its own, as long as the socket takes it: what it takes in one piece.
_SHORT = 4096

#: Unknown keys of a reply that a line names at most, and their length.
_KEY_NUMBER, _KEY_LENGTH = 8, 32


class Leaving(Exception):
    """The client is to come back later: the server is stopping, or groups may be lost.

    :param cause: which of the two.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _Replies(ReplyQueue):
    """The replies for one WebSocket."""

    __slots__ = ()

    def leave(self, cause: str) -> None:
        """Have the WebSocket end after the replies that are there already."""
        self.fail(Leaving(cause))

    on_leave = leave

    def on_end(self) -> None:
        """Have those who wait for replies know that the client has left."""
        self.abandon()


class WebSocketBridge:
    """Serves WebSockets from the channel layer.

    :param on_loss: what is done once messages may have been lost.
    :param tally: counts replies that cannot be used; by default one of its own.
    :param supervisor: counts replies whose writing failed by an error of the server; by default one of its own.
    """

    def __init__(
        self,
        layer_client: LayerClient,
        router: ReplyRouter,
        notifier: Notifier,
        messages: RequestMessages,
        limits: Limits,
        timeouts: Timeouts,
        on_loss: OnLayerLoss = OnLayerLoss.SHED,
        tally: Tally | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        #: Whether WebSockets outlive a loss of messages.
        self.keeps = on_loss is OnLayerLoss.KEEP
        self.layer_client = layer_client
        self.timeouts = timeouts
        self._router = router
        self._notifier = notifier
        self._messages = messages
        self._limits = limits
        self._tally = Tally() if tally is None else tally
        self._supervisor = Supervisor() if supervisor is None else supervisor
        self.writers = Writers(self._writing_failed)
        #: Tells of WebSockets that fail because the layer is full, so that not each of them has a line.
        self.failure_log = FailureLog("WebSockets")
        #: How many times messages may have been lost.
        self.losses = 0

    def serve(self, request: Request, session: Session) -> None:
        """Serve one WebSocket whose opening handshake is sound; errors as :class:`~greendaphne.serving.exchange.Exchange` says."""
        reply_queue = _Replies(self._limits.reply_queue, account=request.connection.account)
        session.stream.watch(reply_queue.abandon)
        channel = self._router.register(reply_queue)
        session.name = channel
        session.owner = reply_queue
        if _http_logger.isEnabledFor(logging.DEBUG):
            # An upgraded request has no reply channel of its own here; daphne's line names one all the same.
            _http_logger.debug("Upgraded connection %s to WebSocket %s", self._router.channels.new(), channel)
        try:
            if self._connect(request, session, channel):
                path = decode_path(request.path)
                # Little of it is needed after the handshake, and a WebSocket may live for a day.
                del request
                self._converse(session, reply_queue, channel, path)
        finally:
            self._router.unregister(channel)

    def malformed(self, channel: str, error: Exception) -> None:
        """Count a reply on ``channel`` that cannot be used, and log it unless another was logged within the last minute."""
        text = str(error)
        self._tally.bad_message(channel, text, text=f"HTTP/WS send decode error: {text}")

    def level_of_full_layer(self) -> int:
        """The level to log at that a WebSocket fails because the layer is full: the first of many counts."""
        return logging.WARNING if self.failure_log.count(causes.LAYER_FULL) else logging.DEBUG

    def start(self) -> None:
        """Take WebSockets, again after :meth:`stop`."""
        self.writers = Writers(self._writing_failed)

    def _writing_failed(self) -> None:
        self._supervisor.failed("WebSocket writers")

    def stop(self) -> None:
        """Release what was kept for replies."""
        self.writers.close()
        self.failure_log.close()

    def shed(self) -> int:
        """Close every WebSocket that is open now with 1012, an active one at once; refuse those that wait to be accepted.

        Returns how many there are.
        """
        self.losses += 1
        return leave([replies for replies in self._router.clients.values() if isinstance(replies, _Replies)], causes.SHED)

    def _connect(self, request: Request, session: Session, channel: str) -> bool:
        """Tell the application; whether it was told."""
        layer_client = self.layer_client
        try:
            layer_client.send("websocket.connect", self._messages.websocket(request, channel))
        except layer_client.channel_full:
            logger.log(self.level_of_full_layer(), "WebSocket force closed for %s due to connect backpressure", channel)
            session.refuse(503, "Connection queue at capacity", causes.LAYER_FULL)
            return False
        except layer_client.message_too_large:
            raise HTTPError(431, "The request is larger than the channel layer accepts.", close=True) from None
        except LayerDown as error:
            if error.maybe_stored:
                # Should the application see the one, it sees the other.
                self._notifier.add("websocket.disconnect", disconnect_message(channel, decode_path(request.path)), DISCONNECT_PATIENCE)
            raise HTTPError(503, "The channel layer is out of reach.", _RETRY_SOON, close=True, cause=causes.LAYER_DOWN) from error
        return True

    def _converse(self, session: Session, reply_queue: ReplyQueue, channel: str, path: str) -> None:
        session.offer()
        conversation = Conversation(self, session, reply_queue, channel, path)
        try:
            if conversation.connecting():
                conversation.open()
        finally:
            logger.debug("WebSocket closed for %s", channel)
            self._notifier.add("websocket.disconnect", conversation.disconnect(), DISCONNECT_PATIENCE)


def disconnect_message(channel: str, path: str, order: int = 1, code: int = CloseCode.ABNORMAL_CLOSURE) -> Message:
    """The ``websocket.disconnect`` message."""
    return {"reply_channel": channel, "code": int(code), "path": path, "order": order}


class Conversation:
    """One WebSocket between its connect and its disconnect message."""

    __slots__ = ("_bridge", "_channel", "_debug", "_losses", "_order", "_path", "_reply_queue", "_session", "_websocket", "_writing")

    def __init__(self, bridge: WebSocketBridge, session: Session, reply_queue: ReplyQueue, channel: str, path: str) -> None:
        self._bridge = bridge
        self._session = session
        self._websocket = session.websocket
        self._reply_queue = reply_queue
        self._channel = channel
        self._path = path
        self._order = 0
        self._losses = bridge.losses
        self._writing = False
        # Whether messages are logged; looked up once, for all of them.
        self._debug = logger.isEnabledFor(logging.DEBUG)

    def disconnect(self) -> Message:
        """The ``websocket.disconnect`` message."""
        return disconnect_message(self._channel, self._path, self._order + 1, self._session.code)

    # ---- connecting

    def connecting(self) -> bool:
        """Wait for the application to accept; whether it did.  Frames stay unread until then.

        :raises ClientDisconnected: when the client left.
        :raises ResponseError: when the application accepts with something that cannot be sent.
        """
        session = self._session
        while True:
            try:
                message = self._reply_queue.get(None)
                self._check(message)
            except Leaving as leaving:
                session.reject(503, "Service Unavailable", cause=leaving.cause)
                return False
            except Overflow:
                session.reject(503, "Service Unavailable", cause=causes.CLIENT_SLOW)
                return False
            except ClientDisconnected:
                if self._websocket.cause == causes.ACCEPT_TIMEOUT:
                    return False
                raise
            except ValueError as error:
                self._bridge.malformed(self._channel, error)
                continue
            accept = message.get("accept")
            data = message.get("text") or message.get("bytes")
            if (accept is not None and not accept) or (message.get("close") and not data and not accept):
                logger.debug("WebSocket %s rejected by application", self._channel)
                session.reject()
                return False
            if accept or data:
                session.accept(message.get("subprotocol"))
                logger.debug("WebSocket %s accepted by application", self._channel)
                if data or message.get("close"):
                    try:
                        self._try_reply(message, skip_empty=True)
                    except protocol.WebSocketClosed:
                        pass  # the greenlet that receives learns of it too
                return True

    # ---- open

    def open(self) -> None:
        """Pass frames on until the WebSocket is over."""
        logger.debug("WebSocket %s open and established", self._channel)
        # From here on the greenlet that receives learns of the end.
        self._session.stream.watch(None)
        reply_queue = self._reply_queue
        reply_queue.writer = self
        if not self._session.request.by_extended_connect:
            # A finalizer may send a reply within any line of Python, also within those that have a connection's frames in hand.
            reply_queue.direct = self
        self.notify()
        session = self._session
        try:
            while True:
                self._receive(session.receive())
        except protocol.WebSocketClosed:
            pass
        finally:
            reply_queue.writer = reply_queue.direct = None

    def _receive(self, data: str | bytes) -> None:
        """Send one message from the client to the application; closes the WebSocket where that is not possible."""
        bridge = self._bridge
        layer_client = bridge.layer_client
        if self._debug:
            logger.debug("WebSocket incoming frame on %s", self._channel)
        message = {
            "reply_channel": self._channel,
            "path": self._path,
            "order": self._order + 1,
            "text" if data.__class__ is str else "bytes": data,
        }
        pause = 0.0
        deadline = 0.0
        # Counts the message while it waits for the channel; what the channel takes, the layer counts.
        account: Account | None = None
        try:
            while True:
                if bridge.losses != self._losses:
                    # Behind what may have been lost there is nothing that the application could make sense of.
                    self._websocket.close(CloseCode.SERVICE_RESTART, cause=causes.SHED)
                    return
                try:
                    layer_client.send("websocket.receive", message)
                except layer_client.message_too_large:
                    logger.warning("WebSocket force closed for %s: a message is larger than the channel layer accepts", self._channel)
                    self._websocket.close(CloseCode.MESSAGE_TOO_BIG, cause=causes.LIMIT)
                    return
                except (layer_client.channel_full, LayerDown) as error:
                    if isinstance(error, LayerDown) and error.maybe_stored:
                        # At most once.
                        self._give_up()
                        return
                    now = monotonic()
                    if not pause:
                        deadline = now + RECEIVE_PATIENCE
                        asked = self._session.request.connection.account
                        if not asked.ask(memory_of(data)):
                            self._websocket.close(CloseCode.TRY_AGAIN_LATER, "out of memory", cause=causes.NO_ROOM)
                            return
                        account = asked
                        # The connection is not read meanwhile.
                        self._session.stream.watch(self._reply_queue.abandon)
                    elif now >= deadline:
                        if isinstance(error, LayerDown):
                            self._give_up()
                        else:
                            level = bridge.level_of_full_layer()
                            logger.log(level, "WebSocket force closed for %s due to receive backpressure", self._channel)
                            logger.debug("Muting incoming frame on %s", self._channel)
                            self._websocket.close(CloseCode.TRY_AGAIN_LATER, cause=causes.LAYER_FULL)
                        return
                    pause = min(pause * 2 or _FIRST_PAUSE, _LAST_PAUSE)
                    gevent.sleep(pause)
                    if self._websocket.closed:
                        return
                else:
                    self._order += 1
                    return
        finally:
            if account is not None:
                account.give(memory_of(data))
                self._session.stream.watch(None)

    def _give_up(self) -> None:
        """The application misses a message, which must show unless WebSockets outlive such a loss; ``order`` has no gap in any case."""
        if self._bridge.keeps:
            logger.warning("A message of WebSocket %s is dropped: the channel layer is out of reach", self._channel)
        else:
            self._websocket.close(CloseCode.SERVICE_RESTART, cause=causes.LAYER_DOWN)

    # ---- replies

    def notify(self) -> None:
        """A reply is there: have it written, unless that is in progress already."""
        if not self._writing:
            self._writing = True
            self._bridge.writers.add(self._write_replies)

    def write_now(self, message: Message) -> bool:
        """Write a short message to a client that has taken everything before it; false for any other reply.

        Called in the greenlet of the router or of the consumer that has sent it, perhaps with locks held; never switches and never raises.
        """
        # Most replies consist of nothing else.
        if self._writing or self._debug or len(message) != 1:
            return False
        writers = self._bridge.writers
        # As Writers.may_write(), without the call as long as it has nothing to do.
        writers.left = left = writers.left - 1
        if left <= HALF_IN_A_ROW and not writers.goes_on(left):
            return False
        data = message.get("text")
        if type(data) is not str:
            data = message.get("bytes")
            if type(data) is not bytes:
                return False
        if len(data) > _SHORT:
            return False
        # What a finalizer sends meanwhile waits.
        self._writing = True
        try:
            return self._websocket.offer(data)
        except protocol.WebSocketClosed:
            return True  # the greenlet that receives learns of it too
        except Exception:  # noqa: BLE001 - of text that is none, or whatever else: the usual way reports it
            return False
        finally:
            self._writing = False
            if self._reply_queue.held:
                self.notify()

    def _write_replies(self) -> None:
        try:
            while (message := self._reply_queue.poll()) is not None:
                self._try_reply(message)
        except Leaving as leaving:
            self._websocket.close(CloseCode.SERVICE_RESTART, cause=leaving.cause)
        except Overflow:
            logger.warning("WebSocket force closed for %s: it reads too slowly", self._channel)
            self._websocket.close(CloseCode.TRY_AGAIN_LATER, cause=causes.CLIENT_SLOW)
        except (protocol.WebSocketClosed, ClientDisconnected):
            pass  # the greenlet that receives learns of it too
        except Exception:
            logger.exception("Error writing to WebSocket %s", self._channel)
            self._websocket.close(CloseCode.INTERNAL_ERROR, cause=causes.ERROR)
        finally:
            self._writing = False

    def _try_reply(self, message: Message, skip_empty: bool = False) -> None:
        """Do what a reply says, or log why that is not possible."""
        try:
            self._check(message)
            self._reply(message, skip_empty)
        except (ValueError, ResponseError) as error:
            self._bridge.malformed(self._channel, error)

    def _check(self, message: Message) -> None:
        """Refuse a reply that says nothing usable as a whole.

        :raises ValueError: with daphne's sentence.
        """
        if not _KEYS.issuperset(message):
            raise ValueError(
                f"Got invalid WebSocket reply message on {self._channel} - contains unknown keys {_names(set(message) - _KEYS)} "
                "(looking for either {'accept', 'text', 'bytes', 'close'})"
            )
        text, data = message.get("text"), message.get("bytes")
        if text is not None and data is not None and (text or data or "accept" not in message):
            raise ValueError(f"Got invalid WebSocket reply message on {self._channel} - contains both bytes and text keys")
        if not isinstance(text, str | None) or not isinstance(data, bytes | None):
            raise ValueError(f"Got invalid WebSocket reply message on {self._channel} - text must be str and bytes must be bytes")
        if not isinstance(message.get("subprotocol"), str | None):
            raise ValueError(f"Got invalid WebSocket reply message on {self._channel} - subprotocol must be str")

    def _reply(self, message: Message, skip_empty: bool) -> None:
        """Send what a reply says, then close where it says so.

        :param skip_empty: whether an empty message is none.

        :raises ValueError: for a close code that must not be sent; the WebSocket stays open.
        """
        data: str | bytes | None = message.get("text")
        if data is None:
            data = message.get("bytes")
        if data is not None and (data or not skip_empty):
            self._websocket.send(data)
            if self._debug:
                logger.debug("Sent WebSocket packet to client for %s", self._channel)
        close = message.get("close")
        if close:
            code = 1000 if close is True else close
            if not isinstance(code, int):
                raise ValueError(f"invalid close code: {type(code).__name__} (must be 1000 or from [3000, 4999])")
            if not (code == 1000 or 3000 <= code <= 4999):
                raise ValueError(f"invalid close code {code} (must be 1000 or from [3000, 4999])")
            self._websocket.close(code)


def _names(keys: set[Any]) -> set[str]:
    """Those of ``keys`` that look like names, for the log: anything else may be content."""
    names = {key for key in keys if isinstance(key, str) and len(key) <= _KEY_LENGTH and key.isidentifier()}
    return {*sorted(names)[:_KEY_NUMBER], *(("…",) if len(names) < len(keys) or len(names) > _KEY_NUMBER else ())}
