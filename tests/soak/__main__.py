"""``python -m tests.soak [--rounds N] [SCENARIO …]``; see the package."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .scenarios import SCENARIOS

#: Rounds of each scenario, and of those that have a number of their own.
ROUNDS = 100
MORE = {"sigterm": 200, "redis-hang": 20}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--rounds", type=int, help=f"rounds of each scenario ({ROUNDS}; sigterm {MORE['sigterm']})")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)}; all by default")
    arguments = parser.parse_args()
    failed = False
    for name in arguments.scenarios or SCENARIOS:
        rounds = arguments.rounds or MORE.get(name, ROUNDS)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            try:
                report = SCENARIOS[name](Path(directory), rounds)
            except AssertionError as error:
                print(f"{name} was not completed: {error}", flush=True)
                failed = True
                continue
        print(f"{name}, {rounds} rounds in {time.monotonic() - begun:.0f} s: {report}", flush=True)
        failed = failed or bool(report.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
