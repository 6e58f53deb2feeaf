"""Accepts connections on one listening socket and spawns a greenlet for each.

gevent's ``StreamServer`` does the work, with two differences.  Accepted sockets are plain ones, because a gevent socket would create
watchers in addition to the transport's.  When file descriptors run out, the acceptor logs one line and pauses, instead of logging a
traceback for every attempt.
"""

from __future__ import annotations

import _socket
import errno
import logging
import select
from collections.abc import Callable
from typing import Any, Protocol

from gevent import Greenlet
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket

from .endpoints import Endpoint

logger = logging.getLogger("daphne.server")

#: Seconds without accepting after the process has run out of descriptors or memory.
PAUSE = 0.5
#: Not gevent's select, which would wait in the hub.
_poll = get_original("select", "poll")
#: Seconds between two searches for a connection to close, while the number of connections is at its limit.
ROOM_PAUSE = 0.25
#: Connections that are accepted per iteration of the event loop.  Each begins at once, and takes a millisecond where the kernel has
#: received much on it already.
IN_A_ROW = 8
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Address = Any
Handler = Callable[[_socket.socket, Address], None]


class ConnectionHandler(Protocol):
    """Serves the accepted connections of all endpoints."""

    #: The pool in which the greenlets of connections run.
    pool: ConnectionPool

    def handler(self, endpoint: Endpoint) -> Handler:
        """Return the function that serves each connection accepted on ``endpoint``."""

    def make_room(self) -> bool:
        """End some idle connections for waiting clients; returns whether it found any."""


class ConnectionGreenlet(Greenlet):  # type: ignore[type-arg]  # only generic in its stubs
    """Serves one connection; called with ``None`` in the place of a function, and with the function that handles it and its arguments."""

    __slots__ = ()

    #: Only the acceptor starts it; gevent would keep the frames of that in memory as long as the connection.
    spawning_stack_limit = 0

    @staticmethod
    def _run(handle: Handler, sock: _socket.socket, address: Address) -> None:
        # A function that is passed to the constructor has a dict for it, and a method needs a frame more on the stack.
        handle(sock, address)


class ConnectionPool(Pool):
    """The greenlets of connections.

    :param size: how many there are at most; ``None`` for no limit.
    """

    def __init__(self, size: int | None) -> None:
        super().__init__(size, ConnectionGreenlet)
        # Each greenlet has it as a callback: one object for all.
        self._discard: Any = self._discard


class Acceptor(StreamServer):
    """Accepts connections on one listening socket.

    :param listener: listening and non-blocking; a blocking socket would block the whole process.
    :param handle: called in a new greenlet with the accepted socket and the peer's address; must close the socket.
    :param pool: runs the greenlets; the acceptor accepts nothing while it is full.
    :param shared: whether other processes accept on the same socket.
    :param make_room: called when the pool is full; ends idle connections.
    """

    def __init__(
        self, listener: socket, handle: Handler, pool: ConnectionPool, shared: bool, make_room: Callable[[], object] | None = None
    ) -> None:
        self.shared = shared
        # The timer that searches for idle connections while the pool is full.
        self._look: Any = None
        self._make_room = make_room
        # On a shared socket, one connection per wake-up: a process that takes more leaves none for the others.
        self.max_accept = 1 if shared else IN_A_ROW
        self._starved = False
        super().__init__(listener, handle, spawn=pool)
        self._connections = pool
        # The superclass checks the pool.
        self.full = self._full  # type: ignore[method-assign]

    def _full(self) -> bool:
        """Whether the pool has no room for a waiting client; starts to make room then."""
        full: bool = self._connections.full()
        if full and self._make_room is not None:
            if self._client_waits():
                self._make_room()
            # It accepts again as soon as a connection ends, and searches again for connections that have become idle.
            self._stop_looking()
            self._look = self.loop.timer(ROOM_PAUSE)
            self._look.start(self._resume)
        return full

    def _client_waits(self) -> bool:
        """Whether a connection can be accepted; does not wait."""
        poll = _poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _stop_looking(self) -> None:
        look, self._look = self._look, None
        if look is not None:
            look.stop()
            look.close()

    def close(self) -> None:
        """Close the socket and accept nothing more."""
        self._stop_looking()
        super().close()

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
        """Accept the connections in the backlog, as far as the pool has room, because closing the socket would reset them."""
        self.stop_accepting()
        while not self._connections.full() and (accepted := self.do_read()) is not None:
            self.do_handle(*accepted)

    def _resume(self) -> None:
        if self.started:
            self.stop_accepting()
            self.start_accepting()

    def do_handle(self, *args: Any) -> None:
        # The superclass calls the handler from a function of its own, whose stack would stay in memory as long as the connection.
        try:
            self._connections.spawn(None, self._handle, *args)  # type: ignore[arg-type, attr-defined]
        except BaseException:
            self.do_close(*args)
            raise

    def do_close(self, sock: _socket.socket, *args: object) -> None:
        sock.close()
