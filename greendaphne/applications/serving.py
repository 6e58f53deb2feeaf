"""What the command serves: a channel layer, or an application made of what is at a place.

With ``--reload``, a worker whose code does not load leaves the reason for the worker that serves on, or shows it itself where no worker has
loaded the code yet.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from typing import Any

from ..config import Config, ConfigurationError
from ..core.interfaces import CHANNELS
from ..processes import control
from .base import Application
from .interfaces import interface_of, make_application
from .loading import ApplicationError, checked_layer, load

logger = logging.getLogger("daphne.cli")


def served(config: Config, place: str, check_interface: Callable[[Config, str], None]) -> tuple[Any, Application | None]:
    """Return the channel layer at ``place`` and ``None``, or ``None`` and the application.

    :param check_interface: refuses options that the interface has no use for.
    :raises ConfigurationError: when there is none.
    :raises ApplicationError: when its module raises an exception.
    """
    try:
        return _loaded(config, place, check_interface)
    except (ApplicationError, ConfigurationError) as error:
        if not config.processes.reload or control.RUN_DIR not in os.environ:
            raise
        cause = error.__cause__ if isinstance(error, ApplicationError) else None
        details = error.details() if isinstance(error, ApplicationError) else None
        text = f"{error}\n\n{''.join(traceback.format_exception(*details))}" if details is not None else str(error)
        control.write_failure(text)
        if control.SHOW_FAILURE not in os.environ:
            raise
        logger.error("%s", error, exc_info=details if cause is not None else None)
    from .failure import FailedApplication

    return None, FailedApplication(text)


def _loaded(config: Config, place: str, check_interface: Callable[[Config, str], None]) -> tuple[Any, Application | None]:
    target = load(place, factory=config.application.factory, app_dir=config.application.app_dir)
    interface = interface_of(target, config, place)
    check_interface(config, interface)
    if interface == CHANNELS:
        return checked_layer(target, place), None
    return None, make_application(target, config, place)
