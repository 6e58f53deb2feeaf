"""Options of a server that Django starts: ``GREENDAPHNE`` in the project's settings, and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from ..config import Config, ConfigurationError
from .option import UsageError
from .options import OPTIONS
from .sources import Setting, from_environment, from_mapping, key

#: The name in Django's settings: a dict of options, written as in a configuration file.
NAME: Final = "GREENDAPHNE"

_TARGETS: Final = {key(item): item.to for item in OPTIONS if item.to}


def django_settings() -> dict[str, Setting]:
    """Return the options that Django's settings and the environment set, by key; none in a process without Django's settings.

    :raises ConfigurationError: for options that cannot be used.
    """
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return {}
    given: Any = getattr(conf.settings, NAME, None)
    try:
        if given is None:
            given = {}
        elif not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UsageError(f"settings.{NAME} must be a dict of options by name")
        # A tuple is allowed like a list.
        values = {name: [*value] if isinstance(value, tuple) else value for name, value in given.items()}
        return from_mapping(values, f"settings.{NAME}", lambda _: f"settings.{NAME}: ") | from_environment(os.environ)
    except UsageError as error:
        raise ConfigurationError(str(error)) from None


def django_config() -> Config | None:
    """Return the configuration from :func:`django_settings`, ``None`` if they set nothing; errors as there."""
    values = {_TARGETS[name]: setting.value for name, setting in django_settings().items() if name in _TARGETS}
    return Config().changed(values) if values else None
