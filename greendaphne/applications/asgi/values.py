"""Values in events, checked."""

from __future__ import annotations

from typing import Any


def as_bytes(data: Any) -> bytes:
    """``data`` of an event as bytes of its own: the application may use its buffer again.

    :raises TypeError: for anything else than bytes, a bytearray or a memoryview.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body is {type(data).__name__}, not bytes")
    return bytes(data)


def as_status(status: Any, kind: str) -> int:
    """The status of an event of type ``kind`` as a plain number.

    :raises TypeError: for anything else than an ``int``, of which ``bool`` is none here.
    """
    if not isinstance(status, int) or isinstance(status, bool):
        raise TypeError(f"the status of {kind} is {type(status).__name__}, not int")
    return int(status)


def as_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """The header fields of an event, without ``Transfer-Encoding``, which is the server's.

    :raises TypeError: unless they are pairs of bytes.
    """
    fields = []
    for field in headers:
        if field.__class__ is tuple and len(field) == 2:
            name, value = field
            if name.__class__ is bytes and value.__class__ is bytes and len(name) != 17:
                # What nearly all are.
                fields.append(field)
                continue
        if field.__class__ is not tuple or len(field) != 2:
            try:
                name, value = field
            except (TypeError, ValueError):
                raise TypeError(f"a header is {field!r}, not a pair of bytes") from None
            field = (name, value)
        name, value = field
        if name.__class__ is not bytes or value.__class__ is not bytes:
            if not isinstance(name, (bytes, bytearray)) or not isinstance(value, (bytes, bytearray)):
                raise TypeError(f"the header {name!r}: {value!r} is {type(name).__name__} and {type(value).__name__}, not a pair of bytes")
            field = (bytes(name), bytes(value))
        if len(name) == 17 and name.lower() == b"transfer-encoding":
            continue
        fields.append(field)
    return fields
