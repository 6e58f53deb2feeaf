"""One reader's exchange with Redis on a link of its own, which loses no message wherever an exception ends it."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable

from .. import LayerUnavailable
from ..wake import Wake
from .calls import Call
from .connection import Link, LinkError
from .hubs import sleep, wait_readable
from .reliable import ACKNOWLEDGEMENTS
from .resp import ErrorReply, Reply
from .scripts import RETURN, pack
from .shard import FATAL_CODES
from .taking import Body, Source, bodies_of, keep, observe, packed_watch, put_back, take_call, text_of

logger = logging.getLogger("greendaphne.layers.redis")

#: Seconds of one wait on one of several shards of a Redis that cannot end waits (before version 5).
WAIT_IN_TURN = 1
#: The first versions that can wait on a list without taking, wait for fractions of a second, and end another connection's wait.
WATCH_VERSION = (6, 2)
FRACTION_VERSION = (6,)
UNBLOCK_VERSION = (5,)

#: How often, and after how many seconds each, the end of a wait is asked for that Redis may not know of yet.
UNBLOCK_ATTEMPTS = 20
UNBLOCK_PAUSE = 0.005

#: The replies that an exchange expects: of ``BLMOVE``, of ``BLPOP``, of a script that takes, of an acknowledgement.
_MOVED, _POPPED, _TAKEN, _ACKNOWLEDGED = range(4)
_BLOCKING = (_MOVED, _POPPED)
_SIGNALS = signal.valid_signals()


def _seconds(link: Link, timeout: float) -> float:
    """``timeout`` as the server takes it; 0 would mean for ever."""
    if link.identity.version >= FRACTION_VERSION:
        # As round() would, which takes ten times as long.
        return max(0.01, int(timeout * 1000 + 0.5) / 1000)
    return max(1, math.ceil(timeout))


def can_unblock(link: Link) -> bool:
    """Whether a wait on ``link`` can be ended over another connection."""
    return link.identity.version >= UNBLOCK_VERSION and link.identity.client_id != 0


class Exchange:
    """What one reader asks on a link of its own, and the replies still to come.

    Every step is kept here before the next one begins, so that another greenlet can finish an exchange that an exception ended.
    """

    __slots__ = ("_expected", "_lost", "_mask", "_popped", "_reply", "_seconds", "link", "source")

    def __init__(self, source: Source) -> None:
        """:raises LayerUnavailable: when no link comes about."""
        self.source = source
        self.link: Link | None = source.lane.readers.take()
        self._expected: list[int] = []
        # Seconds that a blocking command lasts.
        self._seconds: float = 0
        # What BLPOP answered with, as long as it was not taken.
        self._popped: list[Reply] | None = None
        # The messages that were taken, until they are returned.
        self._reply: Reply = None
        # The signals that were masked before this exchange masked all.
        self._mask: set[int] | None = None
        # The call that takes for good, as long as its reply has not come.
        self._lost: Call | None = None

    def complete(self, steps: Callable[[], list[Body]]) -> list[Body]:
        """Return what ``steps`` of this exchange return, and give the link back; what they leave behind is put back.

        :raises LayerUnavailable: when the shard does not answer or refuses.
        """
        try:
            found = steps()
            # A signal handler that waited for this may raise.
            self._unmask()
        except LayerUnavailable:
            try:
                self.close(False)
                self._recover()
            finally:
                self._unmask()
            raise
        except BaseException:
            try:
                self.rescue()
            finally:
                self._unmask()
            raise
        self.finish()
        return found

    def finish(self) -> None:
        """Hand over what was taken to the calling greenlet, and give the link back."""
        keep(self.source, self._reply)
        self._reply = None
        self.close(True)

    def wait(self, limit: int, timeout: float, shared: bool, busy: bool, wake: Wake | None) -> list[Body]:
        """Wait for messages and take them."""
        link = self.link
        assert link is not None
        lane, lists, _ = self.source
        shard = lane.shard
        if wake is not None and not can_unblock(link):
            timeout = min(timeout, WAIT_IN_TURN)
        if busy and shared:
            found = self.take(limit)
            if found:
                return found
        if len(lists) == 1 and not shared and shard.can_watch and link.identity.version >= WATCH_VERSION:
            self._seconds = seconds = _seconds(link, timeout)
            marker, new_marker = (shard.marker, shard.new_marker) if shard.watched else ("", "")
            self._send(packed_watch(lists[0], seconds, limit, marker, new_marker), [_MOVED, _TAKEN])
            woken = self._blocked(wake)
            self._reply = reply = self._read()
            if isinstance(reply, ErrorReply):
                if reply.code != "NOSCRIPT":
                    raise shard.refused(reply)
                found = self.take(limit)
            else:
                found = self._found()
            if found or not isinstance(woken, ErrorReply):
                return found
            # Out of memory it is refused, since it might store something; BLPOP is not.
            if woken.code in FATAL_CODES:
                raise shard.refused(woken)
            if woken.code == "WRONGTYPE":
                # The key came between the wait and the look; the next look deletes it.
                return found
            if woken.code != "OOM":
                shard.cannot_watch(woken)
        self.begin(timeout)
        return self.fetch(limit, self._blocked(wake))

    def begin(self, timeout: float) -> None:
        """Wait with ``BLPOP``, of which :meth:`fetch` takes the answer."""
        assert self.link is not None
        self._seconds = _seconds(self.link, timeout)
        data = pack("BLPOP", *self.source.lists, self._seconds)
        taker = self.source.taker
        keys = taker.take_done() if taker is not None else []
        if taker is None or not keys:
            self._send(data, [_POPPED])
            return
        try:
            self._send(taker.acknowledgement(keys) + data, [*([_ACKNOWLEDGED] * ACKNOWLEDGEMENTS), _POPPED])
            for _ in range(ACKNOWLEDGEMENTS):
                self._read()
        except BaseException:
            taker.done.extend(keys)
            raise

    def fetch(self, limit: int, popped: Reply) -> list[Body]:
        """The message that ``BLPOP`` answered with, and others."""
        if isinstance(popped, ErrorReply):
            if popped.code == "WRONGTYPE":
                # One of the keys is no list; the look deletes it.
                return self.take(limit)
            raise self.source.lane.shard.refused(popped)
        if not isinstance(popped, list):
            return []
        self._popped = popped
        name, key = popped
        assert isinstance(key, bytes)
        return self.take(limit, key, self.source.lists.index(text_of(name)) + 1)

    def take(self, limit: int, popped: bytes = b"", position: int = 0, *, watch: bool = True) -> list[Body]:
        """Take what is there, the ``popped`` message first."""
        lane, _, taker = self.source
        call = take_call(self.source, limit, popped, position, watch=watch)
        if taker is not None:
            self._lost = call
        assert self.link is not None
        self._send(call.data, [_TAKEN] + [_ACKNOWLEDGED] * (call.replies - 1))
        self._hold_signals()
        reply = self._read()
        while self._expected:
            self._read()
        if isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT" and call.script is not None:
            self._send(call.script.load + call.data, [_ACKNOWLEDGED, _TAKEN] + [_ACKNOWLEDGED] * (call.replies - 1))
            self._read()
            reply = self._read()
            while self._expected:
                self._read()
        if isinstance(reply, ErrorReply):
            raise lane.shard.refused(reply)
        self._reply = reply
        return self._found()

    def _found(self) -> list[Body]:
        """The messages of the reply, which are the caller's from now on."""
        reply = self._reply
        assert self.link is not None
        observe(self.source.lane.shard, self.link.identity, reply)
        self._popped = self._lost = None
        return bodies_of(self.source, reply)

    def _send(self, data: bytes, expected: list[int]) -> None:
        assert self.link is not None
        held = self._mask is None and self._signals_interrupt
        try:
            if held:
                # An exception of a signal handler between the system call and the assignment would leave replies that are not expected.
                self._block_signals()
            self.link.send(data)
            self._expected = expected
        except LinkError as error:
            raise self.source.lane.shard.broken(error) from None
        finally:
            if held:
                self._unmask()

    def _read(self) -> Reply:
        assert self.link is not None
        timeout = self.source.lane.shard.timeout
        try:
            reply = self.link.read(timeout + self._seconds if self._expected[0] in _BLOCKING else timeout)
        except LinkError as error:
            raise self.source.lane.shard.broken(error) from None
        del self._expected[0]
        return reply

    def _blocked(self, wake: Wake | None) -> Reply:
        """The reply to the blocking command."""
        if wake is None:
            self._hold_signals()
            return self._read()
        attachment = wake.attach(self.source.lane.hub, self.end)
        try:
            self._hold_signals()
            return self._read()
        finally:
            wake.detach(attachment)

    def _hold_signals(self) -> None:
        """In the main thread of a process without a hub: wait for the reply, then hold signals until its message is the caller's.

        Python calls signal handlers there, between any two instructions, and what they raise would drop the bytes that were just read.
        Nothing is read while this waits.  With acknowledgements nothing can be lost by it.
        """
        if self._signals_interrupt:
            assert self.link is not None
            blocking = self._expected[0] in _BLOCKING
            wait_readable([self.link.fileno()], (self._seconds if blocking else 0) + self.source.lane.shard.timeout)
            self._block_signals()

    @property
    def _signals_interrupt(self) -> bool:
        """Whether an exception of a signal handler could lose a message here."""
        lane, _, taker = self.source
        return lane.hub is None and taker is None and threading.current_thread() is threading.main_thread()

    def _block_signals(self) -> None:
        # A second wait of the same exchange finds them blocked by the first.
        if self._mask is None:
            # Known before anything is blocked: a handler may raise out of the call that blocks.
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def _unmask(self) -> None:
        mask, self._mask = self._mask, None
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def answer(self, limit: int) -> list[Body]:
        """The message that a ``BLPOP`` among several brought; it is put back where ``limit`` leaves no room for it."""
        try:
            popped = self._read()
            if limit > 0:
                return self.fetch(limit, popped)
            if isinstance(popped, list):
                self._popped = popped
                self._recover()
            return []
        except LayerUnavailable:
            self.close(False)
            self._recover()
            return []

    def end(self) -> None:
        """Have Redis end the wait; for :class:`~greendaphne.layers.wake.Wake`, which calls it in the hub or in a thread of its own."""
        if self.source.lane.hub is None:
            self.unblock()
        else:
            from gevent import spawn

            spawn(self.unblock)

    def unblock(self) -> None:
        """Have Redis end the wait, over another connection; where that is refused, or Redis is gone, the wait ends by itself."""
        link = self.link
        for _ in range(UNBLOCK_ATTEMPTS):
            if link is None or link is not self.link or not self._expected or self._expected[0] not in _BLOCKING or not can_unblock(link):
                return
            try:
                [[ended]] = self.source.lane.run([Call(pack("CLIENT", "UNBLOCK", link.identity.client_id))])
            except LayerUnavailable:
                return
            if ended == 1:
                return
            # Redis answers this connection before it has read the command to wait.
            sleep(UNBLOCK_PAUSE)

    def close(self, usable: bool) -> None:
        """Give the link back; more than once does nothing."""
        link, self.link = self.link, None
        if link is not None:
            self.source.lane.readers.give(link, usable and not self._expected)

    def rescue(self) -> None:
        """Finish the exchange after an exception was thrown into it, and put back what it brings.

        In a hub another greenlet does it, and this one waits a while for it, so that a kill returns when nothing is on its way any more.
        """
        lane = self.source.lane
        if lane.hub is None:
            self._finish()
        else:
            from gevent import spawn

            spawn(self._finish).join(lane.shard.timeout)

    def _finish(self) -> None:
        try:
            if self.link is not None:
                self._read_rest()
        except LayerUnavailable:
            # Only the reply is lost with the link; the key that was popped is known.
            self._expected = []
            self.close(False)
        self._recover()
        self.close(True)

    def _read_rest(self) -> None:
        while self._expected:
            kind = self._expected[0]
            if kind in _BLOCKING:
                self.unblock()
            reply = self._read()
            if kind == _POPPED and isinstance(reply, list):
                self._popped = reply
            elif kind == _TAKEN and isinstance(reply, list):
                self._reply = reply
                self._popped = self._lost = None

    def _recover(self) -> None:
        """Put back what this exchange still has.

        A popped key may be put back whatever became of the script that was to take its message: a key without a message is passed over.
        """
        lane, _, taker = self.source
        popped, self._popped = self._popped, None
        reply, self._reply = self._reply, None
        lost, self._lost = self._lost, None
        try:
            if lost is not None and taker is not None:
                taker.lose(lost)
                taker.settle(lane)
            put_back(self.source, reply)
            if popped is not None:
                name, key = popped
                lane.run([Call(RETURN.call([text_of(name)], text_of(key), lane.shard.expiry), script=RETURN)])
        except LayerUnavailable as error:
            logger.error("Redis %s: a wait ended, and the message that it had could not be put back: %s", lane.shard.name, error)
