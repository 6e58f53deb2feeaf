"""A connected socket with TLS, as a cooperative byte stream.

:class:`TLSTransport` is a :class:`greendaphne.net.transport.Transport` whose bytes pass through OpenSSL.  It has the same methods, waits
and exceptions, and in addition the negotiated parameters.  pyOpenSSL works on the non-blocking socket itself; when OpenSSL wants to read or
write, the greenlet waits for that event and repeats the call.

The end of the stream is the peer's close_notify.  A connection that ends without one is truncated, perhaps by an attacker (RFC 8446
section 6.1), and raises :class:`ClientDisconnected`.

One greenlet may read while another writes.  OpenSSL calls do not switch greenlets, so calls on one connection never overlap.  Two rules
order the rest.  First, a write that stopped within a record must be continued with the same bytes.  So nothing else, not even a
close_notify, is written in between, and a connection whose writer is interrupted in its wait is unusable.  Second, either direction
may need either event (post-handshake messages, RFC 8446 section 4.6), so a wait for the opposite direction's event uses its own watcher.
"""

from __future__ import annotations

import _socket
import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from gevent import get_hub
from gevent.exceptions import ConcurrentObjectUseError
from gevent.socket import wait_read, wait_write
from OpenSSL import SSL

from ...core.message import ClientDisconnected, ClientTooSlow
from ...core.tlsinfo import TLSInfo
from ...core.turns import Turn
from ..transport import _READS_IN_A_ROW, Transport
from .factory import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

logger = logging.getLogger(__name__)

#: The most bytes in one record (RFC 8446 section 5.1), and therefore the most that one read returns.
MAX_RECORD = 16 * 1024
#: The most bytes given to OpenSSL in one call; a multiple of :data:`MAX_RECORD`, so that all records are full.
SEND_SIZE = 4 * MAX_RECORD
_MODE_AUTO_RETRY = 4
#: The work of a step of the handshake, in units of :meth:`.core.turns.Turn.spend`: a key exchange and a signature take a millisecond.
_HANDSHAKE_WORK = 64


