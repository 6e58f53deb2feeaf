"""Starts the parts of a server together, waits, and stops them gracefully."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent.event import Event

from ..net.listeners import Listener, Listeners
from ..net.urls import url
from ..processes.control import WORKER
from ..processes.lifecycle import Lifecycle
from ..processes.signals import handle_signals, has_terminal, reap_orphans
from .lifetime import Lifetime
from .tempdir import temporary_directory_problem

if TYPE_CHECKING:
    from .assembly import Assembly

logger = logging.getLogger("daphne.server")

#: Seconds for connections that are cut off to release their resources.
_KILL_PATIENCE = 5.0


class Runner:
    """Starts and stops a server, in greenlets of the hub of the thread that starts it.

    :param parts: the parts of the server.
    :param lifecycle: receives the stages of :meth:`serve_forever`.
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
        #: All channel layers that the server serves, mounted ones included.
        self.channel_layers = parts.channel_layers
        #: Obtains certificates from an authority; ``None`` without an endpoint that requests them.
        self.certificates = parts.certificates
        self._reopen_logs = reopen_logs
        self._lifecycle = lifecycle
        #: The time limits in force, including the lifetime of WebSockets that the channel layer suggests.
        self.timeouts = parts.timeouts
        # Of the workers of one master, only the first logs about shared resources.
        self._is_first = os.environ.get(WORKER, "0") == "0"
        self._listeners = Listeners(watch_certificates=self._is_first)
        self._stop: Event | None = None
        self._life: Lifetime | None = None
        # Whether start() is running, and whether stop() was called before it finished.
        self._starting = False
        self._stopped_early = False
        # Whether the remaining requests are cut off instead of waited for.
        self._at_once = False
        # Whether the graceful time ended before all requests were answered.
        self._cut_short = False
        # Whether waiting connections at sockets that other processes opened are accepted at the end.
        self._take_waiting = False
        # Whether other processes serve the same site while this one ends.
        self._succeeded = False
        # The end of the graceful time, on the monotonic clock.
        self._deadline = 0.0
        # Whether the server ends because of a failure.
        self._failed = False
        #: Whether SIGHUP reloads although the process has a terminal, whose end the signal otherwise is.
        self.reload_in_terminal = False
        self._hub: Any = None

    def start(self) -> None:
        """Listen and start to serve, in greenlets of this thread's hub; returns at once.  May be called again after the server has ended.

        :raises EndpointError: where an endpoint cannot be listened on; all endpoints are closed then.
        :raises ConfigurationError: where the application cannot serve.
        :raises RuntimeError: while the server is running.
        """
        self._open()
        self._announce()

    def _open(self) -> None:
        """Start without a word in the log about where the server listens."""
        if self._life is not None and not self._life.ended:
            raise RuntimeError("the server has been started already")
        self._hub = get_hub()
        self._stop = Event()
        self._starting = True
        if self._life is not None:
            # A stop() requested before the previous run does not apply to this one.
            self._stopped_early = False
        self._at_once = self._cut_short = self._failed = False
        self._deadline = monotonic() + self.timeouts.graceful
        if self._parts.http2_cleartext or any(each.tls is not None and "h2" in each.tls.options.alpn for each in self._endpoints):
            logger.info("HTTP/2 support enabled")
        else:
            logger.info("HTTP/2 support not enabled (no endpoint has TLS, and --http2-cleartext is not given)")
        if self._is_first and (problem := temporary_directory_problem()) is not None:
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
        """Wait for the end of the server.

        :param signal_handlers: whether to handle signals as :meth:`run` does; only in the main thread.
        :raises RuntimeError: before :meth:`start`.
        """
        if self._life is None:
            raise RuntimeError("start() has to be called first")
        self._serve(signal_handlers=signal_handlers)

    def _announce(self) -> None:
        """Log the addresses."""
        if self._is_first:
            for listener in self._listeners.opened:
                logger.info("Serving at %s", url(listener.endpoint, listener.socket))

    def _serve(self, *, signal_handlers: bool, announce: bool = False) -> None:
        """Wait for the end of the server.

        :param announce: whether to log the addresses.  Only once signals are handled: who reads the line may send SIGTERM.
        """
        assert self._life is not None
        handling = signal_handlers and threading.current_thread() is threading.main_thread()
        with handle_signals(self._signals()) if handling else nullcontext():
            if handling:
                reap_orphans()
            try:
                if announce:
                    self._announce()
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
            signal.SIGQUIT: self._on_quit,
            signal.SIGHUP: self.reload if self.reload_in_terminal or not has_terminal() else self._on_signal,
            signal.SIGUSR1: self.reopen,
        }

    def _live(self) -> None:
        """Wait for the request to stop, then stop gracefully."""
        assert self._stop is not None
        try:
            self._stop.wait()
            for each in self._lifecycle:
                each.stopping(self._failed)
            self._drain()
        finally:
            self._end()

    def _abandon(self) -> None:
        """End the greenlet at once if it is still running; after a graceful end it is not."""
        if self._life is not None and not self._life.ended:
            self._life.kill(self._end)

    def _on_signal(self) -> None:
        assert self._stop is not None
        if self._stop.is_set():
            self.end_now()
        else:
            logger.info("Stopping; %d connections have %g seconds to finish", self.connections, self.timeouts.graceful)
            self._stop.set()

    def _on_quit(self) -> None:
        assert self._stop is not None
        self._stop.set()
        self.end_now()

    def end_now(self) -> None:
        """Cut off the rest of a drain (the second signal); called in the server's thread."""
        logger.info("Stopping at once")
        self._at_once = True
        self._connections.pool.kill(block=False)
        self._application.end_now()

    def _give_up(self) -> None:
        assert self._stop is not None
        if not self._stop.is_set():
            logger.error("Messages and groups of the channel layer may be lost; the server ends, as configured for this case")
            self._failed = True
            self._stop.set()

    @property
    def listeners(self) -> list[Listener]:
        """The listeners, in the order of the endpoints, with Twisted's attribute names."""
        return self._listeners.opened

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def reopen(self) -> None:
        """Reopen the log files after they were renamed (SIGUSR1); does nothing without ``reopen_logs``."""
        if self._reopen_logs is not None:
            self._reopen_logs()

    def show_failure(self, text: str) -> None:
        """Show browsers the traceback ``text``: changed code does not load (``--reload``).  Other requests are answered as before."""
        if self._parts.failure_notice is not None:
            self._parts.failure_notice.text = text

    def reload(self) -> None:
        """Read all certificates again (SIGHUP); connections stay.  A broken file is logged, and its previous content stays in service."""
        for each in self._lifecycle:
            each.reloading()
        logger.info("Reloading certificates")
        for endpoint in self._endpoints:
            if endpoint.tls is not None:
                endpoint.tls.reload()
        for each in self._lifecycle:
            each.reloaded()

    def stop(self, *, take_waiting: bool = False, succeeded: bool = False) -> None:
        """Start to stop gracefully; from any thread, idempotent.  Called before the start, it stops the server right after it.

        :param take_waiting: also accept waiting connections at sockets that other processes opened, because none of these will.
        :param succeeded: whether other processes with their own workers serve the same site meanwhile.  The inline workers then take no
            further messages from a shared layer and leave them to those processes, including the requests of this server's clients.
        """
        self._take_waiting = take_waiting
        self._succeeded = succeeded
        if self._stop is None or self._starting:
            self._stopped_early = True
        # start() may have finished meanwhile, in another thread.
        if self._stop is not None and self._life is not None and not self._starting:
            self._life.call(partial(self._stop_serving, self._stop))

    def _stop_serving(self, stop: Event) -> None:
        """Start to stop; when already stopping, note that the succeeding processes stop as well.

        :param stop: the event of the run that was to end; the server may have been started again since.
        """
        if stop.is_set() and stop is self._stop and not self._succeeded:
            self._application.drain()
        stop.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the server has ended; from any thread.  Returns whether it has within ``timeout`` seconds (``None``: no limit)."""
        return self._life is None or self._life.join(timeout)

    def _drain(self) -> None:
        """Stop accepting, and let requests in flight finish within the graceful time."""
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
        self._parts.exchange.failure_log.close()
        self._parts.overload.stop()
        if self._monitor is not None:
            self._monitor.stop(at_once=self._at_once or self._cut_short)
