"""What was measured, as one tree that is written to JSON and read again: every report is made from it alone.

It keeps the figure of each round, so that a report can show any statistic of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

from .environment import BenchmarkError

#: Raised with each change that makes older files unreadable.
FORMAT: Final = 1


@dataclass(frozen=True)
class Measure:
    """A quantity that is measured, such as CPU time for each request in µs; ``digits`` are those behind the decimal point."""

    key: str
    title: str
    digits: int = 1
    less_is_better: bool = True


@dataclass
class Row:
    """A server in a case: for each measure's key the figures of the rounds, or why there are none."""

    server: str
    command: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Case:
    """Servers under the same work; the first of the rows is the one that the others are compared with."""

    name: str
    rows: list[Row] = field(default_factory=list)


@dataclass
class Table:
    """Cases with the same measures; the first of the measures is the one that is compared and plotted."""

    name: str
    title: str
    measures: list[Measure]
    note: str = ""
    cases: list[Case] = field(default_factory=list)


@dataclass
class Section:
    """What a family of benchmarks found; ``error`` says why it ended early, ``load_average`` how busy the machine was at both ends."""

    name: str
    title: str
    method: str
    command: str
    tables: list[Table] = field(default_factory=list)
    error: str | None = None
    load_average: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    rounds: int = 0


@dataclass
class Results:
    """A run of the benchmarks."""

    started: str
    machine: dict[str, str]
    versions: dict[str, str]
    plan: dict[str, float]
    sections: list[Section] = field(default_factory=list)
    ended: str = ""
    load_average: list[list[float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write to ``path``, whose directory is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """What :meth:`Results.write` wrote.

    :raises BenchmarkError: for a file that is not there or is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise BenchmarkError(f"{path} is of another version of the benchmarks")
        data["sections"] = [_section(section) for section in data["sections"]]
        return Results(**data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{path} is no file of figures: {error}") from error


def _section(data: dict[str, Any]) -> Section:
    return Section(**{**data, "tables": [_table(table) for table in data["tables"]]})


def _table(data: dict[str, Any]) -> Table:
    cases = [Case(case["name"], [Row(**row) for row in case["rows"]]) for case in data["cases"]]
    return Table(**{**data, "measures": [Measure(**measure) for measure in data["measures"]], "cases": cases})


def merge(runs: list[Results], order: Sequence[str]) -> Results:
    """One tree of several runs on one machine: of a family that more than one measured, the last counts.

    :param runs: in the order in which they were made; not empty.
    :param order: the names of the families, in the order of the report.
    :raises BenchmarkError: where they were not made on the same machine.
    """
    first, last = runs[0], runs[-1]
    if any(run.machine != first.machine for run in runs):
        raise BenchmarkError("the figures are not of the same machine")
    sections = {section.name: section for run in runs for section in run.sections}
    versions = {name: version for run in runs for name, version in run.versions.items()}
    return Results(
        first.started,
        first.machine,
        versions,
        last.plan,
        sorted(sections.values(), key=lambda section: order.index(section.name)),
        last.ended,
        [*first.load_average[:1], *last.load_average[-1:]],
    )


class Summary(NamedTuple):
    """Statistics of the rounds; ``spread`` is the difference of maximum and minimum."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    rounds: int

    @property
    def spread(self) -> float:
        """Maximum minus minimum."""
        return self.maximum - self.minimum


def summary(figures: list[float]) -> Summary | None:
    """The statistics of ``figures``, ``None`` where there are none."""
    if not figures:
        return None
    lower, middle, upper = quantiles(figures, n=4, method="inclusive") if len(figures) > 1 else figures * 3
    return Summary(min(figures), lower, middle, upper, max(figures), len(figures))


class Ratio(NamedTuple):
    """The first server's figure divided by another's: of the medians, and of the best rounds."""

    medians: float
    best: float


def ratio(case: Case, row: Row, measure: Measure) -> Ratio | None:
    """The ratio for ``row``; ``None`` for the first row itself, and where a figure is missing or zero."""
    first = case.rows[0]
    ours, theirs = first.samples.get(measure.key), row.samples.get(measure.key)
    if row is first or not ours or not theirs or not median(theirs):
        return None
    best = min if measure.less_is_better else max
    return Ratio(median(ours) / median(theirs), best(ours) / best(theirs) if best(theirs) else 0.0)
