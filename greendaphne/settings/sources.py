"""Reads options from the environment and from a configuration file.

Every option of the table in ``options`` has a variable and a key, derived from its long name: ``--http-timeout`` is
``GREENDAPHNE_HTTP_TIMEOUT`` and ``http-timeout``.  A file may also use ``http_timeout``.  The channel layer has both, too.  An unknown
name or an invalid value is refused with its place, in one line.  ``arguments`` decides which source takes precedence.

Like ``options`` this module imports nothing that gevent must patch first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from .option import Option, Takes, UsageError
from .options import OPTIONS

#: The prefix of the environment variables.
PREFIX: Final = "GREENDAPHNE_"
#: Names the configuration file if the command line does not.
CONFIG_VARIABLE: Final = "GREENDAPHNE_CONFIG"

#: The positional argument as an option, for the environment and files.
CHANNEL_LAYER: Final = Option("", ("--channel-layer",), "", (), Takes.ONE, "PLACE", str, None, "", "")

#: The largest configuration file, in bytes; the sample with every option has about 20,000.
MAX_FILE: Final = 1 << 20

#: The values of a variable for a flag, in any case.
_FLAGS: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)

#: A key that needs no quotes in TOML.
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
#: A number in TOML; a text with a leading zero or a misplaced underscore stays a text.
_NUMBER: Final = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?")


class Setting(NamedTuple):
    """One option's value: converted, in TOML's notation, and the place where it is set."""

    value: Any
    text: str
    origin: str


def key(item: Option) -> str:
    """The key of ``item`` in a configuration file."""
    return item.name.lstrip("-").replace("_", "-")


def variable(item: Option) -> str:
    """The environment variable of ``item``."""
    return PREFIX + key(item).replace("-", "_").upper()


#: The options that the environment and a file can set, in the order of the help text.
ITEMS: Final = (CHANNEL_LAYER, *(item for item in OPTIONS if not item.command_line_only))
_BY_KEY: Final = {key(item): item for item in ITEMS}
_BY_VARIABLE: Final = {variable(item): item for item in ITEMS}
#: The ends of variables that Kubernetes and Docker set in every container for each service: of one that is called greendaphne-redis,
#: ``GREENDAPHNE_REDIS_SERVICE_HOST``, ``..._SERVICE_PORT_HTTP``, ``..._PORT`` and ``..._PORT_80_TCP_ADDR``.
_SERVICE_LINK: Final = re.compile(r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)")
#: The value of those that end with ``_PORT``, which options may have as well.
_LINK_URL: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_COMMAND_LINE_ONLY: Final = {key(item): item for item in OPTIONS if item.command_line_only}


def from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Return the options that ``environ`` sets, by key.

    An empty variable counts as missing, and so do the variables of Kubernetes' service links.  Several values are separated by blanks.

    :raises UsageError: for an unknown name and an invalid value.
    """
    settings: dict[str, Setting] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _is_service_link(name.removeprefix(PREFIX), text):
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


