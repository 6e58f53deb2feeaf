"""Loads what the command serves from its place, written ``module.path:attribute.path`` or ``module.path`` alone."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from types import TracebackType
from typing import Any, Final

from ..config import ConfigurationError
from ..core.configuration import MissingExtra

#: Attributes that are looked for where a place names a module only.
DEFAULT_NAMES: Final = ("application", "app")

logger = logging.getLogger("daphne.server")


class ApplicationError(Exception):
    """The application's module raised an exception while it was imported, which is the cause of this one."""

    def details(self) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
        """What ``logging`` takes as ``exc_info``: the cause, without the frames of the import itself, which tell the user nothing."""
        cause = self.__cause__
        return None if cause is None else (type(cause), cause, _own_frames_removed(cause.__traceback__))


def load(place: str, *, factory: bool = False, app_dir: str | None = None) -> Any:
    """Import what is at ``place``.

    :param factory: whether what is there makes the application: it is called once, without arguments.
    :param app_dir: the directory before all other places of modules; the current directory by default.
    :raises ConfigurationError: when there is no such module or attribute, or a factory cannot be called.
    :raises ApplicationError: when the module or the factory raises an exception.
    """
    module_path, colon, attribute_path = place.partition(":")
    if not all(module_path.split(".")) or (colon and not all(attribute_path.split("."))) or "/" in module_path:
        raise ConfigurationError(f"The application {place!r} is not written module.path:attribute.path{_end(_as_module(place))}")
    if app_dir is not None and not os.path.isdir(app_dir):
        raise ConfigurationError(f"Cannot import the application {place}: there is no directory {app_dir} (--app-dir).")
    directory = app_dir or "."
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_path}.".startswith(f"{error.name}."):
            hint = _as_module(place) or _near_module(module_path)
            raise ConfigurationError(f"Cannot import the application {place}: {error}{_end(hint)}") from None
        raise _failed(place, error) from error
    except SystemExit as error:
        if isinstance(error.code, int) and error.code:
            # Python prints a text, and nothing of a number.
            logger.error("The application %s ended the process with exit code %d while it was imported", place, error.code)
        raise
    except Exception as error:
        raise _failed(place, error) from error
    value: Any = module
    for name in attribute_path.split(".") if colon else [_default_name(module, place)]:
        try:
            value = getattr(value, name)
        except AttributeError as error:
            hint = _near(name, [each for each in dir(value) if not each.startswith("_")])
            raise ConfigurationError(f"Cannot find the application {place}: {error}{_end(hint)}") from None
        except Exception as error:
            # Channels makes its layers when they are first used.
            raise _failed(place, error) from error
    return _made(value, place) if factory else value


def _default_name(module: Any, place: str) -> str:
    for name in DEFAULT_NAMES:
        if hasattr(module, name):
            return name
    names = " nor ".join(DEFAULT_NAMES)
    raise ConfigurationError(f"Cannot find the application {place}: the module has neither {names}; write {place}:NAME.")


def _made(factory: Any, place: str) -> Any:
    if not callable(factory):
        raise ConfigurationError(f"{place} is of type {type(factory).__name__}, and --factory calls it.")
    try:
        return factory()
    except Exception as error:
        raise ApplicationError(f"The factory {place} has failed:") from error


def checked_layer(value: Any, place: str) -> Any:
    """``value`` where it can be a channel layer.

    :raises ConfigurationError: where it cannot.
    """
    if isinstance(value, type):
        raise ConfigurationError(f"{place} is a class, not a channel layer made with it.")
    if not callable(getattr(value, "send", None)):
        raise ConfigurationError(f"{place} is not a channel layer: it is of type {type(value).__name__} and has no send().")
    return value


def _failed(place: str, error: Exception) -> Exception:
    """What an exception of the application's module is to the user: one line where a package is missing, and its traceback otherwise."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MissingExtra):
            return ConfigurationError(f"Cannot import the application {place}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return ApplicationError(f"Cannot import the application {place}:")


def _end(hint: str) -> str:
    """``hint``, which is a question or nothing, as the end of a sentence."""
    return hint or "."


def _as_module(place: str) -> str:
    """What to write where ``place`` is the path of a file."""
    path, colon, attribute = place.rpartition(":") if ":" in place else (place, "", "")
    if not path.endswith(".py") and "/" not in path:
        return ""
    module = path.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
    return f"; did you mean {module}{colon}{attribute}?" if module else ""


def _near_module(module_path: str) -> str:
    """The end of a sentence about a module that is not there: one with a similar name in the current directory."""
    try:
        names = [name.removesuffix(".py") for name in os.listdir(".") if name.endswith(".py") or os.path.isdir(name)]
    except OSError:
        return ""
    first, dot, rest = module_path.partition(".")
    return _near(first, [name for name in names if name.isidentifier()], f"{dot}{rest}")


def _near(name: str, names: list[str], rest: str = "") -> str:
    # Only now: it is for mistakes.
    import difflib

    near = [each for each in difflib.get_close_matches(name, names, 2) if each != name]
    return f"; did you mean {near[0]}{rest}?" if near else ""


def _own_frames_removed(traceback: TracebackType | None) -> TracebackType | None:
    """The frames after those of this module and of the import system."""
    own = (__file__, importlib.__file__)
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename not in own and not filename.startswith("<frozen importlib"):
            break
        traceback = traceback.tb_next
    return traceback
