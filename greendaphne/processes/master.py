"""The master of several workers (``--workers``).

The master opens the listening sockets, starts the workers and keeps their number.  It replaces a worker that ends, with growing pauses if
workers end soon after their start.  It replaces a worker that asks for it before that worker stops.  On SIGHUP it replaces all workers, two
at a time, each once a successor serves.  The master loads no application, no certificates and no gevent loop, because their faults must not
end it.

One loop waits for signals, for lines from the workers and for the next deadline.
"""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..net.endpoints import Endpoint, EndpointError, innermost
from . import control
from .child import Child, State, describe, working_directory
from .pauses import SOON, Pauses
from .signals import SIGNALLED
from .systemd import ServiceManager
from .watching import Watcher

logger = logging.getLogger("greendaphne.processes")

#: Seconds that a worker may take from its start until it serves, including the import of the application.
START_TIMEOUT: Final = 120.0
#: Seconds after the graceful time limit for a worker to close the remaining connections and end.
END_PATIENCE: Final = 20.0
#: Seconds for a worker to end after the order to end at once.
QUIT_PATIENCE: Final = 5.0
#: Successors that start at the same time in a reload.  A start is mostly computation, so more would only slow down those that serve.
SUCCESSORS: Final = 2
#: Fractions of the service manager's watchdog time: between two signs of life of a worker, and between two notifications of the manager.
_HEARTBEATS: Final = 4
#: Exit codes for a wrong configuration; another start would end in the same way.
_CONFIGURATION: Final = frozenset((1, 2))

