"""The Django application: with ``"greendaphne"`` in ``INSTALLED_APPS``, Channels 1 runs without daphne.

``manage.py runserver`` and ``manage.py runworker`` import ``daphne.server``.  Django imports this module before it looks for commands, so
the names are available by then.  Put it before ``"channels"``.
"""

from __future__ import annotations

from django.apps import AppConfig

from . import compat

compat.install()


class GreendaphneConfig(AppConfig):  # type: ignore[misc]
    """Has no models, templates or commands."""

    name = "greendaphne"
    verbose_name = "greendaphne"
