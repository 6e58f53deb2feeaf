"""``start_response`` and the iteration of what the application returns (PEP 3333, "The start_response() Callable" and what follows it)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sized
from types import TracebackType
from typing import Any, Final

from ...core.errors import reason_phrase
from ...core.message import ClientDisconnected, ResponseError, Stream
from .input import PIECE, FileWrapper, disk_file

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

#: Fields that belong to the server (RFC 9110 section 7.6.1, RFC 2616 section 13.5.1, which PEP 3333 refers to).
_HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS: Final = re.compile(r"[1-9][0-9]{2}(?: .*)?", re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
#: Marks a field that announces the length: compared by identity.
_LENGTH: Final = b"Content-Length"
#: Stands for a field that changes nothing.
_NOTHING: Final = (b"", b"")
#: Statuses and fields that are remembered once they are checked, and the longest value among them.
_REMEMBERED_STATUSES, _REMEMBERED_FIELDS, _REMEMBERED_VALUE = 256, 2048, 128
_statuses: dict[str, tuple[int, str | None]] = {}
_fields: dict[tuple[str, str], tuple[bytes, bytes]] = {}


def parse_status(status: Any) -> tuple[int, str | None]:
    """The code and the reason phrase of a status, ``None`` for the usual one.

    :raises ResponseError: for anything but three digits and a reason phrase, which may be empty.
    """
    if not isinstance(status, str) or _STATUS.fullmatch(status) is None:
        raise ResponseError(f"the status {status!r} is not a str written as '200 OK'")
    code = int(status[:3])
    if code < 200:
        raise ResponseError(f"the status {status!r} is not that of a final response (200 to 999)")
    reason = status[4:].strip(" \t")
    if _CONTROL.search(reason) is not None:
        raise ResponseError(f"the status {status!r} has a control character")
    if not _is_latin(reason):
        raise ResponseError(f"the status {status!r} has characters above U+00FF")
    parsed = (code, None if not reason or reason == reason_phrase(code) else reason)
    if len(_statuses) < _REMEMBERED_STATUSES:
        _statuses[status] = parsed
    return parsed


def parse_field(name: Any, value: Any) -> tuple[bytes, bytes]:
    """A field as the server sends it; ``(b"", b"")`` for one that says what holds anyway.

    :raises ResponseError: for a field that must not be sent.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise ResponseError(f"the header {name!r}: {value!r} is not made of str")
    if _TOKEN.fullmatch(name) is None:
        raise ResponseError(f"the header name {name!r} is not a token")
    if _CONTROL.search(value) is not None:
        raise ResponseError(f"the value of the header {name} has a control character: {value!r}")
    if not _is_latin(value):
        raise ResponseError(f"the value of the header {name} has characters above U+00FF: {value!r}")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        wish = value.strip(" \t").lower()
        if lower != "connection" or wish not in ("close", "keep-alive"):
            raise ResponseError(f"the header {name} belongs to the server (PEP 3333, hop-by-hop headers)")
        # The first is a wish that the server can fulfil, the second the default.
        field = (b"Connection", b"close") if wish == "close" else _NOTHING
    elif lower == "content-length":
        value = value.strip(" \t")
        if _DIGITS.fullmatch(value) is None:
            raise ResponseError(f"Content-Length {value!r} is malformed")
        field = (_LENGTH, value.encode("ascii"))
    else:
        field = (name.encode("ascii"), value.encode("latin-1"))
    if len(value) <= _REMEMBERED_VALUE:
        if len(_fields) >= _REMEMBERED_FIELDS:
            _fields.clear()
        _fields[name, value] = field
    return field


def _is_latin(text: str) -> bool:
    return text.isascii() or max(text) <= "\xff"


