"""Waits for a client that takes nothing of what a stream has queued for it, and gives the stream up after the send timeout.

A peer that opens its window by a few bytes at a time makes no progress worth the name (CVE-2019-9511, CVE-2019-9517).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gevent import get_hub
from gevent.event import Event

from ..config import Timeouts
from ..core.message import ClientTooSlow


class QueuingStream(Protocol):
    """The stream as its waits see it; :class:`~greendaphne.http2.stream.Http2Stream` is one."""

    #: Body bytes queued, and whether END_STREAM follows them.
    queued: int
    ending: bool
    #: Body bytes that have left the queue.
    taken: int

    @property
    def waits_for_window(self) -> bool:
        """Whether what is queued waits for the peer to open a window, not for its turn."""

    def give_up(self) -> None:
        """Reset the stream, because the client takes too little of the response."""


class Progress:
    """The waits of one stream's application for room; made with the first."""

    __slots__ = ("_event", "_timeouts", "_timer", "room")

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._event: Event | None = None
        # What gives up a client that takes nothing of what offer() queued, without a greenlet that waits.
        self._timer: Any = None
        #: Called once when there is room for ``offer()``.
        self.room: Callable[[], None] | None = None

    def wait(self, stream: QueuingStream) -> None:
        """Wait until the client has taken something.

        :raises ClientTooSlow: after the send timeout; the stream is reset then.
        """
        event = self._event
        if event is None:
            event = self._event = Event()
        event.clear()
        taken = stream.taken
        if not event.wait(self._timeouts.send) and self._stuck(stream, taken):
            stream.give_up()
            raise ClientTooSlow

    def _stuck(self, stream: QueuingStream, taken: int) -> bool:
        # Where it is not the window, others have been more urgent; the writer notices a connection that does not move.
        timeouts = self._timeouts
        return stream.taken - taken < timeouts.send * timeouts.body_rate and stream.waits_for_window

    def watch(self, stream: QueuingStream) -> None:
        """The same for what ``offer()`` has queued, which waits for nothing: look after the send timeout."""
        if self._timer is None:
            self._timer = get_hub().loop.timer(self._timeouts.send)
            self._timer.start(self._look, stream, stream.taken)

    def _look(self, stream: QueuingStream, taken: int) -> None:
        # Runs in the hub.
        self._stop()
        if stream.queued or stream.ending:
            if self._stuck(stream, taken):
                stream.give_up()
            else:
                self.watch(stream)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def taken(self, stream: QueuingStream, limit: int) -> None:
        """The client has taken something; ``limit`` bytes at most should be queued for there to be room."""
        if stream.queued > limit:
            return
        if self.room is not None and not stream.ending:
            self._call()
        if self._event is not None and not (stream.queued and stream.ending):
            self._event.set()

    def end(self) -> None:
        """The stream is lost: whatever waits looks again."""
        if self._event is not None:
            self._event.set()
        self._stop()
        self._call()

    def _call(self) -> None:
        room, self.room = self.room, None
        if room is not None:
            room()
