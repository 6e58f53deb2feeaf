"""Turns an accepted socket into a :class:`TLSTransport`, or closes it and logs one line.

The time limit covers the whole handshake.  The first byte shows plain HTTP before OpenSSL reads it, so a browser that uses http on the port
gets an answer that it can display.  Memory for a TLS connection is allocated only after the client has sent a byte.
"""

from __future__ import annotations

import _socket
import logging
from email.utils import formatdate
from time import monotonic

from gevent.socket import wait_read
from OpenSSL import SSL

from ...core.message import ClientDisconnected
from ...core.turns import events
from ..byte_stream import lingering_close
from ..transport import Transport
from .contexts import Contexts
from .factory import reason
from .transport import TLSTransport

logger = logging.getLogger(__name__)

#: Seconds for a refused peer to read the reason.
LINGER = 1.0
#: The ALPN protocol of a certificate authority that validates the control of a host (RFC 8737).
ACME_TLS = "acme-tls/1"

_PLAIN_HTTP_TEXT = b"This port speaks https, and the request came in plain http. Use a URL that begins with https://.\n"


class HandshakeError(ClientDisconnected):
    """The TLS handshake failed; the socket is closed and the line is logged."""


class HandshakeTimeout(HandshakeError):
    """The handshake was not complete in time."""


class PlainHTTP(HandshakeError):
    """The client spoke plain HTTP; it was answered with 400."""


class ChallengeAnswered(ClientDisconnected):
    """The peer was a certificate authority, which validates by the handshake alone (RFC 8737 section 3)."""


class HandshakeFailed(HandshakeError):
    """The peer disconnected, or has no TLS parameters in common with the server; OpenSSL has sent an alert where it defines one."""


def handshake(sock: _socket.socket, contexts: Contexts, *, timeout: float, send_timeout: float) -> TLSTransport:
    """Perform the server's side of the handshake on a connected socket.

    :param timeout: seconds for the whole handshake.
    :param send_timeout: seconds, for the returned transport.
    :raises HandshakeError: one of its subclasses; the socket is closed.
    :raises ChallengeAnswered: after the handshake with a certificate authority; the socket is closed.
    """
    deadline = monotonic() + timeout
    transport: TLSTransport | None = None
    try:
        _await_client_hello(sock, timeout)
        transport = TLSTransport(sock, contexts.for_connection(sock, deadline), send_timeout)
        transport.accept(deadline)
        if transport.alpn == ACME_TLS:
            _log(sock, f"answered a certificate authority's challenge for {transport.server_name}")
            lingering_close(transport, LINGER)
            raise ChallengeAnswered
        return transport
    except TimeoutError:
        _log(sock, "timed out")
        _close(sock, transport)
        raise HandshakeTimeout from None
    except PlainHTTP:
        _log(sock, "failed: the client speaks plain http")
        _answer_plain_http(sock)
        raise
    except SSL.Error as error:
        _log(sock, f"failed: {reason(error)}")
        if transport is not None:
            # An immediate close could send a reset that overtakes the alert.
            lingering_close(transport, LINGER)
        raise HandshakeFailed from None
    except ChallengeAnswered:
        raise
    except ClientDisconnected:
        _log(sock, "failed: the connection was closed")
        _close(sock, transport)
        raise HandshakeFailed from None
    except BaseException:
        _close(sock, transport)
        raise
    finally:
        contexts.write_lines()


def _await_client_hello(sock: _socket.socket, timeout: float) -> None:
    """Wait for the first byte and inspect it without taking it; raises for plain HTTP and for a closed connection."""
    wait_read(sock.fileno(), timeout, TimeoutError)
    events().wait()
    try:
        first = sock.recv(1, _socket.MSG_PEEK)
    except BlockingIOError:
        return  # woken without a byte: the handshake waits again
    except OSError:
        raise HandshakeFailed from None
    if not first:
        raise HandshakeFailed
    if first.isalpha() and first.isascii():
        # The first letter of a method; TLS records begin with 20 to 24 (RFC 8446 section 5.1), SSL 2 hellos with 128 or more.
        raise PlainHTTP


def _answer_plain_http(sock: _socket.socket) -> None:
    transport = Transport(sock, LINGER)
    head = (
        "HTTP/1.1 400 Bad Request\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(_PLAIN_HTTP_TEXT)}\r\n"
        "Connection: close\r\n\r\n"
    )
    try:
        transport.sendall(head.encode("ascii") + _PLAIN_HTTP_TEXT)
    except ClientDisconnected:
        transport.close()
    else:
        lingering_close(transport, LINGER)


def _close(sock: _socket.socket, transport: TLSTransport | None) -> None:
    if transport is None:
        sock.close()
    else:
        transport.close()


def _log(sock: _socket.socket, text: str) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        try:
            peer = sock.getpeername()
        except OSError:
            peer = None
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a client"
        logger.debug("TLS handshake with %s %s", address, text)
