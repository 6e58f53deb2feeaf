"""Starts the parts of a server together, waits, and stops them in good order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.event import Event

from ..net.listeners import Listener, Listeners
from ..processes.control import WORKER
from ..processes.lifecycle import Lifecycle
from ..processes.signals import handle_signals
from .lifetime import Lifetime
from .tempdir import temporary_directory_problem

if TYPE_CHECKING:
    from .assembly import Assembly

logger = logging.getLogger("daphne.server")

#: Seconds for connections that are cut short to release what they hold.
_KILL_PATIENCE = 5.0


class Runner:
    """The life of a server, in greenlets of the hub of the thread that starts it.

    :param parts: what it consists of.
    :param lifecycle: what hears of the stages of :meth:`serve_forever`.
    :param reopen_logs: called by :meth:`reopen`.
    """

    def __init__(
        self,
        parts: Assembly,
        lifecycle: Sequence[Lifecycle],
        reopen_logs: Callable[[], None] | None = None,
    ) -> None:
        self._parts = parts
        self._endpoints = parts.endpoints
        self._application = parts.application
        self._connections = parts.connections
        self._monitor = parts.monitor
        #: What obtains certificates from an authority, ``None`` where no endpoint asks for it.
        self.certificates = parts.certificates
        self._reopen_logs = reopen_logs
        self._lifecycle = lifecycle
        #: The time limits that hold, with the lifetime of WebSockets that the channel layer suggests.
        self.timeouts = parts.timeouts
        # Of the workers of one master the first speaks for all of what they share.
        self._speaks = os.environ.get(WORKER, "0") == "0"
        self._listeners = Listeners(watch_certificates=self._speaks)
        self._stop: Event | None = None
        self._life: Lifetime | None = None
        # Whether start() is at work, and whether stop() was called until then.
        self._starting = False
        self._stopped_early = False
        # Whether what still runs is cut short instead of being waited for.
        self._at_once = False
        # Whether the graceful time was over before all requests were answered.
        self._cut_short = False
        # Whether connections that wait at sockets of others are accepted in the end.
        self._take_waiting = False
        # Whether other processes serve the same site while this one ends.
        self._succeeded = False
        # When the graceful time is over, on the monotonic clock.
        self._deadline = 0.0
        # Whether it ends for a reason of its own.
        self._failed = False
        self._hub: Any = None

    def start(self) -> None:
        """Listen and begin to serve, in greenlets of this thread's hub; returns at once.  Once it has ended it may be started again.

        :raises EndpointError: where an endpoint cannot be listened on; nothing is left open then.
        :raises ConfigurationError: where the application cannot serve.
        :raises RuntimeError: where it serves already.
        """
        if self._life is not None and not self._life.ended:
            raise RuntimeError("the server has been started already")
        self._hub = get_hub()
        self._stop = Event()
        self._starting = True
        if self._life is not None:
            # It was for an earlier life.
            self._stopped_early = False
        self._at_once = self._cut_short = self._failed = False
        self._deadline = monotonic() + self.timeouts.graceful
        if self._parts.http2_cleartext or any(each.tls is not None and "h2" in each.tls.options.alpn for each in self._endpoints):
            logger.info("HTTP/2 support enabled")
        else:
            logger.info("HTTP/2 support not enabled (no endpoint has TLS, and --http2-cleartext is not given)")
        if self._speaks and (problem := temporary_directory_problem()) is not None:
            logger.warning("%s", problem)
        try:
            self._listeners.open(self._endpoints)
            if self._monitor is not None:
                self._monitor.start()
            self._application.start()
            self._parts.overload.start()
            self._parts.sessions.start()
            self._connections.start()
            self._listeners.accept(self._connections)
            if self.certificates is not None:
                self.certificates.start()
        except BaseException:
            self._starting = False
            self._end()
            raise
        self._life = Lifetime(self._live)
        self._starting = False
        if self._stopped_early:
            self._stop.set()

    def serve_forever(self, *, signal_handlers: bool = False) -> None:
        """Wait for the end.

        :param signal_handlers: whether signals mean what they do in :meth:`run`; only in the main thread.
        """
        if self._life is None:
            raise RuntimeError("start() comes first")
        handling = signal_handlers and threading.current_thread() is threading.main_thread()
        with handle_signals(self._signals()) if handling else nullcontext():
            try:
                for each in self._lifecycle:
                    each.started(self)
                self._life.get()
            finally:
                self._abandon()
                for each in self._lifecycle:
                    each.stopped()

    def _signals(self) -> dict[signal.Signals, Callable[[], object]]:
        return {
            signal.SIGTERM: self._on_signal,
            signal.SIGINT: self._on_signal,
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: self.reopen,
        }

    def _live(self) -> None:
        """Wait for the time to stop, then end in good order."""
        assert self._stop is not None
        try:
            self._stop.wait()
            for each in self._lifecycle:
                each.stopping(self._failed)
            self._drain()
        finally:
            self._end()

    def _abandon(self) -> None:
        """End what is left at once; nothing is after an orderly end."""
        if self._life is not None and not self._life.ended:
            self._life.kill(self._end)

    def _on_signal(self) -> None:
        assert self._stop is not None
        if self._stop.is_set():
            self.end_now()
        else:
            logger.info("Stopping; %d connections have %g seconds to finish", self.connections, self.timeouts.graceful)
            self._stop.set()

    def end_now(self) -> None:
        """Cut short what is left of a drain (the second signal); called in the server's thread."""
        logger.info("Stopping at once")
        self._at_once = True
        self._connections.pool.kill(block=False)
        self._application.end_now()

    def _give_up(self) -> None:
        assert self._stop is not None
        if not self._stop.is_set():
            logger.error("Messages and groups of the channel layer may be lost; the server ends, as it was told to for this case")
            self._failed = True
            self._stop.set()

    @property
    def listeners(self) -> list[Listener]:
        """What is listened on, in the order of the endpoints; Twisted's names for it work."""
        return self._listeners.opened

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def reopen(self) -> None:
        """Open the log files anew (SIGUSR1), after they were renamed; nothing happens where whoever made the server has none."""
        if self._reopen_logs is not None:
            self._reopen_logs()

    def reload(self) -> None:
        """Read all certificates again (SIGHUP); connections stay, and what is broken is logged and left as it was."""
        for each in self._lifecycle:
            each.reloading()
        logger.info("Reloading certificates")
        for endpoint in self._endpoints:
            if endpoint.tls is not None:
                endpoint.tls.reload()
        for each in self._lifecycle:
            each.reloaded()

    def stop(self, *, take_waiting: bool = False, succeeded: bool = False) -> None:
        """Begin to end in good order, as soon as it starts where it never did; from any thread, and as often as one likes.

        :param take_waiting: accept also what has connected at sockets that other processes opened, since none of them will.
        :param succeeded: whether other processes serve the same site meanwhile, with workers of theirs.  The inline workers then take no
            further message from a layer that these processes share: what comes is theirs, also the requests of this server's clients.
        """
        self._take_waiting = take_waiting
        self._succeeded = succeeded
        if self._stop is None or self._starting:
            self._stopped_early = True
        # start() may have ended meanwhile, in another thread.
        if self._stop is not None and self._life is not None and not self._starting:
            self._life.call(self._stop_serving)

    def _stop_serving(self) -> None:
        """Begin to end, or take note that the processes that were to serve on end as well."""
        assert self._stop is not None
        if self._stop.is_set() and not self._succeeded:
            self._application.drain()
        self._stop.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; from any thread.  Returns whether it has within ``timeout`` seconds, which are unlimited by default."""
        return self._life is None or self._life.join(timeout)

    def _drain(self) -> None:
        """Stop accepting and let what is in flight finish, within the graceful time limit."""
        self._deadline = monotonic() + self.timeouts.graceful
        self._application.drain(succeeded=self._succeeded)
        if self.certificates is not None:
            self.certificates.drain()
        if self._monitor is not None:
            self._monitor.drain()
        self._listeners.take_waiting(shared=self._take_waiting)
        self._listeners.close()
        self._parts.sessions.drain()
        self._connections.drain()
        if not self._connections.pool.join(timeout=self.timeouts.graceful) and not self._at_once:
            logger.warning("Requests in flight are cut short after %g seconds", self.timeouts.graceful)
            self._cut_short = True

    def _end(self) -> None:
        if self.certificates is not None:
            self.certificates.stop()
        self._listeners.close()
        self._connections.kill(_KILL_PATIENCE)
        if self.connections:
            logger.warning("%d connections did not end", self.connections)
        patience = 0 if self._cut_short else max(self._deadline - monotonic(), 0)
        self._application.stop(patience, at_once=self._at_once)
        self._parts.exchange.troubles.close()
        self._parts.overload.stop()
        if self._monitor is not None:
            self._monitor.stop(at_once=self._at_once or self._cut_short)
