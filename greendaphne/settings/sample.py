"""A configuration file with each option and its default, commented out: ``python -m greendaphne.settings.sample > greendaphne.toml``."""

from __future__ import annotations

import re
import sys
import textwrap

from .option import Option
from .options import GROUPS, OPTIONS
from .sources import CHANNEL_LAYER, default_text, key

#: Columns of the text.
_WIDTH = 100

_HEAD = f"""\
# Every option of greendaphne and its default, for
#
#     greendaphne --config greendaphne.toml
#
# Remove the # in front of an option to change it. The command line and environment variables such
# as GREENDAPHNE_HTTP_TIMEOUT take precedence over this file.

# The channel layer, module.path:attribute.path.
{key(CHANNEL_LAYER)} = "project.asgi:channel_layer"
"""


def sample() -> str:
    """Return the file's text."""
    lines = [_HEAD]
    for group in GROUPS:
        items = [item for item in OPTIONS if item.group == group and not item.command_line_only]
        if items:
            lines += [f"\n# ---- {group} ----\n", *(_entry(item) for item in items)]
    return "\n".join(lines)


def _entry(item: Option) -> str:
    # Options have no leading hyphens in a file.
    text = re.sub(r"--([a-z])", r"\1", item.help)
    default = default_text(item)
    if not default:
        text += " Not set by default."
        default = item.metavar if item.number else f'"{item.metavar}"'
    comment = textwrap.fill(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)
    return f"{comment}\n#{key(item)} = {default}\n"


if __name__ == "__main__":
    sys.stdout.write(sample())
