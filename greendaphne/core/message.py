"""The vocabulary that protocols and applications share, and the seam between them.

A protocol package (``http1``, ``http2``, ``websocket``) turns bytes into a :class:`Request` and offers a :class:`Stream` to answer it on.
An application (``greendaphne.applications``) is called with both and knows no socket.  ``serving.exchange`` brings the two together and is
the only place that turns the exceptions below into responses.

Exceptions::

    HTTPError               the peer or the deployment is at fault; carries the status to answer with
    ClientDisconnected      nobody is left to answer; everything about the request is released
    ResponseError           the application's response cannot be sent as it is; answered with 500 and logged
    Unreported              answered, and nobody is to hear of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from . import causes
from .accounts import FREE, Account
from .tlsinfo import TLSInfo

#: A header section: lower-case names, values without surrounding blanks, order and duplicates kept (RFC 9110 section 5.2).
Headers = Sequence[tuple[bytes, bytes]]

#: ``[host, port]`` as the channel layer carries it, or ``None`` where the socket has no such address (UNIX sockets).
Address = list[object] | None


class ConnectionInfo(NamedTuple):
    """What is the same for every request of a connection.

    ``client`` and ``server`` are the addresses that the application is told: the socket's own, or those of a PROXY header.  ``peer`` is the
    socket's own peer where that is not the client: its address, or ``[]`` for a UNIX socket; otherwise ``None``.  ``account`` is
    told of the bytes that are held for the connection.
    """

    scheme: str
    client: Address
    server: Address
    tls: TLSInfo | None = None
    peer: Address = None
    account: Account = FREE

    @property
    def socket_peer(self) -> Address:
        """Who is at the other end of the socket, to decide whether it is trusted; ``None`` for a UNIX socket."""
        return self.client if self.peer is None else self.peer or None


class Request(NamedTuple):
    """One request head, checked, as every protocol version delivers it.

    ``target`` is the request target as received (for logs; empty where it could not be read), ``path`` its raw, still
    percent-encoded path and ``query_string`` the raw bytes behind the first ``?``.  ``content_length`` is the number of body bytes, 0 for
    none and ``None`` where only the end of the body tells.  ``upgrade`` is the lower-cased ``Upgrade`` field (RFC 9110 section 7.8) or,
    on HTTP/2, the ``:protocol`` of an extended CONNECT (RFC 8441); empty for an ordinary request.  ``root_path`` is the decoded mount point
    of the application; protocols leave it empty, and the server's policy fills it in.
    """

    method: str
    target: bytes
    path: bytes
    query_string: bytes
    http_version: str
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    upgrade: bytes
    connection: ConnectionInfo
    root_path: str = ""

    @property
    def by_extended_connect(self) -> bool:
        """Whether a tunnel on this request is opened by extended CONNECT (RFC 8441, on HTTP/2), and not by Upgrade (HTTP/1.1).

        Then its answer is 200 instead of 101, it has no ``Upgrade`` and ``Connection`` fields, and it does not end the connection.
        """
        return self.http_version == "2"


class HTTPError(Exception):
    """A request that is answered with an error of the server's own.

    :param status: the HTTP status code.
    :param detail: one sentence for the error page; fixed text, never an exception's.
    :param headers: further response fields, such as ``Retry-After``.
    :param close: whether the connection ends after the answer because its framing is in doubt or the answer comes early.
    :param cause: one of :mod:`greendaphne.core.causes`; by default what the status says.
    """

    def __init__(self, status: int, detail: str, headers: Headers = (), *, close: bool = False, cause: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.close = close
        self.cause = cause or causes.of_status(status)


class ClientDisconnected(Exception):
    """The client went away, or stopped reading for longer than the send timeout."""

    cause: str = causes.CLIENT_GONE


class ClientTooSlow(ClientDisconnected):
    """It stopped reading; the server gave it up."""

    cause = causes.CLIENT_SLOW


class ResponseError(Exception):
    """The application's response breaks the protocol; the text names what is wrong with it, for the log.

    :param cause: one of :mod:`greendaphne.core.causes`, where it is not the application's fault.
    """

    def __init__(self, text: str, *, cause: str = causes.BAD_RESPONSE) -> None:
        super().__init__(text)
        self.cause = cause


class Unreported(Exception):
    """The request has been answered, and is neither logged nor counted: it is part of the operation, as a health check is."""


class Stream(Protocol):
    """One request and the way to answer it; HTTP/1 connections and HTTP/2 streams implement it.

    All methods block cooperatively and raise :class:`ClientDisconnected` when the peer is gone.  One greenlet owns a stream, with one
    exception: after :meth:`switch` one greenlet may read while one other writes.
    """

    request: Request
    #: The status sent, 0 before :meth:`start`; and the body bytes sent, for the access log.
    status: int
    sent: int
    #: Whether the response has been sent to its end.
    complete: bool
    #: The response's fields as they are sent, apart from those that the protocol adds, for the access log.
    response_headers: Headers
    #: Fields that :meth:`start` adds where it is given none of that name.
    extra_headers: Headers
    #: Bytes that :meth:`read` returns of the body at most before it raises :class:`HTTPError` (413); 0 for no limit.
    body_limit: int

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Return 1 to ``n`` body bytes, or ``b""`` at their end; after :meth:`switch` tunnel bytes, ``b""`` at EOF.

        Waits at most ``timeout`` seconds where one is given, raises :class:`TimeoutError` then and loses nothing.  Before
        :meth:`switch` the body's own time limits hold and raise :class:`HTTPError` (408).
        """

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        """Check and keep the response head; it leaves with the first :meth:`write` or :meth:`finish`.

        ``reason`` replaces the usual reason phrase where the protocol version has one.

        :raises ResponseError: for a head that must not be sent; nothing was sent then and another may be started.
        """

    def write(self, data: bytes) -> None:
        """Send ``data`` as body bytes, or as tunnel bytes after :meth:`switch`."""

    def finish(self, data: bytes = b"") -> None:
        """Send ``data`` as the last body bytes and complete the response.

        After :meth:`switch`, end this side's half of the tunnel in good order: what was sent still reaches the peer.
        """

    def switch(self, headers: Headers) -> None:
        """Turn the stream into a tunnel: 101 with ``headers`` on HTTP/1.1 (RFC 9110 section 15.2.2), 200 on HTTP/2 (RFC 8441)."""

    def gone(self, *, half_closed: bool) -> bool:
        """Whether the peer is known to have left; never waits.

        :param half_closed: whether a peer that has only stopped sending counts as gone.
        """

    def watch(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called as soon as the peer gives the stream up, where the protocol can tell; it must not wait and not raise.

        For a greenlet that waits for something else than this stream and would not notice.
        """

    def reset(self) -> None:
        """Abort: the peer must not take what it has for complete."""


def with_extra(headers: Headers, extra: Headers) -> Headers:
    """``headers`` and those of ``extra`` whose names they do not have."""
    given = {name.lower() for name, _ in headers}
    return [*headers, *(field for field in extra if field[0].lower() not in given)]


def body_too_large() -> HTTPError:
    """The error for a body above the limit."""
    return HTTPError(413, "The request body is larger than this server accepts.", close=True)


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of the field ``name`` (lower case), in order."""
    return [value for key, value in headers if key == name]
