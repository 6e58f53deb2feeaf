"""``python -m benchmarks``: a real run of one family, and the pages that are made from its figures."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import docutils.core
import docutils.utils
import html5lib
import pytest

from benchmarks import page, text
from benchmarks.__main__ import FAMILIES, PAGES, main
from benchmarks.environment import BenchmarkError
from benchmarks.results import Results, merge, read

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120.0
SERVERS = ["greendaphne, channel layer", "greendaphne, ASGI"]
XHTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run of one family has put its files; it takes none but the servers of this project, which need no installation."""
    made = tmp_path_factory.mktemp("bench")
    options = ["--quick", "--only", "start", "--server", "greendaphne", "--json", str(made / "r.json"), "--report", str(made / "r.html")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, check=False, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    (made / "output").write_text(done.stdout)
    assert "-- start: round 1 of 1" in done.stderr
    return made


@pytest.fixture
def results(directory: Path) -> Results:
    return read(directory / "r.json")


def parse(document: str) -> ElementTree.Element:
    """The tree of an HTML page without any error."""
    tree = html5lib.HTMLParser(strict=True, tree=html5lib.getTreeBuilder("etree")).parse(document)
    assert isinstance(tree, ElementTree.Element)
    return tree


def texts(tree: ElementTree.Element, tag: str) -> list[str]:
    return ["".join(element.itertext()) for element in tree.iter(f"{XHTML}{tag}")]


def test_a_quick_run_measures(results: Results) -> None:
    case = results.sections[0].tables[0].cases[0]
    assert [row.server for row in case.rows] == SERVERS
    for row in case.rows:
        assert row.error is None
        assert {key: len(figures) for key, figures in row.samples.items()} == {"response": 1, "listening": 1, "cpu_ms": 1}
        assert row.samples["response"] >= row.samples["listening"] > [0]


def test_the_page_is_valid_and_has_the_rows(directory: Path, results: Results) -> None:
    tree = parse((directory / "r.html").read_text(encoding="utf-8"))
    cells = texts(tree, "td")
    assert [cell for cell in cells if cell in SERVERS] == SERVERS
    assert f"{results.sections[0].tables[0].cases[0].rows[1].samples['response'][0]:,.3f}" in cells
    assert "python -m benchmarks --only start --case 'start: hello' --server 'greendaphne, ASGI'" in texts(tree, "code")
    about = "".join(texts(tree, "tbody")[0])
    for value in (*results.machine.values(), *results.versions.values(), results.started, f"{results.load_average[0][0]:g}"):
        assert value in about


def test_the_page_has_a_plot_that_follows_the_theme_and_needs_nothing(directory: Path) -> None:
    document = (directory / "r.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    assert len(plots) == 1
    assert all(server in plots[0] for server in SERVERS)
    assert "var(--ours)" in plots[0]
    assert "prefers-color-scheme: dark" in document
    assert re.findall(r"#[0-9a-f]{6}|<script|@import|https?:", plots[0]) == []
    assert re.findall(r"<script|@import|https?:|<link", document) == []
    identifiers = re.findall(r'\bid="([^"]*)"', document)
    assert [name for name in re.findall(r'href="#([^"]*)"', document) if name not in identifiers] == []


def test_of_several_runs_the_last_counts(directory: Path) -> None:
    older = read(directory / "r.json")
    newer = read(directory / "r.json")
    newer.sections[0].rounds += 1
    newer.sections[0].title = "newer"
    other = dataclasses.replace(older, sections=[dataclasses.replace(older.sections[0], name="asgi", title="other")])
    merged = merge([other, older, newer], FAMILIES)
    assert [section.title for section in merged.sections] == ["other", "newer"]
    assert ("rounds", "1 to 2;") in [(name, value.partition(" runs")[0]) for name, value in text.about(merged)]
    with pytest.raises(BenchmarkError, match="same machine"):
        merge([older, dataclasses.replace(newer, machine={**newer.machine, "cores": "1000"})], FAMILIES)


def test_the_page_is_made_again_from_the_file(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(directory / "r.json"), "--report", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == (directory / "r.html").read_text()
    assert capsys.readouterr().out == (directory / "output").read_text()


def test_names_are_escaped(results: Results) -> None:
    section = results.sections[0]
    name = '<b>&"$x_1$'
    section.error = section.title = section.tables[0].title = section.tables[0].cases[0].name = results.machine["processor"] = name
    section.tables[0].cases[0].rows[0] = dataclasses.replace(section.tables[0].cases[0].rows[0], server=name, error=name, command=name)
    tree = parse(page.html(results))
    assert texts(tree, "b") == []
    assert name in texts(tree, "td")
    assert name in texts(tree, "h4")
    assert name in ["".join(element.itertext()).strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_plots_of_a_page_have_identifiers_of_their_own(results: Results) -> None:
    table = results.sections[0].tables[0]
    table.cases.append(dataclasses.replace(table.cases[0], name="another"))
    parts = [set(re.findall(r"\(#([^)]*)\)", plot)) for plot in re.findall(r"<svg.*?</svg>", page.html(results), re.DOTALL)]
    assert len(parts) == 2
    assert parts[0]
    assert not parts[0] & parts[1]


def test_tables_for_the_documentation(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "page.rst"
    path.write_text(f"Title\n=====\n\nFigures\n-------\n\n{text.BEGIN}\n\nold\n\n{text.END}\n\nbehind\n")
    results.sections[0].tables[0].cases[0].rows[1].error = "did not\nstart"
    text.insert(results, path)
    made = path.read_text()
    assert "old" not in made
    assert made.endswith(f"{text.END}\n\nbehind\n")
    settings = {"halt_level": docutils.utils.Reporter.WARNING_LEVEL, "report_level": docutils.utils.Reporter.SEVERE_LEVEL}
    tree = docutils.core.publish_doctree(made, settings_overrides=settings)
    assert [server for server in SERVERS if server not in tree.astext()] == []
    text.insert(results, path)
    assert path.read_text() == made


def test_a_short_table_for_the_readme(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "page.rst"
    path.write_text(f"{text.HEADLINE}\n{text.END}\n")
    text.insert(results, path)
    figure = results.sections[0].tables[0].cases[0].rows[0].samples["response"][0]
    assert f"{figure:.3f} s" in path.read_text()
    assert "Medians of 1 rounds" in path.read_text()


def test_a_page_without_a_place_for_figures_is_refused(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "page.rst"
    path.write_text("Title\n")
    with pytest.raises(BenchmarkError, match="has no line"):
        text.insert(results, path)


def test_the_projects_pages_take_figures_of_all_families_only(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [each.read_text() for each in PAGES]
    assert main(["--from", str(directory / "r.json"), "--report", str(directory / "other.html"), "--rst"]) == 1
    assert "figures of all families" in capsys.readouterr().err
    assert [each.read_text() for each in PAGES] == before
    assert [text.BEGIN in before[0], text.HEADLINE in before[1]] == [True, True]


def test_options_that_measure_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "0"]) == 1
    assert main(["--only", "start", "--case", "no such case"]) == 1
    assert main(["--from", str(tmp_path / "missing.json")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("benchmarks: ")]
    assert len(errors) == 3


def test_every_family_is_documented() -> None:
    readme = PAGES[0].read_text()
    assert [name for name in FAMILIES if f"``{name}``" not in readme] == []
