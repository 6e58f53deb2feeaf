"""The Django application: with ``"greendaphne"`` in ``INSTALLED_APPS``, Channels runs without daphne.

``manage.py runserver`` and ``manage.py runworker`` of Channels 1 import ``daphne.server``.  Django imports this module before it looks for
commands, so the names are available by then.  On Django 3.1 and later ``runserver`` is the command of this application, see
``management``.  Put it before ``"channels"`` and ``"django.contrib.staticfiles"``.
"""

from __future__ import annotations

import django
from django.apps import AppConfig
from django.core import checks

from . import compat
from .compat.apps import check_order
from .layers.sharing import tell_channels

compat.install()


class GreendaphneConfig(AppConfig):  # type: ignore[misc]
    """Has the command ``runserver``; no models or templates."""

    name = "greendaphne"
    verbose_name = "greendaphne"

    def ready(self) -> None:
        """Tell Channels 1 which layers are local, and have ``manage.py check`` find a wrong order of applications."""
        try:
            import channels.asgi  # noqa: F401
        except ImportError:
            pass  # Channels is not installed, or another version
        tell_channels()
        if django.VERSION >= (3, 1):
            checks.register(check_order, "staticfiles")
