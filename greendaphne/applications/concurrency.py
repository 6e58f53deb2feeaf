"""Bounds on what happens inside an application: how many requests at a time, and how long each of them until its response begins.

:class:`Bounded` stands in front of an application of any interface that answers requests in greenlets.  A server without bounds does
without it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from gevent import Timeout, get_hub, getcurrent
from gevent.hub import Waiter

from ..core import causes
from ..core.message import HTTPError, Request, ResponseError, Stream
from .base import Application


class Slots:
    """At most ``number`` holders at a time; others wait in the order in which they came.

    :param number: of holders.
    """

    __slots__ = ("_free", "_waiting", "number", "refused")

    def __init__(self, number: int) -> None:
        self.number = number
        #: How often :meth:`acquire` has failed.
        self.refused = 0
        self._free = number
        self._waiting: deque[Waiter[bool]] = deque()

    @property
    def used(self) -> int:
        """How many are held."""
        return self.number - self._free

    @property
    def waiting(self) -> int:
        """How many greenlets wait for one."""
        return len(self._waiting)

    def acquire(self, seconds: float) -> bool:
        """Take a slot; false where none has become free within ``seconds``, negative for no limit."""
        if self._free > 0:
            self._free -= 1
            return True
        if seconds == 0:
            self.refused += 1
            return False
        waiter: Waiter[bool] = Waiter()
        self._waiting.append(waiter)
        timer = None
        if seconds > 0:
            timer = get_hub().loop.timer(seconds)
            timer.start(self._expire, waiter)
        got = False
        try:
            got = waiter.get()
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.ready() and waiter.value:
                # A slot was handed over and is not wanted any more.
                self.release()
            raise
        finally:
            if timer is not None:
                timer.stop()
                timer.close()
        if not got:
            self.refused += 1
        return got

    def release(self) -> None:
        """Give a slot back: the greenlet that has waited longest gets it."""
        if self._waiting:
            # It holds the slot from now on, so that none that comes in between overtakes it.
            get_hub().loop.run_callback(self._waiting.popleft().switch, True)
        else:
            self._free += 1

    def _expire(self, waiter: Waiter[bool]) -> None:
        # Runs in the hub.
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            waiter.switch(False)


class RequestTimeout(Timeout):
    """The application has not begun its response in time.

    A ``gevent.Timeout`` and as such not an :class:`Exception`: code that catches every exception must not keep the request.
    """


class Bounded(Application):
    """Passes requests on to ``inner`` within bounds; WebSockets, which live for long, are not counted.

    :param inner: the application.
    :param concurrency: requests inside the application at a time; 0 for no limit.
    :param queue: seconds that a request waits for its turn; it is answered with 503 then.  Negative for no limit.
    :param timeout: seconds from the call of the application to the begin of its response; the request is answered with 503 then.
        Code that does not give way to other greenlets is not interrupted.  0 for no limit.
    """

    def __init__(self, inner: Application, concurrency: int = 0, queue: float = -1, timeout: float = 0) -> None:
        self.inner = inner
        self._slots = Slots(concurrency) if concurrency else None
        self._queue = queue
        self._timeout = timeout
        self._timed_out = 0
        self.interface = inner.interface  # type: ignore[misc]
        # They are the inner application's own; nothing is to be done about them here.
        self.websocket = inner.websocket  # type: ignore[method-assign]
        self.check = inner.check  # type: ignore[method-assign]
        self.start = inner.start  # type: ignore[method-assign]
        self.drain = inner.drain  # type: ignore[method-assign]
        self.stop = inner.stop  # type: ignore[method-assign]
        self.health = inner.health  # type: ignore[method-assign]
        self.end_now = inner.end_now  # type: ignore[method-assign]

    def http(self, request: Request, stream: Stream) -> None:
        slots = self._slots
        if slots is None:
            self._timed(request, stream)
            return
        if not slots.acquire(self._queue):
            after = b"%d" % max(1, round(self._queue))
            raise HTTPError(503, "The application is busy with other requests.", [(b"Retry-After", after)], cause=causes.APP_BUSY)
        try:
            self._timed(request, stream)
        finally:
            slots.release()

    def _timed(self, request: Request, stream: Stream) -> None:
        if not self._timeout:
            self.inner.http(request, stream)
            return
        expired = RequestTimeout()
        timer = get_hub().loop.timer(self._timeout)
        timer.start(_expire, getcurrent(), stream, expired)
        try:
            self.inner.http(request, stream)
        except RequestTimeout as error:
            if error is not expired:
                raise
            self._timed_out += 1
            text = "The application did not answer in time."
            if stream.complete:
                return  # it has caught the exception and answered
            if stream.status:
                raise ResponseError(text, cause=causes.APP_TIMEOUT) from None
            raise HTTPError(503, text, [(b"Retry-After", b"10")], cause=causes.APP_TIMEOUT) from None
        finally:
            timer.stop()
            timer.close()

    def metric_families(self) -> Iterable[Any]:
        """The inner application's, and how its bounds are used."""
        from ..monitoring.families import Family, Sample

        yield from self.inner.metric_families()
        slots = self._slots
        if slots is not None:
            yield Family("greendaphne_application_requests", "gauge", "Requests inside the application.", [Sample("", {}, slots.used)])
            yield Family(
                "greendaphne_application_waiting", "gauge", "Requests that wait for --app-concurrency.", [Sample("", {}, slots.waiting)]
            )
            yield Family(
                "greendaphne_application_refused",
                "counter",
                "Requests answered with 503 after --app-queue.",
                [Sample("_total", {}, slots.refused)],
            )
        if self._timeout:
            yield Family(
                "greendaphne_application_timeouts",
                "counter",
                "Requests answered with 503 after --request-timeout.",
                [Sample("_total", {}, self._timed_out)],
            )


def _expire(greenlet: Any, stream: Stream, error: RequestTimeout) -> None:
    # Runs in the hub.
    if not stream.status and not greenlet.dead:
        greenlet.throw(error)


#: Database drivers that block every greenlet while they wait, and what helps.
_MYSQL: Final = "MySQLdb (mysqlclient) always blocks: PyMySQL waits cooperatively"
_PSYCOPG2: Final = "psycopg2 blocks without psycogreen: call psycogreen.gevent.patch_psycopg(), or use psycopg 3.1 or later"


def blocking_drivers() -> list[str]:
    """Imported database drivers that block the whole process while they wait, each with what helps."""
    found = []
    if "MySQLdb" in sys.modules or "_mysql" in sys.modules:
        found.append(_MYSQL)
    psycopg2 = sys.modules.get("psycopg2.extensions")
    if psycopg2 is not None and psycopg2.get_wait_callback() is None:
        found.append(_PSYCOPG2)
    return found
