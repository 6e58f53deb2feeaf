"""The demo's chat: one room, a group of the channel layer, with its last messages in memory.

A message from a browser is JSON ``{"name": …, "text": …}``.  The server sends JSON with a ``kind``: ``welcome`` (``you``, ``people``,
``history``), ``message`` (``from``, ``name``, ``text``, ``time`` in Unix seconds), ``people`` (``people``) and ``refused`` (``reason``).
Text is sent as plain text; the page displays it as text and never as markup.
"""

from __future__ import annotations

import json
import secrets
import time
import unicodedata
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..core.message import header_values
from ..worker import Message

GROUP = "demo-chat"
PATH = "/chat"
#: The most characters of a name and of a text.
NAME_LIMIT = 24
TEXT_LIMIT = 500
#: The most characters of a frame: both of the above, each escaped as ``\uXXXX\uXXXX`` by JSON, and the keys.
FRAME_LIMIT = 12 * (NAME_LIMIT + TEXT_LIMIT) + 64
#: Messages kept for clients that connect later.
HISTORY = 50
#: Connections in the room; further ones are rejected.
ROOM_LIMIT = 500
#: Each connection may send BURST messages at once, then one every INTERVAL seconds.
BURST = 5
INTERVAL = 1.0

#: Characters that change the reading direction of the text after them.
_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Refused(Exception):
    """A browser's message is refused; the text is the reason."""


class Said(NamedTuple):
    """A valid message of a browser."""

    name: str
    text: str


@dataclass(slots=True)
class Member:
    """A connection in the room: the mark by which its browser recognises its own messages, and its allowance."""

    mark: str = field(default_factory=lambda: secrets.token_hex(6))
    allowance: float = BURST
    #: Monotonic seconds of the last change of ``allowance``.
    since: float = field(default_factory=time.monotonic)

    def spend(self, now: float) -> None:
        """Take one message off the allowance.

        :raises Refused: when the allowance is used up.
        """
        self.allowance = min(BURST, self.allowance + (now - self.since) / INTERVAL)
        self.since = now
        if self.allowance < 1:
            raise Refused("A little slower, please.")
        self.allowance -= 1


class Chat:
    """Consumers of ``websocket.connect``, ``websocket.receive`` and ``websocket.disconnect``.

    No method waits, so each one runs to its end without another in between.
    """

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._history: deque[dict[str, object]] = deque(maxlen=HISTORY)

    def connect(self, message: Message) -> None:
        """Accept the connection and send the history; another path, another origin or a full room is rejected."""
        content = message.content
        if content["path"] != PATH or not same_origin(content) or len(self._members) >= ROOM_LIMIT:
            message.reply({"accept": False})
            return
        reply_channel = content["reply_channel"]
        member = self._members[reply_channel] = Member()
        message.layer.group_add(GROUP, reply_channel)
        people = len(self._members)
        message.reply({"accept": True, **_text(kind="welcome", you=member.mark, people=people, history=list(self._history))})
        self._tell_people(message)

    def receive(self, message: Message) -> None:
        """Send a member's message to everyone in the room."""
        member = self._members.get(message.content["reply_channel"])
        if member is None:
            return
        try:
            said = parse(message.content.get("text"))
            member.spend(time.monotonic())
        except Refused as refusal:
            message.reply(_text(kind="refused", reason=str(refusal)))
            return
        entry: dict[str, object] = {"from": member.mark, "name": said.name, "text": said.text, "time": round(time.time(), 3)}
        self._history.append(entry)
        message.layer.send_group(GROUP, _text(kind="message", **entry))

    def disconnect(self, message: Message) -> None:
        """Remove the connection."""
        reply_channel = message.content["reply_channel"]
        if self._members.pop(reply_channel, None) is not None:
            message.layer.group_discard(GROUP, reply_channel)
            self._tell_people(message)

    def _tell_people(self, message: Message) -> None:
        message.layer.send_group(GROUP, _text(kind="people", people=len(self._members)))


def _text(**values: object) -> dict[str, object]:
    return {"text": json.dumps(values, ensure_ascii=False, separators=(",", ":"))}


def parse(frame: object) -> Said:
    """Validate a message of a browser.

    :raises Refused: for anything but a JSON object with a ``name`` and a ``text`` within the limits.
    """
    if not isinstance(frame, str) or len(frame) > FRAME_LIMIT:
        raise Refused("That message was not understood.")
    try:
        values = json.loads(frame)
    except (ValueError, RecursionError):
        raise Refused("That message was not understood.") from None
    name, text = (values.get("name"), values.get("text")) if isinstance(values, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str):
        raise Refused("That message was not understood.")
    name, text = clean(name), clean(text)
    if not text:
        raise Refused("There was nothing in that message.")
    if len(text) > TEXT_LIMIT:
        raise Refused(f"A message has at most {TEXT_LIMIT} characters.")
    if len(name) > NAME_LIMIT:
        raise Refused(f"A name has at most {NAME_LIMIT} characters.")
    return Said(name or "Somebody", text)


def clean(text: str) -> str:
    """``text`` on one line, without control characters, lone surrogates and marks that change the reading direction."""
    kept = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTION)
    )
    return " ".join(kept.split())


def same_origin(content: Mapping[str, Any]) -> bool:
    """Whether a handshake comes from a page of this server, or from no page at all (RFC 6455 section 10.2).

    Without this check any page on the web could send messages to a visitor's chat room on localhost.
    """
    origin = header_values(content["headers"], b"origin")
    host = header_values(content["headers"], b"host")
    if not origin:
        return True
    if len(origin) != 1 or len(host) != 1:
        return False
    try:
        return urlsplit(origin[0].decode("ascii")).netloc.lower() == host[0].decode("ascii").lower()
    except ValueError:
        return False
