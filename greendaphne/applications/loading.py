"""Loads what the command serves from its place, written ``module.path:attribute.path``."""

from __future__ import annotations

import importlib
import sys
from types import TracebackType
from typing import Any

from ..config import ConfigurationError


class ApplicationError(Exception):
    """The application's module raised an exception while it was imported, which is the cause of this one."""

    def details(self) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
        """What ``logging`` takes as ``exc_info``: the cause, without the frames of the import itself, which tell the user nothing."""
        cause = self.__cause__
        return None if cause is None else (type(cause), cause, _own_frames_removed(cause.__traceback__))


def load_channel_layer(place: str) -> Any:
    """Import the channel layer at ``place``, with the current directory before all other places.

    :raises ConfigurationError: when there is no such module or attribute, or what is there is no channel layer.
    :raises ApplicationError: when the module raises an exception.
    """
    module_path, colon, attribute_path = place.partition(":")
    if not colon or not all(module_path.split(".")) or not all(attribute_path.split(".")):
        raise ConfigurationError(f"The channel layer {place!r} is not written module.path:attribute.path.")
    sys.path.insert(0, ".")
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_path}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"Cannot import the channel layer {place}: {error}.") from None
        raise ApplicationError(f"Cannot import the channel layer {place}:") from error
    except Exception as error:
        raise ApplicationError(f"Cannot import the channel layer {place}:") from error
    value: Any = module
    for name in attribute_path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise ConfigurationError(f"Cannot find the channel layer {place}: {error}.") from None
    if isinstance(value, type):
        raise ConfigurationError(f"{place} is a class, not a channel layer made with it.")
    if not callable(getattr(value, "send", None)):
        raise ConfigurationError(f"{place} is not a channel layer: it is of type {type(value).__name__} and has no send().")
    return value


def _own_frames_removed(traceback: TracebackType | None) -> TracebackType | None:
    """The frames after those of this module and of the import system."""
    own = (__file__, importlib.__file__)
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename not in own and not filename.startswith("<frozen importlib"):
            break
        traceback = traceback.tb_next
    return traceback
