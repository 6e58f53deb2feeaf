"""``environ["gunicorn.socket"]``: a socket for libraries that speak WebSocket themselves, such as simple-websocket.

What the library sends first is its answer to the opening handshake.  It is taken apart, and the protocol of the connection makes its own of
it: 101 on HTTP/1.1, 200 on HTTP/2 (RFC 8441).  Everything after it passes unchanged, over TLS and HTTP/2 too, so there is no descriptor of
the connection to be had; :meth:`RawSocket.fileno` makes a pair of sockets for libraries that wait by ``select``.
"""

from __future__ import annotations

import socket
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from ...core import causes
from ...core.message import ClientDisconnected
from ...websocket import CloseCode
from .websocket import Handshake

_END: Final = b"\r\n\r\n"
#: The longest answer to an opening handshake, in bytes.
_LONGEST: Final = 16 * 1024
_PIECE: Final = 64 * 1024
_CLOSE: Final = 0x88
#: HTTP/2 has none of them, and says the same by its status.
_HTTP1_ONLY: Final = frozenset((b"connection", b"upgrade", b"sec-websocket-accept"))


class RawSocket:
    """Bytes of one WebSocket's stream, with the methods of a socket.

    :param handshake: the opening handshake, which the first bytes answer.
    """

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, handshake: Handshake) -> None:
        self._handshake = handshake
        self._session = handshake.session
        self._stream = handshake.session.stream
        self._head = b""
        self._timeout: float | None = None
        self._writing = Semaphore(1)
        # Set while no greenlet reads.
        self._quiet = Event()
        self._quiet.set()
        # The application's and the server's end of a pair of sockets, and what fills it.
        self._pair: tuple[Any, Any] | None = None
        self._pump: Any = None
        # Whether a close frame was sent, after which nothing may follow (RFC 6455 section 5.5.1).
        self._closing = False
        self._timer: Any = None
        self._ended = False

    @property
    def switched(self) -> bool:
        """Whether the application has answered the handshake."""
        return self._handshake.handed_over

    # -- sending

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all of ``data`` and return its length.

        :raises OSError: where the connection is gone, or the handshake cannot be answered so.
        """
        data = bytes(data)
        size = len(data)
        if not self.switched:
            data = self._answer(data)
        if not data:
            return size
        with self._writing:
            if self._closing:
                return size
            if data[0] == _CLOSE:
                self._closing = True
                if len(data) >= 4:
                    self._session.code = int.from_bytes(data[2:4], "big")
            try:
                self._stream.write(data)
            except ClientDisconnected:
                raise BrokenPipeError("the client has left") from None
        return size

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of ``data``; errors as :meth:`send`."""
        self.send(data, flags)

    def _answer(self, data: bytes) -> bytes:
        """Collect the answer to the handshake; return what follows it."""
        self._head += data
        end = self._head.find(_END)
        if end < 0:
            if len(self._head) > _LONGEST:
                raise OSError("the answer to the opening handshake is too long")
            return b""
        head, rest = self._head[:end], self._head[end + len(_END) :]
        self._head = b""
        first, *lines = head.split(b"\r\n")
        _, _, status = first.partition(b" ")
        if status[:3] != b"101":
            code = int(status[:3]) if status[:3].isdigit() else 0
            if self._session.connecting and code >= 300:
                self._session.reject(code, status[4:].decode("latin-1") or "Rejected")
            raise OSError(f"the opening handshake is answered with {first!r}")
        fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        if self._session.request.http_version == "2":
            fields = [field for field in fields if field[0].lower() not in _HTTP1_ONLY]
        self._handshake.hand_over(fields)
        self._session.owner = self
        lifetime = self._session.lifetime
        if lifetime >= 0:
            self._timer = gevent.spawn_later(lifetime, self._close, CloseCode.NORMAL_CLOSURE, causes.LIFETIME)
        if self._session.draining:
            self.on_leave(causes.DRAINING)
        return rest

    # -- receiving

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return up to ``size`` bytes, ``b""`` once the client has left.

        :raises TimeoutError: after the time of :meth:`settimeout`.
        """
        if self._pair is not None:
            data: bytes = self._pair[0].recv(size, flags)
            return data
        return self._receive(size, self._timeout)

    def _receive(self, size: int, timeout: float | None) -> bytes:
        self._quiet.clear()
        try:
            return self._stream.read(size, timeout)
        except ClientDisconnected:
            return b""
        finally:
            self._quiet.set()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """:meth:`recv` into ``buffer``."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def fileno(self) -> int:
        """A descriptor that is readable when :meth:`recv` would not wait; from then on bytes pass through a pair of sockets."""
        if self._pair is None:
            from gevent.socket import socketpair

            self._pair = socketpair()
            self._pump = gevent.spawn(self._fill)
        return int(self._pair[0].fileno())

    def _fill(self) -> None:
        assert self._pair is not None
        end = self._pair[1]
        try:
            while data := self._receive(_PIECE, None):
                end.sendall(data)
        except OSError:
            pass  # the application has closed its end
        finally:
            end.close()

    # -- the rest of a socket

    def settimeout(self, seconds: float | None) -> None:
        """Wait at most ``seconds`` in :meth:`recv`."""
        self._timeout = seconds
        if self._pair is not None:
            self._pair[0].settimeout(seconds)

    def gettimeout(self) -> float | None:
        """The time of :meth:`settimeout`."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """As :meth:`settimeout` with no limit or 0."""
        self.settimeout(None if flag else 0.0)

    def setsockopt(self, *arguments: Any) -> None:
        """Do nothing: the connection is not the application's alone."""

    def getpeername(self) -> tuple[str, int]:
        """The address of the client."""
        environ = self._handshake.environ
        return environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT") or 0)

    def getsockname(self) -> tuple[str, int]:
        """The address of the server."""
        environ = self._handshake.environ
        return environ["SERVER_NAME"], int(environ["SERVER_PORT"])

    def shutdown(self, how: int) -> None:
        """Do nothing: the server ends the connection once the application has returned."""

    def close(self) -> None:
        """Close the application's end; the server ends the connection once the application has returned."""
        if self._pair is not None:
            self._pair[0].close()

    # -- the server's side

    def on_end(self) -> None:
        """Nothing has to be done at the end of a session that was not accepted: this one is."""

    def on_leave(self, cause: str) -> None:
        # Must not wait.
        gevent.spawn(self._close, CloseCode.SERVICE_RESTART, cause)

    def _close(self, code: int, cause: str) -> None:
        """Send a close frame in the place of the application, which sees the client's answer as the end."""
        with self._writing:
            if self._closing or self._ended:
                return
            self._closing = True
            self._session.code = int(code)
            self._session.websocket.cause = cause
            try:
                self._stream.write(bytes((_CLOSE, 2)) + int(code).to_bytes(2, "big"))
            except ClientDisconnected:
                return
        gevent.sleep(self._session.closing_timeout)
        if not self._ended:
            self._stream.reset()

    def end(self) -> None:
        """End the connection after the application: wait for the client's close frame where the application still reads."""
        if self._timer is not None:
            self._timer.kill(block=False)
        if self._pump is not None:
            # Only the server itself reads by it.
            self._pump.kill()
        try:
            if not self._quiet.is_set() and not self._quiet.wait(self._session.closing_timeout if self._closing else 0):
                self._stream.reset()
            else:
                self._stream.finish()
        except ClientDisconnected:
            pass
        finally:
            self._ended = True
            if self._pair is not None:
                for end in self._pair:
                    end.close()
