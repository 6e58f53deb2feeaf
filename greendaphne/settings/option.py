"""The rows of the option table in ``options``: how an option is written, its value and its meaning.

Imports nothing that gevent must patch first; this runs before monkey-patching.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from ..config import COMMAND
from ..core.converters import size, size_above_zero, size_text

#: Converters to a number of bytes, which is written with a unit.
_SIZES: Final = (size, size_above_zero)
#: What a shell completes, by the name of an option's value.
_COMPLETES: Final = {"FILE": "file", "PATH": "file", "DIRECTORY": "directory"}


class UsageError(Exception):
    """Invalid options, from any source; the text is one line with the reason."""


class Takes(Enum):
    """The values after an option on the command line."""

    NOTHING = "nothing"
    #: One value; the last of several equal options applies.
    ONE = "one"
    #: One value; every occurrence of the option adds one.
    EACH = "each"
    #: Any number of values, up to the next option; the last of several equal options applies.
    MANY = "many"


class Option(NamedTuple):
    """One option.

    ``names`` are its long forms, the one in the help text first.  ``legacy`` are the forms that daphne 1.4.2 has; their
    abbreviations stay valid whatever other options begin with the same letters.  ``to`` names the value of
    :class:`greendaphne.config.Config` that the option sets, such as ``timeouts.header``; ``""`` for an option of the command itself.
    ``default`` is the text of the default, ``None`` for none.  A ``secret`` value is never shown.  A ``command_line_only`` option has no
    environment variable and no key in a configuration file.  ``number`` tells whether a configuration file may contain the value as a
    number.  ``known_as`` is another name under which users look for the option.
    """

    to: str
    names: tuple[str, ...]
    short: str
    legacy: tuple[str, ...]
    takes: Takes
    metavar: str
    convert: Callable[[str], Any]
    default: str | None
    group: str
    help: str
    secret: bool = False
    command_line_only: bool = False
    number: bool = False
    known_as: str = ""
    #: Whether ``-h`` shows it.
    everyday: bool = False
    #: A shell completes the names of these: ``file``, ``directory``, or nothing.
    completes: str = ""

    @property
    def name(self) -> str:
        """The long form in the usage."""
        return self.names[0]

    @property
    def spelling(self) -> str:
        """The option's name in error messages, such as ``-p/--port``."""
        return f"{self.short}/{self.name}" if self.short else self.name


def option(
    group: str,
    names: str,
    help: str,  # noqa: A002 - argparse's name
    *,
    to: str = "",
    metavar: str = "",
    convert: Callable[[str], Any] = str,
    takes: Takes | None = None,
    legacy: bool = False,
    secret: bool = False,
    command_line_only: bool = False,
    known_as: str = "",
    everyday: bool = False,
) -> Option:
    """Return a row of the option table.  Its default is the one in :data:`greendaphne.config.COMMAND`.

    :param names: its forms, such as ``"-p --port"``; further long forms are aliases that the help text omits.
    :param to: the value of the configuration that it sets, such as ``timeouts.header``; ``""`` for an option of the command itself.
    :param metavar: the name of its value; an option without one is a flag.
    :param takes: needed only for options that take several values.
    :param legacy: whether daphne 1.4.2 has the option, under the first long name.
    :param secret: whether its value is omitted from all output.
    :param command_line_only: whether the environment and configuration files cannot set the option.
    :param known_as: another name; a user who writes it is told the right one.
    :param everyday: whether ``-h`` shows it.
    :raises AttributeError: for a ``to`` that does not exist.
    """
    takes = takes or (Takes.ONE if metavar else Takes.NOTHING)
    forms = names.split()
    short = forms.pop(0) if len(forms[0]) == 2 else ""
    value, kind = _target(to) if to else (None, "")
    default = _written(value, convert) if takes is Takes.ONE else None
    number = re.search(r"\b(int|float)\b", kind) is not None
    legacy_names = tuple(forms[:1]) if legacy else ()
    return Option(
        to,
        tuple(forms),
        short,
        legacy_names,
        takes,
        metavar,
        convert,
        default,
        group,
        help,
        secret,
        command_line_only,
        number,
        known_as,
        everyday,
        _COMPLETES.get(metavar, ""),
    )


def _target(to: str) -> tuple[Any, str]:
    """The default and the annotation of a value of the configuration."""
    group, _, name = to.rpartition(".")
    owner: Any = getattr(COMMAND, group) if group else COMMAND
    return getattr(owner, name), str(owner.__dataclass_fields__[name].type)


def _written(value: Any, convert: Callable[[str], Any]) -> str | None:
    """The text that ``convert`` converts to ``value``; ``None`` where the value means "not given"."""
    if value is None or value == ():
        return None
    if convert in _SIZES:
        return size_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
