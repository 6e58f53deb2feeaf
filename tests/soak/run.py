"""One run of a scenario: how often, on which site, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .load import Report
from .sites import Site


def _silent(line: str) -> None:
    """Show nothing."""


@dataclass
class Run:
    """What a scenario has to know.

    :param directory: an empty directory.
    :param rounds: how many.
    :param site: what is served.
    :param show: shows a line of progress.
    """

    directory: Path
    rounds: int
    site: Site
    show: Callable[[str], None] = _silent

    def each(self, report: Report) -> Iterator[int]:
        """Iterate over the numbers of the rounds, from 1, and show each."""
        for number in range(1, self.rounds + 1):
            self.show(f"round {number} of {self.rounds}, {report.summary}")
            yield number


Scenario = Callable[[Run], Report]
