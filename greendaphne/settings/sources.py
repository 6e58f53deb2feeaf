"""Options from the environment and from a configuration file.

Every option of the table in ``options`` has a variable and a key, derived from its long name: ``--http-timeout`` is
``GREENDAPHNE_HTTP_TIMEOUT`` and ``http-timeout``.  In a file ``http_timeout`` is the same.  The channel layer has both too.  What is
unknown or wrong is refused with its place, in one line.  Which of several places counts is decided by ``arguments``.

Like ``options`` this module imports nothing that the application's environment could mind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from .option import Option, Takes, UsageError
from .options import OPTIONS

#: What the names of the environment variables begin with.
PREFIX: Final = "GREENDAPHNE_"
#: Names the configuration file where the command line does not.
CONFIG_VARIABLE: Final = "GREENDAPHNE_CONFIG"

#: The positional argument as the option that it is in the environment and in a file.
CHANNEL_LAYER: Final = Option("", ("--channel-layer",), "", (), Takes.ONE, "PLACE", str, None, "", "")

#: Bytes that a configuration file has at most; the sample with every option has some 20,000.
MAX_FILE: Final = 1 << 20

#: What may stand in a variable for a flag, in any case.
_FLAGS: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)

#: A key that needs no quotes in TOML.
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
#: A number as TOML writes it; a text with a leading zero or an underscore at an odd place stays a text.
_NUMBER: Final = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?")


class Setting(NamedTuple):
    """One option's value: converted, as TOML would write it, and where it stands."""

    value: Any
    text: str
    origin: str


def key(item: Option) -> str:
    """The key of ``item`` in a configuration file."""
    return item.name.lstrip("-").replace("_", "-")


def variable(item: Option) -> str:
    """The environment variable of ``item``."""
    return PREFIX + key(item).replace("-", "_").upper()


#: What can stand in the environment and in a file, in the order of the help text.
ITEMS: Final = (CHANNEL_LAYER, *(item for item in OPTIONS if not item.command_line_only))
_BY_KEY: Final = {key(item): item for item in ITEMS}
_BY_VARIABLE: Final = {variable(item): item for item in ITEMS}
_COMMAND_LINE_ONLY: Final = {key(item): item for item in OPTIONS if item.command_line_only}


def from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Return the options that ``environ`` sets, by key.

    An empty variable counts as one that is not there.  Several values are separated by blanks.

    :raises UsageError: for an unknown name and a wrong value.
    """
    settings: dict[str, Setting] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        place = f"environment variable {_shown(name)}"
        item = _BY_VARIABLE.get(name)
        if item is None:
            raise UsageError(f"{place} is unknown{_instead(name.removeprefix(PREFIX), variable, (CONFIG_VARIABLE,))}")
        if not text:
            continue
        texts = text.split() if _several(item) else [text]
        try:
            value: Any = _flag(text) if item.takes is Takes.NOTHING else _value(item, texts)
        except ValueError as error:
            raise UsageError(f"{place} {error}{_not(item, repr(text))}") from None
        settings[key(item)] = Setting(value, literal(item, value if item.takes is Takes.NOTHING else texts), name)
    return settings


def from_file(path: str) -> dict[str, Setting]:
    """Return the options that the TOML file ``path`` sets, by key.

    :raises UsageError: for a file that cannot be read or is not TOML, an unknown key and a wrong value.
    """
    # Only now: most commands are started without a file.
    from ..core.toml import TOMLError, loads

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise UsageError(f"the configuration file {path} is larger than {MAX_FILE} bytes")
        text = data.decode("utf-8")
        content = loads(text)
    except OSError as error:
        raise UsageError(f"cannot read the configuration file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the configuration file {path} is not written in UTF-8") from None
    except TOMLError as error:
        raise UsageError(f"the configuration file {path} is not TOML: {error}") from None
    settings: dict[str, Setting] = {}
    for name, given in content.items():
        place = f"{path}{_line(text, name)}: {_shown(name)}"
        item = _BY_KEY.get(name.replace("_", "-"))
        if item is None:
            if isinstance(given, dict):
                raise UsageError(f"{place} is a table; all options stand at the top of the file")
            raise UsageError(f"{place} is unknown{_instead(name, key)}")
        if key(item) in settings:
            raise UsageError(f"{place} is there twice, with hyphens and with underscores")
        try:
            value, source = _from_toml(item, given)
        except ValueError as error:
            raise UsageError(f"{place} {error}{_not(item, _toml_text(given))}") from None
        settings[key(item)] = Setting(value, literal(item, source), path)
    return settings


def literal(item: Option, given: bool | Iterable[str]) -> str:
    """Write what was ``given`` for ``item``, a flag's value or the texts of the others, the way TOML does."""
    if isinstance(given, bool):
        return "true" if given else "false"
    written = [text if item.number and _NUMBER.fullmatch(text) else _quoted(text) for text in given]
    return f"[{', '.join(written)}]" if _several(item) else written[0]