class TLSTransport(Transport):
    """The server's side of a TLS connection.

    :param sock: the connected socket.
    :param context: the context on which the connection starts.
    :param send_timeout: seconds without progress after which a send fails.
    """

    __slots__ = ("_close_notify_sent", "_connection", "_context", "_ended", "_failed", "_stalled", "alpn", "info", "server_name")

    can_sendfile: ClassVar[bool] = False

    def __init__(self, sock: _socket.socket, context: SSL.Context, send_timeout: float) -> None:
        super().__init__(sock, send_timeout)
        connection = SSL.Connection(context, sock)  # type: ignore[arg-type]  # it only uses fileno()
        connection.set_accept_state()
        _return_after_each_message(connection)
        self._connection = connection
        # A Connection does not keep its context's callbacks alive.  After the server name has moved it to another context, this
        # reference does.
        self._context = context
        # Whether shutdown_read() was called.
        self._ended = False
        # OpenSSL reported an error, or a write was interrupted; the connection can only be closed.
        self._failed = False
        self._close_notify_sent = False
        # A write waits in the middle of a record.
        self._stalled = False
        #: The protocol chosen with ALPN (RFC 7301), empty for none.
        self.alpn = ""
        self.info = TLSInfo("", "")
        #: The requested host name (RFC 6066 section 3), as received; empty for none.
        self.server_name = ""

    def accept(self, deadline: float) -> None:
        """Perform the handshake.

        :param deadline: on the monotonic clock; absolute, so that a slow trickle of bytes does not extend it.
        :raises TimeoutError: at the deadline.
        :raises SSL.Error: when the handshake fails, with OpenSSL's reason.
        """
        connection = self._connection
        # Many clients may connect at the same time, and each of their first messages is work.
        turn = Turn()
        try:
            while True:
                turn.spend(_HANDSHAKE_WORK)
                try:
                    connection.do_handshake()
                except SSL.WantReadError:
                    Transport.wait_readable(self, max(0.0, deadline - monotonic()))
                except SSL.WantWriteError:
                    wait_write(self._fd, max(0.0, deadline - monotonic()), TimeoutError)
                else:
                    break
        except BaseException:
            self._failed = True
            raise
        self.alpn = connection.get_alpn_proto_negotiated().decode("ascii", "replace")
        self.info = ConnectionTLS(connection)
        self.server_name = (connection.get_servername() or b"").decode("ascii", "replace")

    def peer_certificate(self) -> x509.Certificate | None:
        """The client's verified certificate; ``None`` where it sent none."""
        return self._connection.get_peer_certificate(as_cryptography=True)

    def wait_readable(self, timeout: float | None) -> None:
        if self.closed:
            raise ClientDisconnected
        if not self._connection.pending():
            super().wait_readable(timeout)

    def recv(self, n: int, timeout: float | None) -> bytes:
        deadline = None
        if self._drained and timeout != 0:
            if timeout is not None:
                deadline = monotonic() + timeout
            super().wait_readable(timeout)
        if n > MAX_RECORD:
            n = MAX_RECORD
        while True:
            if self._failed or self.closed:
                raise ClientDisconnected
            if self._ended and self._is_empty():
                return b""
            try:
                data = self._connection.recv(n)
            except SSL.Error as error:
                if timeout is not None and deadline is None:
                    deadline = monotonic() + timeout
                if self._wait_to_read(error, deadline):
                    return b""
            else:
                self._reads += 1
                # A short read has used up the record, and a record that is not full is usually the last one available.
                self._drained = len(data) < n or (self._reads >= _READS_IN_A_ROW and not self._connection.pending())
                return data

    def _wait_to_read(self, error: SSL.Error, deadline: float | None) -> bool:
        """Wait for the event that ``error`` requests; returns true when ``error`` is the end of the stream.

        The deadline is absolute, so that a slow trickle of records without data, or of parts of a record, does not extend it.
        """
        if isinstance(error, (SSL.WantReadError, SSL.WantWriteError)):
            timeout = None if deadline is None else deadline - monotonic()
            if timeout is not None and timeout <= 0:
                raise TimeoutError from None
            if isinstance(error, SSL.WantReadError):
                super().wait_readable(timeout)
            else:
                wait_write(self._fd, timeout, TimeoutError)
            return False
        if isinstance(error, SSL.ZeroReturnError):
            return True
        raise self._broken(error) from None

    def _is_empty(self) -> bool:
        """Whether no data remains after :meth:`shutdown_read`.

        OpenSSL must not read this end: it would treat it as a truncation, send an alert and refuse to write from then on.
        """
        if self._connection.pending():
            return False
        try:
            return not self._sock.recv(1, _socket.MSG_PEEK)
        except OSError:
            return True

    def observe(self, callback: Callable[[], None] | None) -> None:
        super().observe(callback)
        if callback is not None and not self.closed and self._connection.pending():
            # OpenSSL has buffered bytes that make the socket not readable.
            get_hub().loop.run_callback(callback)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        if self._stalled and self._flusher is None:
            raise ConcurrentObjectUseError("Another greenlet is writing to this connection")
        due = self._due(data)
        if due is None:
            return
        size = len(due)
        if size > SEND_SIZE:
            self._send_rest(memoryview(due), size)
        elif size:
            self._send(due)

    def _send_rest(self, view: memoryview, size: int) -> None:
        account = self.account
        account.take(size)
        try:
            for start in range(0, len(view), SEND_SIZE):
                self._send(view[start : start + SEND_SIZE])
        finally:
            account.give(size)

    def _send(self, piece: bytes | bytearray | memoryview) -> None:
        connection = self._connection
        while True:
            if self._failed or self.closed:
                raise ClientDisconnected
            try:
                sent = connection.send(piece)
            except SSL.Error as error:
                self._wait_to_write(error, len(piece))
            else:
                if sent == len(piece):
                    return
                piece = memoryview(piece)[sent:]

    def _offer(self, data: bytes | bytearray | memoryview) -> None:
        connection = self._connection
        view = memoryview(data)
        sent = 0
        while sent < len(data):
            if self._failed or self.closed:
                raise ClientDisconnected
            try:
                sent += connection.send(view[sent : sent + SEND_SIZE])
            except (SSL.WantWriteError, SSL.WantReadError):
                break
            except SSL.Error as error:
                raise self._broken(error) from None
        if sent < len(data):
            self._flush_later(view[sent:], len(data))

    def _wait_to_write(self, error: SSL.Error, size: int) -> None:
        self._stalled = True
        account = self.account
        account.take(size)
        try:
            if isinstance(error, SSL.WantWriteError):
                self._wait_writable()
            elif isinstance(error, SSL.WantReadError):
                wait_read(self._fd, self._send_timeout, ClientTooSlow)
            else:
                raise self._broken(error) from None
        except BaseException:
            # The record stays incomplete.
            self._failed = True
            raise
        finally:
            account.give(size)
            self._stalled = False

    def _broken(self, error: SSL.Error) -> ClientDisconnected:
        self._failed = True
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("TLS connection broken: %s", reason(error))
        return ClientDisconnected()

    def shutdown_write(self) -> None:
        """Send close_notify, then close the socket's sending side; waits up to the send timeout while the socket's buffer is full.

        The wait is worthwhile, because the client may take earlier bytes for complete only after the close_notify.
        """
        self.flush()
        self._send_close_notify(wait=True)
        super().shutdown_write()

    def shutdown_read(self) -> None:
        self._ended = True
        super().shutdown_read()

    def close(self) -> None:
        """Send close_notify if the socket's buffer has room, and release the socket; never waits."""
        if not self.closed:
            if self._held:
                self.send_held()
            self._send_close_notify(wait=False)
            super().close()

    def abort(self) -> None:
        if self._held:
            self.send_held()
        # A close_notify would make the peer treat truncated data as complete.
        self._failed = True
        super().abort()

    def _send_close_notify(self, *, wait: bool) -> None:
        if self._close_notify_sent or self._failed or self._stalled or self._flusher is not None or self.closed:
            return
        self._close_notify_sent = True
        while True:
            try:
                self._connection.shutdown()
                return
            except SSL.WantWriteError:
                if not wait:
                    return
            except SSL.Error:
                self._failed = True
                return
            try:
                self._wait_writable()
            except ClientDisconnected:
                self._failed = True
                return


