"""The documentation agrees with itself and with the options: links lead somewhere, pages can be found, defaults are the true ones."""

from __future__ import annotations

import re
from pathlib import Path

import docutils.core
import docutils.nodes
import docutils.utils
import pytest

from greendaphne.settings.option import Option, Takes
from greendaphne.settings.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *ROOT.glob("*.rst"),
        *DOCS.glob("*.rst"),
        *DOCS.glob("[dt]*/*.rst"),
        *ROOT.glob("benchmarks/*.rst"),
        *ROOT.glob("tests/*.rst"),
        *ROOT.glob("examples/**/*.rst"),
    ]
)
#: Names of files in the text, such as ``docs/tls.rst``, that are to be found from the top of the project; not those that the reader makes.
_NAMED_FILE = re.compile(r"(?<!Saved as )``((?:docs|examples|benchmarks|tests)/[\w./-]+)``")
#: An entry of docs/command-line.rst: a line of spellings, and the indented text behind it.
_ENTRY = re.compile(r"^(``-.*)\n((?: {4}.*\n|\n(?= {4}))+)", re.MULTILINE)


def identify(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


def document(page: Path) -> docutils.nodes.document:
    """``page`` as docutils reads it; anything that it finds wrong is an error."""
    text = page.read_text(encoding="utf-8")
    settings = {"halt_level": docutils.utils.Reporter.WARNING_LEVEL, "report_level": docutils.utils.Reporter.SEVERE_LEVEL}
    return docutils.core.publish_doctree(text, source_path=str(page), settings_overrides=settings)


def links(page: Path) -> list[Path]:
    """The files that ``page`` links to."""
    targets = [node["refuri"] for node in document(page).findall(docutils.nodes.reference) if "refuri" in node]
    return [(page.parent / target.partition("#")[0]).resolve() for target in targets if "://" not in target and "mailto:" not in target]


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_a_page_is_in_order_and_its_links_lead_to_files(page: Path) -> None:
    assert [target for target in links(page) if not target.exists()] == []
    assert [name for name in _NAMED_FILE.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_a_row_of_a_table_is_one_row(page: Path) -> None:
    """Text in the first column begins a row; a row that has nothing else is a heading, in bold face, or was meant to go on."""
    rows = [list(row.findall(docutils.nodes.entry)) for row in document(page).findall(docutils.nodes.row)]
    lonely = [first for first, *others in rows if others and first.astext() and not any(each.astext() for each in others)]
    assert [first.astext() for first in lonely if not any(first.findall(docutils.nodes.strong))] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    assert set(DOCS.glob("*.rst")) - set(links(DOCS / "index.rst")) == {DOCS / "index.rst"}


def test_the_reference_has_the_names_that_pages_tell_to_import() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, *DOCS.glob("tutorials/*.rst")] if page.name != "CHANGELOG.rst")
    imported = {
        f"{module}.{name.strip()}"
        for module, names in re.findall(r"from (greendaphne[\w.]*) import ([\w, ]+)", text)
        for name in names.split(",")
    }
    # Packages whose names the reference has, and a function of one of them.
    imported -= {"greendaphne.aio.hub", "greendaphne.compat", "greendaphne.Server"}
    reference = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "site" / "api").glob("*.rst"))
    documented = set(re.findall(r"^\.\. auto\w+:: (greendaphne[\w.]+)", reference, re.MULTILINE))
    for module, members in re.findall(r"^\.\. automodule:: (greendaphne[\w.]+)\n   :members: (.*)", reference, re.MULTILINE):
        documented |= {f"{module}.{member}" for member in members.split(", ")}
    assert imported - documented == set()


def entries() -> dict[str, str]:
    """The paragraph of docs/command-line.rst about every option, by each of its spellings with its value."""
    text = (DOCS / "command-line.rst").read_text(encoding="utf-8")
    return {spelling: " ".join(body.split()) for line, body in _ENTRY.findall(text) for spelling in re.findall(r"``(.+?)``", line)}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_documented_with_its_spellings_and_its_default(option: Option) -> None:
    documented = entries()
    spellings = [f"{name}={option.metavar}" if option.takes is not Takes.NOTHING else name for name in option.names]
    if option.short:
        spellings.append(f"{option.short} {option.metavar}".rstrip())
    assert [spelling for spelling in spellings if spelling not in documented] == []
    text = documented[spellings[0]]
    if option.default:
        assert f"``{option.default}``" in text or option.default in re.sub("[.,:;]", " ", text).split()


def test_the_change_log_has_every_option_that_daphne_had_not() -> None:
    text = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert [option.name for option in OPTIONS if not option.legacy and f"``{option.name}" not in text] == []


def test_nothing_is_documented_that_is_no_option() -> None:
    known = {name for option in OPTIONS for name in (*option.names, option.short)} | {"--help", "-h", "--version"}
    assert {re.split("[ =]", spelling)[0] for spelling in entries()} - known == set()
