"""A connected socket with TLS on it, as a cooperative byte stream.

:class:`TLSTransport` is a :class:`greendaphne.net.transport.Transport` whose bytes pass through OpenSSL: the same methods, waits and
exceptions, and besides them what was negotiated.  pyOpenSSL works on the non-blocking socket itself; where it wants to read or write, the
greenlet waits for that and calls it again.

The end of the stream is the peer's close_notify.  A connection that ends without one was cut off, perhaps by an attacker (RFC 8446
section 6.1), and is a :class:`ClientDisconnected`, never a clean end.

One greenlet may read while one other writes.  OpenSSL calls do not switch greenlets, so calls on one connection never overlap; two rules
keep the rest in order.  A write that stopped half-way in a record must be continued with the same bytes, so nothing else, not even a
close_notify, is written in between, and when the writer is torn out of its wait the connection is of no use any more.  And as either
direction may want either event (post-handshake messages, RFC 8446 section 4.6), a wait against the direction uses a watcher of its own.
"""

from __future__ import annotations

import _socket
import logging
from time import monotonic
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from gevent.exceptions import ConcurrentObjectUseError
from gevent.socket import wait_read, wait_write
from OpenSSL import SSL

from ...core.message import ClientDisconnected, ClientTooSlow
from ...core.tlsinfo import TLSInfo
from ..transport import _READS_IN_A_ROW, Transport
from .contexts import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

logger = logging.getLogger(__name__)

#: The most that one record carries (RFC 8446 section 5.1), and therefore the most that one read returns.
MAX_RECORD = 16 * 1024
#: The most that is handed to OpenSSL in one call, in bytes; a multiple of :data:`MAX_RECORD` so that all records are full.
SEND_SIZE = 4 * MAX_RECORD
_MODE_AUTO_RETRY = 4


class TLSTransport(Transport):
    """The server's side of a TLS connection.

    :param sock: the connected socket.
    :param context: the context that the connection starts on.
    :param send_timeout: seconds without progress after which a send gives up.
    """

    __slots__ = ("_connection", "_context", "_ended", "_failed", "_said_goodbye", "_stalled", "alpn", "info", "server_name")

    def __init__(self, sock: _socket.socket, context: SSL.Context, send_timeout: float) -> None:
        super().__init__(sock, send_timeout)
        connection = SSL.Connection(context, sock)  # type: ignore[arg-type]  # all it wants is fileno()
        connection.set_accept_state()
        _return_after_each_message(connection)
        self._connection = connection
        # A Connection refers to its context's callbacks without keeping them; when the server name has moved it to another context,
        # this is what keeps them.
        self._context = context
        # The read side was shut down on this side.
        self._ended = False
        # OpenSSL reported an error, or a write was torn apart; only closing is left.
        self._failed = False
        self._said_goodbye = False
        # A write waits in mid-record.
        self._stalled = False
        #: The protocol chosen with ALPN (RFC 7301), empty for none.
        self.alpn = ""
        self.info = TLSInfo("", "")
        #: The host name that the client asked for (RFC 6066 section 3), as received; empty for none.
        self.server_name = ""

    def accept(self, deadline: float) -> None:
        """Do the handshake.

        :param deadline: on the monotonic clock; absolute so that a drip of bytes does not extend it.
        :raises TimeoutError: at the deadline.
        :raises SSL.Error: where the handshake fails, with OpenSSL's reason.
        """
        connection = self._connection
        try:
            while True:
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
        """The client's certificate, verified; ``None`` where it sent none."""
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
                # Less than asked for means that the record is used up, and a record that is not full is mostly the last for now.
                self._drained = len(data) < n or (self._reads >= _READS_IN_A_ROW and not self._connection.pending())
                return data

    def _wait_to_read(self, error: SSL.Error, deadline: float | None) -> bool:
        """Wait for what ``error`` wants; true where it is the end of the stream instead.

        The deadline is absolute: a drip of records that carry no data, or of parts of one, does not extend it.
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
        """Whether nothing more can be read after :meth:`shutdown_read`.

        OpenSSL must not see that end: it would take it for a truncation, send an alert and refuse to write from then on.
        """
        if self._connection.pending():
            return False
        try:
            return not self._sock.recv(1, _socket.MSG_PEEK)
        except OSError:
            return True

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        if self._stalled:
            raise ConcurrentObjectUseError("Another greenlet is writing to this connection")
        size = len(data)
        if size <= SEND_SIZE:
            if size:
                self._send(data)
            return
        account = self.account
        account.take(size)
        try:
            view = memoryview(data)
            for start in range(0, size, SEND_SIZE):
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
            # The rest of the record will never come.
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
        """Send close_notify, then close the socket's sending side; waits, up to the send timeout, while the socket is full.

        What was sent before may end only with the close_notify, so it is worth waiting for.
        """
        self._say_goodbye(wait=True)
        super().shutdown_write()

    def shutdown_read(self) -> None:
        self._ended = True
        super().shutdown_read()

    def close(self) -> None:
        """Send close_notify where the socket takes it, and release the socket; never waits."""
        if not self.closed:
            self._say_goodbye(wait=False)
            super().close()

    def abort(self) -> None:
        # A close_notify would tell the peer that what it has is complete.
        self._failed = True
        super().abort()

    def _say_goodbye(self, *, wait: bool) -> None:
        if self._said_goodbye or self._failed or self._stalled or self.closed:
            return
        self._said_goodbye = True
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
    """The TLS of a connection of this server; certificates are looked up in OpenSSL when they are asked for, and kept then.

    :param connection: after its handshake.
    """

    __slots__ = ("_chain", "_connection", "_fingerprint", "_name", "_server")

    def __init__(self, connection: SSL.Connection) -> None:
        super().__init__(connection.get_protocol_version_name(), connection.get_cipher_name() or "")
        self._connection = connection
        # Of what was not asked for yet there is no attribute.

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
        # A resumed session has the client's own alone.
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        return () if certificate is None else (certificate,)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _return_after_each_message(connection: SSL.Connection) -> None:
    """Have a read return, wanting to read, after a message that carries no data, such as a KeyUpdate.

    pyOpenSSL sets SSL_MODE_AUTO_RETRY on every connection, and OpenSSL then goes on reading for as long as there is anything to read: a
    peer that sends KeyUpdates as fast as they are processed would keep the process in that one call.  pyOpenSSL has no way to clear it,
    so this uses its private members ``SSL._lib`` and ``Connection._ssl``; without them the connection works all the same, and a test fails.
    """
    clear_mode = getattr(getattr(SSL, "_lib", None), "SSL_clear_mode", None)
    ssl = getattr(connection, "_ssl", None)
    if clear_mode is not None and ssl is not None:
        clear_mode(ssl, _MODE_AUTO_RETRY)
