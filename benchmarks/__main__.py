"""Measures greendaphne beside other servers, and writes a page with plots and tables.

What is missing is installed first: the other servers into environments below
.cache/bench, programs from Debian's packages where apt-get may.  A server that
does not start, and a family that cannot be measured here, is a line of the
report.  Progress goes to standard error, tables to standard output.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from . import page, text
from .environment import CHECKOUT, BenchmarkError, progress
from .family import QUICK, Family, Plan
from .results import Results, merge, read
from .runner import Selection, run

#: In the order of the report; each is a module with ``FAMILY``.
FAMILIES: Final = ("http1", "http2", "websocket", "frames", "memory", "redis", "wsgi", "asgi", "attacks", "start")
BUILD: Final = CHECKOUT / "build" / "bench"
#: Pages that quote figures.
PAGES: Final = (CHECKOUT / "benchmarks" / "README.rst", CHECKOUT / "README.rst")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = made.add_argument_group("what to measure")
    what.add_argument("--only", choices=FAMILIES, action="append", metavar="FAMILY", help=f"{', '.join(FAMILIES)}; may be repeated")
    what.add_argument("--case", default="", metavar="TEXT", help="cases with TEXT in their name, such as 'hello: 64 connections'")
    what.add_argument("--server", default="", metavar="TEXT", help="servers with TEXT in their name, and the first of each case")
    how = made.add_argument_group("how much")
    how.add_argument("--quick", action="store_true", help="one round, few connections: whether it works, not what it costs")
    how.add_argument("--rounds", type=int, metavar="N", help=f"rounds ({Plan().rounds})")
    how.add_argument("--seconds", type=float, metavar="S", help=f"seconds of each run ({Plan().seconds:g})")
    how.add_argument("--connections", type=int, metavar="N", help=f"idle connections, and members of a group ({Plan().idle})")
    where = made.add_argument_group("results")
    where.add_argument(
        "--from",
        dest="sources",
        type=Path,
        action="append",
        metavar="FILE",
        help="do not measure: take the figures from this file; of several, later ones replace families of earlier ones",
    )
    where.add_argument("--json", type=Path, metavar="FILE", help="the figures of all rounds (build/bench/results.json)")
    where.add_argument("--report", type=Path, metavar="FILE", help="the page (build/bench/index.html)")
    where.add_argument(
        "--rst", type=Path, nargs="*", metavar="PAGE", help="put the tables into these pages (benchmarks/README.rst and README.rst)"
    )
    return made


def plan(options: argparse.Namespace) -> Plan:
    """How much to measure.

    :raises BenchmarkError: for numbers that are not greater than 0.
    """
    base = QUICK if options.quick else Plan()
    made = Plan(
        options.rounds if options.rounds is not None else base.rounds,
        options.seconds if options.seconds is not None else base.seconds,
        *([options.connections] * 2 if options.connections is not None else [base.idle, base.members]),
    )
    if min(made) <= 0:
        raise BenchmarkError("rounds, seconds and connections are greater than 0")
    return made


def measure(options: argparse.Namespace) -> Results:
    """Measure what the command line asks for."""
    families: list[Family] = [
        importlib.import_module(f".{name}", __package__).FAMILY for name in FAMILIES if name in (options.only or FAMILIES)
    ]
    path = options.json or BUILD / "results.json"
    results = run(families, plan(options), Selection(options.case, options.server), lambda results: results.write(path))
    progress(f"figures: {path}")
    return results


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks``; 1 with one line on standard error where nothing could be measured."""
    options = parser().parse_args(argv)
    try:
        results = merge([read(path) for path in options.sources], FAMILIES) if options.sources else measure(options)
        if not any(row.samples for section in results.sections for table in section.tables for case in table.cases for row in case.rows):
            for section in results.sections:
                if section.error:
                    print(f"benchmarks: {section.error}", file=sys.stderr)
            raise BenchmarkError("nothing was measured")
        if options.sources and options.json:
            results.write(options.json)
        if options.rst is not None:
            if not options.rst and len(results.sections) < len(FAMILIES):
                raise BenchmarkError("the pages of the project take figures of all families; name other pages")
            for path in options.rst or PAGES:
                text.insert(results, path)
                progress(f"tables: {path}")
        print(text.report(results))
        report = options.report or BUILD / "index.html"
        page.write(results, report)
        progress(f"report: {report}")
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
