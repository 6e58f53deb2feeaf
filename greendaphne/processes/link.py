"""A worker's connection to its master."""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

import gevent
from gevent import socket

from . import control
from .control import Inheritance, Lines

if TYPE_CHECKING:
    from .lifecycle import RunningServer

logger = logging.getLogger("greendaphne.processes")

_RECEIVE = 4096


class MasterLink:
    """Reports the stages of this worker's server to the master, and carries out the master's orders.

    :param application: the name of the application, for the master's log.
    :param failed: whether the server shows the traceback of an application that does not load.
    """

    def __init__(self, given: Inheritance, application: str = "", *, failed: bool = False) -> None:
        self._application = application
        self._failed = failed
        self._sock = socket.socket(fileno=given.control)
        self._sock.set_inheritable(False)
        self._heartbeat = given.heartbeat
        self._server: RunningServer | None = None
        self._told_to_stop = False
        # Whether the master has ended without an order to stop.
        self._orphaned = False

    def started(self, server: RunningServer) -> None:
        self._server = server
        gevent.spawn(self._listen, server)
        word = control.SHOWS_FAILURE if self._failed else control.READY
        self._say(word + b" " + self._application.encode(errors="replace")[: control.MAX_LINE // 2])
        if self._heartbeat:
            gevent.spawn(self._beat)

    def _beat(self) -> None:
        while self._server is not None:
            self._say(control.ALIVE)
            gevent.sleep(self._heartbeat)

    def _listen(self, server: RunningServer) -> None:
        lines = Lines()
        try:
            while data := self._sock.recv(_RECEIVE):
                for line in lines.feed(data):
                    self._obey(line, server)
        except OSError:
            pass  # the same as its end
        if self._server is not None:
            logger.error("The master of this worker is gone; the worker ends")
            self._told_to_stop = self._orphaned = True
            # Also for a server that drains: the workers that continued to serve now stop as well.
            server.stop(take_waiting=True)

    def _obey(self, line: bytes, server: RunningServer) -> None:
        if line in (control.RETIRE, control.STOP):
            if not self._told_to_stop:
                logger.info("Stopping; %d connections have %g seconds to finish", server.connections, server.timeouts.graceful)
            self._told_to_stop = True
            server.stop(take_waiting=line == control.STOP, succeeded=line == control.RETIRE)
        elif line == control.QUIT:
            self._told_to_stop = True
            server.stop()
            server.end_now()
        elif line == control.REOPEN:
            server.reopen()
        elif line == control.FAILED:
            server.show_failure(control.read_failure())

    def recycle(self, reason: str) -> None:
        """Ask to be replaced."""
        self._say(control.RECYCLE + b" " + reason.encode())

    def reloading(self) -> None:
        """Does nothing: the master takes no part in a worker's reload of certificates, which a signal to the worker starts."""

    def reloaded(self) -> None:
        """Nothing."""

    def stopping(self, failed: bool) -> None:
        if not failed and not self._told_to_stop:
            # Before the drain, so that the master starts another worker at once.
            self._say(control.STOPPING)

    def stopped(self) -> None:
        self._server = None
        if self._orphaned:
            # The master would have started a successor itself.
            shutil.rmtree(os.environ[control.RUN_DIR], ignore_errors=True)

    def _say(self, line: bytes) -> None:
        try:
            self._sock.send(line + b"\n")
        except OSError:
            pass  # the greenlet that reads notices this as well
