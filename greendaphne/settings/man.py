"""The manual page of the command, generated from the table of options: ``python -m greendaphne.settings.man > greendaphne.1``."""

from __future__ import annotations

import sys

from ..core.version import __version__
from .option import Option, Takes
from .options import GROUPS, OPTIONS
from .sources import key, variable

_HEAD = f"""\
.TH GREENDAPHNE 1 "" "greendaphne {__version__}" "User Commands"
.SH NAME
greendaphne \\- HTTP/1.1, HTTP/2 and WebSocket server for WSGI, ASGI and channel layers
.SH SYNOPSIS
.B greendaphne
[\\fIoptions\\fR] \\fImodule.path\\fR:\\fIattribute.path\\fR
.SH DESCRIPTION
greendaphne serves HTTP/1.1, HTTP/2 and WebSocket clients from the application or the channel layer that its argument names, such as
.B project.wsgi:application
or
.BR project.asgi:channel_layer .
The current directory is the first entry of the module search path.
.PP
Options may be abbreviated; their values follow a blank or an equals sign.
"""

_TAIL = f"""\
.SH SIGNALS
.TP
.B SIGTERM, SIGINT
Let open requests finish, for the graceful timeout, and end. A second one ends at once.
.TP
.B SIGHUP
Read certificates again; with workers, replace all of them one by one.
.TP
.B SIGUSR1
Open log files anew.
.TP
.B SIGTTIN, SIGTTOU
With workers: one worker more, one less.
.SH EXIT STATUS
.TP
.B 0
A clean end.
.TP
.B 1
The configuration cannot be used, the application cannot be imported, or an endpoint cannot be listened on.
.TP
.B 2
The command line cannot be used.
.SH ENVIRONMENT
Every option has a variable:
.B {variable(next(item for item in OPTIONS if key(item) == "http-timeout"))}=60
is
.BR \\-\\-http\\-timeout=60 .
.B GREENDAPHNE_CONFIG
names the configuration file.
.SH EXAMPLES
.nf
greendaphne \\-\\-inline\\-workers 4 project.asgi:channel_layer
greendaphne \\-b 0.0.0.0 \\-p 8000 \\-\\-proxy\\-headers project.asgi:channel_layer
.fi
"""


def manual() -> str:
    """Return the page as roff with the man macros."""
    parts = [_HEAD, ".SH OPTIONS\n"]
    for group in GROUPS:
        items = [item for item in OPTIONS if item.group == group]
        parts += [f".SS {_escaped(group)}\n", *map(_entry, items)]
    parts += [
        ".SS Information\n.TP\n.B \\-h\nShow the everyday options.\n.TP\n.B \\-\\-help\nShow all options.\n",
        ".TP\n.B \\-\\-version\nShow the version.\n",
        _TAIL,
    ]
    return "".join(parts)


def _entry(item: Option) -> str:
    value = f"\\fI{_escaped(item.metavar)}\\fR" if item.metavar else ""
    forms = [f"\\fB{_escaped(item.short)}\\fR {value}".rstrip()] if item.short else []
    forms += [f"\\fB{_escaped(name)}\\fR={value}" if value else f"\\fB{_escaped(name)}\\fR" for name in item.names]
    default = f" Default: {item.default}." if item.default and item.takes is Takes.ONE else ""
    return f".TP\n{', '.join(forms)}\n{_escaped(item.help + default)}\n"


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins with a dot or an apostrophe is a request.
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(manual())
