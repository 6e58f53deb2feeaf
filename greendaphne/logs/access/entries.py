"""One event of the access log and everything that can be said of it.

An :class:`Entry` is made when a line is due and read once.  :data:`FIELDS` are its values by name, for JSON and log records and as atoms of
a format; the functions below them are what gunicorn's atoms stand for.  Whatever a peer had a say in leaves this module only through
:func:`escaped` or as a value that JSON quotes.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Callable
from time import gmtime, localtime, strftime, time
from typing import Final

from ...core.causes import CLIENT_GONE, CLIENT_SLOW
from ...core.message import Stream

#: Kinds of events, as JSON has them.
REQUEST: Final = "request"
REFUSED: Final = "refused"
CONNECTING: Final = "websocket-connecting"
CONNECTED: Final = "websocket-connected"
REJECTED: Final = "websocket-rejected"
DISCONNECTED: Final = "websocket-disconnected"

#: What stands in place of the method in lines about WebSockets; daphne's words.
WEBSOCKET_METHODS: Final = {CONNECTING: "WSCONNECTING", CONNECTED: "WSCONNECT", REJECTED: "WSREJECT", DISCONNECTED: "WSDISCONNECT"}

#: The status of a request whose client left before there was an answer; nginx's number.
CLIENT_CLOSED_REQUEST: Final = 499

#: What stands for a value that there is not.
NOTHING: Final = "-"

# What would let a client forge a line or a field of one, or command the terminal of whoever reads it.
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


def escaped(text: str) -> str:
    """``text`` in printable ASCII without quotes and backslashes; everything else is ``\\xNN``, or ``\\uNNNN`` where that is not enough."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class Entry:
    """One event.

    :param seconds: since the request's head had arrived.
    :param code: the close code of a WebSocket.
    """

    __slots__ = ("cause", "code", "event", "now", "request", "seconds", "status", "stream")

    def __init__(self, stream: Stream, event: str, seconds: float, cause: str, code: int | None) -> None:
        self.stream = stream
        self.request = stream.request
        self.event = event
        self.seconds = seconds
        self.cause = cause
        self.code = code
        self.now = time()
        #: The status that the client got, :data:`CLIENT_CLOSED_REQUEST` where it left before; 0 for none.
        status = stream.status
        if event is DISCONNECTED or event is CONNECTING:
            # The handshake's status has its own line.
            status = 0
        elif not status and (cause is CLIENT_GONE or cause is CLIENT_SLOW):
            status = CLIENT_CLOSED_REQUEST
        self.status = status

    def field(self, name: bytes) -> str | None:
        """The request's first field of that name, each byte as a character; ``None`` where there is none."""
        for key, value in self.request.headers:
            if key == name:
                return value.decode("latin-1")
        return None


Value = str | int | float | None


class _Clock:
    """The time of day in the forms that lines need, made once a second instead of for every line."""

    __slots__ = ("_second", "common", "daphne", "iso")

    def __init__(self) -> None:
        self._second = -1
        #: Without a zone, local; daphne's.
        self.daphne = ""
        #: The common log format's.
        self.common = ""
        #: ISO 8601 in UTC, without fraction and zone.
        self.iso = ""

    def now(self) -> _Clock:
        return self.at(time())

    def at(self, now: float) -> _Clock:
        second = int(now)
        if second != self._second:
            local = localtime(second)
            # English whatever the locale is.
            self.daphne = f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{strftime('%Y:%H:%M:%S', local)}"
            self.common = f"[{self.daphne} {strftime('%z', local)}]"
            self.iso = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
            self._second = second
        return self


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: Two threads that meet here write the same.
CLOCK: Final = _Clock()


def iso_time(entry: Entry) -> str:
    """The moment of the event in UTC, in milliseconds: ``2026-01-31T23:59:59.999Z``."""
    now = entry.now
    return f"{CLOCK.at(now).iso}.{int(now % 1 * 1000):03}Z"


def protocol(entry: Entry) -> str:
    """``HTTP/1.1`` and the like."""
    return f"HTTP/{entry.request.http_version}"


def host(entry: Entry) -> str | None:
    """The client's address without its port; ``None`` for a UNIX socket."""
    client = entry.request.connection.client
    return None if client is None else str(client[0])


def method(entry: Entry) -> str | None:
    """The request's method; ``None`` where the head could not be read."""
    return entry.request.method if entry.request.target else None


def method_word(entry: Entry) -> str | None:
    """The method, or daphne's word for what happened to a WebSocket."""
    return WEBSOCKET_METHODS.get(entry.event) or method(entry)


def request_line(entry: Entry) -> str | None:
    """Method, target and protocol; ``None`` where the head could not be read."""
    request = entry.request
    if not request.target:
        return None
    return f"{method_word(entry)} {request.target.decode('latin-1')} HTTP/{request.http_version}"


def user(entry: Entry) -> str | None:
    """The user's name in Basic authentication (RFC 7617)."""
    value = entry.field(b"authorization")
    if value is None or value[:6].lower() != "basic ":
        return None
    try:
        name, colon, _ = b64decode(value[6:].strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return name.decode("latin-1") if colon and name else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _header(name: bytes) -> Callable[[Entry], Value]:
    def value(entry: Entry) -> Value:
        for key, data in entry.request.headers:
            if key == name:
                return _text(data)
        return None

    return value


def _client_port(entry: Entry) -> Value:
    client = entry.request.connection.client
    port = None if client is None else client[1]
    return port if isinstance(port, int) and port else None


def _peer(entry: Entry) -> Value:
    peer = entry.request.connection.socket_peer
    return None if peer is None else str(peer[0])


def _path(entry: Entry) -> Value:
    return _text(entry.request.path) if entry.request.target else None


def _query(entry: Entry) -> Value:
    return _text(entry.request.query_string) if entry.request.target else None


def _tls_version(entry: Entry) -> Value:
    tls = entry.request.connection.tls
    return None if tls is None else tls.version


def _tls_cipher(entry: Entry) -> Value:
    tls = entry.request.connection.tls
    return None if tls is None else tls.cipher


def _size(entry: Entry) -> Value:
    return entry.stream.sent if entry.event is REQUEST or entry.event is REFUSED else None


PID = os.getpid()

#: Every value by its name: the keys of JSON lines, in their order, attributes of log records, and atoms.  ``None`` where there is none.
FIELDS: Final[dict[str, Callable[[Entry], Value]]] = {
    "time": iso_time,
    "event": lambda entry: entry.event,
    "client": host,
    "client_port": _client_port,
    "peer": _peer,
    "method": method,
    "path": _path,
    "query": _query,
    "protocol": protocol,
    "scheme": lambda entry: entry.request.connection.scheme,
    "host": _header(b"host"),
    "status": lambda entry: entry.status or None,
    "size": _size,
    "duration": lambda entry: round(entry.seconds, 6),
    "cause": lambda entry: entry.cause or None,
    "close_code": lambda entry: entry.code,
    "referer": _header(b"referer"),
    "user_agent": _header(b"user-agent"),
    "request_id": _header(b"x-request-id"),
    "tls_version": _tls_version,
    "tls_cipher": _tls_cipher,
    "pid": lambda entry: PID,
}

#: The request fields that :data:`FIELDS` read.
FIELD_HEADERS: Final = {"host": b"host", "referer": b"referer", "user_agent": b"user-agent", "request_id": b"x-request-id"}


def _after_fork() -> None:
    global PID  # noqa: PLW0603 - it is another process
    PID = os.getpid()


os.register_at_fork(after_in_child=_after_fork)
