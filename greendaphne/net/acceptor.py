"""Accepts connections on one listening socket and spawns a greenlet for each.

gevent's ``StreamServer`` does the work; what differs is that accepted sockets are plain ones (a gevent socket would make watchers of its
own beside the transport's) and that running out of file descriptors is one log line and a pause, not a traceback for every attempt.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections.abc import Callable
from typing import Any

from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket

logger = logging.getLogger("daphne.server")

#: Seconds to leave new connections alone when there is nothing left to hold one with.
PAUSE = 0.5
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Address = Any


class Acceptor(StreamServer):
    """Accepts for one listening socket.

    :param listener: listening and non-blocking; a blocking one would hold up the whole process.
    :param handle: called in a greenlet of its own with the accepted socket, which it has to close, and the peer's address.
    :param pool: where the greenlets run; while it is full nothing is accepted.
    :param shared: whether other processes accept on the same socket.
    """

    def __init__(self, listener: socket, handle: Callable[[_socket.socket, Address], None], pool: Pool, shared: bool) -> None:
        self.shared = shared
        # Where a socket is shared, taking many connections at a wake-up leaves the other processes empty-handed.
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
            return None  # the peer was gone before its turn came
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            if not self._starved:
                self._starved = True
                logger.error("Cannot accept connections for now: %s", error)
            self.stop_accepting()
            # What gevent does after an error too; start_accepting() clears it.
            self._timer: Any = self.loop.timer(PAUSE)
            self._timer.start(self._resume)
            return None
        if self._starved:
            self._starved = False
            logger.info("Accepting connections again")
        return _socket.socket(listener.family, listener.type, listener.proto, fileno=fd), address

    def take_waiting(self) -> None:
        """Accept what has connected already, as far as there is room, and no more: closing the socket would reset it."""
        self.stop_accepting()
        while not self.full() and (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def _resume(self) -> None:
        if self.started:
            self.stop_accepting()
            self.start_accepting()

    def do_close(self, sock: _socket.socket, *args: object) -> None:
        sock.close()
