"""The vocabulary of protocols and applications, and the interface between them.

A protocol package (``http1``, ``http2``, ``websocket``) turns bytes into a :class:`Request` and provides a :class:`Stream` for the answer.
An application (``greendaphne.applications``) receives both and knows no socket.  ``serving.exchange`` connects them; no other module
turns the exceptions below into responses.

Exceptions::

    HTTPError               a fault of the peer or the deployment; carries the status of the response
    ClientDisconnected      the client has disconnected; everything about the request is released
    ResponseError           the application's response cannot be sent; answered with 500 and logged
    Unreported              already answered; excluded from logs and metrics (a health check, for example)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from . import causes
from .accounts import FREE, Account
from .tlsinfo import TLSInfo

#: A header section: lower-case names, values without surrounding blanks, order and duplicates kept (RFC 9110 section 5.2).
Headers = Sequence[tuple[bytes, bytes]]

#: ``[host, port]`` as the channel layer carries it; ``None`` for a UNIX socket.
Address = list[object] | None


class ConnectionInfo(NamedTuple):
    """The properties that all requests of a connection share.

    ``client`` and ``server`` are the addresses that the application sees: the socket's own, or those of a PROXY header.  ``peer`` is the
    address of the socket's peer where the client is another host, such as behind a proxy: ``[]`` for a UNIX socket.  Otherwise it is
    ``None``.  ``account`` counts the bytes that the server holds for the connection.
    """

    scheme: str
    client: Address
    server: Address
    tls: TLSInfo | None = None
    peer: Address = None
    #: Path of the UNIX socket that accepted the connection, ``""`` for other sockets.
    socket_path: str = ""
    account: Account = FREE

    @property
    def socket_peer(self) -> Address:
        """The address of the socket's peer, for decisions about trust; ``None`` for a UNIX socket."""
        return self.client if self.peer is None else self.peer or None


class Request(NamedTuple):
    """One request head, validated, in the same form for every protocol version.

    ``target`` is the request target as received (for logs; empty where it is unreadable).  ``path`` is the raw, still percent-encoded
    path, ``query_string`` the raw bytes after the first ``?``.  ``content_length`` is the number of body bytes: 0 for no body, ``None``
    where only the end of the body shows the length.  ``upgrade`` is the lower-cased ``Upgrade`` field (RFC 9110 section 7.8) or, on HTTP/2,
    the ``:protocol`` of an extended CONNECT (RFC 8441); empty for an ordinary request.  ``root_path`` is the decoded mount point of the
    application; protocols leave it empty, and the server's policy sets it.
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
        """Whether a tunnel on this request is opened by extended CONNECT (RFC 8441, on HTTP/2) instead of Upgrade (HTTP/1.1).

        The answer is then 200 instead of 101, has no ``Upgrade`` and ``Connection`` fields, and the tunnel does not end the connection.
        """
        return self.http_version == "2"


class HTTPError(Exception):
    """A request that the server answers with an error response.

    :param status: the HTTP status code.
    :param detail: one sentence for the error page; a fixed text, never the text of another exception.
    :param headers: additional response fields, such as ``Retry-After``.
    :param close: whether the connection ends after the answer, because its framing is in doubt or the answer precedes the body's end.
    :param cause: one of :mod:`greendaphne.core.causes`; by default derived from the status.
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
    """The client stopped reading for longer than the send timeout, so the server closed the connection."""

    cause = causes.CLIENT_SLOW


class ResponseError(Exception):
    """The application's response breaks the protocol; the text describes the error, for the log.

    :param cause: one of :mod:`greendaphne.core.causes`, where the application is not at fault.
    """

    def __init__(self, text: str, *, cause: str = causes.BAD_RESPONSE) -> None:
        super().__init__(text)
        self.cause = cause


class Unreported(Exception):
    """The request is answered already, and is neither logged nor counted: a health check, for example."""


