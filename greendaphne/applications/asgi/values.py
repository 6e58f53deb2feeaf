"""Values in events, checked."""

from __future__ import annotations

from typing import Any

#: The fields of the latest event: nothing in the list can change, since they are tuples of bytes.
_latest: list[tuple[bytes, bytes]] = []


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

    :returns: a list that nothing may change: that of the call before where the fields are the same, as those of many responses are.
    :raises TypeError: unless they are pairs of bytes.
    """
    global _latest  # noqa: PLW0603 - what all responses of the process share
    latest = _latest
    if headers.__class__ is list and headers == latest:
        return latest
    _latest = latest = _checked(headers)
    return latest


def _checked(headers: Any) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
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
