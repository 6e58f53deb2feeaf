"""What a channel layer message may hold, and how to hand one from a sender to a receiver that share the process.

The ASGI specification allows dicts with ``str`` keys whose values are ``bytes``, ``str``, ``int`` (64 bit), ``float``, ``bool``, ``None``
and lists and dicts of these.  :func:`copy_message` gives the receiver its own containers and shares the immutable leaves, which costs a
tenth of ``copy.deepcopy`` and nothing per byte of a body.  What a serialising layer normalises on its wire is normalised here as well
(subclasses such as Django's ``SafeString`` or an ``IntEnum`` become the plain type, ``bytearray`` and ``memoryview`` ``bytes``); what
such a layer cannot carry is refused.  One difference is kept on purpose: a tuple stays a tuple, since a tuple of immutable values
needs no copy and header fields are pairs.

It knows no channel and no layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NoReturn

#: Containers inside containers; a message of the specification nests three deep, and a cycle has to end somewhere.
MAX_DEPTH = 64
#: What MessagePack and 64-bit integers have in common.
INT_MIN = -(2**63)
INT_MAX = 2**64 - 1

#: Types whose values are shared between sender and receiver without a look at the value.
_SHARED = frozenset({bytes, bool, float, type(None)})
_KEYS = frozenset({str})
_TUPLES = {tuple}
#: Lists of header fields that have been checked, by their content.  They are forgotten all together when there are too many.
_known_fields: dict[tuple[object, ...], Sequence[object]] = {}
#: Lists that are remembered, the most fields in one of them, and their bytes: a cookie that is another for each client is too long.
_REMEMBERED, _REMEMBERED_FIELDS, _REMEMBERED_SIZE = 256, 16, 256

#: What a container or a number takes at most beside its content, in MessagePack; for :func:`message_size`.
_OVERHEAD = 9


def copy_message(message: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of ``message`` that shares no mutable object with it.

    :raises TypeError: for a value or a key that no channel layer carries; names the key and the type.
    :raises ValueError: for an ``int`` beyond 64 bits, a ``str`` with lone surrogates, and nesting deeper than :data:`MAX_DEPTH`.
    """
    if type(message) is not dict:
        if not isinstance(message, dict):
            raise TypeError(f"a message must be a dict, not {type(message).__name__}")
        return _copy_dict(message, "", 0)
    # What most messages are made of; everything else begins anew.
    copy = message.copy()
    for key, value in copy.items():
        if type(key) is not str:
            return _copy_dict(message, "", 0)
        kind = type(value)
        if kind is str:
            if not value.isascii():
                _check_text(value, key)
        elif kind in _SHARED:
            continue
        elif kind is list:
            # Assigning to a key that exists does not disturb the iteration.
            copy[key] = _copy_fields(value, key)
        elif kind is not int or not 0 <= value <= INT_MAX:
            copy[key] = _copy_value(value, key, 1)
    return copy


def _copy_fields(values: list[object], where: str) -> Sequence[object]:
    """A copy of a list, which usually is one of header fields that other messages had, too: those are not looked at again.

    The copy consists of the objects of the list that was remembered, which are of the plain types, whatever ``values`` consists of that is
    equal to them.
    """
    try:
        known = _known_fields.get(tuple(values))
    except (TypeError, ValueError):  # it has lists in it, or dicts; or a writable memoryview, whose hash raises the latter
        return _copy_list(values, where, 1)
    if known is not None:
        return known[:]
    copy = _copy_list(values, where, 1)
    if _are_fields(copy):
        if len(_known_fields) >= _REMEMBERED:
            _known_fields.clear()
        _known_fields[tuple(copy)] = copy[:]
    return copy


def _are_fields(values: Sequence[object]) -> bool:
    """Whether ``values`` are pairs of ``bytes``, few and short enough to be remembered."""
    if len(values) > _REMEMBERED_FIELDS:
        return False
    size = 0
    for pair in values:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not bytes or type(pair[1]) is not bytes:
            return False
        size += len(pair[0]) + len(pair[1])
    return size <= _REMEMBERED_SIZE


def _copy_dict(content: dict[str, object], where: str, depth: int) -> dict[str, object]:
    # dict.copy() of an exact dict and one pass that replaces the few values which need it is what makes this cheap.
    copy = content.copy() if type(content) is dict else dict(content)
    if not _KEYS.issuperset(map(type, copy)):
        copy = {_plain_key(key, where): value for key, value in copy.items()}
    for key, value in copy.items():
        kind = type(value)
        if kind is str:
            if not value.isascii():  # type: ignore[attr-defined]
                _check_text(value, f"{where}{key}")  # type: ignore[arg-type]
        elif kind not in _SHARED:
            # Assigning to a key that exists does not disturb the iteration.
            copy[key] = _copy_value(value, f"{where}{key}", depth + 1)
    return copy


def _copy_value(value: object, where: str, depth: int) -> object:
    kind = type(value)
    if kind is list:
        return _copy_list(value, where, depth)  # type: ignore[arg-type]
    if kind is tuple:
        copy = _copy_list(value, where, depth)  # type: ignore[arg-type]
        return value if copy is value else tuple(copy)
    if kind is dict:
        if depth > MAX_DEPTH:
            _refuse_depth(where)
        return _copy_dict(value, f"{where}.", depth)  # type: ignore[arg-type]
    if kind is int:
        if INT_MIN <= value <= INT_MAX:  # type: ignore[operator]
            return value
        raise ValueError(f"message key {where!r} holds an int of more than 64 bits")
    if kind is str:
        _check_text(value, where)  # type: ignore[arg-type]
        return value
    if kind in _SHARED:
        return value
    return _copy_value(_plain(value, where), where, depth)


def _copy_list(values: Sequence[object], where: str, depth: int) -> Sequence[object]:
    """A copy of a list; a tuple of immutable values itself, another tuple's content as a list."""
    kinds = set(map(type, values))
    if kinds <= _SHARED:
        return values[:]
    if kinds == _TUPLES and _SHARED.issuperset(map(type, chain.from_iterable(values))):  # type: ignore[arg-type]
        return values[:]  # header fields: a list of pairs of bytes, in two passes that run in C
    if depth > MAX_DEPTH:
        _refuse_depth(where)
    depth += 1
    return [item if (type(item) is str and item.isascii()) or type(item) is bytes else _copy_value(item, where, depth) for item in values]


def _plain(value: object, where: str) -> object:
    """Turn an instance of a subclass into the plain type, as a serialising layer does."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list):
        return list(value)
    if isinstance(value, tuple):
        return tuple(value)
    raise TypeError(f"message key {where!r} holds a {type(value).__name__}, which no channel layer carries")


def _plain_key(key: object, where: str) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    place = f" in {where[:-1]!r}" if where else ""
    raise TypeError(f"message key {key!r}{place} is a {type(key).__name__}; keys must be str")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"message key {where!r} holds a str that is not valid Unicode (lone surrogates)") from None


def _refuse_depth(where: str) -> NoReturn:
    raise ValueError(f"message key {where[:80]!r} is nested more than {MAX_DEPTH} levels deep")


def message_size(value: object) -> int:
    """The size of a message that :func:`copy_message` returned, in bytes: an upper bound of its MessagePack form."""
    if isinstance(value, str):
        return _OVERHEAD + (len(value) if value.isascii() else len(value.encode()))
    if isinstance(value, bytes):
        return _OVERHEAD + len(value)
    if isinstance(value, dict):
        return _OVERHEAD + sum(message_size(key) + message_size(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return _OVERHEAD + sum(map(message_size, value))
    return _OVERHEAD
