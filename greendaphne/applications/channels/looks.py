"""Ends waits that have lasted for a while, with one timer for all of them instead of one each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub

from ...core.turns import events


class Looks:
    """Calls functions after about ``seconds``, unless they are taken back: at least half of that, and at most all of it.

    Most waits end long before.  So nothing is computed for one: it is entered in a dict and leaves it, and the timer moves on what is
    left twice within ``seconds``.  Used by one hub.

    :param seconds: see above.
    """

    __slots__ = ("_due", "_elder", "_pause", "_running", "_timer", "_younger", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pause = seconds / 2
        # The functions by what they were entered with: those of the time since the timer's last call, and those before.
        self._younger: dict[object, Callable[[], object]] = {}
        self._elder: dict[object, Callable[[], object]] = {}
        # Those whose time has come, and for which an iteration of the hub's loop had no time.
        self._due: dict[object, Callable[[], object]] = {}
        self._timer: Any = None
        self._running = False

    def enter(self, key: object, function: Callable[[], object]) -> None:
        """Have ``function`` called by the hub.  It must not wait and not raise."""
        self._younger[key] = function
        if not self._running:
            self._start()

    def leave(self, key: object) -> None:
        """Take :meth:`enter` back; nothing happens where the function was called already."""
        if self._younger.pop(key, None) is None and self._elder.pop(key, None) is None and self._due:
            self._due.pop(key, None)

    def _start(self) -> None:
        self._running = True
        self._timer = get_hub().loop.timer(self._pause, self._pause)
        self._timer.start(self._move_on)

    def _move_on(self) -> None:
        # Runs in the hub.
        due, self._elder = self._elder, self._younger
        self._younger = {}
        if not self._elder:
            self._timer.stop()
            self._timer.close()
            self._timer = None
            self._running = False
        if due:
            # The last first, since popitem() takes from the end.
            late = self._due
            self._due = dict(reversed(due.items()))
            self._due.update(late)
            if not late:
                self._call()

    def _call(self) -> None:
        """Call the functions that are due; some in the next iterations of the loop if there are thousands.  Runs in the hub."""
        limit = events()
        while due := self._due:
            due.popitem()[1]()
            limit.left -= 1
            if limit.left <= 0 and limit.late():
                if due:
                    limit.add(self._call)
                return
