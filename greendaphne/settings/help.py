"""The help text, made from the table of options; it is also the grammar that docopt reads a command line by."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Final

from .option import Option
from .options import GROUPS, OPTIONS

_DESCRIPTION: Final = """\
greendaphne serves HTTP/1.1, HTTP/2 and WebSocket clients from a WSGI application, an ASGI
application or a channel layer.

Usage:
  greendaphne [options] [--endpoint=STRING]... [--ws-protocol=NAME]... [--environ=VARIABLE]... [--mount=MOUNT]...
              [--] [<channel_layer>]
  greendaphne (-h | --help)
  greendaphne --version

<channel_layer> names what is served, an application or a channel layer: module.path:attribute.path,
such as project.wsgi:application, or module.path alone for its "application" or "app".
Options may be abbreviated; their values follow a blank or an equals sign.

Every option may also stand in a configuration file or in the environment: http-timeout = 60 in
the file and GREENDAPHNE_HTTP_TIMEOUT=60 are --http-timeout=60.  The command line counts first,
then the environment, then the file.
"""

_INFORMATION: Final = """\
Information:
  -h, --help  Show this text.
  --version   Show the version.
"""

#: Columns of the help text.
_WIDTH: Final = 100
_INDENT: Final = 30


def help_text(options: Iterable[Option] = OPTIONS) -> str:
    """The help text, which is also the grammar that docopt reads a command line by.

    :param options: what is in it, which can be less where it is only read: docopt takes time for each pair of options.
    """
    options = [*options]
    sections = [_DESCRIPTION]
    for group in GROUPS:
        entries = [_entry(item) for item in options if item.group == group]
        if entries:
            sections.append("\n".join([f"{group}:", *entries, ""]))
    return "\n".join([*sections, _INFORMATION])


def _entry(item: Option) -> str:
    form = f"  {item.short} {item.metavar}, " if item.short else "  "
    form += f"{item.name}={item.metavar}" if item.metavar else item.name
    # No-break spaces keep docopt's notation of a default on one line, and a hyphen from beginning one: docopt would see an option there.
    default = f" [default:\xa0{item.default}]" if item.default else ""
    lines = textwrap.wrap(item.help.replace(" -", "\xa0-") + default, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    text = ("\n" + " " * _INDENT).join(lines).replace("\xa0", " ")
    # docopt takes two blanks for the end of the form.
    return f"{form:<{_INDENT}}{text}" if len(form) <= _INDENT - 2 else f"{form}\n{' ' * _INDENT}{text}"


def show(text: str) -> None:
    """Print ``text``, in whatever encoding; the reader may stop in the middle of it, as ``head`` does."""
    encoding = sys.stdout.encoding
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The interpreter will flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
