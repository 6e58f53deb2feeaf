"""Detects a blocked hub, and logs the code that blocks it.

In a process with gevent all code runs in turn in one thread, so code that computes for seconds, or waits without gevent, delays
every client.  :class:`Watchdog` has a native thread (also in a patched process) that asks the hub for an answer twice per threshold.  When
no answer comes, it logs, once for each blockage, the stack of the hub's thread, and the duration when the blockage ends.

gevent has its own monitoring thread (``GEVENT_MONITOR_THREAD_ENABLE``).  It needs a trace function that every switch between greenlets
calls (0.4 µs, several times per request), reports a blockage again at each check but not its end, and lists every greenlet of the
process each time.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable
from time import monotonic, process_time
from typing import Any, Final

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

from .families import Family, counter

logger = logging.getLogger("greendaphne.watchdog")

#: Checks per threshold.
_LOOKS: Final = 2
#: The number of innermost frames of the stack that are logged.
_FRAMES: Final = 60
#: The share of processor time below which a late process counts as not running.  A process that computes gets more, even on a shared
#: machine.
_RUNNING: Final = 0.1
#: Seconds to wait for the thread's end.
_PATIENCE: Final = 2.0

_allocate_lock: Any = get_original("_thread", "allocate_lock")
_get_ident: Any = get_original("_thread", "get_ident")
_start_new_thread: Any = get_original("_thread", "start_new_thread")


class Watchdog:
    """Watches the hub of the thread that calls :meth:`start`.

    :param threshold: seconds without an answer that count as a blockage.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        #: The number of blockages, their total duration, and the number of times that the whole process did not run.
        self.blockages = 0
        self.blocked_seconds = 0.0
        self.stalls = 0
        self._loop: Any = None
        self._async: Any = None
        self._thread = 0
        # Locks: _stop is held until the thread has to end, _ended until it has ended.
        self._stop: Any = None
        self._ended: Any = None
        # The numbers of the last question and of the last answer, and the time of the answer; the hub's thread writes the latter two.
        self._asked = self._answered = 0
        self._answered_at = 0.0
        # The difference between the monotonic clock and the loop's clock.
        self._offset = 0.0

    def start(self) -> None:
        """Start to watch."""
        if self._stop is not None:
            return
        self._loop = get_hub().loop
        self._thread = _get_ident()
        # Without a reference, so that it does not keep an otherwise idle loop running.
        self._async = self._loop.async_(ref=False)
        self._async.start(self._answer)
        self._answered = self._asked
        self._stop, self._ended = _allocate_lock(), _allocate_lock()
        self._stop.acquire()
        self._ended.acquire()
        _start_new_thread(self._run, (self._stop, self._ended))

    def stop(self) -> None:
        """Stop; call it in the thread that called :meth:`start`."""
        stop, self._stop = self._stop, None
        if stop is None:
            return
        stop.release()
        # The thread waits only for that lock, so it ends quickly.
        self._ended.acquire(True, _PATIENCE)
        self._async.stop()
        self._async.close()
        self._async = self._loop = None

    def families(self) -> Iterable[Family]:
        """The metrics of the watchdog."""
        return (
            counter("greendaphne_hub_blockages", "Times that the hub was blocked for longer than --watchdog.", self.blockages),
            counter("greendaphne_hub_blocked_seconds", "Seconds that these blockages took.", self.blocked_seconds),
            counter("greendaphne_process_stalls", "Times that the whole process did not run for longer than that.", self.stalls),
        )

    def _answer(self) -> None:
        # Runs in the hub.  Updating its clock makes the offset exact, even after a change of the system's time.
        self._loop.update_now()
        self._answered_at = now = monotonic()
        self._offset = now - self._loop.now()
        self._answered = self._asked

    # ---- the thread

    def _run(self, stop: Any, ended: Any) -> None:
        try:
            self._watch(stop)
        except Exception:
            logger.exception("The watchdog failed; the hub is no longer watched")
        finally:
            hub = get_hub_if_exists()
            if hub is not None:
                # Logging created a hub in this thread when it waited for a lock.
                hub.destroy(destroy_loop=True)
            ended.release()

    def _watch(self, stop: Any) -> None:
        period = self._threshold / _LOOKS
        while True:
            before = self._answered_at
            cpu = process_time()
            asked = self._asked + 1
            self._asked = asked
            asked_at = monotonic()
            self._async.send()
            if stop.acquire(True, period):
                return
            late = monotonic() - asked_at - period
            if late >= self._threshold:
                self._report_late(late, process_time() - cpu)
            elif self._answered != asked and self._is_blocked(stop, asked, asked_at, before):
                return

    def _report_late(self, seconds: float, cpu: float) -> None:
        """Report that this thread did not run for ``seconds``, in which the process used ``cpu`` seconds of processor time."""
        if cpu < seconds * _RUNNING:
            # No thread ran, so a stack shows nothing.
            self.stalls += 1
            logger.warning("The process did not run for %.1f seconds: it was stopped, or the machine had no time for it", seconds)
        else:
            # C code can hold the interpreter lock for its whole run.  The thread that held it is probably still near that code.
            self._count(seconds)
            logger.warning("The hub was blocked for %.1f seconds, by code that stopped all threads; it is at\n%s", seconds, self._stack())

    def _is_blocked(self, stop: Any, asked: int, asked_at: float, before: float) -> bool:
        """Wait for the answer to question ``asked``, and report a blockage; returns whether this thread has to end.

        :param before: the time of the hub's previous answer.
        """
        threshold = self._threshold
        # The loop's clock is set when it returns from polling, which is when the blockage began.  A timer may set it in between.
        since = min(max(self._loop.now() + self._offset, before), asked_at)
        while self._answered != asked and (left := since + threshold - monotonic()) > 0:
            if stop.acquire(True, left):
                return True
        if self._answered == asked:
            if self._answered_at - since >= threshold:
                self._count(self._answered_at - since)
                logger.warning("The hub was blocked for %.1f seconds", self._answered_at - since)
            return False
        stack = self._stack()
        self.blockages += 1
        logger.warning("The hub has been blocked for %.1f seconds, nothing else is served; it is at\n%s", monotonic() - since, stack)
        counted = since
        while True:
            done = self._answered == asked
            now = self._answered_at if done else monotonic()
            self.blocked_seconds += now - counted
            counted = now
            if done:
                logger.warning("The hub is no longer blocked, after %.1f seconds", now - since)
                return False
            if stop.acquire(True, threshold / _LOOKS):
                return True

    def _stack(self) -> str:
        """The stack of the hub's thread, with its current asyncio task."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        stack = "".join(traceback.format_stack(frame, _FRAMES)).rstrip()
        # Not imported, because an import in this thread could wait for the blocked thread.
        names: Any = sys.modules.get("greendaphne.aio.task_names")
        task = None if names is None else names.running_task(self._thread)
        return stack if task is None else f"{stack}\nin the asyncio task {task}"

    def _count(self, seconds: float) -> None:
        self.blockages += 1
        self.blocked_seconds += seconds
