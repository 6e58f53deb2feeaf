"""Runs the trials of the families, round by round, and collects their figures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import NamedTuple

from . import environment, peers
from .environment import BenchmarkError, progress
from .family import Family, Plan, Trial
from .results import Case, Results, Row, Section, Table

#: What a trial may fail with: anything that a server does wrong, and nothing that is wrong in the benchmark.
_FAILURES = (BenchmarkError, OSError, TimeoutError, EOFError)


class Selection(NamedTuple):
    """Which rows: texts that the names of cases and of servers contain; the first server of a case takes part always."""

    case: str = ""
    server: str = ""


def run(families: Sequence[Family], plan: Plan, selection: Selection) -> Results:
    """Measure; what fails is a line of the results."""
    machine = environment.machine()
    results = Results(_now(), machine, {}, {key: float(value) for key, value in plan._asdict().items()})
    results.load_average.append(environment.load_average())
    for family in families:
        results.sections.append(_section(family, plan, selection))
    results.versions = {"greendaphne": environment.revision(), "server": environment.versions(), **peers.versions()}
    results.ended = _now()
    results.load_average.append(environment.load_average())
    return results


def _section(family: Family, plan: Plan, selection: Selection) -> Section:
    section = Section(family.name, family.title, family.method, _command(family.name))
    section.load_average.append(environment.load_average())
    tables = {layout.name: Table(layout.name, layout.title, list(layout.measures), layout.note) for layout in family.layouts}
    try:
        chosen = _chosen(family.trials(plan), selection)
        rows = {
            (trial.table, case, trial.server): _row(family, tables[trial.table], case, trial.server) for trial, c in chosen for case in c
        }
        broken: set[int] = set()
        for number in range(0 if family.rehearse else 1, plan.rounds + 1):
            for index, (trial, cases) in enumerate(chosen):
                if index not in broken:
                    progress(f"{family.name}: round {number} of {plan.rounds}, {trial.server}: {trial.table}, {', '.join(cases)}")
                    if not _trial(trial, cases, plan, rows, counted=number > 0):
                        broken.add(index)
    except _FAILURES as error:
        section.error = str(error)
        progress(f"{family.name}: {error}")
    section.tables = [table for table in tables.values() if table.cases]
    section.load_average.append(environment.load_average())
    return section


def _chosen(trials: list[Trial], selection: Selection) -> list[tuple[Trial, list[str]]]:
    """The trials with their cases, as far as they are wanted."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for trial in trials:
        wanted = []
        for case in trial.cases:
            reference = first.setdefault((trial.table, case), trial.server)
            named = selection.server.lower() in trial.server.lower() or reference == trial.server
            if named and selection.case.lower() in f"{trial.table}: {case}".lower():
                wanted.append(case)
        if wanted:
            found.append((trial, wanted))
    return found


def _row(family: Family, table: Table, case: str, server: str) -> Row:
    """A new row of ``table``."""
    found = next((each for each in table.cases if each.name == case), None)
    if found is None:
        found = Case(case)
        table.cases.append(found)
    row = Row(server, _command(family.name, f"{table.name}: {case}", server))
    found.rows.append(row)
    return row


def _trial(trial: Trial, cases: list[str], plan: Plan, rows: dict[tuple[str, str, str], Row], *, counted: bool) -> bool:
    """Run ``trial`` once; whether it succeeded.  One that failed in a round keeps the figures of the rounds before."""
    done = 0
    try:
        for case, sample in trial.run(cases, plan):
            done += 1
            if counted:
                for key, value in sample.items():
                    rows[trial.table, case, trial.server].samples.setdefault(key, []).append(round(value, 4))
    except _FAILURES as error:
        said = str(error) or type(error).__name__
        progress(f"{trial.server}: {said}")
        for case in cases[done:]:
            rows[trial.table, case, trial.server].error = said
        return False
    return True


def _command(family: str, case: str = "", server: str = "") -> str:
    """The command that measures a family, or one row beside the first row of its case, again."""
    parts = ["python", "-m", "benchmarks", "--only", family]
    if case:
        parts += ["--case", case, "--server", server]
    return shlex.join(parts)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z")