class Stream(Protocol):
    """One request and its response; HTTP/1 connections and HTTP/2 streams implement the interface.

    All methods block cooperatively and raise :class:`ClientDisconnected` when the peer is gone.  One greenlet owns a stream, with one
    exception: after :meth:`switch` one greenlet may read while one other writes.
    """

    request: Request
    #: For the access log: the status sent, 0 before :meth:`start`, and the number of body bytes sent.
    status: int
    sent: int
    #: Whether the complete response has been sent.
    complete: bool
    #: The response's fields as sent, without those that the protocol adds, for the access log.
    response_headers: Headers
    #: Fields that :meth:`start` adds where the response has no field of the same name.
    extra_headers: Headers
    #: At most this many body bytes are returned by :meth:`read`; then it raises :class:`HTTPError` (413).  0 means no limit.
    body_limit: int

    @property
    def body_complete(self) -> bool:
        """Whether the request's body has been read to its end; may be false until :meth:`read` has returned ``b""``."""

    @property
    def begun(self) -> bool:
        """Whether the response's head has left, so that no other can be sent."""

    def read(self, n: int, timeout: float | None = None) -> bytes:
        """Return 1 to ``n`` body bytes, ``b""`` at the end of the body; after :meth:`switch` tunnel bytes, ``b""`` at EOF.

        :param timeout: at most this many seconds to wait; ``None`` for no limit.  No bytes are lost by a timeout.
        :raises TimeoutError: after ``timeout`` seconds.
        :raises HTTPError: 408 when the body exceeds its own time limits, before :meth:`switch`.
        """

    def inform(self, status: int, headers: Headers) -> None:
        """Send an interim response (RFC 9110 section 15.2), such as 103 with ``Link`` fields.

        Does nothing for HTTP/1.0, whose clients do not know them, and after the response's head has left.

        :param status: 102 to 199; 100 and 101 are the server's own.
        :raises ResponseError: for a status or a field that must not be sent; nothing was sent then.
        """

    def sendfile(self, descriptor: int, offset: int, count: int) -> bool:
        """Send ``count`` body bytes of a regular file by the kernel's ``sendfile``; the position of the descriptor does not change.

        :returns: whether the stream can; where not, nothing was sent and the caller reads the file itself.
        :raises ResponseError: where the file is shorter, or ``count`` is more than the announced length allows.
        """

    def start(self, status: int, headers: Headers, reason: str | None = None) -> None:
        """Validate and keep the response head; the first :meth:`write` or :meth:`finish` sends it.

        ``reason`` replaces the usual reason phrase on HTTP/1; HTTP/2 has none.

        :raises ResponseError: for an invalid head.  Nothing has been sent then, and the caller may start another response.
        """

    def write(self, data: bytes) -> None:
        """Send ``data`` as body bytes, or as tunnel bytes after :meth:`switch`."""

    def finish(self, data: bytes = b"", trailers: Headers = ()) -> None:
        """Send ``data`` as the last body bytes and complete the response.

        ``trailers`` are fields that follow the body (RFC 9110 section 6.5).  They are dropped where the response has no place for them:
        without chunks on HTTP/1.1, on HTTP/1.0, after the body of a tunnel.  The caller asks :func:`accepts_trailers` first.

        After :meth:`switch`, close this side's half of the tunnel gracefully, so that all sent bytes reach the peer.
        """

    def offer(self, data: bytes, *, last: bool = False, trailers: Headers = ()) -> bool:
        """Do the same as :meth:`write`, or as :meth:`finish` for the ``last`` piece, without waiting.

        Takes all of ``data``, or returns false and does nothing because too much waits to be sent; :meth:`has_room` tells when that
        changes.  The server holds bytes that the client does not take at once, without a copy, and sends them within the send timeout.
        After the last piece :meth:`flush` waits until all bytes are sent.  For greenlets that serve many clients, such as the one of an
        event loop.

        :raises ClientDisconnected: as :meth:`write`.
        :raises ResponseError: as :meth:`write`.
        """

    def has_room(self, callback: Callable[[], None] | None = None) -> bool:
        """Whether :meth:`offer` would take data now; if not, ``callback`` is called once, in the hub or any greenlet, when it would.

        It is also called when the client has disconnected, which the next :meth:`offer` reports; it must not wait and must not raise.
        """

    def flush(self) -> None:
        """Wait until everything that :meth:`offer` took has been sent.

        :raises ClientDisconnected: if the client did not take it.
        """

    def switch(self, headers: Headers) -> None:
        """Turn the stream into a tunnel: 101 with ``headers`` on HTTP/1.1 (RFC 9110 section 15.2.2), 200 on HTTP/2 (RFC 8441)."""

    def gone(self, *, half_closed: bool) -> bool:
        """Whether the server has detected that the peer has disconnected; never waits.

        :param half_closed: whether a peer that has only stopped sending counts as disconnected if the server cannot distinguish the two.
        """

    def watch(self, callback: Callable[[], None] | None, *, half_closed: bool = False) -> None:
        """Register ``callback`` to be called once when the peer abandons the stream; ``None`` ends that.

        For a greenlet blocked elsewhere, such as on its reply queue, that would otherwise miss the disconnect.  The callback must neither
        wait nor raise.  HTTP/1 keeps reading meanwhile: it keeps a bounded number of bytes that the client sends ahead for the next
        request, and cannot detect the disconnect after that.

        :param half_closed: whether a peer that has stopped sending has abandoned the stream as well.  HTTP/1 clients that close their
            connection look like clients that close the sending half and wait for the response.  An HTTP/2 stream has no such state: the
            end of a request's body says nothing.
        """

    def delivery(self) -> tuple[int, int] | None:
        """How many bytes of the connection the peer's system has taken so far, and how many wait for it.

        ``None`` where that is not known.
        """

    def reset(self) -> None:
        """Abort the stream, so that the peer does not treat a truncated response as complete."""