class Response:
    """The response to one request.

    :param stream: where it goes.
    """

    __slots__ = ("_called", "_headers", "_length", "_reason", "_status", "_stream", "disconnected")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._called = False
        self._status = 0
        self._reason: str | None = None
        # None until start_response() has succeeded.
        self._headers: list[tuple[bytes, bytes]] | None = None
        # The announced length, as digits.
        self._length: bytes | None = None
        #: What ``write`` raised when the client was gone, which the application may have turned into something else.
        self.disconnected: ClientDisconnected | None = None

    def start_response(self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        """Keep the head of the response until there is something to send; return ``write``.

        :raises ResponseError: for a head that must not be sent.
        :raises AssertionError: for a second call without ``exc_info``.
        """
        if exc_info:
            try:
                if self._stream.status:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                # The traceback refers to this frame.
                exc_info = None
        elif self._called:
            raise AssertionError("start_response() was called already, and this call has no exc_info")
        self._called = True
        self._headers = None
        known = _fields
        fields = []
        length: bytes | None = None
        self._status, self._reason = _statuses.get(status) or parse_status(status)
        for header in headers:
            field = known.get(header) if type(header) is tuple else None
            if field is None:
                field = parse_field(*header)
            if field[0] is _LENGTH:
                if length not in (None, field[1]):
                    raise ResponseError("two headers Content-Length contradict each other")
                length = field[1]
            elif field is _NOTHING:
                continue
            fields.append(field)
        self._length = length
        self._headers = fields
        return self.write

    def write(self, data: bytes) -> None:
        """Send ``data`` at once: what ``start_response`` returns."""
        if not isinstance(data, bytes):
            raise TypeError(f"write() takes bytes, not {type(data).__name__}")
        try:
            if not self._stream.status:
                self._begin(None)
            self._stream.write(data)
        except ClientDisconnected as error:
            self.disconnected = error
            raise

    def early_hints(self, headers: Iterable[tuple[Any, Any]]) -> None:
        """Send 103 with ``headers``, for the client to load what it will need (RFC 8297); nothing once the response has begun."""
        if self._stream.status:
            return
        fields = []
        for name, value in headers:
            name, value = (text.decode("latin-1") if isinstance(text, bytes) else text for text in (name, value))
            fields.append(parse_field(name, value))
        try:
            self._stream.inform(103, [field for field in fields if field is not _NOTHING])
        except ClientDisconnected as error:
            self.disconnected = error
            raise

    def send(self, result: Any) -> None:
        """Send what the application returned, each piece before the next is asked for."""
        stream = self._stream
        kind = type(result)
        if kind is not list:
            if kind is FileWrapper:
                self._send_file(result)
                return
            if result is None or isinstance(result, (bytes, bytearray, str)):
                raise ResponseError(f"the application returned {kind.__name__}; it has to return an iterable of bytes")
        # Asked before: an exception costs more than all the rest of this.
        # Most iterables have no length, and a class tells that faster than the check whether it is Sized.
        if (kind is list or (hasattr(kind, "__len__") and isinstance(result, Sized))) and len(result) == 1 and not stream.status:
            # Its length is known (PEP 3333, "Handling the Content-Length Header").
            data = result[0] if kind is list else next(iter(result), b"")
            if data.__class__ is not bytes:
                data = _checked(data)
            self._begin(len(data))
            stream.finish(data)
            return
        try:
            pieces = iter(result)
        except TypeError:
            raise ResponseError(f"the application returned {kind.__name__}; it has to return an iterable of bytes") from None
        self._send_pieces(pieces)

    def _send_pieces(self, pieces: Iterable[bytes]) -> None:
        stream = self._stream
        # A response without a body never fails to be sent, so the client has to be looked for.
        bodiless = stream.request.method == "HEAD" or self._status in (204, 205, 304)
        for data in pieces:
            if data:
                if data.__class__ is not bytes:
                    data = _checked(data)
                if not stream.status:
                    self._begin(None)
                stream.write(data)
            if bodiless and stream.gone(half_closed=True):
                raise ClientDisconnected
        if not stream.status:
            self._begin(0)
        stream.finish()

    def _send_file(self, wrapper: FileWrapper) -> None:
        stream = self._stream
        file = disk_file(wrapper.filelike)
        if file is None:
            self._send_pieces(wrapper.pieces(max(wrapper.block_size, PIECE)))
            return
        announced = self._length
        count = file.size if announced is None else min(file.size, int(announced))
        if not stream.status:
            self._begin(count)
        if not stream.sendfile(file.descriptor, file.offset, count):
            for data in wrapper.pieces(max(wrapper.block_size, PIECE)):
                if len(data) > count:
                    data = data[:count]
                if not data:
                    break
                count -= len(data)
                stream.write(data)
        stream.finish()

    def _begin(self, length: int | None) -> None:
        """Start the response, whose body has ``length`` bytes, ``None`` where that is not known."""
        headers = self._headers
        if headers is None:
            raise ResponseError("the application did not call start_response()" if not self._called else "start_response() failed")
        status = self._status
        # The empty body of an answer to HEAD says nothing about that to GET.
        says_length = length or self._stream.request.method != "HEAD"
        if length is not None and says_length and self._length is None and status not in (204, 304):
            headers.append((_LENGTH, b"%d" % length))
        self._stream.start(status, headers, self._reason)


def _checked(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise ResponseError(f"the application returned an iterable of {type(data).__name__}; it has to be one of bytes")
    return data
