"""``manage.py runserver`` of ``"greendaphne"`` in ``INSTALLED_APPS``: the command that fits the versions of Django and Channels.

Django takes the command of the first application that has one.  Channels 1 has its own, and so have Channels 2 and 3 on Django before 3.1.
Without them, Django before 3.1 has no ASGI static files, and keeps its own command.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import django
from django.apps import apps

_CHANNELS = "channels.management.commands.runserver"
_STATIC_FILES = "django.contrib.staticfiles"


def _commands() -> tuple[Any, Any]:
    """The command, and that of ``"daphne"``."""
    if django.VERSION >= (3, 1):
        module = import_module("greendaphne.management.development")
        return module.Command, module.DaphneCommand
    if apps.is_installed("channels"):
        place = _CHANNELS
    else:
        place = f"{_STATIC_FILES if apps.is_installed(_STATIC_FILES) else 'django.core'}.management.commands.runserver"
    command = import_module(place).Command
    return command, command


Command, DaphneCommand = _commands()