def with_extra(headers: Headers, extra: Headers) -> Headers:
    """``headers``, followed by the fields of ``extra`` whose names are not in ``headers``."""
    given = {name.lower() for name, _ in headers}
    return [*headers, *(field for field in extra if field[0].lower() not in given)]


def accepts_trailers(request: Request) -> bool:
    """Whether the client said that it takes trailers (``TE: trailers``, RFC 9110 section 10.1.4) in a version that has them."""
    if request.http_version == "1.0":
        return False
    for name, value in request.headers:
        if name == b"te" and b"trailers" in [element.strip() for element in value.lower().split(b",")]:
            return True
    return False


#: Fields that frame or route a message, or that recipients need before the body (RFC 9110 section 6.5.1).
_NO_TRAILERS: Final = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"host", b"trailer", b"connection", b"te", b"upgrade", b"keep-alive"),
        *(b"proxy-connection", b"content-encoding", b"content-type", b"content-range", b"cache-control", b"set-cookie", b"date"),
        # Control of the response, authentication and request modifiers (RFC 7231 sections 5.1, 5.3 and 7.1, RFC 7230 section 4.1.2).
        *(b"age", b"expires", b"location", b"pragma", b"retry-after", b"vary", b"warning", b"expect", b"max-forwards", b"range"),
        *(b"authorization", b"proxy-authorization", b"www-authenticate", b"proxy-authenticate"),
    )
)
#: Fields that an interim response must not have (RFC 9110 sections 8.6 and 6.1), or that are about the connection.
_NO_INTERIM: Final = frozenset(
    (b"content-length", b"transfer-encoding", b"trailer", b"connection", b"keep-alive", b"proxy-connection", b"upgrade")
)


def check_sent_trailers(trailers: Headers) -> None:
    """Check the names of a response's trailers.

    :raises ResponseError: for a field that must not be one.
    """
    for name, _ in trailers:
        if name.lower() in _NO_TRAILERS or name.startswith(b":"):
            raise ResponseError(f"the field {name.decode('latin-1')} cannot be a trailer")


def check_interim(status: int, headers: Headers) -> None:
    """Check the status and the names of the fields of an interim response.

    :raises ResponseError: for a status or a field that must not be sent.
    """
    if not 102 <= status <= 199:
        raise ResponseError(f"the status {status!r} is not that of an interim response (102 to 199)")
    for name, _ in headers:
        if name.lower() in _NO_INTERIM:
            raise ResponseError(f"the field {name.decode('latin-1')} cannot be in an interim response")


def body_too_large() -> HTTPError:
    """The error for a request body above the limit."""
    return HTTPError(413, "The request body is larger than this server accepts.", close=True)


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All values of the field ``name`` (lower case), in order."""
    return [value for key, value in headers if key == name]
