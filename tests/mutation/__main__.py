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
from .plan import modules, tests_of
from .results import Results
from .run import Run, adopt_orphans, copy_tree, run

ROOT = Path(__file__).resolve().parents[2]
#: A mutant has this many times as long as the original, and this many seconds more by default.
FACTOR, GRACE = 3.0, 30.0
#: Seconds the tests of an unchanged module may take.
PATIENCE = 1800.0
#: Seconds one test may take.
HANG = 100


#: pytest's exit code where no test is left.
_NO_TESTS: Final = 5


class _Trial:
    """A copy of the tree in which one module at a time is changed, and what the tests need there without a change."""

    def __init__(self, root: Path, directory: Path, grace: float, hang: int) -> None:
        self._root = root
        self._tree = directory / "tree"
        self._temporary = directory / "tmp"
        self._temporary.mkdir()
        self._grace = grace
        self._hang = hang
        self._tried: dict[tuple[str, ...], tuple[tuple[str, ...], float]] = {}
        self._time = 0
        copy_tree(root, self._tree)

    def _run(self, tests: tuple[str, ...], limit: float) -> Run:
        return run(self._tree, tests, limit, self._temporary, self._hang)

    def try_unchanged(self, name: str, tests: tuple[str, ...]) -> tuple[tuple[str, ...], float]:
        """The tests that say something about mutants of the module ``name``, and the seconds that a mutant has.

        A test that fails without a change, and passes alone, is left out: the machine may be too busy for it.

        :raises SystemExit: a test fails without a change, alone as well.
        """
        if tests not in self._tried:
            chosen = tests
            while True:
                begun = time.monotonic()
                done = self._run(chosen, PATIENCE)
                seconds = time.monotonic() - begun
                if done.code == 0:
                    break
                if not done.failed or f"--deselect={done.failed}" in chosen or self._run((done.failed,), PATIENCE).code != 0:
                    print(done.output[-3000:], file=sys.stderr)
                    _say(f"the tests of {name} fail without any change: nothing can be said about its mutants")
                    raise SystemExit(2)
                _say(f"{done.failed} failed without a change, and passed when it ran alone; it is left out")
                chosen = (*chosen, f"--deselect={done.failed}")
            _say(f"the tests of {name} take {seconds:.0f} s")
            self._tried[tests] = chosen, FACTOR * seconds + self._grace
        return self._tried[tests]

    def verdict(self, name: str, mutant: Mutant, tests: tuple[str, ...]) -> tuple[str, str]:
        """Whether tests notice a mutant, and the test that does.

        A test that fails is run again alone: a failure that another cause may have had does not count.
        """
        tests, limit = self.try_unchanged(name, tests)
        source = (self._root / name).read_text()
        self._write(name, mutated(source, mutant.number))
        try:
            begun = time.monotonic()
            doubted: set[str] = set()
            while True:
                deselected = tuple(f"--deselect={test}" for test in sorted(doubted))
                done = self._run((*tests, *deselected), max(begun + limit - time.monotonic(), 1.0))
                if done.code == 0 or (done.code == _NO_TESTS and doubted):
                    return "survived", ""
                if done.code is None:
                    return "hung", ""
                if done.code != 1 or not done.failed or done.failed in doubted:
                    # A module that cannot be imported ends pytest before the first test; a test that hangs ends it with the test.
                    return "noticed", done.failed
                if self._run((done.failed,), limit).code != 0:
                    return "noticed", done.failed
                doubted.add(done.failed)
        finally:
            self._write(name, source)

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
        "--grace", type=float, default=GRACE, help="seconds a mutant has beyond thrice what the original takes (%(default)g)"
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
    # Mutants with the same tests side by side: each part tries few lists of tests without a change.
    sample.sort(key=lambda found: (found[0], found[1].number))
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
        trial = _Trial(root, Path(directory), arguments.grace, arguments.hang)
        for number, (name, mutant) in enumerate(sample, 1):
            if key[name, mutant] in EQUIVALENT:
                equivalent += 1
                continue
            result = results.find(name, mutant)
            if result is None:
                stages = (tuple(arguments.tests),) if arguments.tests else tests_of(name)
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