_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class Master:
    """Runs ``number`` workers.

    :param command: executable and arguments of a worker.
    :param number: the number of workers; at least 1.
    :param endpoints: where to listen.
    :param graceful: seconds that a worker may take to drain.
    :param manager: the service manager, if it asks for notifications.
    :param reopen: reopens log files.
    :param announce: called with the endpoints and their sockets, and with the name of the application, once all workers serve for the first
        time.
    :param opened: called once all sockets are open, before the first worker starts.
    :param watcher: watches source files; workers are replaced when they change.
    """

    def __init__(
        self,
        command: Sequence[str],
        number: int,
        endpoints: Sequence[Endpoint],
        graceful: float,
        manager: ServiceManager | None = None,
        reopen: Callable[[], None] | None = None,
        announce: Callable[[Sequence[tuple[Endpoint, Any]], str], None] | None = None,
        opened: Callable[[], None] | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.number = number
        self._watcher = watcher
        # Whether any worker has loaded the application.
        self._loaded = False
        self._command = command
        self._endpoints = endpoints
        self._graceful = graceful
        self._manager = manager
        self._reopen = reopen
        self._announce = announce
        self._application = ""
        self._opened = opened
        self._watchdog = manager.watchdog if manager is not None else 0.0
        self._directory = working_directory()
        self._children: list[Child] = []
        self._sockets: list[tuple[Endpoint, Any]] = []
        self._environment: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._generation = 0
        # The generation for which the log has a line that it waits for stopping workers.
        self._waiting_for = 0
        # Whether a reload, or the start, is in progress.
        self._reloading = False
        self._announced = False
        # The number of serving workers in the last notification of the service manager.
        self._reported = 0
        self._stopping = False
        # Whether any worker has ever served.
        self._served = False
        self._pauses = Pauses()
        self._next_sign = 0.0
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serve until a signal stops the master; return the exit code.

        :raises EndpointError: if an endpoint cannot be listened on, or the directory that the workers share cannot be made.
        """
        awake, waker = socket.socketpair()
        for end in (awake, waker):
            end.setblocking(False)
        # The descriptor first, because a signal that only a handler sees is lost.
        old_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        old_handlers = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        self._selector.register(awake, selectors.EVENT_READ)
        run_directory = ""
        try:
            self._listen()
            if self._opened is not None:
                self._opened()
            run_directory = _make_directory()
            self._environment = {**os.environ, control.RUN_DIR: run_directory}
            if self._watcher is not None:
                self._watcher.start()
                self._selector.register(self._watcher, selectors.EVENT_READ, self._watcher)
            while self._exit_code is None:
                self._turn(awake)
        finally:
            self._close_sockets()
            for child in self._children:
                child.signal(signal.SIGKILL)
            self._selector.close()
            if self._watcher is not None:
                self._watcher.close()
            signal.set_wakeup_fd(old_waker)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
            awake.close()
            waker.close()
            if run_directory:
                shutil.rmtree(run_directory, ignore_errors=True)
        return self._exit_code

    def _listen(self) -> None:
        for endpoint in self._endpoints:
            # The workers do TLS: they read certificates, and read them again on a reload.
            inner = innermost(endpoint)
            sock = inner.bind()
            self._sockets.append((inner, sock))
            logger.info("Listening on endpoint %s", endpoint)
            if getattr(inner, "port", None) == 0:
                logger.info("Port 0 of endpoint %s is %s", endpoint, sock.getsockname()[1])

    def _close_sockets(self) -> None:
        for endpoint, sock in self._sockets:
            endpoint.close(sock)
        self._sockets.clear()

    def _turn(self, awake: socket.socket) -> None:
        """Do the tasks that are due, wait for the next event or deadline, and handle it."""
        self._reap()
        self._hurry()
        self._balance()
        if self._exit_code is not None:
            return
        self._report()
        for key, _ in self._selector.select(self._wait()):
            if key.data is self._watcher and self._watcher is not None:
                self._on_change(self._watcher.changed())
                continue
            if key.data is not None:
                self._hear(key.data)
                continue
            for number in awake.recv(4096):
                self._on_signal(number)

    # -- Signals

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGQUIT:
            self._stopping = True
            self._close_sockets()
            self._stop()
        elif number == signal.SIGUSR1:
            if self._reopen is not None:
                self._reopen()
            for child in self._children:
                if child.state is not State.STARTING:
                    child.say(control.REOPEN)
        elif self._stopping:
            return
        elif number == signal.SIGHUP:
            self._reload()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self.number = max(1, self.number + (1 if number == signal.SIGTTIN else -1))
            logger.info("The number of workers is now %d", self.number)

    def _stop(self) -> None:
        again, self._stopping = self._stopping, True
        if again:
            logger.info("Stopping at once")
        else:
            logger.info("Stopping %d workers, which have %g seconds to finish", len(self._children), self._graceful)
            if self._manager is not None:
                self._manager.stopping("Stopping")
            self._close_sockets()
        for child in self._children:
            if again:
                child.stop(control.QUIT, QUIT_PATIENCE)
            else:
                child.stop(control.STOP, self._graceful + END_PATIENCE)

    def _reload(self) -> None:
        logger.info("Replacing all workers, at most %d at a time", SUCCESSORS)
        self._generation += 1
        # The sender of the signal expects a start now, without the pause.
        self._pauses.end()
        self._reloading = True
        if self._manager is not None:
            self._manager.reloading()

    def _on_change(self, paths: Sequence[str]) -> None:
        """Replace the workers because source files have changed."""
        if paths and not self._stopping:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            logger.info("%s%s has changed", os.path.relpath(paths[0]), more)
            self._reload()

    # -- Workers

    def _in(self, state: State) -> list[Child]:
        return [child for child in self._children if child.state is state]

    def _is_outdated(self, child: Child) -> bool:
        return bool(child.tired) or child.generation < self._generation

    def _balance(self) -> None:
        """Start or stop workers until their number is right and no outdated worker serves."""
        if self._stopping and not self._children:
            self._exit_code = 0
        if self._stopping or self._exit_code is not None:
            return
        serving, starting = self._in(State.SERVING), self._in(State.STARTING)
        # The workers to stop first come first, the oldest of them at the front.
        serving.sort(key=lambda child: (not self._is_outdated(child), child.started))
        spare = max(0, len(serving) - self.number)
        for child in serving[:spare]:
            self._retire(child)
        # The next successor starts while these drain.
        del serving[:spare]
        missing = self.number - len(serving) - len(starting)
        if not self._served:
            # The first worker shows whether the configuration is valid; the others start after that.
            missing = min(missing, 1 - len(starting))
        if missing <= 0:
            missing = self._successors(serving, len(starting))
        if missing > 0 and time.monotonic() >= self._pauses.until:
            for _ in range(missing):
                self._start()

    def _successors(self, serving: Sequence[Child], starting: int) -> int:
        """How many workers are to start now in order to replace outdated ones, besides the number of those that are ``starting``."""
        outdated = sum(self._is_outdated(child) for child in serving)
        wanted = min(outdated, SUCCESSORS) - starting
        # At most as many workers drain as serve, because reloads in quick succession would otherwise accumulate draining workers.
        room = 2 * self.number - len(self._children)
        if wanted > 0 and room <= 0 and not starting and self._waiting_for != self._generation:
            self._waiting_for = self._generation
            logger.info("The next worker starts when one of those that stop has ended")
        return min(wanted, room)

    def _start(self) -> None:
        taken = {child.index for child in self._children}
        index = next(number for number in range(len(taken) + 1) if number not in taken)
        sockets = [(str(endpoint), sock.fileno()) for endpoint, (_, sock) in zip(self._endpoints, self._sockets, strict=True)]
        try:
            environment = self._environment
            if self._watcher is not None and not self._loaded:
                environment = {**environment, control.SHOW_FAILURE: "1"}
            child = Child(self._command, index, self._generation, environment, sockets, self._directory, self._watchdog / _HEARTBEATS)
        except OSError as error:
            logger.error("Cannot start worker %d: %s", index, error)
            self._pauses.add()
            self._give_up_reload()
            return
        child.deadline = child.started + START_TIMEOUT
        self._children.append(child)
        self._selector.register(child.socket, selectors.EVENT_READ, child)
        logger.info("%s starts", child)

    def _retire(self, child: Child) -> None:
        reason = f": {child.tired}" if child.tired else ""
        logger.info("%s stops%s", child, reason)
        child.stop(control.RETIRE, self._graceful + END_PATIENCE)

    def _hear(self, child: Child) -> None:
        try:
            lines = child.read()
        except EOFError:
            self._close(child)
            return
        for line in lines:
            child.heard = time.monotonic()
            word, _, rest = line.partition(b" ")
            if word in (control.READY, control.SHOWS_FAILURE) and child.state is State.STARTING:
                child.state, child.deadline = State.SERVING, None
                self._served = True
                self._loaded = self._loaded or word == control.READY
                self._application = rest.decode(errors="replace")
                logger.info("%s serves", child)
            elif word == control.RECYCLE and not child.tired:
                child.tired = rest.decode(errors="replace") or "no reason given"
                logger.info("%s is to be replaced: %s", child, child.tired)
            elif word == control.STOPPING and child.state is State.SERVING:
                logger.info("%s stops by itself", child)
                child.state, child.deadline = State.STOPPING, time.monotonic() + self._graceful + END_PATIENCE

    def _close(self, child: Child) -> None:
        """Stop reading from it."""
        if child.socket.fileno() >= 0:
            self._selector.unregister(child.socket)
            child.socket.close()

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.poll()
            if code is None:
                continue
            # Its last lines may change the meaning of its end.
            if child.socket.fileno() >= 0:
                self._hear(child)
            self._close(child)
            self._children.remove(child)
            if child.state is State.STOPPING:
                # The signal ends a worker that is starting; as the first process of a namespace the worker ends itself.
                log = logger.info if code in (0, -signal.SIGTERM, SIGNALLED + signal.SIGTERM) else logger.warning
                log("%s %s", child, describe(code))
            else:
                self._mourn(child, code)
        if os.getpid() == 1:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """Reap processes that others started: the first process of a namespace becomes their parent."""
        own = {child.pid for child in self._children}
        try:
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid not in own:
                os.waitpid(ended.si_pid, os.WNOHANG)
        except ChildProcessError:
            pass  # there are none

    def _mourn(self, child: Child, code: int) -> None:
        """Handle a worker that has ended without an order."""
        if not self._served and code in _CONFIGURATION:
            logger.error("The first worker %s; the reason is above", describe(code))
            self._exit_code = code
            return
        replacement = child.state is State.STARTING and len(self._in(State.SERVING)) >= self.number
        if code == 0 and child.state is State.SERVING:
            logger.warning("%s ended by itself", child)
        else:
            logger.error("%s %s", child, f"did not start: it {describe(code)}" if child.state is State.STARTING else describe(code))
        if replacement:
            self._give_up_reload()
        serving = self._in(State.SERVING)
        wanted = len(serving) < self.number or any(self._is_outdated(other) for other in serving)
        if wanted and (child.state is State.STARTING or child.age <= SOON):
            self._pauses.add()

    def _give_up_reload(self) -> None:
        if self._generation and any(child.generation < self._generation for child in self._in(State.SERVING)):
            logger.error("Not reloaded: the previous workers continue to serve")
            for child in self._in(State.STARTING):
                # It has the new code as well.
                child.stop(control.STOP, END_PATIENCE)
            for child in self._children:
                child.generation = self._generation
                if self._watcher is not None and child.state is State.SERVING:
                    child.say(control.FAILED)
            self._reloading = False
            if self._manager is not None:
                self._manager.ready("Not reloaded: the previous workers continue to serve")

    def _hurry(self) -> None:
        """End workers that have passed a deadline."""
        now = time.monotonic()
        for child in self._children:
            if child.socket.fileno() >= 0 and self._is_late(child, now):
                # It may have sent lines while this process was busy.
                self._hear(child)
            if child.deadline is not None and now >= child.deadline:
                starting = child.state is State.STARTING
                line = "%s has not begun to serve in time and is killed" if starting else "%s has not ended in time and is killed"
                logger.error(line, child)
                child.signal(signal.SIGKILL)
                child.deadline = now + QUIT_PATIENCE
            elif self._is_late(child, now):
                logger.error("%s has given no sign of life for %g seconds and is killed", child, self._watchdog)
                child.signal(signal.SIGABRT)
                child.heard = now

    def _is_late(self, child: Child, now: float) -> bool:
        """Whether it has passed its deadline or missed a sign of life."""
        if child.deadline is not None:
            return now >= child.deadline
        return self._watchdog > 0 and child.state is State.SERVING and now - child.heard > self._watchdog

    # -- The service manager

    def _report(self) -> None:
        serving = self._in(State.SERVING)
        complete = len(serving) >= self.number and not any(child.generation < self._generation for child in serving)
        if complete and (self._reloading or not self._announced) and not self._stopping:
            if self._announced:
                logger.info("All workers are replaced")
            elif self._announce is not None:
                sockets = [(endpoint, sock) for endpoint, (_, sock) in zip(self._endpoints, self._sockets, strict=True)]
                self._announce(sockets, self._application)
            self._announced, self._reloading = True, False
            if self._manager is not None:
                self._manager.ready(self._status(serving))
        elif self._announced and self._manager is not None and len(serving) != self._reported and not self._stopping:
            self._manager.notify(STATUS=self._status(serving))
        if self._manager is not None and self._watchdog and serving and time.monotonic() >= self._next_sign:
            self._manager.alive()
            self._next_sign = time.monotonic() + self._watchdog / _HEARTBEATS

    def _status(self, serving: list[Child]) -> str:
        self._reported = len(serving)
        return f"{len(serving)} workers serve" if len(serving) != 1 else "1 worker serves"

    def _wait(self) -> float | None:
        """Seconds until something is due; ``None`` for never."""
        moments = [child.deadline for child in self._children if child.deadline is not None]
        now = time.monotonic()
        if self._pauses.until > now:
            moments.append(self._pauses.until)
        if self._watchdog:
            moments.append(now + self._watchdog / _HEARTBEATS)
        return max(0.0, min(moments) - now) if moments else None


def _ignore(number: int, frame: Any) -> None:
    """The handler of a signal that the loop reads from the wake-up descriptor."""


def _make_directory() -> str:
    """A new directory for the files that the workers share, below the service manager's runtime directory or TMPDIR."""
    place = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
    try:
        return tempfile.mkdtemp(prefix="greendaphne-", dir=place)
    except OSError as error:
        raise EndpointError(f"Cannot make the directory that the workers share: {error}.") from None
