"""Runs the trials of the families, round by round, and collects their figures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from . import environment, peers
from .environment import BenchmarkError, progress
from .family import Family, Plan, Trial
from .results import Case, Results, Row, Section, Table

#: Failures in succession after which a trial is given up.
FAILURES: Final = 2


class Selection(NamedTuple):
    """Which rows: texts that the names of cases and of servers contain; the first server of a case takes part always."""

    case: str = ""
    server: str = ""


def run(families: Sequence[Family], plan: Plan, selection: Selection, keep: Callable[[Results], None] = lambda results: None) -> Results:
    """Measure; what fails is a line of the results.

    :param keep: called after each family with what there is, so that a run that is interrupted leaves the figures of whole families.
    """
    machine = environment.machine()
    results = Results(_now(), machine, {}, {key: float(value) for key, value in plan._asdict().items()})
    results.load_average.append(environment.load_average())
    for family in families:
        results.sections.append(_section(family, plan, selection))
        results.versions = {"greendaphne": environment.revision(), "greendaphne runs on": environment.versions(), **peers.versions()}
        results.ended = _now()
        results.load_average[1:] = [environment.load_average()]
        keep(results)
    return results


def _section(family: Family, plan: Plan, selection: Selection) -> Section:
    section = Section(family.name, family.title, family.method, _command(family.name), rounds=plan.rounds)
    section.load_average.append(environment.load_average())
    begun = time.monotonic()
    tables = {layout.name: Table(layout.name, layout.title, list(layout.measures), layout.note) for layout in family.layouts}
    try:
        chosen = _chosen(family.trials(plan), selection)
        rows = {
            (trial.table, case, trial.server): _row(family, tables[trial.table], case, trial.server) for trial, c in chosen for case in c
        }
        failures = [0] * len(chosen)
        for number in range(0 if family.rehearse else 1, plan.rounds + 1):
            for index, (trial, cases) in enumerate(chosen):
                if failures[index] < FAILURES:
                    progress(f"{family.name}: round {number} of {plan.rounds}, {trial.server}: {trial.table}, {', '.join(cases)}")
                    failures[index] = 0 if _trial(trial, cases, plan, rows, number) else failures[index] + 1
    except Exception as error:  # noqa: BLE001  # the figures of the other families are worth more than this traceback
        section.error = _said(error)
        progress(f"{family.name}: {section.error}")
    section.tables = [table for table in tables.values() if table.cases]
    section.load_average.append(environment.load_average())
    section.seconds = round(time.monotonic() - begun)
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


def _trial(trial: Trial, cases: list[str], plan: Plan, rows: dict[tuple[str, str, str], Row], number: int) -> bool:
    """Run ``trial`` in round ``number``, of which 0 is not counted; whether it succeeded.  What other rounds found is kept."""
    done = 0
    try:
        for case, sample in trial.run(cases, plan):
            done += 1
            if number:
                for key, value in sample.items():
                    rows[trial.table, case, trial.server].samples.setdefault(key, []).append(round(value, 4))
    except Exception as error:  # noqa: BLE001  # whatever a server makes a client or this program do, the others are measured
        said = _said(error)
        progress(f"{trial.server}: {said}")
        for case in cases[done:]:
            rows[trial.table, case, trial.server].error = f"round {number}: {said}"
        return False
    return True


def _said(error: Exception) -> str:
    """The text of an error that is expected; of another one its kind, too."""
    return str(error) if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {error}"


def _command(family: str, case: str = "", server: str = "") -> str:
    """The command that measures a family, or one row beside the first row of its case, again."""
    parts = ["python", "-m", "benchmarks", "--only", family]
    if case:
        parts += ["--case", case, "--server", server]
    return shlex.join(parts)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z")
