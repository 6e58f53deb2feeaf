"""A request without a body that waits for its reply without a greenlet.

Most replies are whole responses that the connection takes at once.  The greenlet that has such a reply, mostly the worker's, sends it.  All
else gets a greenlet and a reply queue, from where it goes on as if it had had them from the start: replies in parts, large ones, those that
are in error, those for which there is no room yet, and requests that wait for long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from ...config import KIB
from ...core import causes
from ...core.accounts import Account
from ...core.detached import Detachable
from ...core.message import Stream
from ...serving.spool import Spool
from .reply_queue import ANSWERED, Message, ReplyQueue

logger = logging.getLogger("daphne.server")

#: The keys of most replies.
_PLAIN: Final = frozenset(("status", "headers", "content", "more_content"))
#: The most bytes of content that are sent without a greenlet.
_SHORT: Final = 64 * KIB


def send_plain(stream: Any, message: Message) -> bool:
    """Send a reply that the layer has not looked at, if it has the form that most have; false where nothing was done.

    It has nothing else then, and all of it may be sent, if the headers are equal to ones that were checked.  Never switches.

    :param stream: what has a method ``respond``, as :class:`~greendaphne.core.detached.Detachable`.
    """
    if not _PLAIN.issuperset(message):
        return False
    content = message.get("content", b"")
    status = message.get("status")
    headers = message.get("headers", ())
    if (
        type(content) is bytes
        and type(status) is int
        and (type(headers) is list or type(headers) is tuple)
        and len(content) <= _SHORT
        and message.get("more_content", False) is False
    ):
        sent: bool = stream.respond(status, headers, content)
        return sent
    return False


class Owner(Protocol):
    """What a detached request uses of the bridge."""

    def check_headers(self, headers: Any) -> list[tuple[bytes, bytes]]:
        """The fields of a reply; raises :class:`~greendaphne.core.message.ResponseError`."""

    def take_up(self, request: DetachedRequest) -> ReplyQueue:
        """Register a reply queue in place of ``request``."""

    def respond_attended(self, request: DetachedRequest, reply_queue: ReplyQueue) -> None:
        """Answer from ``reply_queue``, in a greenlet, to the end."""

    def end(self, request: DetachedRequest) -> None:
        """The request is not answered any more: unregister it, and tell the application."""


class DetachedRequest:
    """In the place of a reply queue, see :class:`.router.ReplyRouter`, and what :class:`greendaphne.core.detached.Detached` says.

    :param deadline: when the time for the reply is over, on the monotonic clock.
    """

    __slots__ = ("_owner", "_reply_queue", "channel", "completed", "deadline", "done", "path", "started", "stream")

    #: Bytes of memory that wait for the client, as for a reply queue.
    held = 0

    def __init__(self, owner: Owner, stream: Detachable, channel: str, deadline: float) -> None:
        self._owner = owner
        self.stream: Detachable | None = stream
        self.channel = channel
        self.deadline = deadline
        self.path = ""
        self.done = False
        self.completed: Callable[[Stream, float, str], None] | None = None
        self.started = 0.0
        # From the moment when the request gets a greenlet.
        self._reply_queue: ReplyQueue | None = None

    def offer(self, message: Message) -> bool:
        """Send a reply, or have it sent; always true, since it never needs the disk.  Never switches."""
        stream = self.stream
        if stream is None:
            return True
        content = message.get("content")
        if content is None:
            content = b""
        status = message.get("status")
        if (
            type(content) is bytes
            and type(status) is int
            and len(content) <= _SHORT
            and not message.get("more_content")
            and stream.respond(status, message.get("headers") or (), content, self._owner.check_headers)
        ):
            self._end(stream, causes.NONE)
        else:
            self._resume(stream).begin(message)
        return True

    put = offer

    def accept(self, message: Message) -> bool:
        """Send a reply of the form that most have; false where nothing was done, since it has another form or has to wait."""
        stream = self.stream
        if stream is None or not send_plain(stream, message):
            return False
        self._end(stream, causes.NONE)
        return True

    def close(self) -> None:
        """Nothing is held; as a reply queue."""

    def look(self) -> None:
        """The request waits for long.  Runs in the hub."""
        stream = self.stream
        if stream is not None and self._reply_queue is None:
            self._resume(stream)

    def abandon(self) -> None:
        """The client gave the request up."""
        stream = self.stream
        if stream is None:
            return
        if self._reply_queue is not None:
            self._reply_queue.abandon()
        else:
            self._end(stream, causes.CLIENT_GONE)

    def _end(self, stream: Detachable, cause: str) -> None:
        self.done = True
        # They refer to each other.
        self.stream = None
        self._owner.end(self)
        stream.end_detached()
        self._report(stream, cause)

    def _report(self, stream: Detachable, cause: str) -> None:
        if self.completed is not None:
            try:
                self.completed(stream, self.started, cause)
            except Exception:
                # The application's consumer, which may have sent the reply, has done nothing wrong.
                logger.exception("An observer failed:")

    def _resume(self, stream: Detachable) -> ReplyQueue:
        reply_queue = self._reply_queue = self._owner.take_up(self)
        stream.resume()
        return reply_queue

    def run(self) -> None:
        """Answer from the reply queue; in the request's new greenlet."""
        reply_queue = self._reply_queue
        assert reply_queue is not None
        try:
            self._owner.respond_attended(self, reply_queue)
        finally:
            self.stream = self._reply_queue = None

    def discard(self) -> None:
        """The new greenlet did not begin."""
        stream, reply_queue = self.stream, self._reply_queue
        assert stream is not None
        assert reply_queue is not None
        self.done = True
        self.stream = self._reply_queue = None
        self._owner.end(self)
        reply_queue.close()
        self._report(stream, causes.DRAINING)


class AttendedReplies(ReplyQueue):
    """The replies to a request whose greenlet waits for them: a plain one is sent before the greenlet goes on.

    :param stream: as for :func:`send_plain`.
    """

    __slots__ = ("_stream",)

    def __init__(self, stream: Any, limit: int, spool: Spool | None, account: Account | None) -> None:
        ReplyQueue.__init__(self, limit, spool, account)
        self._stream: Any = stream

    def accept(self, message: Message) -> bool:
        """As :meth:`DetachedRequest.accept`."""
        if not self.waited_for or self._stream is None or not send_plain(self._stream, message):
            return False
        self.answered()
        return True

    def abandon(self) -> None:
        """The client has left.  After its response there is nothing to drop."""
        if self._given is not ANSWERED:
            ReplyQueue.abandon(self)

    def close(self) -> None:
        """Forget everything."""
        # They refer to each other.
        self._stream = None
        ReplyQueue.close(self)
