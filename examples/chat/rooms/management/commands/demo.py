"""``manage.py demo``: creates the data to try the site."""

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from rooms.models import Room

USERS = {"alice": "wonderland", "bob": "builder"}
ROOMS = {"lobby": ("Lobby", "Say hello"), "garden": ("Garden", "Everything that grows")}


class Command(BaseCommand):
    help = "Create the database, two rooms, and the users alice (password wonderland) and bob (password builder)."

    def handle(self, *args, **options):
        call_command("migrate", interactive=False, verbosity=0)
        for name, password in USERS.items():
            user, created = get_user_model().objects.get_or_create(username=name, defaults={"is_staff": name == "alice"})
            if created:
                user.set_password(password)
                user.is_superuser = user.is_staff
                user.save()
        for slug, (name, topic) in ROOMS.items():
            Room.objects.get_or_create(slug=slug, defaults={"name": name, "topic": topic})
        self.stdout.write("Ready. Log in as alice (password wonderland) or bob (password builder).")
