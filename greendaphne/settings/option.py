"""What an option is, as the table in ``options`` has them: how it is written, what it takes, what it means.

Nothing is imported here that the application's environment could mind, as in ``options``.
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
    """Options that cannot be used, wherever they stand; the text is one line that says why."""


class Takes(Enum):
    """What follows an option on the command line."""

    NOTHING = "nothing"
    #: One value; of a repeated option the last counts.
    ONE = "one"
    #: One value; each time the option is given adds one.
    EACH = "each"
    #: Any number of values, up to the next option; of a repeated option the last counts.
    MANY = "many"


class Option(NamedTuple):
    """How an option is written.

    ``names`` are its long forms, the one in the help text first.  ``legacy`` are those of them that daphne 1.4.2 has: their
    abbreviations keep their meaning whatever other options begin with the same letters.  ``to`` names the value of
    :class:`greendaphne.config.Config` that it sets, such as ``timeouts.header``; it is ``""`` for what only the command itself uses.
    ``default`` is the text that stands for the default, ``None`` where none does.  A ``secret`` value is never shown; one for the
    ``command_line_only`` has no environment variable and no key in a configuration file.  ``number`` tells whether a value may be
    written as a number in one.  ``known_as`` is another name under which users look for it.
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
        """The long form under which docopt knows it."""
        return self.names[0]

    @property
    def spelling(self) -> str:
        """All that is written in an error message, such as ``-p/--port``."""
        return f"{self.short}/{self.name}" if self.short else self.name


def option(
    group: str,
    names: str,
    help: str,  # noqa: A002 - as argparse and everyone calls it
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
    """Return a row of the option table.  Its default is that of :data:`greendaphne.config.COMMAND`.

    :param names: its forms, such as ``"-p --port"``; further long forms are aliases that the help text leaves out.
    :param to: the value of the configuration that it sets, such as ``timeouts.header``; ``""`` for what only the command itself uses.
    :param metavar: the name of its value; an option without one is a flag.
    :param takes: needed only for options that take several values.
    :param legacy: whether daphne 1.4.2 has it, under the first long name.
    :param secret: whether its value is left out of everything that is printed.
    :param command_line_only: whether it makes no sense in the environment or in a configuration file.
    :param known_as: another name, which a user who writes it is told the right one for.
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
    """The text that ``convert`` makes ``value`` of; ``None`` where the value stands for nothing given."""
    if value is None or value == ():
        return None
    if convert in _SIZES:
        return size_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
