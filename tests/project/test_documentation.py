"""The documentation agrees with itself and with the options: links lead somewhere, pages can be found, defaults are the true ones,
and each metric, log line, variable and Python name that a page mentions exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

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


# ---- Names that pages mention

#: The change log tells of names that are gone.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.rst"]
PACKAGE = ROOT / "greendaphne"
#: Stands for a value within a text.
_VALUE = "\0"


@cache
def texts() -> tuple[str, ...]:
    """All texts in the code of the package, with :data:`_VALUE` for each value that is put into them."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else _VALUE for part in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[-.0-9]*[a-z]", _VALUE, node.value))
    return tuple(found)


@cache
def words(text: str) -> tuple[str, ...]:
    """The words of ``text``, without punctuation; :data:`_VALUE` for one that contains a value or ``…``."""
    return tuple(_VALUE if _VALUE in word or "…" in word else word.strip("();:,.") for word in text.split())


def agreement(line: tuple[str, ...], text: tuple[str, ...]) -> int:
    """The number of words that ``line`` and the beginning of ``text`` share, in their order; negative where the two differ."""
    if not line:
        return 0
    if not text:
        return -1000 * any(word != _VALUE for word in line)
    if line[0] == _VALUE:
        return max(agreement(line[1:], text), agreement(line, text[1:]))
    if text[0] == _VALUE:
        return max(agreement(line[1:], text[1:]), agreement(line[1:], text))
    return 1 + agreement(line[1:], text[1:]) if line[0] == text[0] else -1000


def is_logged(line: str) -> bool:
    """Whether a text of the package has the words of ``line``: the greater part as they are, the others in the place of a value."""
    # A name, or a cause, that is a value in the text.
    wanted = words(re.sub(r"^(Worker …|Requests fail \(.*?\))", lambda match: "… fail (…)" if "fail" in match[1] else "…", line))
    literal = {word for word in wanted if word != _VALUE}
    near = [words(text) for text in texts() if len(text) < 400 and 2 * len(literal & {*words(text)}) >= min(len(literal), 4)]
    enough = 0.4 * len(literal)
    return any(agreement(wanted, text[start:]) >= enough for text in near for start in range(len(text)))


def log_lines(page: str, start: str, end: str) -> list[str]:
    """The first column of the tables in a part of ``page``."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^``(.+?)``", text[text.index(start) : text.index(end)], re.MULTILINE)


@pytest.mark.parametrize("line", log_lines("operations.rst", ".. _log lines:", "\nCapacity\n"))
def test_a_line_that_operators_look_for_is_logged(line: str) -> None:
    assert is_logged(line)


def test_a_line_that_is_not_logged_is_found() -> None:
    assert not is_logged("Cannot import the channel layer …")
    assert is_logged("Worker … has not ended in time")


@pytest.mark.parametrize("page", CURRENT, ids=identify)
def test_metrics_and_variables_of_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = "\n".join(texts())
    metrics = {re.sub("_(total|bucket|sum|count)$", "", name) for name in re.findall(r"\bgreendaphne_[a-z0-9_]+", text)}
    fixtures = {"greendaphne_server", "greendaphne_server_factory", "greendaphne_options", "greendaphne_layer"}
    assert [name for name in metrics - fixtures if name not in known] == []
    # Kubernetes makes the latter.
    variables = set(re.findall(r"\bGREENDAPHNE_([A-Z0-9_]*[A-Z0-9])\b", text)) - {"SERVICE_HOST"}
    options = {name.lstrip("-").replace("-", "_").upper() for option in OPTIONS for name in option.names} | {"CHANNEL_LAYER"}
    assert variables - options == set()


def is_there(name: str) -> bool:
    """Whether ``name`` is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            # An attribute that only objects have stands in the annotations.
            if not hasattr(thing, attribute) and attribute not in getattr(thing, "__annotations__", {}):
                return False
            thing = getattr(thing, attribute, None)
        return True
    return False


@pytest.mark.parametrize("page", CURRENT, ids=identify)
def test_python_names_of_a_page_exist(page: Path) -> None:
    names = set(re.findall(r"(?<![\w/.-])greendaphne(?:\.\w+)+", page.read_text(encoding="utf-8")))
    files = re.compile(r".*\.(1|fish|ini|json|rst|socket|service|toml|rules|yml)")
    loggers = {"greendaphne.wsgi.errors"}
    assert [name for name in names - loggers if not files.fullmatch(name) and not is_there(name)] == []


@pytest.mark.parametrize("page", CURRENT, ids=identify)
def test_a_page_names_the_actor(page: Path) -> None:
    """A page says which program or person acts.  These words do not, so a reader cannot tell what to look at."""
    found = re.findall(r"(?i)\b(?:whoever|nobody|somebody|someone|everybody|whatever)\b", page.read_text(encoding="utf-8"))
    assert found == []


# ---- The figures of the README


def test_the_readme_has_no_figure_that_the_benchmarks_have_not() -> None:
    readme, benchmarks = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.rst", "benchmarks/README.rst"))
    table = readme[readme.index(".. headline:") : readme.index(".. end of the figures")]
    figures = re.findall(r"(?<![\w.])([\d,.]*\d) (?:µs|ms|s|KiB)\b", table)
    assert len(figures) > 20
    tables = benchmarks[benchmarks.index(".. figures:") : benchmarks.index(".. end of the figures")]
    known = {cell.replace(",", "") for cell in re.findall(r"(?<= )[\d,.]+(?=\s)", tables)}
    assert [figure for figure in figures if figure.replace(",", "") not in known] == []