class ConnectionTLS(TLSInfo):
    """The TLS properties of a connection of this server; certificates are read from OpenSSL on first access and cached.

    :param connection: the connection after its handshake.
    """

    __slots__ = ("_chain", "_connection", "_fingerprint", "_name", "_server")

    def __init__(self, connection: SSL.Connection) -> None:
        super().__init__(connection.get_protocol_version_name(), connection.get_cipher_name() or "")
        self._connection = connection
        # The attributes of cached values are missing until the first access.

    @property
    def server_certificate(self) -> str | None:
        try:
            return self._server
        except AttributeError:
            certificate = self._connection.get_certificate(as_cryptography=True)
            self._server: str | None = None if certificate is None else _pem(certificate)
            return self._server

    @property
    def client_chain(self) -> tuple[str, ...]:
        try:
            return self._chain
        except AttributeError:
            self._chain: tuple[str, ...] = tuple(map(_pem, self._client_certificates()))
            return self._chain

    @property
    def client_name(self) -> str | None:
        try:
            return self._name
        except AttributeError:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
            self._name: str | None = None if certificate is None else certificate.subject.rfc4514_string()
            return self._name

    @property
    def client_fingerprint(self) -> str | None:
        try:
            return self._fingerprint
        except AttributeError:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
            self._fingerprint: str | None = None if certificate is None else certificate.fingerprint(SHA256()).hex()
            return self._fingerprint

    def _client_certificates(self) -> Sequence[x509.Certificate]:
        chain = self._connection.get_verified_chain(as_cryptography=True)
        if chain:
            return chain
        # A resumed session has the client's own certificate only.
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        return () if certificate is None else (certificate,)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _return_after_each_message(connection: SSL.Connection) -> None:
    """Make reads return, with WantReadError, after each message without data, such as a KeyUpdate.

    pyOpenSSL sets SSL_MODE_AUTO_RETRY on every connection, and OpenSSL then reads on while input is available: a peer that sends
    KeyUpdates as fast as OpenSSL processes them would block the process in one call.  pyOpenSSL cannot clear the mode, so this uses
    the private members ``SSL._lib`` and ``Connection._ssl``.  Without them the connection still works, but a test fails.
    """
    clear_mode = getattr(getattr(SSL, "_lib", None), "SSL_clear_mode", None)
    ssl = getattr(connection, "_ssl", None)
    if clear_mode is not None and ssl is not None:
        clear_mode(ssl, _MODE_AUTO_RETRY)