def _is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes or Docker set a variable (without the prefix), so that it is not meant for the server."""
    if f"{PREFIX}{name}" in _BY_VARIABLE:
        # A service that is called greendaphne sets GREENDAPHNE_PORT to a URL.
        return name == "PORT" and _LINK_URL.fullmatch(text) is not None
    return _SERVICE_LINK.fullmatch(name) is not None or (name.endswith("_PORT") and _LINK_URL.fullmatch(text) is not None)


def from_file(path: str) -> dict[str, Setting]:
    """Return the options that the TOML file ``path`` sets, by key.

    :raises UsageError: for a file that is unreadable or not TOML, an unknown key and an invalid value.
    """
    # Imported here, because most commands are started without a file.
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
    return from_mapping(content, path, lambda name: f"{path}{_line(text, name)}: ")


def from_mapping(content: Mapping[str, Any], origin: str, place: Callable[[str], str]) -> dict[str, Setting]:
    """Return the options that a mapping of keys to values sets, by key; a value is what TOML has for it.

    :param origin: what :attr:`Setting.origin` says.
    :param place: returns what an error begins with, by the name that it is about.
    :raises UsageError: for an unknown key and a wrong value.
    """
    settings: dict[str, Setting] = {}
    for name, given in content.items():
        where = f"{place(name)}{_shown(name)}"
        item = _BY_KEY.get(name.replace("_", "-"))
        if item is None:
            if isinstance(given, dict):
                raise UsageError(f"{where} is a table; all options stand at the top of the file")
            raise UsageError(f"{where} is unknown{_instead(name, key)}")
        if key(item) in settings:
            raise UsageError(f"{where} is there twice, with hyphens and with underscores")
        try:
            value, source = _from_toml(item, given)
        except ValueError as error:
            raise UsageError(f"{where} {error}{_not(item, _toml_text(given))}") from None
        settings[key(item)] = Setting(value, literal(item, source), origin)
    return settings


def literal(item: Option, given: bool | Iterable[str]) -> str:
    """Write the value ``given`` for ``item``, a flag's value or the texts of other options, in TOML's notation."""
    if isinstance(given, bool):
        return "true" if given else "false"
    written = [text if item.number and _NUMBER.fullmatch(text) else _quoted(text) for text in given]
    return f"[{', '.join(written)}]" if _several(item) else written[0]


def default_text(item: Option) -> str:
    """Write the default of ``item`` in TOML's notation; ``""`` where it has no default to write."""
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
    """The converted value of ``given``, and the argument for :func:`literal`.

    :raises ValueError: for a wrong type or value.
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
    """``given`` as it is written on the command line."""
    if isinstance(given, str):
        if "\0" in given:
            # The command line and the environment cannot contain one, so converters do not expect it.
            raise ValueError("must not contain a NUL character")
        return given
    if item.number and isinstance(given, int | float) and not isinstance(given, bool):
        return repr(given)
    kind = "a number, or a text as on the command line" if item.number else "a text in quotes"
    raise ValueError(f"must be {kind}")


def _not(item: Option, text: str) -> str:
    """The end of a sentence about an invalid value."""
    return "" if item.secret else f", not {text}"


def _toml_text(given: Any) -> str:
    """A value from a TOML file, for an error message."""
    if isinstance(given, dict):
        return "a table"
    if isinstance(given, list):
        return f"[{', '.join(map(_toml_text, given))}]"
    if isinstance(given, bool):
        return "true" if given else "false"
    return _quoted(given) if isinstance(given, str) else str(given)


def _quoted(text: str) -> str:
    # Bytes that are not Unicode, in an environment of another encoding, become visible escapes.  TOML escapes DEL, which JSON does not.
    return json.dumps(text.encode(errors="backslashreplace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")


def _shown(name: str) -> str:
    """A name with arbitrary characters, on one line."""
    return name if _BARE_KEY.fullmatch(name) else repr(name)


def _line(text: str, name: str) -> str:
    """The line of the key in the file, for an error message; empty where it is written in an unusual way."""
    match = re.search(rf"""^[ \t]*(["']?){re.escape(name)}\1[ \t]*=""", text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, match.start()) + 1}" if match else ""


def _instead(name: str, form: Any, more: tuple[str, ...] = ()) -> str:
    """A suggestion in place of an unknown ``name``, written in the given ``form``; empty where no name is similar."""
    # Imported here, because only mistakes need it.
    import difflib

    wanted = name.lower().replace("_", "-")
    if wanted in _COMMAND_LINE_ONLY:
        return f": {_COMMAND_LINE_ONLY[wanted].name} belongs on the command line"
    # Some options are better known by daphne's names in Python.
    names = {item.known_as.replace("_", "-"): form(item) for item in ITEMS if item.known_as}
    names |= {key(item): form(item) for item in ITEMS}
    names |= {each.removeprefix(PREFIX).lower(): each for each in more}
    near = difflib.get_close_matches(wanted, names, 1)
    return f"; did you mean {names[near[0]]}?" if near else ""
