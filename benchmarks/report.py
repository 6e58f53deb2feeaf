"""Results as tables for people and as JSON for programs, and the command line that every benchmark has."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import environment
from .environment import BenchmarkError

Row = dict[str, object]


class Column(NamedTuple):
    """A column of a table: the key of its value in a row, its heading, and whether a row shows its ratio to the first server's."""

    key: str
    title: str
    ratio: bool = False


class Figures(NamedTuple):
    """What one benchmark found.

    ``by`` is the key that tells which rows of the servers belong together, and ``conditions`` what the figures depend on.
    """

    name: str
    title: str
    by: str
    columns: Sequence[Column]
    rows: list[Row]
    conditions: Row

    def text(self) -> str:
        """Title, table with the ratios of each pair below it, and conditions."""
        rows: list[Row] = []
        for value in dict.fromkeys(row[self.by] for row in self.rows):
            pair = [row for row in self.rows if row[self.by] == value]
            rows += pair
            if len(pair) == 2:
                rows.append(self._ratio(pair[0], pair[1]))
        conditions = "; ".join(f"{key.replace('_', ' ')}: {_text(value)}" for key, value in self.conditions.items())
        return "\n".join([self.title, "-" * len(self.title), "", table(rows, self.columns), "", conditions])

    def _ratio(self, ours: Row, theirs: Row) -> Row:
        row: Row = {"server": "  ratio", self.by: ours[self.by]}
        for column in self.columns:
            a, b = ours.get(column.key), theirs.get(column.key)
            if column.ratio and isinstance(a, int | float) and isinstance(b, int | float) and b:
                row[column.key] = f"× {a / b:.3g}"
        return row


def command(
    argv: list[str] | None,
    description: str,
    run: Callable[..., list[Figures]],
    versions: Callable[[], dict[str, str]] = dict,
    parts: Sequence[str] = (),
) -> int:
    """The command line of a benchmark: ``run`` is called with whether ``--quick`` was given, ``versions`` for what was measured.
    A benchmark with ``parts`` is also told which of them to run: what ``--only`` named, or all.

    Returns the exit code: 1 with one line on standard error where the benchmark cannot run here.
    """
    parser = argparse.ArgumentParser(description=description.strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short runs: whether it works, not what it costs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    if parts:
        parser.add_argument("--only", choices=parts, action="append", help="this part alone; may be repeated")
    options = parser.parse_args(argv)
    try:
        found = run(options.quick, options.only or parts) if parts else run(options.quick)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    about = environment.machine() | versions()
    print("; ".join(f"{key}: {value}" for key, value in about.items()))
    for figures in found:
        print(f"\n{figures.text()}")
    if options.json is not None:
        results = [{"name": f.name, "conditions": f.conditions, "rows": f.rows} for f in found]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=2) + "\n")
    return 0


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The rows as a reStructuredText simple table."""
    cells = [[column.title for column in columns]]
    cells += [[_text(row.get(column.key)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(_align(text, width, i) for i, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in cells]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return str(value)


def _align(text: str, width: int, index: int) -> str:
    return text.ljust(width) if index == 0 else text.rjust(width)
