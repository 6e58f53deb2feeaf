"""Keeps the parts of an application running: a part that ends by itself is restarted, and health checks learn of it.

A *part* is a greenlet that all clients depend on, such as the reply router.  It has no reason to end before it is stopped.  Where it
does, by an exception, a return or a kill, :class:`Supervisor` logs it, counts it and starts it again after a pause that doubles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import gevent
from gevent import get_hub

logger = logging.getLogger("daphne.server")

#: Seconds before a part is started again: the first, and the most it doubles to.
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 10.0
#: Seconds that a restarted part has to run before it counts as up.
SETTLED: Final = 1.0
#: A part that ran for this number of seconds was well; its next end counts as the first.
WELL_AFTER: Final = 60.0


class Part:
    """One part; made by :meth:`Supervisor.start`."""

    def __init__(self, supervisor: Supervisor, name: str, run: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._name = name
        self._run = run
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._stopping = False
        # Whether the end of this life has been logged.
        self._said = False
        # The greenlet, or the timer that starts the next one or settles this one.
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._timer: Any = None
        #: Whether it runs, as far as is known.
        self.up = True
        self._start()

    @property
    def greenlet(self) -> gevent.Greenlet[..., None] | None:
        """The greenlet of the part's present life; ``None`` between two lives."""
        return self._greenlet

    def stop(self, timeout: float | None = None) -> None:
        """End the part, which is given ``timeout`` seconds to end by itself where that is not ``None``."""
        self._stopping = True
        self._clear_timer()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            if timeout is not None:
                greenlet.join(timeout)
            greenlet.kill()

    def _start(self) -> None:
        self._clear_timer()
        self._started = monotonic()
        self._said = False
        greenlet = gevent.Greenlet(self._live)
        self._greenlet = greenlet
        # However it ends, also where it is killed before its first turn.
        greenlet.rawlink(self._ended)
        greenlet.start()
        if not self.up:
            self._after(SETTLED, self._settle)

    def _live(self) -> None:
        try:
            self._run()
        except Exception:
            if self._stopping:
                return
            # Said here, since logging may wait and the hub, which calls _ended, must not.
            self._said = True
            logger.exception("The %s failed; it starts again in %g s", self._name, self._next_pause())

    def _next_pause(self) -> float:
        return FIRST_PAUSE if monotonic() - self._started >= WELL_AFTER else self._pause

    def _ended(self, greenlet: gevent.Greenlet[..., None]) -> None:
        """Called by the hub once the greenlet has ended."""
        if self._stopping or greenlet is not self._greenlet:
            return
        self._greenlet = None
        pause = self._next_pause()
        self._pause = min(pause * 2, LAST_PAUSE)
        self.up = False
        self._supervisor.failed(self._name)
        if not self._said:
            gevent.spawn(logger.error, "The %s was ended; it starts again in %g s", self._name, pause)
        self._after(pause, self._start)

    def _settle(self) -> None:
        self._clear_timer()
        self.up = True
        gevent.spawn(logger.warning, "The %s runs again", self._name)

    def _after(self, seconds: float, function: Callable[[], None]) -> None:
        self._clear_timer()
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(function)

    def _clear_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()


class Supervisor:
    """The parts of one application; used by one hub."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        #: How many times each part ended or failed by itself.
        self.restarts: dict[str, int] = {"layer watch": 0, "WebSocket writers": 0}

    def start(self, name: str, run: Callable[[], None]) -> Part:
        """Have ``run`` called in a greenlet, and again whenever it ends, until the part is stopped.

        :param name: for the log and for health checks.
        """
        self.restarts.setdefault(name, 0)
        part = self._parts[name] = Part(self, name, run)
        return part

    def failed(self, name: str) -> None:
        """Count a failure of a part that has no greenlet of its own and goes on."""
        self.restarts[name] = self.restarts.get(name, 0) + 1

    def down(self) -> list[str]:
        """The names of the parts that do not run."""
        return [name for name, part in self._parts.items() if not part.up]
