"""The help text, generated from the table of options; docopt also uses it as the grammar of the command line."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Final

from .option import Option
from .options import GROUPS, OPTIONS

_SUMMARY: Final = (
    "greendaphne serves HTTP/1.1, HTTP/2 and WebSocket clients from a WSGI application, an ASGI application or a channel layer."
)

_USAGE: Final = """\
Usage:
  greendaphne [options] [--endpoint=STRING]... [--ws-protocol=NAME]...
              [--environ=VARIABLE]... [--mount=MOUNT]...
              [--] [<channel_layer>]
  greendaphne (-h | --help)
  greendaphne --version
"""

_EXPLANATION: Final = (
    (
        "<channel_layer> names the application or the channel layer to serve: module.path:attribute.path, such as "
        'project.wsgi:application or project.asgi:channel_layer, or module.path alone for its "application" or "app". Options may be '
        "abbreviated; their values follow a blank or an equals sign."
    ),
    (
        "Every option may also stand in a configuration file or in the environment: http-timeout = 60 in the file and "
        "GREENDAPHNE_HTTP_TIMEOUT=60 mean\xa0--http-timeout=60. The command line takes precedence over the environment, the "
        "environment over the file."
    ),
)

_INFORMATION: Final = """\
Information:
  -h, --help  Show this text; with -h the everyday options only.
  --version   Show the version.
"""

_SHORT_USAGE: Final = """\
Usage: greendaphne [options] module.path:attribute.path
  such as: greendaphne project.wsgi:application
           greendaphne --inline-workers 4 project.asgi:channel_layer
"""

#: The width in columns without a terminal, and the bounds of the width with one.
WIDTH: Final = 80
_NARROWEST, _WIDEST = 80, 120
#: The indentation of an option's description in columns.
_INDENT: Final = 26


def terminal_width() -> int:
    """The width in columns: that of the terminal at standard output, or :data:`WIDTH` without one."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return WIDTH
    return min(max(columns, _NARROWEST), _WIDEST) if columns else WIDTH


def help_text(options: Iterable[Option] = OPTIONS, width: int = WIDTH) -> str:
    """Return the help text, which docopt also uses as the grammar of the command line.

    :param options: the options in the text.  For parsing, only those in use suffice, because docopt takes time for each pair of options.
    :param width: the maximum number of columns in a line.
    """
    options = [*options]
    sections = [_filled(_SUMMARY, width) + "\n", _USAGE, "\n\n".join(_filled(text, width) for text in _EXPLANATION) + "\n"]
    for group in GROUPS:
        entries = [_entry(item, width) for item in options if item.group == group]
        if entries:
            sections.append("\n".join([_filled(f"{group}:", width), *entries, ""]))
    return "\n".join([*sections, _INFORMATION])


def short_help(width: int = WIDTH) -> str:
    """Return the everyday options, at most 40 lines of :data:`WIDTH` columns."""
    entries = [_entry(item, width) for group in GROUPS for item in OPTIONS if item.group == group and item.everyday]
    return "\n".join([_filled(_SUMMARY, width), "", _SHORT_USAGE, *entries, "", "greendaphne --help shows all options."])


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False).replace("\xa0", " ")


def form(item: Option) -> str:
    """The spelling of ``item``, such as ``-p PORT, --port=PORT``."""
    short = f"{item.short} {item.metavar}, " if item.short else ""
    return f"{short}{item.name}={item.metavar}" if item.metavar else f"{short}{item.name}"


def _entry(item: Option, width: int) -> str:
    head = f"  {form(item)}"
    # No-break spaces keep docopt's notation of a default on one line, and prevent a hyphen at the start of a line, which docopt would take
    # for an option.
    default = f" [default:\xa0{item.default}]" if item.default else ""
    lines = textwrap.wrap(item.help.replace(" -", "\xa0-") + default, width - _INDENT, break_long_words=False, break_on_hyphens=False)
    # A long default begins further to the left.
    indents = [" " * min(_INDENT, max(width - len(line), 0)) for line in lines[1:]]
    text = "\n".join([lines[0], *(indent + line for indent, line in zip(indents, lines[1:], strict=True))]).replace("\xa0", " ")
    # For docopt two blanks end the form.
    return f"{head:<{_INDENT}}{text}" if len(head) <= _INDENT - 2 else f"{head}\n{' ' * _INDENT}{text}"


def show(text: str) -> None:
    """Print ``text`` in any encoding; the reader may stop before its end, as ``head`` does."""
    encoding = sys.stdout.encoding
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The interpreter flushes again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
