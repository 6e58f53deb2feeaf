"""What a family of benchmarks consists of: tables, and trials that fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .results import Measure

#: The figures of one round, by the measures' keys.
Sample = dict[str, float]


class Plan(NamedTuple):
    """How much to measure: rounds, seconds of each run within a round, connections that are idle, members of a group."""

    rounds: int = 7
    seconds: float = 1.0
    idle: int = 1000
    members: int = 1000


QUICK = Plan(rounds=1, seconds=1.0, idle=200, members=200)


class Layout(NamedTuple):
    """A table: its name, title and measures, of which the first is compared and plotted, and a note below."""

    name: str
    title: str
    measures: tuple[Measure, ...]
    note: str = ""


class Trial(NamedTuple):
    """A server under some cases of a table, once in each round.

    ``run`` gets the cases to run, in order, and yields each with its figures.
    """

    table: str
    server: str
    cases: tuple[str, ...]
    run: Callable[[Sequence[str], Plan], Iterator[tuple[str, Sample]]]


class Family(NamedTuple):
    """A family; ``trials`` lists first the server that the others are compared with.

    ``rehearse`` says that each trial runs once before the rounds, uncounted.
    """

    name: str
    title: str
    method: str
    layouts: tuple[Layout, ...]
    trials: Callable[[Plan], list[Trial]]
    rehearse: bool = False


def cpu_us(unit: str) -> Measure:
    """CPU time for each ``unit``, which most tables compare."""
    return Measure("cpu_us", f"CPU µs/{unit}")
