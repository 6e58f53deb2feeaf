"""A small Django project with Channels, written into a directory, for tests of ``manage.py``."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

from tests.support import legacy
from tests.support.scripts import ROOT

MANAGE = """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site5.settings")
execute_from_command_line(sys.argv)
"""
SETTINGS = """
from pathlib import Path

SECRET_KEY = "test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "site5.urls"
WSGI_APPLICATION = "site5.wsgi.application"
ASGI_APPLICATION = "site5.asgi.application"
INSTALLED_APPS = {apps!r}
STATIC_URL = "/static/"
STATICFILES_DIRS = [Path(__file__).parent / "assets"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db.sqlite3"}}}}
CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}}}}
USE_TZ = True
{further}
"""
URLS = """
import threading

from django.http import HttpResponse
from django.urls import path


def hello(request):
    return HttpResponse(f"hello from {type(request).__name__} in {threading.current_thread().name}")


async def slow(request):
    import asyncio

    await asyncio.sleep(0.01)
    return HttpResponse("slow")


urlpatterns = [path("", hello), path("slow", slow)]
"""
ASGI = """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site5.settings")
django_application = get_asgi_application()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


application = ProtocolTypeRouter({"http": django_application, "websocket": URLRouter([path("echo", Echo.as_asgi())])})
"""
WSGI = """
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site5.settings")
application = get_wsgi_application()
"""
STYLE = "body { color: green }\n"


def make_project(directory: Path, apps: list[str], further: str = "") -> Path:
    """Write a project; returns its directory, which has ``manage.py``.

    :param apps: its ``INSTALLED_APPS``.
    :param further: lines at the end of its settings.
    """
    package = directory / "site5"
    (package / "assets").mkdir(parents=True)
    (package / "assets" / "site.css").write_text(STYLE)
    files = {"settings.py": SETTINGS.format(apps=apps, further=textwrap.dedent(further)), "urls.py": URLS, "asgi.py": ASGI, "wsgi.py": WSGI}
    for name, text in {"__init__.py": "", **files}.items():
        (package / name).write_text(text)
    (directory / "manage.py").write_text(MANAGE)
    return directory


def environment() -> dict[str, str]:
    """The variables for its commands."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def runserver(project: Path, *options: str, address: str = "127.0.0.1:0") -> legacy.Process:
    """Run the development server."""
    return legacy.Process([sys.executable, "manage.py", "runserver", address, *options], project / "log", environment(), project)