def default_text(item: Option) -> str:
    """Write the default of ``item`` the way TOML does; ``""`` where it has none that could be written."""
    if item.takes is Takes.NOTHING:
        return "false"
    if _several(item):
        return "[]"
    return literal(item, [item.default]) if item.default is not None else ""


def _several(item: Option) -> bool:
    return item.takes in (Takes.EACH, Takes.MANY)


def _value(item: Option, texts: list[str]) -> Any:
    values = tuple(item.convert(text) for text in texts)
    return values if _several(item) else values[0]


def _flag(text: str) -> bool:
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise ValueError("must be true, 1, yes or on, or false, 0, no or off") from None


def _from_toml(item: Option, given: Any) -> tuple[Any, bool | list[str]]:
    """The value that ``given`` stands for, and what :func:`literal` writes it from.

    :raises ValueError: when it has the wrong type or value.
    """
    if item.takes is Takes.NOTHING:
        if not isinstance(given, bool):
            raise ValueError("must be true or false")
        return given, given
    if not _several(item):
        texts = [_text(item, given)]
    elif isinstance(given, list):
        texts = [_text(item, each) for each in given]
    else:
        # One value needs no brackets.
        texts = [_text(item, given)]
    return _value(item, texts), texts


def _text(item: Option, given: Any) -> str:
    """What ``given`` would be on the command line."""
    if isinstance(given, str):
        if "\0" in given:
            # The command line and the environment cannot have one, so nothing behind here expects it.
            raise ValueError("must not contain a NUL character")
        return given
    if item.number and isinstance(given, int | float) and not isinstance(given, bool):
        return repr(given)
    kind = "a number, or a text as on the command line" if item.number else "a text in quotes"
    raise ValueError(f"must be {kind}")


def _not(item: Option, text: str) -> str:
    """The end of a sentence about a wrong value."""
    return "" if item.secret else f", not {text}"


def _toml_text(given: Any) -> str:
    """A value out of a TOML file, for an error message."""
    if isinstance(given, dict):
        return "a table"
    if isinstance(given, list):
        return f"[{', '.join(map(_toml_text, given))}]"
    if isinstance(given, bool):
        return "true" if given else "false"
    return _quoted(given) if isinstance(given, str) else str(given)


def _quoted(text: str) -> str:
    # What is no Unicode, in an environment of another encoding, becomes a visible escape; TOML escapes DEL, which JSON does not.
    return json.dumps(text.encode(errors="backslashreplace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(name: str) -> str:
    """A name of any characters, on one line."""
    return name if _BARE_KEY.fullmatch(name) else repr(name)


def _line(text: str, name: str) -> str:
    """Where the key stands in the file, for an error message; nothing where it is written in an unusual way."""
    match = re.search(rf"""^[ \t]*(["']?){re.escape(name)}\1[ \t]*=""", text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, match.start()) + 1}" if match else ""


def _instead(name: str, form: Any, more: tuple[str, ...] = ()) -> str:
    """What to write instead of an unknown ``name``, in the given ``form``; nothing where nothing is near."""
    # Only now: it is for mistakes.
    import difflib

    wanted = name.lower().replace("_", "-")
    if wanted in _COMMAND_LINE_ONLY:
        return f": {_COMMAND_LINE_ONLY[wanted].name} belongs on the command line"
    # Some are better known under the names that daphne has for them in Python.
    names = {item.known_as.replace("_", "-"): form(item) for item in ITEMS if item.known_as}
    names |= {key(item): form(item) for item in ITEMS}
    names |= {each.removeprefix(PREFIX).lower(): each for each in more}
    near = difflib.get_close_matches(wanted, names, 1)
    return f"; did you mean {names[near[0]]}?" if near else ""
