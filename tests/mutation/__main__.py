"""``python -m tests.mutation --sample N --seed S [--only PATH]``; see the package."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from .equivalents import EQUIVALENT
from .mutants import Mutant, mutants, mutated
from .plan import modules, tests_of
from .run import adopt_orphans, copy_tree, run

ROOT = Path(__file__).resolve().parents[2]
#: A mutant has this many times as long as the original, and this many seconds more by default.
FACTOR, GRACE = 3.0, 30.0
#: Seconds the tests of an unchanged module may take.
PATIENCE = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Change one expression at a time and see whether tests fail."
    )
    parser.add_argument("--sample", type=int, default=100, help="number of mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the mutants (%(default)s)")
    parser.add_argument("--only", metavar="PATH", help="a module or a folder, such as greendaphne/http1")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="run these tests instead of those planned")
    parser.add_argument(
        "--grace", type=float, default=GRACE, help="seconds a mutant has beyond thrice what the original takes (%(default)g)"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree; by default this one")
    arguments = parser.parse_args()
    root: Path = arguments.root.resolve()
    adopt_orphans()
    # The processes and the copy of the tree go as they do after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = modules(root, arguments.only)
    if not names:
        parser.error(f"no module is mutated in {arguments.only}")
    everything = [(name, mutant) for name in names for mutant in mutants((root / name).read_text())]
    everything = [(name, mutant) for name, mutant in everything if (name, mutant.before, mutant.after) not in EQUIVALENT]
    sample = random.Random(arguments.seed).sample(everything, min(arguments.sample, len(everything)))
    _say(f"{len(sample)} of {len(everything)} mutants of {len(names)} modules, seed {arguments.seed}")
    survivors: list[tuple[str, Mutant]] = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as directory:
        tree = Path(directory, "tree")
        temporary = Path(directory, "tmp")
        temporary.mkdir()
        copy_tree(root, tree)
        limits: dict[tuple[str, ...], float] = {}
        for number, (name, mutant) in enumerate(sample, 1):
            tests = tuple(arguments.tests or tests_of(name))
            if tests not in limits:
                begun = time.monotonic()
                code, output = run(tree, tests, PATIENCE, temporary)
                if code != 0:
                    print(output[-3000:], file=sys.stderr)
                    _say(f"the tests of {name} fail without any change: nothing can be said about its mutants")
                    return 2
                limits[tests] = FACTOR * (time.monotonic() - begun) + arguments.grace
            source = (root / name).read_text()
            (tree / name).write_text(mutated(source, mutant.number))
            begun = time.monotonic()
            try:
                code, output = run(tree, tests, limits[tests], temporary)
            finally:
                (tree / name).write_text(source)
            # Any other exit code is a difference: a module that cannot be imported ends pytest before the first test.
            if code == 0:
                survivors.append((name, mutant))
            verdict = {None: "noticed (hung)", 0: "SURVIVED"}.get(code, "noticed")
            _say(f"{number}/{len(sample)} {verdict}, {time.monotonic() - begun:.0f} s: {_shown(name, mutant)}")
    print(f"\n{len(sample) - len(survivors)} of {len(sample)} mutants noticed, seed {arguments.seed}")
    for name, mutant in survivors:
        print(f"  survived: {_shown(name, mutant)}")
    return 0


def _shown(name: str, mutant: Mutant) -> str:
    before, after = (text.splitlines()[0][:80] if text else "" for text in (mutant.before, mutant.after))
    return f"{name}:{mutant.line}: {before}  →  {after}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
