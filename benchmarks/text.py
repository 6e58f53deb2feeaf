"""Results as reStructuredText: on standard output, and as the tables of a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .environment import BenchmarkError
from .results import Case, Measure, Ratio, Results, Row, Section, Table, ratio, summary

#: What stands between these lines of a page is replaced.
BEGIN: Final = ".. figures: made by python -m benchmarks --rst, not by hand"
END: Final = ".. end of the figures"
_WIDTH: Final = 140


def number(value: float, digits: int) -> str:
    """``value`` for people."""
    return f"{value:,.{digits}f}"


def ratio_text(found: Ratio | None) -> str:
    """The ratio of medians, then that of the best rounds."""
    return "-" if found is None else f"{_ratio(found.medians)} ({_ratio(found.best)})"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 100 else f"{value:.3g}"


def ratio_title(table: Table) -> str:
    """What the column of ratios says."""
    names = {case.rows[0].server for case in table.cases if case.rows}
    return f"{names.pop() if len(names) == 1 else 'first'} ÷ this"


def about(results: Results) -> list[tuple[str, str]]:
    """Time, machine, how busy it was, versions and method, by name."""
    plan = results.plan
    method = f"{plan['rounds']:g} rounds; runs of {plan['seconds']:g} s; {plan['idle']:g} idle connections"
    load = [", ".join(f"{value:g}" for value in values) for values in results.load_average]
    return [
        ("time", f"{results.started} to {results.ended}"),
        *results.machine.items(),
        ("load average", " at the start, ".join(load) + " at the end (1, 5, 15 minutes)"),
        *results.versions.items(),
        ("rounds", method),
    ]


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
    """Replace the figures of a page.

    :raises BenchmarkError: where the page has no place for them.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise BenchmarkError(f"{path} has no lines {BEGIN!r} and {END!r}")
    parts = [*(_fill(f"* {name}: {value}", "  ") for name, value in about(results)), ""]
    for section in results.sections:
        parts += [section.title, "~" * len(section.title), "", *_section(section, "^")]
    made = "\n".join(parts).rstrip()
    path.write_text(f"{before}{begin}\n{made}\n\n{end}{after}", encoding="utf-8")


def _section(section: Section, underline: str) -> list[str]:
    load = " to ".join(f"{values[0]:g}" for values in section.load_average)
    parts = [_fill(f"{section.method} Load average of the machine: {load}."), "", f"``{section.command}``", ""]
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
    title = ["case", "server", first.title, "least", "spread", ratio_title(table), *(each.title for each in others)]
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
