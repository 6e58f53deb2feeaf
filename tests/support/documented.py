"""Programs that stand in the documentation, to be run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"^\.\. code-block:: python\n   :name: (\S+)\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)


def programs(page: str) -> dict[str, str]:
    """The named blocks of Python code on ``page``, by name."""
    text = (DOCS / page).read_text(encoding="utf-8") + "\n"
    return {name: textwrap.dedent(source).rstrip("\n") + "\n" for name, source in _BLOCK.findall(text)}
