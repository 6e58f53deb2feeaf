"""Sphinx extension: the search of the site finds numbers, such as the status 431 and the close code 1012, which Sphinx leaves out.

The index gets words of three and four digits, and the script that reads it no longer skips such words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

#: What the script says about numbers.
_SKIPPED = r" || queryTerm.match(/^\d+$/)"
logger = logging.getLogger(__name__)


class Search(SearchEnglish):
    """English, with numbers."""

    def word_filter(self, word: str) -> bool:
        return re.fullmatch(r"\d{3,4}", word) is not None or super().word_filter(word)


def look_for_numbers(app: Sphinx, error: Exception | None) -> None:
    script = Path(app.outdir) / "_static" / "searchtools.js"
    if error is not None or not script.exists():
        return
    text = script.read_text(encoding="utf-8")
    if _SKIPPED not in text and "queryTerm.match" in text:
        logger.warning("the search skips numbers in another way than docs/site/search_numbers.py expects")
    script.write_text(text.replace(_SKIPPED, ""), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_search_language(Search)
    app.connect("build-finished", look_for_numbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
