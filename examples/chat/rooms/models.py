"""The site's data: rooms, their messages, users present, and uploaded files."""

import datetime

from django.conf import settings
from django.db import models
from django.utils import timezone

#: A browser sends a sign of life every 30 seconds; a browser silent for longer than this counts as gone.
PRESENCE_LIFE = datetime.timedelta(seconds=90)


class Room(models.Model):
    """A chat room, under ``/rooms/<slug>/``."""

    name = models.CharField(max_length=60, unique=True)
    slug = models.SlugField(max_length=60, unique=True)
    topic = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self):
        return self.name

    @property
    def group(self):
        """The name of the channel group of all browsers in the room."""
        return f"room-{self.slug}"

    def users_present(self):
        """The sorted names of the users with the room open in at least one browser."""
        present = self.presences.filter(seen__gte=timezone.now() - PRESENCE_LIFE)
        return sorted(set(present.values_list("user__username", flat=True)))


class Message(models.Model):
    """One message of a user in a room."""

    room = models.ForeignKey(Room, related_name="messages", on_delete=models.CASCADE)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, related_name="+", on_delete=models.CASCADE)
    text = models.TextField(max_length=2000)
    sent = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("id",)

    def __str__(self):
        return f"{self.user}: {self.text[:40]}"

    def as_json(self):
        """The message as the browser gets it."""
        return {"id": self.pk, "user": self.user.username, "text": self.text, "sent": self.sent.isoformat()}


class Presence(models.Model):
    """One open WebSocket of a user in a room."""

    room = models.ForeignKey(Room, related_name="presences", on_delete=models.CASCADE)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, related_name="+", on_delete=models.CASCADE)
    channel = models.CharField(max_length=200, unique=True)
    seen = models.DateTimeField(default=timezone.now)

    def __str__(self):
        return f"{self.user} in {self.room}"


class Upload(models.Model):
    """A file that a user uploaded."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, related_name="+", on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    file = models.FileField(upload_to="uploads/%Y/%m")
    size = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    sent = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-id",)

    def __str__(self):
        return self.name
