"""Accepts connections on one listening socket and spawns a greenlet for each.

gevent's ``StreamServer`` does the work, with two differences.  Accepted sockets are plain ones, because a gevent socket would create
watchers in addition to the transport's.  When file descriptors run out, the acceptor logs one line and pauses, instead of logging a
traceback for every attempt.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections.abc import Callable
from typing import Any, Protocol

from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket

from .endpoints import Endpoint

logger = logging.getLogger("daphne.server")

#: Seconds without accepting after the process has run out of descriptors or memory.
PAUSE = 0.5
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Address = Any
Handler = Callable[[_socket.socket, Address], None]


class ConnectionHandler(Protocol):
    """Serves the accepted connections of all endpoints."""

    #: The pool in which the greenlets of connections run.
    pool: Pool

    def handler(self, endpoint: Endpoint) -> Handler:
        """Return the function that serves each connection accepted on ``endpoint``."""


class Acceptor(StreamServer):
    """Accepts connections on one listening socket.

    :param listener: listening and non-blocking; a blocking socket would block the whole process.
    :param handle: called in a new greenlet with the accepted socket and the peer's address; must close the socket.
    :param pool: runs the greenlets; the acceptor accepts nothing while it is full.
    :param shared: whether other processes accept on the same socket.
    """

    def __init__(self, listener: socket, handle: Handler, pool: Pool, shared: bool) -> None:
        self.shared = shared
        # On a shared socket, one connection per wake-up: a process that takes more leaves none for the others.
        self.max_accept = 1 if shared else 100
        self._starved = False
        super().__init__(listener, handle, spawn=pool)

    def do_read(self) -> tuple[Any, Address] | None:  # type: ignore[override]  # the superclass takes None as well
        listener: Any = self.socket
        try:
            fd, address = listener._accept()
        except BlockingIOError:
            return None
        except ConnectionAbortedError:
            return None  # the peer disconnected while it waited in the backlog
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            if not self._starved:
                self._starved = True
                logger.error("Cannot accept connections for now: %s", error)
            self.stop_accepting()
            # gevent pauses with the same timer after an error; start_accepting() clears it.
            self._timer: Any = self.loop.timer(PAUSE)
            self._timer.start(self._resume)
            return None
        if self._starved:
            self._starved = False
            logger.info("Accepting connections again")
        return _socket.socket(listener.family, listener.type, listener.proto, fileno=fd), address

    def take_waiting(self) -> None:
        """Accept the connections that wait in the backlog, as far as the pool has room; closing the socket would reset them."""
        self.stop_accepting()
        while not self.full() and (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def _resume(self) -> None:
        if self.started:
            self.stop_accepting()
            self.start_accepting()

    def do_close(self, sock: _socket.socket, *args: object) -> None:
        sock.close()
