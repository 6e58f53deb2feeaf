"""The Django application: with ``"greendaphne"`` in ``INSTALLED_APPS``, Channels 1 runs without daphne.

``manage.py runserver`` and ``manage.py runworker`` import ``daphne.server``.  Django imports this module before it looks for commands, so
the names are available by then.  Put it before ``"channels"``.
"""

from __future__ import annotations

from django.apps import AppConfig

from . import compat
from .layers.sharing import is_local

compat.install()


class GreendaphneConfig(AppConfig):  # type: ignore[misc]
    """Has no models, templates or commands."""

    name = "greendaphne"
    verbose_name = "greendaphne"

    def ready(self) -> None:
        """Have ``manage.py runworker`` refuse a layer that other processes do not see; Channels knows its own by their module's name."""
        try:
            from channels.asgi import ChannelLayerWrapper
        except ImportError:
            return  # Channels is not installed, or another version
        ChannelLayerWrapper.local_only = lambda wrapper: is_local(wrapper.channel_layer)
