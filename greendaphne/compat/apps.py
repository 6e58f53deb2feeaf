"""``daphne.apps`` and ``daphne.checks``: ``"daphne"`` in ``INSTALLED_APPS`` of Django 3.1 and later."""

from __future__ import annotations

import os
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks

#: The application's directory, where Django looks for commands.
DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STATIC_FILES = "django.contrib.staticfiles"


def check_order(app_configs: Any = None, **_: Any) -> list[Any]:
    """Find an application after static files, whose ``runserver`` Django would take; the identifier is daphne 4's."""
    for app in apps.get_app_configs():
        if app.name in ("daphne", "greendaphne"):
            return []
        if app.name == _STATIC_FILES:
            break
    else:
        return []
    return [checks.Error(f"Daphne must be listed before {_STATIC_FILES} in INSTALLED_APPS.", id="daphne.E001")]


class DaphneConfig(AppConfig):  # type: ignore[misc]
    """``"daphne"``, with the command ``runserver``."""

    name = "daphne"
    verbose_name = "Daphne"
    path = DIRECTORY

    def ready(self) -> None:
        """Have ``manage.py check`` find a wrong order of applications."""
        checks.register(check_order, "staticfiles")
