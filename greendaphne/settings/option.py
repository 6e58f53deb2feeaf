"""What an option is, as the table in ``options`` has them: how it is written, what it takes, what it means.

Nothing is imported here that the application's environment could mind, as in ``options``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple


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
    abbreviations keep their meaning whatever other options begin with the same letters.  ``field`` is its field of :class:`Options`.
    A ``secret`` value is never shown; one for the ``command_line_only`` has no environment variable and no key in a configuration file.
    ``number`` tells whether a value may be written as a number in one.
    """

    field: str
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
    metavar: str = "",
    convert: Callable[[str], Any] = str,
    default: str | None = None,
    takes: Takes | None = None,
    legacy: bool = False,
    secret: bool = False,
    command_line_only: bool = False,
) -> Any:
    """Return a dataclass field that is an option of the command line.

    :param names: its forms, such as ``"-p --port"``; further long forms are aliases that the help text leaves out.
    :param metavar: the name of its value; an option without one is a flag.
    :param default: the text that stands for the option when it is not given.  Without one the value is ``None``, for a flag ``False``
        and for an option with several values ``()``.
    :param takes: needed only for options that take several values.
    :param legacy: whether daphne 1.4.2 has it, under the first long name.
    :param secret: whether its value is left out of everything that is printed.
    :param command_line_only: whether it makes no sense in the environment or in a configuration file.
    """
    takes = takes or (Takes.ONE if metavar else Takes.NOTHING)
    forms = names.split()
    short = forms.pop(0) if len(forms[0]) == 2 else ""
    value: Any = {Takes.NOTHING: False, Takes.ONE: None}.get(takes, ())
    if default is not None:
        value = convert(default)
    legacy_names = tuple(forms[:1]) if legacy else ()
    spec = Option("", tuple(forms), short, legacy_names, takes, metavar, convert, default, group, help, secret, command_line_only)
    return dataclasses.field(default=value, metadata={"option": spec})
