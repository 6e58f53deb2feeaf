"""The Django application: ``"greendaphne"`` in ``INSTALLED_APPS`` is all that Channels 1 needs to run without daphne.

``manage.py runserver`` and ``manage.py runworker`` import ``daphne.server``; by the time Django looks for commands, this module has been
imported and the names are there.  Put it before ``"channels"``.
"""

from __future__ import annotations

from django.apps import AppConfig

from . import compat

compat.install()


class GreendaphneConfig(AppConfig):  # type: ignore[misc]
    """Has no models, templates or commands of its own."""

    name = "greendaphne"
    verbose_name = "greendaphne"
