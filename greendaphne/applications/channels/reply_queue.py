"""Replies on their way to one client: put in by the router, which never waits, and taken out at the client's speed.

What waits in memory is bounded in bytes, for each connection and for the process.  A response body that comes faster than its client reads
goes on to disk beyond these bounds, as far as the process' allowance reaches, because the channel layer has no way to tell a worker to slow
down and dropping a download for it would break what works today.  A reply queue without such a second store overflows.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

import gevent
from gevent import get_hub
from greenlet import getcurrent, greenlet

from ...config import KIB
from ...core.accounts import NOTABLE, Account, memory_of
from ...core.message import ClientDisconnected
from ...serving.spool import REPLIES, NoRoom, Spool, Spooled
from .looks import Looks

Message = dict[str, Any]
#: Stands for a reply that was sent to the client already.
ANSWERED: Final[Message] = {}

#: What a message costs besides its content.
_OVERHEAD = 512
#: On disk, pieces of a body are joined up to this size: an application that sends line by line shall not fill the memory with what
#: each line costs besides its content.
_JOINED = 64 * KIB
#: What a further piece of a body consists of.
_PIECE = frozenset(("content", "more_content"))


def _weight(message: Message) -> int:
    """The bytes of memory that a reply is taken to hold."""
    size = _OVERHEAD
    for key in ("content", "text", "bytes"):
        value = message.get(key)
        if isinstance(value, (bytes, str)):
            size += memory_of(value)
    return size


class Overflow(Exception):
    """More replies wait than the client may have."""


class _Spilled:
    """A message beyond the bound of memory: its content is in ``pieces`` until they are on disk as ``item``."""

    __slots__ = ("item", "message", "pieces", "size")

    def __init__(self, message: Message, content: bytes) -> None:
        self.message = message
        self.pieces: list[bytes] | None = [content]
        self.item: Spooled | None = None
        self.size = len(content)


class Writer(Protocol):
    """Writes the replies of a queue to their client."""

    def notify(self) -> None:
        """A reply or an error is there; must not wait."""

    def write_now(self, message: Message) -> bool:
        """Write ``message`` if that needs no wait; whether it was dealt with.  Must not switch and not raise."""


class ReplyQueue:
    """Replies for one client, in order.

    The router, one greenlet, calls :meth:`put`; one other of the same hub calls :meth:`get`, or :meth:`poll` after :attr:`writer` was
    notified.

    :param limit: bytes that may wait in memory for the connection.
    :param spool: where content beyond the limit goes, or ``None``.
    :param account: that of the client's connection; by default one of its own.
    """

    __slots__ = (
        "_account",
        "_backlog",
        "_closed",
        "_entered",
        "_error",
        "_given",
        "_handed",
        "_limit",
        "_messages",
        "_resume",
        "_spiller",
        "_spool",
        "_tail",
        "_waiter",
        "direct",
        "held",
        "writer",
    )

    def __init__(self, limit: int, spool: Spool | None = None, account: Account | None = None) -> None:
        self._limit = limit
        self._spool = spool
        self._account = Account() if account is None else account
        # None while it is empty, which most reply queues are most of the time.
        self._messages: deque[Message | _Spilled] | None = None
        #: Bytes of memory that the replies which wait are taken to hold.
        self.held = 0
        # What came while the disk is written to, by a greenlet that exists as long; None otherwise.
        self._backlog: deque[Message] | None = None
        # The last spilled message, as long as it is in memory; the only one that is.
        self._tail: _Spilled | None = None
        self._closed = False
        # The greenlet that writes to disk.
        self._spiller: Any = None
        # Whether the account can have it let go of what it holds.
        self._entered = False
        # The greenlet in get(), until a callback is to switch to it, and that callback.
        self._waiter: greenlet | None = None
        self._resume: Any = None
        self._error: BaseException | None = None
        #: Is notified of messages while no greenlet waits in :meth:`get`.
        self.writer: Writer | None = None
        #: Is offered each reply before which no other waits.
        self.direct: Writer | None = None
        # What the greenlet in get() was woken with, and its bytes where they are counted.
        self._given: Message | None = None
        self._handed = 0

    def put(self, message: Message) -> None:
        """Add a reply; never raises and never waits.  After an overflow everything further is dropped."""
        if self.direct is not None and self._messages is None and self._error is None and self.direct.write_now(message):
            return
        if self._backlog is not None and not self._closed:
            size = _weight(message)
            if not self._account.ask(size):
                # The disk is slower than the worker, and others have nothing to let go of.
                self.fail(Overflow())
                return
            self.held += size
            self._backlog.append(message)
        else:
            self._put(message)

    def _put(self, message: Message) -> None:
        """The same, except that it waits for the disk in a greenlet of its own."""
        if self._error is not None or self._closed:
            return
        waiter = self._waiter
        if waiter is not None:
            # Handed over at once: it never waits in here, and costs no bookkeeping unless it is large.  The greenlet's turn may be a while
            # off where thousands are due.
            content = message.get("content")
            if content and len(content) > _JOINED and not self._hold(len(content)):
                return
            self._waiter = None
            self._given = message
            self._resume = get_hub().loop.run_callback(waiter.switch, True)
            return
        size = _weight(message)
        messages = self._messages
        if messages is None:
            messages = self._messages = deque()
        account = self._account
        if self._spool is None:
            if (messages and account.memory + size > self._limit) or not account.ask(size):
                self._messages = messages or None
                self.fail(Overflow())
                return
        elif self._tail is not None or not account.roomy(size, self._limit):
            # An empty reply queue takes a message of any size where the memory of the process is not short: it is on its way out.
            if messages or account.short:
                self._spill(message, messages)
                return
            account.take(size)
        else:
            account.take(size)
        self.held += size
        messages.append(message)
        if self.held >= NOTABLE and not self._entered and self._spool is not None:
            self._enter()
        self._wake()

    def accept(self, message: Message) -> bool:
        """Have a reply written at once, where :attr:`direct` does that; false where only :meth:`offer` or :meth:`put` can take it.

        Never switches and keeps nothing of the reply, which need not be checked.
        """
        direct = self.direct
        return direct is not None and self._messages is None and self._error is None and not self._closed and direct.write_now(message)

    def offer(self, message: Message) -> bool:
        """Add a reply where that needs no disk; false where only :meth:`put` can.  Never switches."""
        waiter = self._waiter
        if waiter is not None and self.direct is None and self._backlog is None:
            # Most of them, as in _put(): no error has come while a greenlet waits.
            content = message.get("content")
            if not content or len(content) <= _JOINED:
                self._waiter = None
                self._given = message
                self._resume = get_hub().loop.run_callback(waiter.switch, True)
                return True
        if self._error is not None or self._closed:
            return True
        if self.direct is not None and self._messages is None and self.direct.write_now(message):
            return True
        if self._backlog is not None:
            if self._waiter is None:
                return False
            self.put(message)
        elif self._waiter is None and (self._tail is not None or not self._account.roomy(_weight(message), self._limit)):
            return False
        else:
            self._put(message)
        return True

    def answered(self) -> None:
        """Have the greenlet that waits in :meth:`get` get :data:`ANSWERED`; only where it is :attr:`waited_for`."""
        waiter = self._waiter
        assert waiter is not None
        self._waiter = None
        self._given = ANSWERED
        self._resume = get_hub().loop.run_callback(waiter.switch, True)

    @property
    def waited_for(self) -> bool:
        """Whether a greenlet waits in :meth:`get` for what is about to come."""
        return self._waiter is not None and self.direct is None and self._backlog is None

    def begin(self, message: Message) -> None:
        """Add the first reply, for a greenlet that is about to call :meth:`get`, as if it waited there already.  Never switches."""
        content = message.get("content")
        if isinstance(content, (bytes, str)) and len(content) > _JOINED and not self._hold(len(content)):
            return
        self._given = message

    def _hold(self, size: int) -> bool:
        """Count ``size`` bytes of a reply that a greenlet is about to take; false, and an error in the queue, where there is no room."""
        if not self._account.ask(size):
            self.fail(Overflow())
            return False
        self._handed = size
        self.held += size
        return True

    def abandon(self) -> None:
        """The client has left: drop everything at once, and have :meth:`get` raise :class:`ClientDisconnected`."""
        self._drop()
        self.fail(ClientDisconnected())

    def fail(self, error: BaseException) -> None:
        """Have :meth:`get` raise ``error`` behind the replies that are there already; the first error counts."""
        if self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            self._resume = get_hub().loop.run_callback(waiter.switch, True)
        elif self.writer is not None:
            self.writer.notify()

    def get(self, timeout: float | None, looks: Looks | None = None) -> Message:
        """The next reply.

        :param looks: ends a wait of ``looks.seconds`` or more a little earlier, for less; ``None`` for a timer of its own.
        :raises TimeoutError: after ``timeout`` seconds.
        :raises Overflow: when the client was too slow; or what :meth:`fail` was given.
        """
        given = self._given
        if given is not None:
            # It was there before the first call.
            return self._take_given(given)
        while self._messages is None:
            if self._error is not None:
                raise self._error
            self._waiter = waiter = getcurrent()
            timer = None
            if looks is not None and timeout is not None and timeout >= looks.seconds:
                looks.enter(self, self._look)
            else:
                looks = None
                if timeout is not None:
                    # A bare timer: gevent.Timeout costs several times as much.
                    timer = get_hub().loop.timer(timeout)
                    timer.start(waiter.switch, False, update=True)
            try:
                woken = get_hub().switch()
                # A reply may have come between the timer and this greenlet's turn.
                given = self._given
                if given is not None:
                    return self._take_given(given)
                if woken is False and not self._ready():
                    raise TimeoutError
            finally:
                self._waiter = None
                resume = self._resume
                if resume is not None:
                    # Whatever else has ended the wait, this greenlet waits for another event soon.
                    self._resume = None
                    resume.stop()
                if looks is not None:
                    looks.leave(self)
                elif timer is not None:
                    timer.stop()
                    timer.close()
        return self._next(self._messages)

    def _take_given(self, given: Message) -> Message:
        self._given = None
        if self._handed:
            size, self._handed = self._handed, 0
            self._release(size)
        return given

    def _look(self) -> None:
        # Runs in the hub.
        if self._waiter is not None:
            self._waiter.switch(False)

    def _ready(self) -> bool:
        return self._messages is not None or self._error is not None

    def poll(self) -> Message | None:
        """The next reply, or ``None``; raises as :meth:`get`."""
        if self._messages is not None:
            return self._next(self._messages)
        if self._error is not None:
            raise self._error
        return None

    def _enter(self) -> None:
        self._entered = True
        self._account.enter(self)

    def evict(self) -> None:
        """Drop everything at once, and end the connection, whose client does not read: others need the memory."""
        self._drop()
        self.fail(Overflow())
        close = self._account.close
        if close is not None:
            get_hub().loop.run_callback(close)

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        if self._entered:
            self._account.leave(self)
        if self.held or self._backlog is not None:
            self._drop()
        else:
            # As most of them end: nothing waits, and nothing is held.
            self._messages = self._error = self._tail = self._given = None

    def _drop(self) -> None:
        messages, self._messages = self._messages, None
        if self._backlog:
            self._backlog.clear()
        if self._spiller is not None:
            # What it is at is in memory as long as it waits for the disk.
            self._spiller.kill(block=False)
        # An error that was raised refers to those who wait here, and they to this.
        self._error = None
        self._tail = self._given = None
        self._handed = 0
        self._release(self.held)
        for item in messages or ():
            if isinstance(item, _Spilled) and item.item is not None:
                item.item.close()

    def _release(self, n: int) -> None:
        """``n`` bytes of memory are not held any more."""
        self.held -= n
        self._account.give(n)

    def _next(self, messages: deque[Message | _Spilled]) -> Message:
        item = messages.popleft()
        if not messages:
            self._messages = None
        if not isinstance(item, _Spilled):
            self._release(_weight(item))
            return item
        if item is self._tail:
            self._tail = None
        if item.pieces is not None:
            content = b"".join(item.pieces)
            self._release(_OVERHEAD + item.size)
        else:
            stored = item.item
            assert stored is not None
            self._release(_OVERHEAD)
            try:
                # Other greenlets go on while the disk is read.
                content = stored.read(0, item.size)
            finally:
                stored.close()
        return {**item.message, "content": content}

    def _spill(self, message: Message, messages: deque[Message | _Spilled]) -> None:
        """Add ``message`` as the tail, whose content goes to disk when it is large, or when one comes that cannot be joined to it."""
        content = message.get("content") or b""
        piece = _PIECE.issuperset(message)
        if not isinstance(content, bytes) or not (piece or len(content) > _OVERHEAD):
            self._messages = messages or None
            self.fail(Overflow())
            return
        tail = self._tail
        joined = False
        if piece and tail is not None and tail is messages[-1]:
            joined = bool(tail.message.get("more_content")) and tail.size + len(content) <= _JOINED
        if tail is not None and not joined:
            if self._backlog is None:
                # The caller is the router, which others wait for.
                self._start_writing(message)
            elif self._write(tail):
                # Anything may have happened meanwhile.
                self._put(message)
            else:
                self.fail(Overflow())
            return
        size = len(content) if joined else _OVERHEAD + len(content)
        if not self._account.ask(size):
            self._messages = messages or None
            self.fail(Overflow())
            return
        self.held += size
        if tail is None:
            tail = self._tail = _Spilled({**message, "content": b""}, content)
            messages.append(tail)
        else:
            assert tail.pieces is not None
            tail.pieces.append(content)
            tail.size += len(content)
            tail.message["more_content"] = message.get("more_content", False)
        self._wake()
        if tail.size >= _JOINED:
            # Nothing can be joined to it.  Where that fails it stays in memory, and the next one finds out.
            if self._backlog is None:
                self._start_writing(None)
            else:
                self._write(tail)

    def _start_writing(self, message: Message | None) -> None:
        """Have the tail written, and then ``message`` added."""
        self._backlog = deque()
        if not self._entered:
            self._enter()
        if message is not None:
            self.put(message)
        self._spiller = gevent.spawn(self._write_backlog)
        self._spiller.rawlink(self._written)

    def _write_backlog(self) -> None:
        tail = self._tail
        if tail is not None and tail.size >= _JOINED:
            self._write(tail)
        while self._backlog:
            message = self._backlog.popleft()
            self._release(_weight(message))
            self._put(message)
        # What comes from here on need not wait for the hub to tell that this has ended.
        self._backlog = self._spiller = None

    def _written(self, writer: object) -> None:
        if writer is self._spiller:
            # It was killed.
            self._backlog = self._spiller = None

    def _write(self, tail: _Spilled) -> bool:
        """Write the tail to disk, during which others go on; whether that succeeded, or there is no need any more."""
        assert tail.pieces is not None
        assert self._spool is not None
        content = b"".join(tail.pieces)
        tail.pieces = [content]
        item = self._spool.item(REPLIES, self._account)
        try:
            item.append(content)
            failed = False
        except (NoRoom, OSError):
            failed = True
        except BaseException:
            item.close()
            raise
        if failed or tail is not self._tail:
            # A reply that was taken meanwhile was in memory still.
            item.close()
            return not (failed and tail is self._tail)
        self._tail = tail.pieces = None
        tail.item = item
        self._release(tail.size)
        return True
