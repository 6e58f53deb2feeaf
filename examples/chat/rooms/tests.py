"""Tests of the site with the test cases of Channels: ``python manage.py test``."""

# ruff: noqa: PT027 -- the test cases of Django and Channels are unittest's
import unittest
from urllib.request import urlopen

from channels.exceptions import DenyConnection
from channels.test import ChannelLiveServerTestCase, ChannelTestCase, WSClient
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import TestCase

from .models import Message, Room

LOBBY = "/rooms/lobby/socket/"


class SocketTests(ChannelTestCase):
    """The consumers, one message at a time."""

    def setUp(self):
        self.room = Room.objects.create(name="Lobby", slug="lobby")
        self.alice = get_user_model().objects.create_user("alice")
        self.client = WSClient(ordered=True)

    def received(self, kind):
        while True:
            content = self.client.receive()
            assert content is not None, f"nothing of type {kind} was sent"
            if content.get("type") == kind:
                return content

    def test_strangers_stay_outside(self):
        with self.assertRaises(DenyConnection):
            self.client.send_and_consume("websocket.connect", path=LOBBY, check_accept=False)

    def test_there_is_no_such_room(self):
        self.client.force_login(self.alice)
        with self.assertRaises(DenyConnection):
            self.client.send_and_consume("websocket.connect", path="/rooms/cellar/socket/", check_accept=False)

    def test_what_is_said_is_stored_and_passed_on(self):
        self.client.force_login(self.alice)
        self.client.send_and_consume("websocket.connect", path=LOBBY)
        assert self.received("joined")["present"] == ["alice"]
        self.client.send_and_consume("websocket.receive", path=LOBBY, text={"text": "Hello"})
        assert self.received("message")["message"]["text"] == "Hello"
        assert Message.objects.get().text == "Hello"
        self.client.send_and_consume("websocket.disconnect", path=LOBBY)
        assert self.room.users_present() == []

    def test_what_was_missed_is_sent_again(self):
        for text in ("one", "two", "three"):
            Message.objects.create(room=self.room, user=self.alice, text=text)
        seen = Message.objects.get(text="one").pk
        self.client.force_login(self.alice)
        self.client.send_and_consume("websocket.connect", path=f"{LOBBY}?since={seen}")
        assert [message["text"] for message in self.received("history")["messages"]] == ["two", "three"]


class PageTests(TestCase):
    """The views, by Django's own test client."""

    def test_index(self):
        Room.objects.create(name="Lobby", slug="lobby")
        self.assertContains(self.client.get("/"), "Lobby")

    def test_rooms_need_a_login(self):
        Room.objects.create(name="Lobby", slug="lobby")
        self.assertRedirects(self.client.get("/rooms/lobby/"), "/accounts/login/?next=/rooms/lobby/")


@unittest.skipUnless("TEST_CONFIG" in settings.CHANNEL_LAYERS["default"], "needs a channel layer between processes: CHAT_LAYER=redis")
class LiveTests(ChannelLiveServerTestCase):
    """The whole site, served by a server and a worker in separate processes."""

    def test_index(self):
        Room.objects.create(name="Lobby", slug="lobby")
        with urlopen(self.live_server_url, timeout=30) as answer:
            assert "Lobby" in answer.read().decode()

    def test_numbers_stream(self):
        with urlopen(f"{self.live_server_url}/stream/lines/?count=3&interval=0", timeout=30) as answer:
            assert len(answer.read().splitlines()) == 3
