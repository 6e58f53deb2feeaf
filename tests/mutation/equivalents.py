"""Mutants that behave like the original, each with the reason.

An entry names a mutant by its module, the function or class around it, the text of its line, the code before and after, and, where one line
has several such mutants, by its place among them, which counts from 1.  When the line changes, the entry no longer applies: the next run
names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .mutants import Mutant


class Key(NamedTuple):
    module: str
    scope: str
    text: str
    before: str
    after: str
    place: int = 1


def keys(module: str, found: Iterable[Mutant]) -> dict[Mutant, Key]:
    """The keys of the mutants of a module."""
    seen: Counter[tuple[int, str, str]] = Counter()
    named = {}
    for mutant in found:
        same = mutant.line, mutant.before, mutant.after
        seen[same] += 1
        named[mutant] = Key(module, mutant.scope, mutant.text, mutant.before, mutant.after, seen[same])
    return named


EQUIVALENT: dict[Key, str] = {
    Key(
        "greendaphne/applications/channels/http.py",
        "HTTPBridge._notify_soon",
        "if not notices and len(self._router.clients) == 1:",
        "1",
        "2",
    ): "The notice of a request that is alone is sent at once or in the next turn of the hub: only the cost differs.",
    Key(
        "greendaphne/http1/head.py",
        "HeadParser._parse_fields",
        "if len(head) > limits.request_field_size and any("
        "len(name) + len(value) + 2 > limits.request_field_size for name, value in result):",
        ">",
        ">=",
    ): "A head has more bytes than each of its fields as it is counted, so no field of a head of exactly the limit is too long.",
    Key(
        "greendaphne/http1/stream.py",
        "Http1Stream._framed",
        "if len(data) <= _JOINED or self._framing == NO_BODY or (self._framing == LENGTH and len(data) > self._left):",
        "<=",
        "<",
    ): "The stream sends a body of exactly this length together with the head or after it, and the client reads the same bytes.",
    Key(
        "greendaphne/http2/compression.py",
        "_indexed_literal",
        "return _name(field[0], 6, 0x40) + _short_string(field[1])",
        "6",
        "7",
    ): "The static table ends at 61, which has room in six bits.",
    Key(
        "greendaphne/http2/writer.py",
        "Writer._fill",
        "while engine.pending < self._limits.write_buffer:",
        "<",
        "<=",
    ): "The buffer ends a turn with up to one frame more than the limit in either case.",
    Key(
        "greendaphne/layers/capabilities.py",
        "Ending",
        'WAKE = "wake"',
        'WAKE = "wake"',
        "WAKE = None",
    ): "Endings are compared by identity; nothing uses their values.",
    Key(
        "greendaphne/layers/receiver.py",
        "",
        "_Batch = list[tuple[str, dict[str, Any]]]",
        "_Batch = list[tuple[str, dict[str, Any]]]",
        "_Batch = None",
    ): "An alias for annotations, which Python does not evaluate.",
    Key(
        "greendaphne/layers/redis/hubstream.py",
        "HubStream.is_stale",
        "return self.closed or bool(self._poller.poll(0))",
        "0",
        "1",
    ): "An idle connection is looked at for a millisecond longer, with the same result.",
    Key(
        "greendaphne/layers/redis/streams.py",
        "SocketStream.is_stale",
        "return bool(self._poller.poll(0)) or self._sock.fileno() < 0",
        "0",
        "1",
    ): "As for HubStream.is_stale.",
    Key(
        "greendaphne/layers/values.py",
        "copy_message",
        "elif kind is not int or not 0 <= value <= INT_MAX:",
        "<=",
        "<",
        1,
    ): "Other numbers go the longer way, which takes these two.",
    Key(
        "greendaphne/layers/values.py",
        "copy_message",
        "elif kind is not int or not 0 <= value <= INT_MAX:",
        "<=",
        "<",
        2,
    ): "Other numbers go the longer way, which takes these two.",
    Key(
        "greendaphne/websocket/frames.py",
        "MessageReader._next_message",
        'self._undecoded = b""',
        'b""',
        'b"XX"',
    ): "Two letters before a text do not change whether it is UTF-8, and only that is looked at.",
    Key(
        "greendaphne/websocket/sending.py",
        "SendingWebSocket.send_frame",
        "self._refuse()",
        "self._refuse()",
        "pass",
    ): "The write that follows refuses in the same way, before it writes anything.",
    Key(
        "greendaphne/websocket/state.py",
        "State",
        "CLOSED = 3",
        "CLOSED = 3",
        "CLOSED = None",
    ): "States are compared by identity; nothing uses their values.",
}
