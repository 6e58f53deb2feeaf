"""``python -m tests.mutation --sample N --seed S [--only PATH] [--results FILE]``; see the package."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from .equivalents import EQUIVALENT, Key, keys
from .mutants import Mutant, mutants, mutated
from .plan import Stage, modules, near_first
from .results import Results
from .run import Run, adopt_orphans, copy_tree, run

ROOT = Path(__file__).resolve().parents[2]
#: Seconds a stage of tests may take with a mutant by default, and how many times as long as without it, where that is more.
LIMIT, FACTOR = 600.0, 3.0
#: Seconds the tests of an unchanged module may take.
PATIENCE = 1800.0
#: Seconds one test may take.
HANG = 100


#: pytest's exit code where no test is left.
_NO_TESTS: Final = 5


class _Trial:
    """A copy of the tree in which one module at a time is changed, and what its tests do without a change."""

    def __init__(self, root: Path, directory: Path, limit: float, hang: int) -> None:
        self._root = root
        self._tree = directory / "tree"
        self._temporary = directory / "tmp"
        self._temporary.mkdir()
        self._limit = limit
        self._hang = hang
        self._passed: set[str] = set()
        self._collected: set[Stage] = set()
        self._left_out: set[str] = set()
        self._limits: dict[Stage, float] = {}
        self._time = 0
        copy_tree(root, self._tree)

    def _run(self, tests: Stage, limit: float) -> Run:
        return run(self._tree, tests, limit, self._temporary, self._hang)

    def _passes(self, test: str) -> bool:
        """Whether ``test`` passes alone in the tree as it is now."""
        return self._run((test,), PATIENCE).code == 0

    def _blames(self, name: str, mutant: Mutant, test: str) -> bool:
        """Whether ``test``, which has failed with a mutant, fails again alone, and passes without the mutant.

        A test that fails without a change, alone as well, is left out for all mutants to come.
        """
        if self._passes(test):
            return False
        if test not in self._passed:
            self._write(name, self._source(name))
            passes = self._passes(test)
            self._write(name, mutated(self._source(name), mutant.number))
            if not passes:
                _say(f"{test} fails without any change; it is left out")
                self._left_out.add(test)
                return False
            self._passed.add(test)
        return True

    def _longer(self, name: str, mutant: Mutant, tests: Stage) -> float | None:
        """Seconds for ``tests``, which have reached their limit with a mutant; None if they have had enough.

        The first time that measures how long they take without the mutant.
        """
        if tests in self._limits:
            return None
        self._write(name, self._source(name))
        begun = time.monotonic()
        self._run(self._without(tests, self._left_out), PATIENCE)
        seconds = time.monotonic() - begun
        self._write(name, mutated(self._source(name), mutant.number))
        _say(f"the tests of {name} take {seconds:.0f} s")
        self._limits[tests] = max(self._limit, FACTOR * seconds)
        return self._limits[tests] if self._limits[tests] > self._limit else None

    def _check_collected(self, name: str, tests: Stage) -> None:
        """Look whether pytest finds ``tests`` in the tree without a change, once.

        :raises SystemExit: it does not, so that its end says nothing about a mutant.
        """
        if tests not in self._collected:
            self._write(name, self._source(name))
            done = self._run(("--collect-only", *tests), PATIENCE)
            if done.code != 0:
                print(done.output[-3000:], file=sys.stderr)
                _say(f"the tests of {name} are not found without any change: nothing can be said about its mutants")
                raise SystemExit(2)
            self._collected.add(tests)

    @staticmethod
    def _without(tests: Stage, others: set[str]) -> Stage:
        return (*tests, *(f"--deselect={test}" for test in sorted(others)))

    def verdict(self, name: str, mutant: Mutant, tests: Stage) -> tuple[str, str]:
        """Whether tests notice a mutant, and the test that does.

        A test that fails is run again alone, and without the mutant: a failure that another cause may have had does not count.
        """
        self._write(name, mutated(self._source(name), mutant.number))
        try:
            begun = time.monotonic()
            limit = self._limits.get(tests, self._limit)
            doubted: set[str] = set()
            while True:
                done = self._run(self._without(tests, doubted | self._left_out), max(begun + limit - time.monotonic(), 1.0))
                if done.code == 0 or (done.code == _NO_TESTS and doubted | self._left_out):
                    return "survived", ""
                if done.code is None:
                    longer = self._longer(name, mutant, tests)
                    if longer is None:
                        return "hung", ""
                    begun, limit = time.monotonic(), longer
                    continue
                if done.code != 1 or not done.failed or done.failed in doubted:
                    # A module that cannot be imported ends pytest before the first test; a test that hangs ends it with the test.
                    self._check_collected(name, tests)
                    return "noticed", done.failed
                if self._blames(name, mutant, done.failed):
                    return "noticed", done.failed
                doubted.add(done.failed)
        finally:
            self._write(name, self._source(name))

    def _source(self, name: str) -> str:
        return (self._root / name).read_text()

    def _write(self, name: str, source: str) -> None:
        path = self._tree / name
        path.write_text(source)
        # Python takes the bytecode of another source for this one if size and time, in seconds, are the same.
        self._time += 1
        os.utime(path, (self._time, self._time))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Change one expression at a time and see whether tests fail."
    )
    parser.add_argument("--sample", type=int, default=100, help="number of mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the mutants (%(default)s)")
    parser.add_argument("--only", metavar="PATH", action="append", help="a module or a folder, such as greendaphne/http1; may be repeated")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="run these tests instead of those planned")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        help="seconds a stage of tests has, or thrice what the original takes (%(default)g)",
    )
    parser.add_argument("--hang", type=int, default=HANG, help="seconds one test has (%(default)s)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write each result there, and take those that are there as they are")
    parser.add_argument(
        "--quick", action="store_true", help="run the first stage of tests only; FILE does not get what these do not notice"
    )
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="one of N parts of the sample; runs may share FILE")
    parser.add_argument("--list", action="store_true", help="print the mutants of the sample and run nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree; by default this one")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    names = modules(root, arguments.only)
    if not names:
        parser.error(f"no module is mutated in {' '.join(arguments.only or ())}")
    everything: list[tuple[str, Mutant]] = []
    key: dict[tuple[str, Mutant], Key] = {}
    for name in names:
        named = keys(name, mutants((root / name).read_text()))
        everything += [(name, mutant) for mutant in named]
        key.update({(name, mutant): each for mutant, each in named.items()})
    # Equivalent mutants stay in the sample, so that an entry for one of them does not change the others.
    sample = random.Random(arguments.seed).sample(everything, min(arguments.sample, len(everything)))
    _say(f"{len(sample)} of {len(everything)} mutants of {len(names)} modules, seed {arguments.seed}")
    part, parts = arguments.part
    sample = sample[len(sample) * (part - 1) // parts : len(sample) * part // parts]
    if arguments.root == ROOT:
        _tell_stale(names, key)
    if arguments.list:
        for name, mutant in sample:
            print(_shown(name, mutant))
        return 0
    adopt_orphans()
    # The processes and the copy of the tree go as they do after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(arguments.results)
    survivors: list[tuple[str, Mutant]] = []
    equivalent = 0
    with tempfile.TemporaryDirectory(prefix="mutation-") as directory:
        trial = _Trial(root, Path(directory), arguments.limit, arguments.hang)
        for number, (name, mutant) in enumerate(sample, 1):
            if key[name, mutant] in EQUIVALENT:
                equivalent += 1
                continue
            result = results.find(name, mutant)
            if result is None:
                stages = (tuple(arguments.tests),) if arguments.tests else near_first(root, name)
                if arguments.quick:
                    stages = stages[:1]
                begun = time.monotonic()
                verdict = test = ""
                for tests in stages:
                    verdict, test = trial.verdict(name, mutant, tests)
                    if verdict != "survived":
                        break
                if verdict == "survived" and arguments.quick:
                    _say(f"{number}/{len(sample)} open: {_shown(name, mutant)}")
                    continue
                result = results.add(name, mutant, verdict, test, time.monotonic() - begun)
            if result.verdict == "survived":
                survivors.append((name, mutant))
            verdict = {"hung": "noticed (hung)", "survived": "SURVIVED"}.get(result.verdict, "noticed")
            _say(f"{number}/{len(sample)} {verdict}, {result.seconds:.0f} s: {_shown(name, mutant)}")
    others = len(sample) - equivalent
    reasoned = f", {equivalent} more behave like the original" if equivalent else ""
    print(f"\n{others - len(survivors)} of {others} mutants noticed{reasoned}, seed {arguments.seed}")
    for name, mutant in survivors:
        print(f"  survived: {_shown(name, mutant)}")
    return 0


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not 1 <= int(part) <= int(parts):
        raise ValueError
    return int(part), int(parts)


def _tell_stale(names: list[str], key: dict[tuple[str, Mutant], Key]) -> None:
    """Name the entries of equivalents that no line has, or more than one."""
    for entry in EQUIVALENT:
        lines = {mutant.line for (_, mutant), each in key.items() if each == entry}
        if entry.module in names and len(lines) != 1:
            _say(
                f"equivalents.py: {len(lines)} lines in {entry.module} {entry.scope} are {entry.text!r} with {entry.before} → {entry.after}"
            )


def _shown(name: str, mutant: Mutant) -> str:
    before, after = (text.splitlines()[0][:80] if text else "" for text in (mutant.before, mutant.after))
    return f"{name}:{mutant.line}: {before}  →  {after}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
