"""Sphinx extension: relative paths in the pages become links of the site.

``docs/wsgi.rst`` links to ``proxies.rst``, and to ``../examples/chat``, as files.  A link to a file that has a page leads to that page, and
has the page's title where its text was the name of the file.  A link to any other file becomes plain text, and a warning if there is no
such file.  A fragment that the page does not have is a warning.
"""

from __future__ import annotations

import json
import posixpath
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[2]
logger = logging.getLogger(__name__)


def read_pages(app: Sphinx) -> None:
    pages = json.loads((ROOT / "build" / "docs" / "pages.json").read_text(encoding="utf-8"))
    origins: dict[str, str] = {}
    for origin, target in pages.items():
        # The first is the page itself, not a directory.
        origins.setdefault(target.partition("#")[0], origin)
    app.env.checkout_pages = pages  # type: ignore[attr-defined]
    app.env.checkout_origins = origins  # type: ignore[attr-defined]


def is_relative(target: str) -> bool:
    return "://" not in target and not target.startswith(("#", "mailto:"))


def identifiers(document: nodes.document) -> set[str]:
    return {each for node in document.findall(nodes.Element) for each in node["ids"]}


def text_of(node: nodes.reference, title: str, names: tuple[str, ...]) -> None:
    """Show ``title`` where the link shows the name of a file."""
    if node.astext() in names or node.astext().endswith(".rst"):
        node.children = []
        node += nodes.Text(title)


def resolve(app: Sphinx, document: nodes.document, docname: str) -> None:
    env: Any = app.env
    origin = env.checkout_origins.get(docname, f"docs/{docname}.rst")
    directory = origin if origin.startswith("examples/") and not origin.endswith(".rst") else posixpath.dirname(origin)
    for node in list(document.findall(nodes.reference)):
        target = node.get("refuri", "")
        if node.get("internal") or not target or not is_relative(target):
            continue
        path, _, fragment = target.partition("#")
        path = posixpath.normpath(posixpath.join(directory, path))
        page = env.checkout_pages.get(path)
        if page is None:
            if not (ROOT / path).exists():
                logger.warning("there is no %s", path, location=node)
            node.replace_self(node.children)
            continue
        page, _, anchor = page.partition("#")
        if anchor:
            # What docutils makes of a label.
            fragment = nodes.make_id(anchor)
        if fragment and fragment not in identifiers(env.get_doctree(page)):
            logger.warning("%s has no #%s", page, fragment, location=node)
        text_of(node, env.titles[page].astext(), (posixpath.basename(path), path))
        node["refuri"] = app.builder.get_relative_uri(docname, page) + (f"#{fragment}" if fragment else "")
        node["internal"] = True


def dedent(app: Sphinx, document: nodes.document) -> None:
    """A block of code stands one column further in than the options of its directive."""
    for node in document.findall(nodes.literal_block):
        text = textwrap.dedent(node.astext())
        if text != node.rawsource:
            # Highlighted only while both are the same.
            node.rawsource = text
            node.children = []
            node += nodes.Text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", read_pages)
    app.connect("doctree-read", dedent)
    app.connect("doctree-resolved", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
