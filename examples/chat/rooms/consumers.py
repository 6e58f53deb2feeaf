"""The WebSocket of a room.

The browser sends ``{"text": "..."}`` to speak and ``{"alive": true}`` every half minute.  It gets objects with a ``type``::

    history     messages: what was said since the id it named in ``?since=``; present: the names of who is there
    message     message: one new message
    joined      user, present
    left        user, present
    error       text: why the last thing it sent was not taken
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
#: How many messages a browser that was away is sent at most.
MAX_HISTORY = 200


def send(channel, **content):
    """Send ``content`` as JSON to a channel or a group."""
    channel.send({"text": json.dumps(content)})


def since(message):
    """The last message id the browser has seen, from the query string; 0 where it names none."""
    query = message.content.get("query_string", b"")
    values = parse_qs(query.decode("latin-1") if isinstance(query, bytes) else query).get("since", ["0"])
    return int(values[-1]) if values[-1].isdigit() else 0


@enforce_ordering
@channel_session_user_from_http
def connect(message, slug):
    """Let a logged-in user into an existing room, tell the room, and send what the browser missed."""
    room = Room.objects.filter(slug=slug).first()
    if room is None or not message.user.is_authenticated:
        raise DenyConnection
    message.reply_channel.send({"accept": True})
    # First the group, then the query: a message that is stored in between arrives twice, which the page sorts out, never not at all.
    Group(room.group).add(message.reply_channel)
    Presence.objects.filter(room=room, seen__lt=timezone.now() - PRESENCE_LIFE).delete()
    arrived = not room.presences.filter(user=message.user).exists()
    # Not update_or_create: SQLite refuses a transaction that reads first and writes while another writes, without waiting.
    Presence.objects.create(channel=message.reply_channel.name, room=room, user=message.user)
    present = room.users_present()
    missed = room.messages.select_related("user").filter(pk__gt=since(message)).order_by("-pk")[:MAX_HISTORY]
    send(message.reply_channel, type="history", messages=[row.as_json() for row in reversed(missed)], present=present)
    if arrived:
        send(Group(room.group), type="joined", user=message.user.username, present=present)


@enforce_ordering
@channel_session_user
def receive(message, slug):
    """Store what was said and tell the room."""
    presence = Presence.objects.select_related("room").filter(channel=message.reply_channel.name, room__slug=slug).first()
    if presence is None:
        # Forgotten after a long silence: the browser connects anew and catches up.
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
    """Take the user out of the room unless another of their browsers has it open."""
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
    """There is no WebSocket at this path."""
    raise DenyConnection
