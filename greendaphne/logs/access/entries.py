"""One event of the access log and all its values.

An :class:`Entry` is created for a line and read once.  :data:`FIELDS` has its values by name, for JSON, log records and the atoms of
formats; the functions below provide gunicorn's atoms.  Values that a peer can influence leave this module only through
:func:`escaped` or as values that JSON quotes.
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

#: Kinds of events, as in JSON lines.
REQUEST: Final = "request"
REFUSED: Final = "refused"
CONNECTING: Final = "websocket-connecting"
CONNECTED: Final = "websocket-connected"
REJECTED: Final = "websocket-rejected"
DISCONNECTED: Final = "websocket-disconnected"

#: The words in place of the method in lines about WebSockets; daphne's.
WEBSOCKET_METHODS: Final = {CONNECTING: "WSCONNECTING", CONNECTED: "WSCONNECT", REJECTED: "WSREJECT", DISCONNECTED: "WSDISCONNECT"}

#: The status of a request whose client disconnected before the answer; nginx's number.
CLIENT_CLOSED_REQUEST: Final = 499

#: The text for a missing value.
NOTHING: Final = "-"

# Characters with which a client could forge a line or a field, or control a terminal that displays the log.
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


def escaped(text: str) -> str:
    """``text`` in printable ASCII without quotes and backslashes; other characters are written ``\\xNN`` or ``\\uNNNN``."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class Entry:
    """One event.

    :param seconds: the time since the request's head arrived.
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
        #: The status sent, :data:`CLIENT_CLOSED_REQUEST` where the client disconnected before it; 0 for none.
        status = stream.status
        if event is DISCONNECTED or event is CONNECTING:
            # The handshake's status has a separate line.
            status = 0
        elif not status and (cause is CLIENT_GONE or cause is CLIENT_SLOW):
            status = CLIENT_CLOSED_REQUEST
        self.status = status

    def field(self, name: bytes) -> str | None:
        """The request's first field of that name, each byte as a character; ``None`` without such a field."""
        for key, value in self.request.headers:
            if key == name:
                return value.decode("latin-1")
        return None


Value = str | int | float | None


class _Clock:
    """The time of day in the forms that lines need, computed once a second instead of once a line."""

    __slots__ = ("_second", "common", "daphne", "iso")

    def __init__(self) -> None:
        self._second = -1
        #: Local time without a zone, in daphne's format.
        self.daphne = ""
        #: Local time in the common log format.
        self.common = ""
        #: UTC in ISO 8601, without fraction and zone.
        self.iso = ""

    def now(self) -> _Clock:
        return self.at(time())

    def at(self, now: float) -> _Clock:
        second = int(now)
        if second != self._second:
            local = localtime(second)
            # English names in every locale.
            self.daphne = f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{strftime('%Y:%H:%M:%S', local)}"
            self.common = f"[{self.daphne} {strftime('%z', local)}]"
            self.iso = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
            self._second = second
        return self


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: Safe without a lock, because concurrent threads write equal values.
CLOCK: Final = _Clock()


def iso_time(entry: Entry) -> str:
    """The time of the event in UTC, in milliseconds: ``2026-01-31T23:59:59.999Z``."""
    now = entry.now
    return f"{CLOCK.at(now).iso}.{int(now % 1 * 1000):03}Z"


def protocol(entry: Entry) -> str:
    """The protocol, such as ``HTTP/1.1``."""
    return f"HTTP/{entry.request.http_version}"


def host(entry: Entry) -> str | None:
    """The client's address without its port; ``None`` for a UNIX socket."""
    client = entry.request.connection.client
    return None if client is None else str(client[0])


def method(entry: Entry) -> str | None:
    """The request's method; ``None`` for an unreadable head."""
    return entry.request.method if entry.request.target else None


def method_word(entry: Entry) -> str | None:
    """The method, or daphne's word for the event of a WebSocket."""
    return WEBSOCKET_METHODS.get(entry.event) or method(entry)


def request_line(entry: Entry) -> str | None:
    """Method, target and protocol; ``None`` for an unreadable head."""
    request = entry.request
    if not request.target:
        return None
    return f"{method_word(entry)} {request.target.decode('latin-1')} HTTP/{request.http_version}"


def user(entry: Entry) -> str | None:
    """The user name in Basic authentication (RFC 7617)."""
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

#: Every value by its name: the keys of JSON lines, in their order, attributes of log records, and atoms.  ``None`` for a missing value.
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
