"""``python -m tests.soak [--rounds N] [--layer LAYER]… [SCENARIO …]``; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .run import Run
from .scenarios import SCENARIOS, sites
from .sites import APPLICATIONS, SITES, site

#: Rounds of each scenario, and of those that have a number of their own.
ROUNDS = 100
MORE = {"sigterm": 200, "redis-hang": 20}
#: Seconds between two lines of progress.
PROGRESS = 5.0


class _Progress:
    """Shows how far a scenario is, on standard error, not too often."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = time.monotonic()
        self._next = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def show(self, line: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS
            print(f"{self._name}: {line}, {self.seconds:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--rounds", type=int, help=f"rounds of each scenario ({ROUNDS}; sigterm {MORE['sigterm']})")
    parser.add_argument(
        "--layer",
        action="append",
        choices=(*SITES, *APPLICATIONS),
        help="the channel layer and its workers, or the application; may be given several times; by default all on which the scenario runs",
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)}; all by default")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenarios if name not in SCENARIOS]:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    failed = False
    for name in arguments.scenarios or SCENARIOS:
        possible = sites(name)
        # A scenario that is named runs on every layer that is named with it.
        chosen = possible if arguments.layer is None else [layer for layer in arguments.layer if arguments.scenarios or layer in possible]
        for layer in chosen:
            failed = not _run(name, layer, arguments.rounds or MORE.get(name, ROUNDS)) or failed
    return int(failed)


def _run(name: str, layer: str, rounds: int) -> bool:
    """Run one scenario and print what came of it; whether nothing failed."""
    progress = _Progress(f"{name} on {layer}")
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        try:
            with site(layer) as found:
                report = SCENARIOS[name](Run(Path(directory), rounds, found, progress.show))
        except AssertionError as error:
            print(f"{name} on {layer} was not completed: {error}", flush=True)
            return False
    print(f"{name} on {layer}, {rounds} rounds in {progress.seconds:.0f} s: {report}", flush=True)
    return not report.failures


if __name__ == "__main__":
    sys.exit(main())
