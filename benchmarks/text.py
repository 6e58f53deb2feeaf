"""Results as reStructuredText: on standard output, and as the tables of a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from . import candidates
from .environment import BenchmarkError
from .results import Case, Measure, Ratio, Results, Row, Section, Table, ratio, summary

#: What stands between these lines of a page is replaced.
BEGIN: Final = ".. figures: made by python -m benchmarks --rst, not by hand"
HEADLINE: Final = ".. headline: made by python -m benchmarks --rst, not by hand"
END: Final = ".. end of the figures"

#: The lines of a short table: title, section, table, case, measure and unit; and its columns with the names of their servers.
_HEADLINES: Final = (
    ("CPU time of a request, HTTP/1.1", "http1", "hello", "64 connections", "cpu_us", "µs"),
    ("median latency, one connection", "http1", "hello", "1 connection", "median_ms", "ms"),
    ("CPU time of a request, HTTP/2", "http2", "tls", "32 streams, plain", "cpu_us", "µs"),
    ("CPU time of a WebSocket message", "websocket", "echo", "16 B", "cpu_us", "µs"),
    ("memory of an idle WebSocket", "memory", "idle", "WebSocket", "kib", "KiB"),
    ("from the command to the response", "start", "start", "hello", "response", "s"),
)
_COLUMNS: Final = {
    candidates.LAYER: (candidates.LAYER,),
    candidates.ASGI: (candidates.ASGI,),
    candidates.DAPHNE1: (candidates.DAPHNE1,),
    candidates.DAPHNE4: (candidates.DAPHNE4,),
    "uvicorn": (candidates.UVLOOP,),
    candidates.GRANIAN: (candidates.GRANIAN,),
}
_WIDTH: Final = 140


def number(value: float, digits: int) -> str:
    """``value`` for people."""
    return f"{value:,.{digits}f}"


def ratio_text(found: Ratio | None) -> str:
    """The ratio of medians, then that of the best rounds."""
    return "-" if found is None else f"{_ratio(found.medians)} ({_ratio(found.best)})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"


def about(results: Results) -> list[tuple[str, str]]:
    """Time, machine, how busy it was, versions and method, by name."""
    plan = results.plan
    size = f"runs of {plan['seconds']:g} s; {plan['idle']:g} idle connections; {plan['members']:g} members of a group"
    load = [", ".join(f"{value:g}" for value in values) for values in results.load_average]
    return [
        ("time", f"{results.started} to {results.ended}"),
        *results.machine.items(),
        ("load average", " at the start, ".join(load) + " at the end (1, 5, 15 minutes)"),
        *results.versions.items(),
        ("rounds", f"{_rounds(results.sections)}; {size}"),
    ]


def _rounds(sections: Sequence[Section]) -> str:
    """How many rounds the figures are of."""
    numbers = sorted({section.rounds for section in sections})
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers))


def grid(title: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A reStructuredText simple table; the first ``left`` columns are flush left, the others flush right."""
    widths = [max(len(line[index]) for line in [title, *lines]) for index in range(len(title))]
    rule = "  ".join("=" * width for width in widths)

    def row(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([rule, row(title), rule, *map(row, lines), rule])


def report(results: Results) -> str:
    """All of it."""
    parts = [*(f"{name}: {value}" for name, value in about(results)), ""]
    for section in results.sections:
        parts += [section.title, "=" * len(section.title), "", *_section(section, "-")]
    return "\n".join(parts).rstrip()


def insert(results: Results, path: Path) -> None:
    """Replace the figures of a page: its tables, its few lines of :mod:`headline`, or both.

    :raises BenchmarkError: where the page has no place for them.
    """
    page = path.read_text(encoding="utf-8")
    parts = [*(_fill(f"* {name}: {value}", "  ") for name, value in about(results)), ""]
    for section in results.sections:
        parts += [section.title, "~" * len(section.title), "", *_section(section, "^")]
    made = _replaced(page, BEGIN, "\n".join(parts).rstrip())
    made = _replaced(made, HEADLINE, headline(results))
    if BEGIN not in page and HEADLINE not in page:
        raise BenchmarkError(f"{path} has no line {BEGIN!r} or {HEADLINE!r}")
    path.write_text(made, encoding="utf-8")


def _replaced(page: str, begin: str, figures: str) -> str:
    """``page`` with ``figures`` between the line ``begin`` and the next :data:`END`."""
    before, found, rest = page.partition(f"{begin}\n")
    _, end, after = rest.partition(f"{END}\n")
    return f"{before}{begin}\n\n{figures}\n\n{end}{after}" if found and end else page


def headline(results: Results) -> str:
    """A few figures of each server, for those who want to know no more."""
    cases = {(s.name, t.name, c.name): (t, c) for s in results.sections for t in s.tables for c in t.cases}
    lines = []
    for title, section, name, case_name, key, unit in _HEADLINES:
        if (found := cases.get((section, name, case_name))) is None:
            continue
        table, case = found
        measure = next(measure for measure in table.measures if measure.key == key)
        cells = [title]
        for servers in _COLUMNS.values():
            row = next((row for row in case.rows if row.server in servers), None)
            figures = None if row is None else summary(row.samples.get(key, []))
            cells.append("-" if figures is None else f"{number(figures.median, measure.digits)} {unit}")
        lines.append(cells)
    used = [section for section in results.sections if section.name in {name for _, name, *_ in _HEADLINES}]
    made = f"Medians of {_rounds(used)} rounds: {results.started}, {results.machine['processor']}, {results.machine['Python']}."
    return f"{grid(['measure', *_COLUMNS], lines)}\n\n{_fill(made)}"


def _section(section: Section, underline: str) -> list[str]:
    load = " to ".join(f"{values[0]:g}" for values in section.load_average)
    parts = [_fill(f"{section.method} Rounds: {section.rounds}. Load average of the machine: {load}."), "", f"``{section.command}``", ""]
    if section.error:
        parts += [_fill(f"Not measured: {section.error}"), ""]
    for table in section.tables:
        if len(section.tables) > 1:
            parts += [table.title, underline * len(table.title), ""]
        parts += [_table(table), ""]
        if table.note:
            parts += [_fill(table.note), ""]
        for case in table.cases:
            for row in case.rows:
                if row.error:
                    parts += [_fill(f"{case.name}, {row.server}: {' '.join(row.error.split())}"), ""]
    return parts


def _table(table: Table) -> str:
    first, *others = table.measures
    title = ["case", "server", first.title, "least", "spread", "ratio", *(each.title for each in others)]
    lines = []
    for case in table.cases:
        for index, row in enumerate(case.rows):
            lines.append(
                [case.name if not index else "\\", row.server, *_cells(case, row, first), *(_median(row, each) for each in others)]
            )
    return grid(title, lines, 2)


def _cells(case: Case, row: Row, measure: Measure) -> list[str]:
    found = summary(row.samples.get(measure.key, []))
    if found is None:
        return ["-", "-", "-", "-"]
    figures = [number(value, measure.digits) for value in (found.median, found.minimum, found.spread)]
    return [*figures, ratio_text(ratio(case, row, measure))]


def _median(row: Row, measure: Measure) -> str:
    found = summary(row.samples.get(measure.key, []))
    return "-" if found is None else number(found.median, measure.digits)


def _fill(paragraph: str, indent: str = "") -> str:
    """``paragraph`` in lines of the documentation's width."""
    lines, line = [], ""
    for word in paragraph.split():
        if line and len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])
