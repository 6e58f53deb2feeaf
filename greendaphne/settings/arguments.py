"""Reads the command line with daphne's rules, and lets docopt check it against the usage.

daphne 1.4.2 reads its command line with argparse, whose rules people's start scripts rely on.  They differ from docopt's: the last of
several equal options applies, ``-p=80`` is ``-p 80``, a value may be a negative number but must not look like an option, ``--ws-protocol``
takes all words up to the next option, and unique prefixes stand for options.  :func:`normalise` reads a command line by these rules and
returns it with full names; docopt then parses that by the grammar of the help text.

:func:`read` adds the options in the environment and in a configuration file (``sources``).  The command line takes precedence over the
environment, the environment over the file, and the file over the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import docopt

from ..config import COMMAND, Config
from .help import help_text
from .hints import instead
from .option import Option, Takes, UsageError
from .options import OPTIONS
from .sources import CHANNEL_LAYER, CONFIG_VARIABLE, Setting, from_environment, from_file, key, literal

#: A word of this form is a value although it starts with a hyphen.
_NEGATIVE_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")


#: The :attr:`Setting.origin` of options on the command line.
COMMAND_LINE: Final = "command line"


class Command(NamedTuple):
    """The result of reading the command line.

    ``config`` is the configuration to serve with, ``channel_layer`` the place of the channel layer, ``module.path:attribute.path``.
    ``check`` tells whether to check everything without serving.  ``settings`` are the options that are set, by key, each with its origin.
    """

    config: Config
    channel_layer: str
    check: bool
    settings: Mapping[str, Setting]


def _information(name: str, short: str, legacy: bool) -> Option:
    return Option("", (f"--{name}",), short, (f"--{name}",) if legacy else (), Takes.NOTHING, "", str, None, "", "")


#: Asks for all options.
HELP: Final = _information("help", "-h", legacy=True)
#: Asks for the everyday options (``-h``).
SHORT_HELP: Final = HELP._replace(help="everyday")
VERSION: Final = _information("version", "", legacy=False)

_INFORMATION: Final = (SHORT_HELP, HELP, VERSION)
_ALL: Final = (HELP, VERSION, *OPTIONS)
_LONG: Final = {name: item for item in _ALL for name in item.names}
_LEGACY: Final = {name: item for item in _ALL for name in item.legacy}
_SHORT: Final = {item.short: item for item in _ALL if item.short} | {SHORT_HELP.short: SHORT_HELP}
#: The name of the configuration's value that each option sets, by key.
_TARGETS: Final = {key(item): item.to for item in OPTIONS if item.to}


class _Word(NamedTuple):
    """A word of the command line that is an option: the option, ``None`` for an unknown one, and the value attached to it."""

    option: Option | None
    value: str | None = None
    #: Whether the value follows a single-letter form directly, as in ``-p80``; after a flag it consists of further flags.
    joined: bool = False


def normalise(argv: Sequence[str]) -> list[str]:
    """Return the same command line with full option names, ``=`` before every value, no repetitions, and the channel layer, if any, last.

    :raises UsageError: for a command line that argparse refused too.
    """
    given, layer = _given(argv)
    for information in _INFORMATION:
        if information in given:
            return [information.name]
    return [*_written(given), *(("--", layer) if layer is not None else ())]


def _given(argv: Sequence[str]) -> tuple[dict[Option, list[str]], str | None]:
    """The options of a command line with their values, and the channel layer, ``None`` without one."""
    words = list(argv)
    # The first "--" ends the options; all words after it are values.
    end = words.index("--") if "--" in words else len(words)
    options = {position: word for position, word in enumerate(map(_classify, words[:end])) if word is not None}
    given: dict[Option, list[str]] = {}
    positional: list[str] = []
    unknown: list[str] = []
    position = 0
    while position < end:
        word = options.get(position)
        position += 1
        if word is None:
            positional.append(words[position - 1])
        elif word.option is None:
            unknown.append(words[position - 1])
        elif word.option.takes is Takes.NOTHING:
            given.update((flag, []) for flag in _flags(word.option, word.value, word.joined))
        else:
            if word.value is not None:
                values = [word.value]
            else:
                values, position = _values(word.option, words, position, end, options)
            for value in values:
                # Convert all values, including those that a later option overrides.
                _converted(word.option, value)
            if word.option.takes is Takes.EACH:
                values = given.get(word.option, []) + values
            given[word.option] = values
        if not given.keys().isdisjoint(_INFORMATION):
            return given, None
    if unknown:
        # Words after them may be their values, so the error does not mention those.
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}{instead(unknown[0].partition('=')[0], _LONG)}")
    positional += words[end + 1 :]
    if positional[1:]:
        raise UsageError(f"unrecognized arguments: {' '.join(positional[1:])}")
    return given, positional[0] if positional else None


def _classify(word: str) -> _Word | None:
    """The option that ``word`` is, or ``None`` for a value."""
    if not word.startswith("-") or word == "-":
        return None
    name, equals, text = word.partition("=")
    value = text if equals else None
    if word in _LONG or word in _SHORT:
        return _Word(_LONG.get(word) or _SHORT.get(word))
    if name in _LONG or name in _SHORT:
        return _Word(_LONG.get(name) or _SHORT.get(name), value)
    if word.startswith("--"):
        item = _by_prefix(name)
        if item is not None:
            return _Word(item, value)
    elif word[:2] in _SHORT:
        return _Word(_SHORT[word[:2]], word[2:], joined=True)
    if _NEGATIVE_NUMBER.fullmatch(word) or " " in word:
        return None
    return _Word(None)


def _by_prefix(prefix: str) -> Option | None:
    """The option that ``prefix`` abbreviates.

    daphne's own options are searched first and alone, so that a new option never makes one of daphne's abbreviations ambiguous.

    :raises UsageError: when several options match.
    """
    for names in (_LEGACY, _LONG):
        matches = {item: name for name, item in names.items() if name.startswith(prefix)}
        if len(matches) > 1:
            raise UsageError(f"ambiguous option: {prefix} could match {', '.join(matches.values())}")
        if matches:
            return next(iter(matches))
    return None


def _flags(item: Option, value: str | None, joined: bool) -> list[Option]:
    """The flag ``item``, and the flags in ``value`` when it is ``joined``.

    :raises UsageError: for any other value, because a flag takes none.
    """
    if value is None:
        return [item]
    further = _SHORT.get(f"-{value[:1]}") if joined else None
    if further is None or further.takes is not Takes.NOTHING:
        raise UsageError(f"argument {item.spelling}: ignored explicit argument {value!r}")
    return [item, *_flags(further, value[1:] or None, joined)]


def _values(item: Option, words: list[str], position: int, end: int, options: dict[int, _Word]) -> tuple[list[str], int]:
    """The values of ``item`` from ``position`` on, and the position of the first word after them."""
    start = position
    limit = end if item.takes is Takes.MANY else min(end, start + 1)
    while position < limit and position not in options:
        position += 1
    if position == start and item.takes is not Takes.MANY:
        raise UsageError(f"argument {item.spelling}: expected one argument")
    return words[start:position], position


def _converted(item: Option, value: str) -> Any:
    """The converted ``value``.

    :raises UsageError: for an invalid value.
    """
    try:
        return item.convert(value)
    except ValueError as error:
        raise UsageError(f"argument {item.spelling}: {error}, not {value!r}") from None


def _written(given: dict[Option, list[str]]) -> list[str]:
    written: list[str] = []
    for item, values in given.items():
        if item.takes is Takes.NOTHING:
            written.append(item.name)
        else:
            written.extend(f"{item.name}={value}" for value in values)
    return written


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Command | Option:
    """Return the command to serve, or :data:`SHORT_HELP`, :data:`HELP` or :data:`VERSION`.

    :param argv: a command line without the program's name.
    :param environ: environment variables; ``GREENDAPHNE_CONFIG`` may name a configuration file, as ``--config`` does.
    :raises UsageError: for invalid options.
    """
    line = _command_line(argv)
    if isinstance(line, Option):
        return line
    path = line["config"].value if "config" in line else environ.get(CONFIG_VARIABLE)
    settings: dict[str, Setting] = from_file(path) if path else {}
    settings |= from_environment(environ)
    settings |= line
    if path and "config" not in line:
        settings["config"] = Setting(path, literal(CHANNEL_LAYER, [path]), CONFIG_VARIABLE)
    layer = settings.get(key(CHANNEL_LAYER))
    if layer is None:
        raise UsageError("the following arguments are required: channel_layer")
    config = COMMAND.changed({_TARGETS[name]: setting.value for name, setting in settings.items() if name in _TARGETS})
    return Command(config, layer.value, "check-config" in settings, settings)


def _command_line(argv: Sequence[str]) -> dict[str, Setting] | Option:
    """The options on a command line, by key, or the requested information."""
    given, _ = _given(argv)
    for information in _INFORMATION:
        if information in given:
            return information
    try:
        arguments = docopt.docopt(help_text(given), normalise(argv), False)
    except docopt.DocoptExit as error:
        # normalise() refuses everything that the grammar refuses; an exception to that still gives one line.
        raise UsageError(str(error).partition("\n")[0]) from None
    settings: dict[str, Setting] = {}
    for item in given:
        # Only given options, because docopt adds the defaults of all others.
        value = arguments[item.name]
        if item.takes is Takes.NOTHING:
            settings[key(item)] = Setting(value, literal(item, value), COMMAND_LINE)
        elif item.takes is Takes.ONE:
            settings[key(item)] = Setting(_converted(item, value), literal(item, [value]), COMMAND_LINE)
        else:
            settings[key(item)] = Setting(tuple(_converted(item, each) for each in value), literal(item, value), COMMAND_LINE)
    layer = arguments["<channel_layer>"]
    if layer is not None:
        settings[key(CHANNEL_LAYER)] = Setting(layer, literal(CHANNEL_LAYER, [layer]), COMMAND_LINE)
    return settings
