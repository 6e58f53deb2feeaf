"""The WebSocket of a room.

The browser sends ``{"text": "..."}`` for a message and ``{"alive": true}`` every half minute.  It receives objects with a ``type``::

    history     messages: those after the id in ``?since=``; present: the names of the users in the room
    message     message: one new message
    joined      user, present
    left        user, present
    error       text: why the browser's last message was refused
"""

import json
from urllib.parse import parse_qs

from channels import Group
from channels.auth import channel_session_user, channel_session_user_from_http
from channels.exceptions import DenyConnection
from channels.sessions import enforce_ordering
from django.utils import timezone

from .models import PRESENCE_LIFE, Message, Presence, Room

MAX_TEXT = 2000
#: The most messages sent to a browser that reconnects.
MAX_HISTORY = 200


def send(channel, **content):
    """Send ``content`` as JSON to a channel or a group."""
    channel.send({"text": json.dumps(content)})


def since(message):
    """The id of the last message that the browser has, from the query string; 0 if it names none."""
    query = message.content.get("query_string", b"")
    values = parse_qs(query.decode("latin-1") if isinstance(query, bytes) else query).get("since", ["0"])
    return int(values[-1]) if values[-1].isdigit() else 0


@enforce_ordering
@channel_session_user_from_http
def connect(message, slug):
    """Let a logged-in user into an existing room, notify the room, and send the messages that the browser missed."""
    room = Room.objects.filter(slug=slug).first()
    if room is None or not message.user.is_authenticated:
        raise DenyConnection
    message.reply_channel.send({"accept": True})
    # First the group, then the query: a message stored in between then arrives twice, and the page drops the duplicate.  The other order
    # could lose it.
    Group(room.group).add(message.reply_channel)
    Presence.objects.filter(room=room, seen__lt=timezone.now() - PRESENCE_LIFE).delete()
    arrived = not room.presences.filter(user=message.user).exists()
    # Not update_or_create: SQLite refuses, without waiting, a transaction that reads first and writes during another write.
    Presence.objects.create(channel=message.reply_channel.name, room=room, user=message.user)
    present = room.users_present()
    missed = room.messages.select_related("user").filter(pk__gt=since(message)).order_by("-pk")[:MAX_HISTORY]
    send(message.reply_channel, type="history", messages=[row.as_json() for row in reversed(missed)], present=present)
    if arrived:
        send(Group(room.group), type="joined", user=message.user.username, present=present)


@enforce_ordering
@channel_session_user
def receive(message, slug):
    """Store a message and send it to the room."""
    presence = Presence.objects.select_related("room").filter(channel=message.reply_channel.name, room__slug=slug).first()
    if presence is None:
        # The presence expired after a long silence: the browser reconnects and fetches what it missed.
        message.reply_channel.send({"close": True})
        return
    presence.seen = timezone.now()
    presence.save(update_fields=["seen"])
    try:
        content = json.loads(message.content.get("text") or "")
        text = content.get("text")
    except (ValueError, AttributeError):
        send(message.reply_channel, type="error", text="That was not understood.")
        return
    if text is None:
        return
    text = str(text).strip()
    if not text or len(text) > MAX_TEXT:
        send(message.reply_channel, type="error", text=f"A message has 1 to {MAX_TEXT} characters.")
        return
    stored = Message.objects.create(room=presence.room, user=message.user, text=text)
    send(Group(presence.room.group), type="message", message=stored.as_json())


@enforce_ordering
@channel_session_user
def disconnect(message, slug):
    """Remove the user from the room, unless the room is open in another browser of the same user."""
    presence = Presence.objects.select_related("room").filter(channel=message.reply_channel.name).first()
    if presence is None:
        return
    room = presence.room
    Group(room.group).discard(message.reply_channel)
    presence.delete()
    present = room.users_present()
    if message.user.username not in present:
        send(Group(room.group), type="left", user=message.user.username, present=present)


def refuse(message, **kwargs):
    """Reject WebSockets on all other paths."""
    raise DenyConnection
